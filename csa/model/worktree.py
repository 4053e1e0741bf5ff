"""A session's own git worktree, as its record has it. Pure: git itself is in `csa/store/worktrees.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from csa.structs import Struct, fields

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

BRANCHES = "csa/"  # what the names of csa's branches begin with
REFS = "refs/csa/"  # below it, `<session>/<turn>` for the work at the end of each turn
FETCHED = f"{REFS}fetched/"  # on another host, below it, the same names for what was fetched from there
SESSION_TRAILER, TURN_TRAILER = "Csa-Session", "Csa-Turn"


class Refused(Struct, kw_only=True):
    """Why the session's work could not be landed last: `kind` is conflict, markers, check or hook."""

    kind: str
    files: tuple[str, ...] = ()  # in conflict, or with conflict markers left in them
    onto: str | None = None  # the commit that it was to follow
    message: str = ""  # the last lines of what the check or the hook said


class Worktree(Struct, kw_only=True):
    """`[worktree]`: where the session works, and what has become of its work.

    Attributes:
        path: the worktree's directory.
        git_dir: what git keeps of it in the repository, `.git/worktrees/<name>`; empty before it is made.
        branch: its branch, without `refs/heads/`.
        base: the commit that it began with.
        checkout: the top of the work tree that it was made from, where its work is to land.
        target: the branch that was checked out there; None if the head was detached.
        number: a small number of its own among those of the project, for ports: `CSA_WORKTREE`.
        setup: the shell command that prepares it.
        is_ready: whether that has succeeded.
        landed: the last commit of the work when it was landed; later turns may have added to it.
        landed_at: when.
        dropped: the last commit of the work when the worktree was taken away; a later turn makes it again from there.
        dropped_at: when; None once it is made again, or its session restored: then it is not given up any more.
        refused: why it could not be landed last.
    """

    path: str
    git_dir: str
    branch: str
    base: str
    checkout: str
    target: str | None = None
    number: int = 0
    setup: str | None = None
    is_ready: bool = False
    landed: str | None = None
    landed_at: datetime | None = None
    dropped: str | None = None
    dropped_at: datetime | None = None
    refused: Refused | None = None


class Task(Struct, kw_only=True):
    """`[task]`: which task of a plan the session works on, and a digest of what the plan said of it then."""

    name: str
    digest: str


def render_worktree(tree: Worktree | None) -> dict[str, Any]:
    """Return the table of a record; without a worktree no key has a value, so that there is no table."""
    if tree is None:
        return dict.fromkeys(fields(Worktree))
    refused = tree.refused
    return {
        "path": tree.path,
        "git_dir": tree.git_dir,
        "branch": tree.branch,
        "base": tree.base,
        "checkout": tree.checkout,
        "target": tree.target,
        "number": tree.number,
        "setup": tree.setup,
        "is_ready": tree.is_ready or None,
        "landed": tree.landed,
        "landed_at": tree.landed_at,
        "dropped": tree.dropped,
        "dropped_at": tree.dropped_at,
        "refused": {
            "kind": refused.kind,
            "files": list(refused.files) or None,
            "onto": refused.onto,
            "message": refused.message or None,
        }
        if refused
        else None,
    }


def render_task(task: Task | None) -> dict[str, Any]:
    """Return the table of a record; without values for a session that is no plan's."""
    return {"name": task and task.name, "digest": task and task.digest}


def words_of(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of strings, and of anything else none of it."""
    value = table.get(key)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
