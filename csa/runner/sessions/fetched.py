"""What a session on another host has changed, from the refs that `csa fetch` has brought to a repository here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping

from csa.errors import NotFoundError
from csa.model.worktree import Worktree
from csa.runner.session import Session
from csa.runner.sessions.changes import Changes
from csa.runner.sessions.comparing import Form, compare
from csa.runner.sessions.history import why_refused
from csa.store.comingback import refuse_other
from csa.store.gitplumbing import Git, GitError, open_work_tree, without_filters
from csa.store.gitwork import find_commit, order_of, refs_of
from csa.store.project import git_top
from csa.structs import Struct, replace


class _Ends(Struct):
    """Between which commits the work of some turns lies."""

    turns: tuple[int, ...]
    base: str
    tip: str


def read_fetched(session: Session, directory: str, *, turn: int | None, form: Form, width: int) -> Changes:
    """Return what a session on another host has changed, or one turn of it; its work is in the repository around here.

    Raises:
        NotFoundError: its work is not there, or git will not read it.
        ToolUnavailableError: git is not installed.
    """
    if (top := git_top(os.path.realpath(directory))) is None:
        raise not_here(session, directory)
    git = open_work_tree(top, session.context.environ)
    with tempfile.TemporaryDirectory(prefix="csa-diff-") as scratch:
        variables = {"GIT_NO_LAZY_FETCH": "1", "GIT_INDEX_FILE": f"{scratch}/index"}
        try:
            git = replace(git, environ={**git.environ, **variables, **without_filters(git)})
            ends = _find_ends(session, git, top, turn)
            files, text = compare(git, (ends.base, ends.tip), form, width)
        except GitError as error:
            raise NotFoundError(f"{why_refused(top, error.said)}.", hint=_way(session)) from error
    return Changes(
        session_id=session.session_id,
        turns=ends.turns,
        directory=top,
        base=ends.base,
        files=files,
        text=session.context.redactor.redact(text),
        unclear=(),
        also=(),
        notes=(),
    )


def _find_ends(session: Session, git: Git, top: str, turn: int | None) -> _Ends:
    refs = fetched_refs(git, session)
    found = {ref: order for ref in refs if (order := order_of(ref))}
    asked = {ref: order for ref, order in found.items() if turn in {None, order[0]}}
    before = {ref: order for ref, order in found.items() if turn is not None and order[0] < turn}
    if not asked:
        if found:
            raise NotFoundError(f"No turn {turn} of session {session.session_id} is in {top}.", hint=_way(session))
        raise not_here(session, top)
    base = refs[_last(before)] if before else worktree_of(session).base
    if find_commit(git, base) is None:
        raise NotFoundError(f"Commit {base[:12]}, which session {session.session_id} began with, is not in {top}.")
    return _Ends(tuple(sorted({order[0] for order in asked.values()})), base, refs[_last(asked)])


def fetched_refs(git: Git, session: Session) -> dict[str, str]:
    """Return the refs with a session's work, and their commits; RefusedError if they have come from another host."""
    refuse_other(git, session.session_id, session.store.host)
    return refs_of(git, session.session_id)


def _last(refs: Mapping[str, tuple[int, int]]) -> str:
    return max(refs, key=lambda ref: refs[ref])


def worktree_of(session: Session) -> Worktree:
    """Return a session's worktree on its host; NotFoundError if it has none."""
    if (tree := session.load().worktree) is None:
        raise not_here(session, session.context.directory_pathname)
    return tree


def not_here(session: Session, directory: str) -> NotFoundError:
    """Make the error for work that was not fetched."""
    what = f"The work of session {session.session_id}, which is on {session.store.host}, is not in {directory}."
    return NotFoundError(what, hint=_way(session))


def _way(session: Session) -> str:
    return f"csa fetch -s {session.store.host}:{session.session_id}, in the repository that its code came from"
