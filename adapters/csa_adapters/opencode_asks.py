"""How the bridge answers opencode's (1.18.33) questions: a level's promises apply, whatever made it ask.

opencode asks if one of the user's rules says so, by itself for `.env` files, places outside the project and a
call that is made for the third time, for sub-agents' calls as for the agent's own. A part of the bridge:
the place of an edit is found by following links.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from csa_adapters.bridges import Json

# All kinds of questions, besides the names of MCP servers' and plugins' tools, which their user has chosen.
_OWN = frozenset(
    {"bash", "codesearch", "doom_loop", "edit", "external_directory", "glob", "grep", "list", "lsp", "plan_enter"}
    | {"plan_exit", "question", "read", "skill", "task", "todoread", "todowrite", "webfetch", "websearch"}
    | {"workflow_tool_approval"}
)


class Answers:
    """The answers of one turn: `grants` is `opencode.grants`; an empty one grants nothing but `outside`.

    `directory` is the session's, `worktree` is git's, `outside` are other directories that may be written.
    """

    def __init__(self, grants: Json, *, directory: str, outside: Iterable[str], worktree: Callable[[], str]) -> None:
        self._reading: list[str] = grants.get("reading", [])
        self._commands: list[str] = grants.get("commands", [])
        self._edits = grants.get("edits") is True
        self._directory = directory
        self._outside = tuple(outside)
        self._worktree = worktree

    def allow(self, ask: Json) -> bool:
        """Say whether the request is granted."""
        name, patterns = str(ask.get("permission")), [str(each) for each in ask.get("patterns") or []]
        if name == "external_directory":
            return bool(patterns) and all(_is_below(posixpath.normpath(each), self._outside) for each in patterns)
        if name in self._reading:
            return name != "read" or not any(map(_is_secret, patterns))
        if name == "bash":
            return bool(patterns) and all(any(_fits(line, each) for each in self._commands) for line in patterns)
        if name == "edit":
            return self._edits and bool(patterns) and self._are_ours(patterns)
        return self._edits and name not in _OWN

    def _are_ours(self, patterns: list[str]) -> bool:
        """Say whether files, relative to git's worktree, are in it, the session's directory, or writable."""
        worktree = self._worktree()  # `/` without git
        places = [posixpath.realpath(place) for place in (self._directory, worktree, *self._outside) if place != "/"]
        return all(_is_below(posixpath.realpath(posixpath.join(worktree, each)), places) for each in patterns)


def _fits(line: str, pattern: str) -> bool:
    """Match as opencode does with the patterns we use: a command, or one with any arguments."""
    return line == pattern.removesuffix(" *") or (pattern.endswith(" *") and line.startswith(pattern[:-1]))


def _is_secret(path: str) -> bool:
    name = posixpath.basename(path)
    return name != ".env.example" and any(fnmatchcase(name, pattern) for pattern in ("*.env", "*.env.*"))


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path.startswith(posixpath.join(place, "")) for place in places)
