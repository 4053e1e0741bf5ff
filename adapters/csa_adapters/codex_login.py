"""Whether codex would send credentials, as observed in its requests to a local provider (0.169.0). Pure.

OPENAI_API_KEY does not count: codex does not read it. To the built-in provider it sends CODEX_API_KEY, else what
`codex login` has stored in auth.json: its key, unless `auth_mode` says otherwise, else the tokens. A user's provider
gets what its table names, and neither of those, unless it has `requires_openai_auth`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from csa.model.adapter import Login, LoginRequest
from csa_adapters.jsonlines import mapping_of, text_of
from csa_adapters.logins import first_file, is_word, object_of

_OWN = "openai"
_KEYLESS = {"ollama", "lmstudio", "oss"}  # on the user's own machine
_HEADERS = re.compile(r"authorization|.*api[-_]key", re.IGNORECASE)


def judge(request: LoginRequest) -> Login:
    """Judge by the configured provider."""
    if any(word in {"--profile", "-p"} or word.startswith("--profile=") for word in request.command):
        return Login(None, "its command names a profile")
    settings = _settings(request)
    if settings is None:
        return Login(None, "csa does not understand its config.toml")
    name = text_of(settings.get("model_provider")) or _OWN
    if name in _KEYLESS or "--oss" in request.command:
        return Login(True, f"the provider {name} needs none")
    table = mapping_of(mapping_of(settings.get("model_providers")).get(name))
    if name != _OWN and not table:
        return Login(None, f"the provider is {name}")
    found = _of_provider(name, table, request.environ) if name != _OWN else None
    return found or _of_openai(request, text_of(settings.get("cli_auth_credentials_store")))


def _of_provider(name: str, table: Mapping[str, Any], environ: Mapping[str, str]) -> Login | None:
    """Judge a user's own provider; None for one that accepts what OpenAI's does."""
    if variable := text_of(table.get("env_key")):
        if is_word(environ.get(variable)):
            return Login(True, variable)
        return Login(False, f"the provider {name} needs {variable}", f"set {variable}, which {name} needs")
    if is_word(table.get("experimental_bearer_token")) or mapping_of(table.get("auth")):
        return Login(True, f"the provider {name} has one")
    named = {**mapping_of(table.get("http_headers"))}
    named |= {each: environ.get(text_of(of), "") for each, of in mapping_of(table.get("env_http_headers")).items()}
    if any(_HEADERS.fullmatch(each) and is_word(value) for each, value in named.items()):
        return Login(True, f"the provider {name} has a header")
    return None if table.get("requires_openai_auth") is True else Login(None, f"the provider {name} has no key")


def _of_openai(request: LoginRequest, store: str) -> Login:
    if is_word(request.environ.get("CODEX_API_KEY")):
        return Login(True, "CODEX_API_KEY")
    kept = object_of(first_file(request.files, request.environ, "CODEX_HOME", "~/.codex", "auth.json")) or {}
    if store not in {"keyring", "ephemeral"} and _has_key(kept):
        return Login(True, "auth.json")
    if store in {"keyring", "auto"}:
        return Login(None, "it may be in the keyring")
    if is_word(request.environ.get("OPENAI_API_KEY")):
        step = "printenv OPENAI_API_KEY | codex login --with-api-key, or set CODEX_API_KEY"
        return Login(False, "codex does not send OPENAI_API_KEY", step)
    return Login(False)


def _has_key(kept: Mapping[str, Any]) -> bool:
    mode = text_of(kept.get("auth_mode")) or ("apikey" if type(kept.get("OPENAI_API_KEY")) is str else "chatgpt")
    if mode == "apikey":
        return is_word(kept.get("OPENAI_API_KEY"))
    return is_word(mapping_of(kept.get("tokens")).get("access_token"))


def _settings(request: LoginRequest) -> dict[str, Any] | None:
    """Return the settings with the command's overrides; None if the file is not TOML."""
    text = first_file(request.files, request.environ, "CODEX_HOME", "~/.codex", "config.toml")
    try:
        settings = tomllib.loads(text or "")
    except ValueError:
        return None
    for key, value in _overrides(request.command):
        _put(settings, key.strip().split("."), value)
    return settings


def _overrides(command: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for word, following in pairwise((*command, "")):
        is_option = word in {"-c", "--config"}
        stated = following if is_option else word.removeprefix("--config=") if word.startswith("--config=") else ""
        key, equals, value = stated.partition("=")
        if equals:
            yield key, _value(value)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # codex uses that literally
        return text.strip().strip("\"'")


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    *above, last = path
    for name in above:
        below = settings.setdefault(name, {})
        if type(below) is not dict:
            return
        settings = below
    settings[last] = value
