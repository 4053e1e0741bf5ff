"""What work in worktrees has cost, beside the commits that have stayed of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from csa.errors import StateError
from csa.model.state import SessionState, format_time
from csa.model.statistics import Tally
from csa.structs import Struct, field

LANDED = "landed"
STATES = (LANDED, "merged", "elsewhere", "conflict", "check failed", "open")
_REFUSED = {"conflict": "conflict", "markers": "conflict", "check": "check failed", "hook": "check failed"}


class Landing(Struct):
    """That a session's work was landed: as which commits, and in which work tree."""

    session_id: str
    commits: tuple[str, ...]
    into: str
    squash: bool


class Work(Struct, frozen=False):
    """What was done in a worktree, or in those of all attempts at a task.

    Attributes:
        attempts: the sessions with the worktrees, oldest first.
        above: the work of the session that has started it, such as a plan's.
        landings: of all attempts, oldest first.
        kept: the commits of its work, or of work below it, that are in the history.
        commits: those of its own.
        shared: those of them that hold the work of others as well, as when a plan was squashed.
        lines: how many lines each of its own commits adds and removes.
        tally: its turns.
    """

    attempts: list[SessionState] = field(default_factory=list)
    above: Work | None = None
    landings: list[Landing] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    shared: frozenset[str] = frozenset()
    lines: dict[str, tuple[int, int]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @property
    def last(self) -> SessionState:
        """The last attempt that was landed; without one, the last."""
        landed = [state for state in self.attempts if state.worktree and state.worktree.landed]
        return (landed or self.attempts)[-1]

    @property
    def used_at(self) -> datetime:
        """When it was last worked on, or landed."""
        moments = [state.last_accessed for state in self.attempts]
        return max([*moments, *(tree.landed_at for s in self.attempts if (tree := s.worktree) and tree.landed_at)])

    @property
    def outcome(self) -> str:
        """One of STATES: `merged` is in the tree of the work above, `elsewhere` in another history than this one."""
        tree = self.last.worktree
        if self.kept:
            return LANDED
        if self.above and self.is_in(self.above):
            return "merged"
        if self.landings or (tree and tree.landed):
            return "elsewhere"
        return _REFUSED.get(tree.refused.kind, "open") if tree and tree.refused else "open"

    def line(self) -> Iterator[Work]:
        """Yield the works above it, nearest first."""
        work = self.above
        while work:
            yield work
            work = work.above

    def was_squashed_with(self, above: Work) -> bool:
        """Say whether it was landed in a worktree of the work above, and that as one commit."""
        return self.is_in(above) and any(one.squash for one in above.landings)

    def is_in(self, above: Work) -> bool:
        """Say whether it was landed in a worktree of the work above."""
        places = {state.worktree.path for state in above.attempts if state.worktree}
        return any(one.into in places for one in self.landings)

    @property
    def landed(self) -> dict[str, list[str]]:
        """The commits that its sessions were landed as."""
        found: dict[str, list[str]] = {state.session_id: [] for state in self.attempts}
        for one in self.landings:
            found[one.session_id] += one.commits
        return found

    @property
    def changed(self) -> tuple[int, int] | None:
        """Lines added and removed; None if all its commits are shared, so that nobody can tell."""
        own = [count for commit, count in self.lines.items() if commit not in self.shared]
        if self.commits and not own:
            return None
        return sum(added for added, _ in own), sum(removed for _, removed in own)

    def to_json(self) -> dict[str, Any]:
        """Return its row in `csa stats --landed --json`."""
        state, changed = self.last, self.changed
        return {
            "session_id": state.session_id,
            "name": state.name,
            "description": state.description,
            "project": state.project_path,
            "task": state.task.name if state.task else None,
            "parent_session_id": state.parent_session_id,
            "state": self.outcome,
            "attempts": [each.session_id for each in self.attempts],
            "commits": self.commits,
            "shared_commits": [commit for commit in self.commits if commit in self.shared],
            "added": changed and changed[0],
            "removed": changed and changed[1],
            **_costs(self.tally),
        }


class Base(Struct, kw_only=True):
    """The history in which commits were looked for."""

    project: str
    directory: str
    branch: str | None
    head: str

    def to_json(self) -> dict[str, Any]:
        """Return its object in `csa stats --landed --json`."""
        return {"project": self.project, "directory": self.directory, "branch": self.branch, "head": self.head}


class Sum(Struct):
    """The sum of some works; a commit counts once."""

    works: list[Work]

    @property
    def lines(self) -> dict[str, tuple[int, int]]:
        """Their commits, with the lines added and removed."""
        return {commit: count for work in self.works for commit, count in work.lines.items()}

    @property
    def changed(self) -> tuple[int, int]:
        """Lines added and removed."""
        counts = self.lines.values()
        return sum(added for added, _ in counts), sum(removed for _, removed in counts)

    @property
    def tally(self) -> Tally:
        """Their turns."""
        found = Tally()
        for work in self.works:
            found.merge(work.tally)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return its object in `csa stats --landed --json`."""
        added, removed = self.changed
        return {
            "works": len(self.works),
            "commits": len(self.lines),
            "added": added,
            "removed": removed,
            **_costs(self.tally),
        }


class Landed(Struct, frozen=False):
    """The works, and what could not be told."""

    works: list[Work] = field(default_factory=list)
    bases: list[Base] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[StateError] = field(default_factory=list)

    @property
    def landed(self) -> Sum:
        """What is in the history."""
        return Sum([work for work in self.works if work.outcome == LANDED])

    @property
    def not_landed(self) -> Sum:
        """What is not."""
        return Sum([work for work in self.works if work.outcome != LANDED])

    def to_json(self, *, since: datetime | None) -> dict[str, Any]:
        """Return the object that `csa stats --landed --json` prints."""
        return {
            "since": format_time(since) if since else None,
            "histories": [base.to_json() for base in self.bases],
            "works": [work.to_json() for work in self.works],
            "landed": self.landed.to_json(),
            "not_landed": self.not_landed.to_json(),
            "notes": self.notes,
        }


def arrange(works: Iterable[Work]) -> list[Work]:
    """Return works newest first, those below another after it, oldest first."""
    below: dict[int, list[Work]] = {}
    for work in works:
        below.setdefault(id(work.above), []).append(work)
    found: list[Work] = []
    stack = sorted(below.get(id(None), ()), key=_begun)
    while stack:
        found.append(stack.pop())
        stack += sorted(below.get(id(found[-1]), ()), key=_begun, reverse=True)
    return found


def _begun(work: Work) -> str:
    return work.attempts[0].session_id


def _costs(tally: Tally) -> dict[str, Any]:
    return {
        "sessions": len(tally.sessions),
        "turns": tally.turns,
        "usage": tally.usage.to_sum(),
        "time_s": round(tally.time_s, 3),
    }
