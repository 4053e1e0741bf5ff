"""What comes back of a session's work on another host: the refs that keep it, in the repository here.

A ref here only moves forward. What is kept by another's ref stays; then what has come is kept beside it. On the other
host it is noted what was fetched, as the session there may then be cleaned up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress

from csa.errors import RefusedError
from csa.model.worktree import FETCHED, REFS
from csa.store.gitplumbing import ABSENT, Git, GitError
from csa.store.gitwork import find_commit, is_ancestor, order_of, refs_of
from csa.structs import Struct, asdict

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import TypeGuard

_NAME = re.compile(r"[0-9][A-Za-z0-9-]{0,60}|[a-z][a-z0-9-]{0,60}", re.ASCII)
ORIGINS = f"{REFS}from/"  # below it, by the session: a blob with the name of the host


class BroughtRef(Struct):
    """A ref, its commit, and what has become of it: new, moved, same, or aside (another's has its name)."""

    ref: str
    commit: str
    status: str

    def to_json(self) -> dict[str, str]:
        """Return its object in `fetch --json`."""
        return asdict(self)


def is_name(name: object) -> TypeGuard[str]:
    """Say whether csa gives a ref of a session such a name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def keep_refs(git: Git, session_id: str, found: Mapping[str, str]) -> list[BroughtRef]:
    """Keep commits that have come by refs of a session, by their names; GitError."""
    return [_keep(git, session_id, name, commit) for name, commit in found.items()]


def _keep(git: Git, session_id: str, name: str, commit: str) -> BroughtRef:
    ref = f"{REFS}{session_id}/{name}"
    before = find_commit(git, ref)
    if before == commit:
        return BroughtRef(ref, commit, "same")
    if before is None or is_ancestor(git, before, commit):
        try:
            git.run("update-ref", "-m", "csa fetch", ref, commit, before or ABSENT)
        except GitError:
            if find_commit(git, ref) == before:
                raise
            return _keep(git, session_id, name, commit)  # another process was faster
        return BroughtRef(ref, commit, "moved" if before else "new")
    if is_ancestor(git, commit, before):  # what was sent is older
        return BroughtRef(ref, before, "same")
    beside = {name: each for name, each in refs_of(git, session_id).items() if name.startswith(f"{ref}-at-")}
    if known := next((name for name, each in beside.items() if each == commit), None):
        return BroughtRef(known, commit, "same")
    later = [order[1] + 1 for name in beside if (order := order_of(name))]
    aside = f"{ref}-at-{max(time.time_ns() // 1_000_000, *later, 0)}"
    git.run("update-ref", aside, commit)
    return BroughtRef(aside, commit, "aside")


def origin_of(git: Git, session_id: str) -> str | None:
    """Return the host that a session's refs have come from; None if that is not known."""
    found = git.read_note(f"{ORIGINS}{session_id}")
    return None if found is None else found.decode(errors="replace")


def note_origin(git: Git, session_id: str, host: str) -> None:
    """Note where a session's refs come from, before the first of them; RefusedError if that is another host.

    Ids are unique, unless somebody makes them equal: then the work of both would be mixed.
    """
    if origin_of(git, session_id) is None:
        with suppress(GitError):  # another process was faster
            git.write_note(f"{ORIGINS}{session_id}", host.encode(), ABSENT)
    refuse_other(git, session_id, host)


def refuse_other(git: Git, session_id: str, host: str | None) -> None:
    """Raise RefusedError if a session's refs have come from another host than the one that is meant."""
    if (origin := origin_of(git, session_id)) not in {None, host}:
        raise RefusedError(
            f"What is here of session {session_id} has come from {origin}, and {host} has one with the same id.",
            hint=f"if both names mean one host: git update-ref -d {ORIGINS}{session_id}",
        )


def note_fetched(git: Git, session_id: str, found: Mapping[str, str]) -> None:
    """Note on the other host what was fetched of a session; GitError."""
    lines = "".join(f"update {FETCHED}{session_id}/{name} {commit}\n" for name, commit in found.items())
    git.run("update-ref", "--stdin", stdin=lines.encode())


def has_fetched(git: Git, session_id: str, tip: str) -> bool:
    """Say whether the host that a session's code came from has all of its work: its tip, and all that is kept."""
    said = git.run("for-each-ref", "--format=%(refname:lstrip=4) %(objectname)", f"{FETCHED}{session_id}/")
    fetched = dict(line.split(" ", 1) for line in said.decode().splitlines())
    kept = {ref.rpartition("/")[2]: commit for ref, commit in refs_of(git, session_id).items()}
    return tip in fetched.values() and kept.items() <= fetched.items()
