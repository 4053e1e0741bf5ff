"""What an ACP agent may do at each permission level: which of its modes is set, and how its requests are answered.

An agent asks only for what its mode neither allows nor forbids; if it does not ask, nobody can answer. So a
level is first a mode, and then an answer to each request:

* `read-only`: reading, searching, fetching and thinking are allowed, and commands that only call csa.
* `edit`: also edits, deletions and moves, if every path in the request is in the project or in
  `CSA_OUTPUT_DIR`. A request without a path, any other command, a change of mode and everything else are rejected.
* `full`: everything is allowed.

Pure. Paths are compared as written: a link inside the project that points outside is followed.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from csa.model.permission import Permission
from csa.structs import Struct, field
from csa_adapters.jsonlines import list_of, mapping_of, text_of

_Json = Mapping[str, Any]

# The names of agents' modes, best first. If several fit `read-only`, one that asks comes before one that
# plans: planning changes the task.
MODES: Mapping[Permission, tuple[str, ...]] = {
    Permission.READ_ONLY: ("read-only", "readonly", "ask", "default", "approve", "plan"),
    Permission.EDIT: ("workspace-write", "acceptEdits", "autoEdit", "auto_edit", "default", "approve", "build"),
    Permission.FULL: ("agent-full-access", "bypassPermissions", "yolo", "full-access", "full", "auto", "build"),
}
_HARMLESS = frozenset({"read", "search", "fetch", "think"})
_COMMANDS = frozenset({"execute", "other"})  # opencode asks as `other` for a command that names a path outside
_EDITS = frozenset({"edit", "delete", "move"})
_ALLOWING = ("allow_once", "allow_always")  # `always` may end up in the agent's own settings
_REJECTING = ("reject_once", "reject_always")
# The meaning of an option without a kind, by its id and name: a refusal first, for "no, and do not allow again".
_REFUSES = re.compile(r"\b(?:no|not|reject|deny|denied|decline|disallow|cancel|abort|refuse|never)\b", re.IGNORECASE)
_ALLOWS = re.compile(r"\b(?:yes|allow\w*|approv\w*|accept\w*|proceed\w*|permit\w*|ok|run)\b", re.IGNORECASE)
_FOR_LONG = re.compile(r"\b(?:always|all|session|forever|remember)\b", re.IGNORECASE)
_PATH_KEYS = ("path", "file_path", "filePath", "filepath", "abs_path", "absolute_path", "notebook_path", "destination")
_HARMLESS_REDIRECTION = re.compile(r"(?:2>&1|&?[12]?>\s?/dev/null)(?=\s|$|[;&|])")
_SHELL = re.compile(r"(?:\S*/)?(?:ba|da|z)?sh")


class Policy(Struct):
    """The policy: the level, where edits are allowed, and how csa is called."""

    permission: Permission
    directories: tuple[str, ...]  # absolute
    csa_commands: frozenset[str] = field(default_factory=lambda: frozenset({"csa"}))

    def allows(self, call: _Json) -> bool:
        """Say whether a tool call may happen."""
        if self.permission is Permission.FULL:
            return True
        kind = text_of(call.get("kind"))
        if kind in _HARMLESS:
            return True
        if kind in _COMMANDS:
            command = command_of(call)
            return command is not None and calls_only(command, self.csa_commands)
        if kind in _EDITS and self.permission is Permission.EDIT:
            paths = list(_paths_of(call))
            return bool(paths) and all(self._holds(path) for path in paths)
        return False

    def choose_option(self, options: Iterable[Any], *, allowed: bool) -> tuple[str | None, bool]:
        """Return the id of the option to take, and whether it allows the call; None if there is none.

        If a permitted call can only be allowed for ever, it is; if it cannot be allowed at all, it is rejected.
        """
        offered: dict[str, str] = {}
        for option in map(mapping_of, options):
            offered.setdefault(_kind_of(option), text_of(option.get("optionId")))
        ways = (*_ALLOWING, *_REJECTING) if allowed else _REJECTING
        kind = next((kind for kind in ways if offered.get(kind)), None)
        return (offered[kind], kind in _ALLOWING) if kind else (None, False)

    def _holds(self, path: str) -> bool:
        base = self.directories[0] if self.directories else "/"
        full = posixpath.normpath(posixpath.join(base, path))
        return any(full == place or full.startswith(place.rstrip("/") + "/") for place in self.directories)


def offers_once(options: Iterable[Any]) -> bool:
    """Say whether a call can be allowed for this time alone."""
    return any(_kind_of(option) == _ALLOWING[0] for option in map(mapping_of, options))


def _kind_of(option: _Json) -> str:
    """Return what an option does: by its kind, else by its text; empty if unknown."""
    if text_of(option.get("kind")):
        return text_of(option["kind"])
    words = " ".join(re.sub(r"[_\W]+", " ", text_of(option.get(key))) for key in ("optionId", "name"))
    duration = "always" if _FOR_LONG.search(words) else "once"
    if _REFUSES.search(words):
        return f"reject_{duration}"
    return f"allow_{duration}" if _ALLOWS.search(words) else ""


def choose_mode(permission: Permission, offered: Iterable[str]) -> str | None:
    """Return the offered mode that fits the level best; None if none has a known name."""
    known = set(offered)
    return next((mode for mode in MODES[permission] if mode in known), None)


def command_of(call: _Json) -> str | None:
    """Return the command line a call wants to run, without the surrounding shell; None if the call does not have it."""
    given = mapping_of(call.get("rawInput"))
    found = next((given[key] for key in ("command", "cmd", "script") if given.get(key)), None)
    if type(found) is list and all(type(word) is str for word in found):
        words = found
    else:
        text = text_of(found)
        try:
            words = shlex.split(text) if _SHELL.match(text) else []
        except ValueError:
            return None
        if not _is_shell(words):
            return text or None
    return words[2] if _is_shell(words) else shlex.join(words)


def subject_of(call: _Json) -> dict[str, Any]:
    """Return what a call is about, for whoever is asked: its command, and the paths it names."""
    command, paths = command_of(call), list(dict.fromkeys(_paths_of(call)))
    return {"kind": text_of(call.get("kind")) or "other", "command": command, "paths": paths}


def calls_only(command: str, names: frozenset[str]) -> bool:
    """Say whether every simple command of a line is one of `names`, and nothing is expanded into a further command.

    Not a shell: it refuses what it does not understand (substitutions, redirections to files, assignments, keywords).
    """
    parts = _split_commands(command)
    if not parts:
        return False
    for part in parts:
        try:
            words = shlex.split(part)
        except ValueError:
            return False
        if not words or words[0] not in names:
            return False
    return True


def _is_shell(words: list[str]) -> bool:
    return len(words) == 3 and bool(_SHELL.fullmatch(words[0])) and words[1] in ("-c", "-lc")  # noqa: PLR2004


def _split_commands(line: str) -> list[str] | None:
    """Split at unquoted `;`, `&`, `|` and newlines; None if something outside single quotes runs or redirects."""
    parts, part, quote, at = [], "", "", 0
    while at < len(line):
        char = line[at]
        if quote == "'":
            quote = "" if char == "'" else quote
        elif char == "\\":
            part, at, char = part + char, at + 1, line[at + 1 : at + 2]
        elif char == "`" or line.startswith(("$(", "$'"), at):
            return None
        elif quote:
            quote = "" if char == '"' else quote
        elif redirection := _HARMLESS_REDIRECTION.match(line, at):
            at, char = redirection.end() - 1, " "
        elif char in "<>(){}":
            return None
        elif char in ";&|\n":
            parts.append(part)
            part, char = "", ""
        elif char in "'\"":
            quote = char
        part, at = part + char, at + 1
    parts.append(part)
    return None if quote else [found for found in parts if found.strip()]


def _paths_of(call: _Json) -> Iterable[str]:
    """Yield every path a call names: its places, its diffs, its arguments."""
    for place in (*list_of(call.get("locations")), *list_of(call.get("content"))):
        if text_of(mapping_of(place).get("path")):
            yield place["path"]
    given = mapping_of(call.get("rawInput"))
    for key in _PATH_KEYS:
        if text_of(given.get(key)):
            yield given[key]
    yield from (path for path in mapping_of(given.get("changes")) if type(path) is str)
