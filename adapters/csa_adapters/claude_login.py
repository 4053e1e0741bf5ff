"""Whether claude would send credentials, as observed in its requests to a local provider (2.1.328). Pure.

`env` of its settings counts as environment. A token in `.credentials.json` counts only with the inference scope;
an expired one is renewed and sent. With a cloud's switch on, credentials are that cloud's; csa finds some of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from csa.model.adapter import Login, LoginRequest
from csa_adapters.jsonlines import list_of, mapping_of
from csa_adapters.logins import first_file, first_set, is_word, object_of

_HOMES = ("$CLAUDE_CONFIG_DIR", "~/.claude")
_SETTINGS = (
    *(f"{home}/settings.json" for home in _HOMES),
    "./.claude/settings.json",
    "./.claude/settings.local.json",
    "/etc/claude-code/managed-settings.json",
)
_CLOUD_FILES = ("~/.aws/credentials", "~/.config/gcloud/application_default_credentials.json")
_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
# By switch: the variables and files that may have a key of that cloud.
_CLOUDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "CLAUDE_CODE_USE_BEDROCK": (
        ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "CLAUDE_CODE_SKIP_BEDROCK_AUTH"),
        _CLOUD_FILES[:1],
    ),
    "CLAUDE_CODE_USE_VERTEX": (
        ("GOOGLE_APPLICATION_CREDENTIALS", "CLAUDE_CODE_SKIP_VERTEX_AUTH"),
        _CLOUD_FILES[1:],
    ),
    "CLAUDE_CODE_USE_FOUNDRY": (
        ("ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_AUTH_TOKEN", "CLAUDE_CODE_SKIP_FOUNDRY_AUTH"),
        (),
    ),
}
_OFF = {"", "0", "false", "no", "off"}
_HEADER = re.compile(r"^\s*(x-api-key|authorization)\s*:\s*\S", re.IGNORECASE | re.MULTILINE)


def judge(request: LoginRequest) -> Login:
    """Judge by the environment, the settings, and the files of a login."""
    settings = [each for each in (object_of(request.files.get(name)) for name in _in_force(request)) if each]
    environ: dict[str, Any] = dict(request.environ)
    for each in settings:
        environ |= mapping_of(each.get("env"))
    for switch, (variables, files) in _CLOUDS.items():
        if str(environ.get(switch, "")).strip().lower() not in _OFF:
            found = first_set(environ, variables) or next((name for name in files if name in request.files), None)
            return Login(True, found) if found else Login(None, f"{switch} is set, but no login for that cloud found")
    if name := first_set(environ, _VARIABLES):
        return Login(True, name)
    if any(is_word(each.get("apiKeyHelper")) for each in settings):
        return Login(True, "apiKeyHelper")
    if _HEADER.search(str(environ.get("ANTHROPIC_CUSTOM_HEADERS", ""))):
        return Login(True, "ANTHROPIC_CUSTOM_HEADERS")
    return _kept(request)


def _kept(request: LoginRequest) -> Login:
    home = ("CLAUDE_CONFIG_DIR", "~/.claude")
    credentials = object_of(first_file(request.files, request.environ, *home, ".credentials.json")) or {}
    login = mapping_of(credentials.get("claudeAiOauth"))
    if is_word(login.get("accessToken")) and "user:inference" in list_of(login.get("scopes")):
        return Login(True, ".credentials.json")
    known = object_of(first_file(request.files, request.environ, "CLAUDE_CONFIG_DIR", "~", ".claude.json")) or {}
    return Login(True, ".claude.json") if is_word(known.get("primaryApiKey")) else Login(False)


def _in_force(request: LoginRequest) -> tuple[str, ...]:
    hidden = _HOMES[1] if request.environ.get("CLAUDE_CONFIG_DIR") else _HOMES[0]
    return tuple(name for name in _SETTINGS if not name.startswith(f"{hidden}/"))
