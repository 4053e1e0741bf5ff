"""Whether gemini would send credentials, as observed in its requests to a local provider (0.61.0). Pure.

`security.auth.selectedType` in the settings decides, else the environment; a login's file alone does nothing. csa
selects the key if GEMINI_API_KEY is set in its environment and no type is. Switches must be "true". In a
folder that gemini does not trust it reads only keys and projects from a `.env`; of several it reads the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from csa.model.adapter import Login, LoginRequest
from csa_adapters.gemini_settings import LOGIN_EVIDENCE, LOGIN_FILES, original_home, selected_type
from csa_adapters.logins import first_set, is_word, object_of

_ADC = "~/.config/gcloud/application_default_credentials.json"
_ENV = ("./.gemini/.env", "./.env", *(name for name in LOGIN_FILES if name.endswith("/.env")), "~/.env")
_ENCRYPTED = tuple(name for name in LOGIN_EVIDENCE if name.endswith("/gemini-credentials.json"))
_SAFE = {"GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"}
_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^#\n]*))", re.MULTILINE)
_NO_TYPE = "no login type is selected"


def judge(request: LoginRequest) -> Login:
    """Judge by the login type that gemini would choose."""
    environ = {**_of_env_file(request), **request.environ}
    chosen = selected_type(request) or _type_of(request.environ, environ)
    if chosen == "gemini-api-key":
        return _of_variables(request, environ, "GEMINI_API_KEY")
    if chosen == "vertex-ai":
        return _of_vertex(request, environ)
    if chosen == "oauth-personal":
        return _of_account(request, environ)
    if chosen in {"cloud-shell", "compute-default-credentials"}:
        return Login(None, "provided by the machine")
    if chosen == "gateway":
        return Login(False, "GOOGLE_GEMINI_BASE_URL is set without GEMINI_API_KEY")
    lone = first_set(environ, ("GOOGLE_API_KEY",))
    return Login(False, f"{lone} only works with GOOGLE_GENAI_USE_VERTEXAI=true" if lone else _unused(request))


def _type_of(ours: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return the type that csa or gemini chooses if no settings do."""
    if ours.get("GEMINI_API_KEY"):
        return "gemini-api-key"
    for name, chosen in (("GOOGLE_GENAI_USE_GCA", "oauth-personal"), ("GOOGLE_GENAI_USE_VERTEXAI", "vertex-ai")):
        if environ.get(name) == "true":
            return chosen
    if environ.get("GOOGLE_GEMINI_BASE_URL"):
        return "gateway"
    if environ.get("GEMINI_API_KEY"):
        return "gemini-api-key"
    on_google = environ.get("CLOUD_SHELL") == "true" or environ.get("GEMINI_CLI_USE_COMPUTE_ADC") == "true"
    return "compute-default-credentials" if on_google else ""


def _of_variables(request: LoginRequest, environ: Mapping[str, str], *names: str) -> Login:
    if found := first_set(environ, names):
        return Login(True, found)
    if any(name in request.files for name in _ENCRYPTED):
        return Login(None, "it may be in gemini-credentials.json, which is encrypted")
    return Login(False, f"{names[0]} is not set")


def _of_vertex(request: LoginRequest, environ: Mapping[str, str]) -> Login:
    if is_word(environ.get("GOOGLE_API_KEY")):
        return Login(True, "GOOGLE_API_KEY")
    if not (is_word(environ.get("GOOGLE_CLOUD_PROJECT")) and is_word(environ.get("GOOGLE_CLOUD_LOCATION"))):
        return Login(False, "Vertex AI needs GOOGLE_API_KEY, or GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION")
    found = first_set(environ, ("GOOGLE_APPLICATION_CREDENTIALS",)) or (_ADC if _ADC in request.files else "")
    return Login(True, found) if found else Login(None, "csa finds no Google default credentials")


def _of_account(request: LoginRequest, environ: Mapping[str, str]) -> Login:
    if environ.get("GOOGLE_GENAI_USE_GCA") == "true" and is_word(environ.get("GOOGLE_CLOUD_ACCESS_TOKEN")):
        return Login(True, "GOOGLE_CLOUD_ACCESS_TOKEN")
    if _has_account(request):
        return Login(True, "oauth_creds.json")
    if environ.get("GEMINI_FORCE_ENCRYPTED_FILE_STORAGE") == "true":
        return Login(None, "it is stored encrypted")
    return Login(False, "the selected account is not logged in")


def _has_account(request: LoginRequest) -> bool:
    home = "$GEMINI_CLI_HOME" if original_home(request.environ) else "~"
    kept = object_of(request.files.get(f"{home}/.gemini/oauth_creds.json")) or {}
    return is_word(kept.get("refresh_token")) or is_word(kept.get("access_token"))


def _unused(request: LoginRequest) -> str:
    return f"oauth_creds.json exists, but {_NO_TYPE}" if _has_account(request) else ""


def _of_env_file(request: LoginRequest) -> dict[str, str]:
    text = next((request.files[name] for name in _ENV if name in request.files), "")
    found = {name: (quoted or single or bare).strip() for name, quoted, single, bare in _LINE.findall(text)}
    return {name: value for name, value in found.items() if name in _SAFE}
