"""Whether opencode would send credentials, as observed in its models and local requests (1.18.33). Pure.

Without any it does not fail: it runs a free model of its maker's service, which is not what its user expects.
A provider is used if auth.json, its variable or the configuration has something for it; empty variables do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from csa.model.adapter import Login, LoginRequest
from csa_adapters.jsonlines import list_of, mapping_of, text_of
from csa_adapters.logins import first_file, first_set, is_word, object_of

_CONFIG_HOMES = ("$XDG_CONFIG_HOME/opencode/", "~/.config/opencode/")
# Of its many providers, those whose variable is not their name with `_API_KEY`, and the best known.
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "opencode": ("OPENCODE_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "google": ("GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "amazon-bedrock": ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"),
    "google-vertex": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_VERTEX_PROJECT"),
    "github-copilot": ("GITHUB_TOKEN",),
}
_NO_SIGN = {"amazon-bedrock", "google-vertex", "github-copilot"}  # variables that are also set for other purposes
_FREE = "without one it runs free models"
_REFERENCE = re.compile(r"\{env:([^}]+)\}")


def judge(request: LoginRequest) -> Login:
    """Judge the provider of the configured model; without one, whether any provider has credentials."""
    config = _config(request)
    kept = _kept(request)
    model = text_of(config.get("model"))
    if "/" in model:
        return _of_provider(model.partition("/")[0], config, kept, request.environ)
    providers = {**dict.fromkeys(kept), **mapping_of(config.get("provider")), **_VARIABLES}
    off = {text_of(name) for name in list_of(config.get("disabled_providers"))}
    for name in providers:
        found = _of_provider(name, config, kept, request.environ)
        if found.is_there and name not in off and (name not in _NO_SIGN or name in kept):
            return found
    return Login(False, _FREE)


def _of_provider(name: str, config: Mapping[str, Any], kept: Mapping[str, Any], environ: Mapping[str, str]) -> Login:
    if name in kept:
        return Login(True, "auth.json")
    table = mapping_of(mapping_of(config.get("provider")).get(name))
    options = mapping_of(table.get("options"))
    stated = [text_of(options.get("apiKey")), *map(str, mapping_of(options.get("headers")).values())]
    if any(is_word(_filled(each, environ)) for each in stated):
        return Login(True, f"the configured provider {name}")
    own = tuple(filter(None, map(text_of, list_of(table.get("env")))))
    usual = (f"{name.upper().replace('-', '_')}_API_KEY",)
    if variable := first_set(environ, own or _VARIABLES.get(name, usual)):
        return Login(True, variable)
    missing = _REFERENCE.findall(stated[0])
    if missing:
        return Login(False, f"the provider {name} needs {missing[0]}", f"set {missing[0]}, which {name} needs")
    if name == "opencode":
        return Login(False, _FREE)
    is_own = bool(table) and name not in _VARIABLES
    return Login(None if is_own else False, f"the provider {name} has no key")


def _filled(text: str, environ: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda found: environ.get(found[1], ""), text)


def _kept(request: LoginRequest) -> dict[str, Any]:
    """Return the credentials of `opencode auth login`, by provider."""
    home = ("XDG_DATA_HOME", "~/.local/share", "opencode/auth.json")
    files = object_of(request.environ.get("OPENCODE_AUTH_CONTENT") or first_file(request.files, request.environ, *home))
    return {name: entry for name, entry in (files or {}).items() if _is_credential(name, mapping_of(entry))}


def _is_credential(name: str, entry: Mapping[str, Any]) -> bool:
    if name == "anthropic" and entry.get("type") == "oauth":  # ignored
        return False
    return any(is_word(entry.get(key)) for key in ("key", "refresh", "access", "token"))


def _config(request: LoginRequest) -> dict[str, Any]:
    """Return its configurations that apply, nearest last."""
    merged: dict[str, Any] = {}
    for found in _configs(request):
        providers = {**mapping_of(merged.get("provider")), **mapping_of(found.get("provider"))}
        merged |= {**found, "provider": providers}
    return merged


def _configs(request: LoginRequest) -> Iterator[Mapping[str, Any]]:
    hidden = _CONFIG_HOMES[1] if request.environ.get("XDG_CONFIG_HOME") else _CONFIG_HOMES[0]
    for name, text in request.files.items():  # in the order in which the probe names them
        if not name.startswith(hidden) and not name.endswith("/auth.json"):
            yield object_of(text, spare_commas=True) or {}
    yield object_of(request.environ.get("OPENCODE_CONFIG_CONTENT"), spare_commas=True) or {}
