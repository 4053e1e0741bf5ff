"""The settings csa gives gemini-cli for one run, based on those that would apply without it. Pure.

gemini-cli only reads them from files: the system's (`GEMINI_CLI_SYSTEM_SETTINGS_PATH`, the layer above all others), if
root owns that file and every directory above it (0.61.0), else the user's, in a home that csa creates for the run
(`GEMINI_CLI_HOME`). The user's own files are read and never written.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.adapter import LoginRequest, TurnRequest
from csa_adapters.jsonlines import Json, list_of, mapping_of, text_of
from csa_adapters.logins import object_of

_Request = TurnRequest | LoginRequest  # both have the files, and the environment

SETTINGS_PATH = "GEMINI_CLI_SYSTEM_SETTINGS_PATH"
HOME = "GEMINI_CLI_HOME"
# The values before csa set them: agents inherit csa's, and a nested csa must not mistake those for the user's.
OUTER_SETTINGS_PATH = "OUTER_GEMINI_CLI_SYSTEM_SETTINGS_PATH"
OUTER_HOME = "OUTER_GEMINI_CLI_HOME"

# The layers of settings, weakest first: alternatives, of which the first named or existing one applies.
_USER = (f"${OUTER_HOME}/.gemini/settings.json", f"${HOME}/.gemini/settings.json", "~/.gemini/settings.json")
_PROJECT = ("./.gemini/settings.json",)
_SYSTEM = (f"${OUTER_SETTINGS_PATH}", f"${SETTINGS_PATH}", "/etc/gemini-cli/settings.json")
_LAYERS = (
    ("$GEMINI_CLI_SYSTEM_DEFAULTS_PATH", "/etc/gemini-cli/system-defaults.json"),
    _USER,
    _PROJECT,
    _SYSTEM,
)
# The files of a login; an ephemeral run has its own home and copies them.
_LOGIN = ("oauth_creds.json", "google_accounts.json", ".env")
LOGIN_FILES = tuple(f"{home}/.gemini/{name}" for name in _LOGIN for home in (f"${OUTER_HOME}", f"${HOME}", "~"))
# Other signs of a login.
LOGIN_EVIDENCE = (
    *LOGIN_FILES,
    "./.gemini/.env",
    "./.env",
    "~/.env",
    *(f"{home}/.gemini/gemini-credentials.json" for home in (f"${HOME}", "~")),
    "~/.config/gcloud/application_default_credentials.json",
)
READS = (*(name for layer in _LAYERS for name in layer), *LOGIN_FILES)

NOTE = "csa-note.md"
PRIVATE = "home"  # the home of a run, in its directory
# Files gemini may create, besides the existing ones.
_WRITTEN = (
    "oauth_creds.json",
    "google_accounts.json",
    "gemini-credentials.json",
    "mcp-oauth-tokens.json",
    "installation_id",
    "state.json",
)
# Three attempts, 5 and 10 s apart, end a dead provider's turn after 20 s; gemini's own ten take four minutes.
_MAX_ATTEMPTS = 3
# It cancels a command that is silent for 300 s, and its own agent after 10 minutes: a nested run may need longer.
_LONGEST_S = 24 * 3600.0
_LATER_S = 60.0  # beyond csa's own limit, which should be the one that applies
_TIMER_S = 2_147_483.0  # its timers fire at once if set to more
_WORKER = "generalist"  # the agent that has the shell
_PASSED_ON = (
    "CSA_SESSION_ID",
    "CSA_DEPTH",
    "CSA_PROJECT_ROOT",
    "CSA_PARENT_SESSION",
    "CSA_SESSION_DIR",
    "CSA_OUTPUT_DIR",
    "CSA_TOOL",
    "CSA_STATE_DIR",
    OUTER_SETTINGS_PATH,
    OUTER_HOME,
)
_BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576}


def original_home(environ: Mapping[str, str]) -> str | None:
    """Return the user's `GEMINI_CLI_HOME`, even inside an ephemeral run, which has another."""
    return environ.get(OUTER_HOME, environ.get(HOME)) or None


def original_settings_path(environ: Mapping[str, str]) -> str:
    """Return the system settings file the user has named; empty for none."""
    return environ.get(OUTER_SETTINGS_PATH, environ.get(SETTINGS_PATH)) or ""


def system_settings(request: TurnRequest, note: str | None) -> str:
    """Return the system settings of a run: the file that applies anyway, overridden by what csa needs.

    Args:
        request: the turn.
        note: the path of the file with the system text, relative to the directory of the global GEMINI.md.

    Raises:
        UsageError: the file that applies anyway cannot be parsed, and would silently be lost.
    """
    return _compose(request, _layer(request, _SYSTEM, is_strict=True), note)


def private_settings(request: TurnRequest, note: str | None) -> str:
    """Return the user settings of a run with its own home; UsageError if the user's cannot be parsed."""
    return _compose(request, _layer(request, _USER, is_strict=True), note)


def is_overruled(request: TurnRequest, *keys: str) -> bool:
    """Say whether a layer above the user's settings sets what csa would set there."""
    return _value(request, (_PROJECT, _SYSTEM), keys) is not None


def selected_type(request: LoginRequest) -> str:
    """Return the login type that the settings select; empty if they do not."""
    return text_of(_setting(request, "security", "auth", "selectedType")) or text_of(
        _setting(request, "selectedAuthType")
    )


def keeps_conversations(request: TurnRequest) -> bool:
    """Say whether the user's own settings prevent gemini from deleting conversations."""
    return _setting(request, "general", "sessionRetention", "enabled") is False


def home_links(request: TurnRequest, directory: str) -> dict[str, str]:
    """Return the links that make a run's home mirror the user's, except for its settings.

    Conversations, logins and memories stay where they are. A `projects.json` that gemini writes
    is lost with the run: it also finds a project's conversations by the markers beside them.

    Args:
        request: the turn.
        directory: the user's `.gemini`.
    """
    home = posixpath.dirname(directory)
    own = [name for name in (*_WRITTEN, *_file_names(request)) if "/" not in name]
    return {
        **{f"{PRIVATE}/.gemini/{name}": f"{directory}/{name}/" for name in ("tmp", "history")},
        **{f"{PRIVATE}/.gemini/{name}": f"{directory}/{name}" for name in own},
        f"{PRIVATE}/.gemini/*": directory,
        **{f"{PRIVATE}/{name}": f"{home}/{name}" for name in (".agents", ".env")},
    }


def login_copies(request: TurnRequest) -> dict[str, str]:
    """Return the user's login files by their name in `.gemini`."""
    found: dict[str, str] = {}
    for name in LOGIN_FILES:
        if name in request.files and _is_in_force(name, request.environ):
            found.setdefault(name.rpartition("/")[2], request.files[name])
    return found


def _compose(request: TurnRequest, base: Json, note: str | None) -> str:
    own: Json = {
        "general": {
            # Its clean-up deletes conversations that were resumed in a later minute than they began in (0.61.0).
            "sessionRetention": {"enabled": False},
            "enableAutoUpdate": False,  # no update may replace the program during a turn
            "plan": {"enabled": False},  # without a terminal, leaving plan mode allows everything
        },
        "security": {"environmentVariableRedaction": {"allowed": _allowed(base)}},
    }
    if _setting(request, "general", "maxAttempts") is None:
        own["general"]["maxAttempts"] = _MAX_ATTEMPTS
    if _setting(request, "tools", "shell", "inactivityTimeout") is None:
        own["tools"] = {"shell": {"inactivityTimeout": _longest(request)}}
    if _setting(request, "agents", "overrides", _WORKER, "runConfig", "maxTimeMinutes") is None:
        limit = {"runConfig": {"maxTimeMinutes": _longest(request) / 60}}
        own["agents"] = {"overrides": {_WORKER: limit}}
    if request.environ.get("GEMINI_API_KEY") and not _setting(request, "security", "auth", "selectedType"):
        own["security"]["auth"] = {"selectedType": "gemini-api-key"}  # with a base URL it would guess "gateway"
    if note is not None:
        own["context"] = {"fileName": [*_file_names(request), note]}
    if request.effort:
        own["modelConfigs"] = {"customOverrides": [*_overrides(request), *_thinking(request.effort, request.model)]}
    return json.dumps(_merged(base, own), ensure_ascii=True, indent=1)


def _longest(request: TurnRequest) -> float:
    """Return the seconds after which gemini may end what csa has not ended yet."""
    return min(max(_LONGEST_S, (request.timeout_s or 0) + _LATER_S), _TIMER_S)


def _allowed(base: Json) -> list[str]:
    """Return the variables that a GitHub environment (GITHUB_SHA) must not strip from the agent's shell."""
    theirs = mapping_of(mapping_of(base.get("security")).get("environmentVariableRedaction")).get("allowed")
    return list(dict.fromkeys([*filter(None, map(text_of, list_of(theirs))), *_PASSED_ON]))


def _file_names(request: TurnRequest) -> list[str]:
    named = _setting(request, "context", "fileName")
    names = [named] if type(named) is str else [text_of(name) for name in list_of(named)]
    return [name for name in names if name] or ["GEMINI.md"]


def _overrides(request: TurnRequest) -> list[Any]:
    return list_of(_setting(request, "modelConfigs", "customOverrides"))


def _thinking(effort: str, model: str | None) -> list[Json]:
    """Override the models' aliases: a level from Gemini 3 on, a token budget before."""
    level: Json = {"thinkingConfig": {"thinkingLevel": effort.upper()}}
    chosen: list[tuple[str, Json]] = [("chat-base-3", level)]
    if effort.lower() in _BUDGETS:
        chosen.append(("chat-base-2.5", {"thinkingConfig": {"thinkingBudget": _BUDGETS[effort.lower()]}}))
    if model and not model.startswith("gemini-2"):
        chosen.append((model, level))  # a model the CLI does not know has neither alias
    return [{"match": {"model": name}, "modelConfig": {"generateContentConfig": config}} for name, config in chosen]


def _setting(request: _Request, *keys: str) -> Any:
    """Return the value that applies by the user's and administrator's files; None if none sets it."""
    return _value(request, _LAYERS, keys)


def _value(request: _Request, layers: tuple[tuple[str, ...], ...], keys: tuple[str, ...]) -> Any:
    for layer in reversed(layers):
        value: Any = _layer(request, layer)
        for key in keys:
            value = mapping_of(value).get(key)
        if value is not None:
            return value
    return None


def _layer(request: _Request, names: tuple[str, ...], *, is_strict: bool = False) -> Json:
    for name in names:
        if not _is_in_force(name, request.environ) or name not in request.files:
            continue
        found = object_of(request.files[name])
        if found is None and is_strict:
            raise UsageError(
                f"The settings of gemini-cli ({name}) are not a JSON object.", hint="fix them, or move them away"
            )
        return found or {}
    return {}


def _is_in_force(name: str, environ: Mapping[str, str]) -> bool:
    """Say whether gemini would read the file: a set variable hides the places after it."""
    if name.startswith(f"${SETTINGS_PATH}"):
        return OUTER_SETTINGS_PATH not in environ
    if name.startswith("/etc/gemini-cli/settings"):
        return not original_settings_path(environ)
    if name.startswith("/etc/gemini-cli/system-defaults"):
        return not environ.get("GEMINI_CLI_SYSTEM_DEFAULTS_PATH")
    if name.startswith(f"${HOME}/"):
        return OUTER_HOME not in environ
    return not (name.startswith("~/") and original_home(environ))


def _merged(base: Json, above: Json) -> Json:
    found = dict(base)
    for key, value in above.items():
        below = found.get(key)
        found[key] = _merged(below, value) if type(below) is dict and type(value) is dict else value
    return found


def relative_note(directory: str, run_directory: str) -> str:
    """Return the path of the note as seen from `directory`: context files are named, not placed."""
    return posixpath.relpath(posixpath.join(run_directory, NOTE), directory)


def protected(text: str) -> str:
    """Write a system text so that a word like `@name` in it is not treated as a file to import."""
    if not re.search(r"(?:^|\s)@[./A-Za-z]", text):
        return text
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)  # text between equal fences is not searched for imports
    return f"{fence}\n{text}\n{fence}"
