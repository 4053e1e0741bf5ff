"""How the bridge answers what opencode (1.18.33) asks: what a level promises holds whatever made it ask.

opencode asks where a rule of the user's says so, of its own account for `.env` files, places outside the project and a
call that is made for the third time, and before each sub-agent's calls as before the agent's own. A part of the bridge:
where an edit goes is found by following links.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from csa_adapters.bridges import Json

# All that it asks under, besides names of MCP servers' tools and plugins', which are what their user made them.
_OWN = frozenset(
    {"bash", "codesearch", "doom_loop", "edit", "external_directory", "glob", "grep", "list", "lsp", "plan_enter"}
    | {"plan_exit", "question", "read", "skill", "task", "todoread", "todowrite", "webfetch", "websearch"}
    | {"workflow_tool_approval"}
)


class Answers:
    """The answers of one turn: `grants` is `opencode.grants`; an empty one grants nothing but `outside`.

    `directory` is the session's, `worktree` says what git's is, `outside` are those that may be written besides.
    """

    def __init__(self, grants: Json, *, directory: str, outside: Iterable[str], worktree: Callable[[], str]) -> None:
        self._reading: list[str] = grants.get("reading", [])
        self._commands: list[str] = grants.get("commands", [])
        self._edits = grants.get("edits") is True
        self._directory = directory
        self._outside = tuple(outside)
        self._worktree = worktree

    def allow(self, ask: Json) -> bool:
        """Say whether what is asked for may happen."""
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
        """Say whether files, named from git's worktree, are in it, the session's directory, or what may be written."""
        worktree = self._worktree()  # `/` where there is no git
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
