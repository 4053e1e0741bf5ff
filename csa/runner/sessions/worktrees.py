"""What becomes of a session's worktree: it is taken away when its work has landed, or when it is given up."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import BusyError, NotFoundError, RefusedError
from csa.model.state import SessionState
from csa.model.worktree import Worktree
from csa.paths import GONE_PREFIX, NEW_PREFIX, WORKTREES, SessionPaths
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, record_act, record_update
from csa.store.gitplumbing import GitError
from csa.store.gitwork import WorktreeError, common_directory, worktree_path
from csa.store.gonetrees import leave_note, move_aside, repository_beside
from csa.store.keeping import Kept, keep_work
from csa.store.liveness import probe
from csa.store.placements import placed_in_words, refuse_unsettled, unsettled_below
from csa.store.sessions import Store, is_directory
from csa.store.statefile import save_state
from csa.store.unlanded import Work, examine_work
from csa.store.worktrees import relocate, repair_worktree, take_away
from csa.structs import Struct, replace


class Dropped(Struct, kw_only=True):
    """A worktree that was taken away.

    Attributes:
        session_id: whose it was.
        branch: its branch, which is removed unless somebody has moved it or has it checked out.
        tip: the last commit of the work, which a ref keeps; None if it is unknown.
        unlanded: what of the work had not landed, and was given up.
        aside: where the directory is until `undo_days` are over; None if there was none.
        warnings: what could not be kept, or not be recorded.
    """

    session_id: str
    branch: str
    tip: str | None
    unlanded: tuple[str, ...] = ()
    aside: Path | None = None
    warnings: tuple[str, ...] = ()


def drop_worktree(session: Session, *, force: bool = False) -> Dropped:
    """Take the worktree of a session away, once what is left in it is kept. A later turn makes it again from there.

    With `force`, also when its work has not landed; the refs of its work stay as long as the session.

    Raises:
        NotFoundError: the session is gone, or has no worktree.
        BusyError: it is running, or another session is working in its worktree.
        RefusedError: its work has not landed; the message says what of it.
        StateError: its record is damaged.
        OSError: the directory cannot be moved.
    """
    context = session.context
    with hold_session(session) as held:
        if held.state.worktree is None:
            raise NotFoundError(f"Session {session.session_id} has no worktree of its own.")
        tree, dropped = let_go(context, session.store, held.state, force=force)
        known = {"tip": dropped.tip, "branch": dropped.branch, "unlanded": list(dropped.unlanded) or None}
        changes = {name: value for name, value in known.items() if value is not None}
        record_update(context, held, "worktree dropped", changes, replace(held.state, worktree=tree))
    loss = record_act(context, "worktree drop", session.session_id, what="dropped", tip=dropped.tip)
    return replace(dropped, warnings=(*dropped.warnings, loss)) if loss else dropped


def let_go(context: Context, store: Store, state: SessionState, *, force: bool) -> tuple[Worktree, Dropped]:
    """Take away the worktree of a session that is held, and return its new record, which the caller writes.

    Raises as `drop_worktree`.
    """
    assert state.worktree is not None  # the caller has looked
    session_id = state.session_id
    tree = relocate(state.worktree, store, session_id, context.environ)
    refuse_others_inside(store, tree, session_id)
    kept, problems = _keep(context, tree, state)
    work = examine_work(tree, context.environ, session_id=session_id, kept=kept)
    if work.unlanded and not force:
        raise unlanded_error(session_id, work)
    aside = take_away(tree, context.environ, session_id=session_id, tip=work.tip)
    gone = replace(tree, dropped=work.tip or tree.dropped, dropped_at=now())
    dropped = Dropped(
        session_id=session_id, branch=tree.branch, tip=work.tip, unlanded=work.unlanded, aside=aside, warnings=problems
    )
    return gone, dropped


def unlanded_error(session_id: str, work: Work) -> RefusedError:
    """Return the error for a session of which the work has not landed."""
    what = "; ".join(work.unlanded)
    return RefusedError(
        f"The work of session {session_id} has not landed: {what}.",
        hint=f"csa land {session_id}, or --force gives it up; it can be brought back for undo_days",
    )


def _keep(context: Context, tree: Worktree, state: SessionState) -> tuple[Kept | None, tuple[str, ...]]:
    """Keep what a lost turn, or somebody since the last, has left in the worktree; also return what was wrong."""
    subject, turn = state.description or f"what session {state.session_id} has left", max(state.turns, 1)
    try:
        kept = keep_work(tree, context.environ, session_id=state.session_id, turn=turn, subject=subject)
    except (GitError, WorktreeError) as error:
        return None, (error.message.rstrip("."),)
    return kept, kept.problems


def refuse_others_inside(store: Store, tree: Worktree, session_id: str) -> None:
    """Raise BusyError while another session works in a worktree: a child without its own, or one started there."""
    place = Path(tree.path)
    for other in store.ids():
        paths = store.paths(other)
        if other == session_id or not probe(paths).is_held:
            continue
        state = store.record(other).state
        if state and any(tool.cwd and Path(tool.cwd).is_relative_to(place) for tool in state.tools.values()):
            raise BusyError(
                f"Session {other} is working in the worktree of session {session_id}.", hint=f"csa wait {other}"
            )


def give_up(
    context: Context, store: Store, paths: SessionPaths, state: SessionState | None, *, force: bool, purge: bool
) -> tuple[str, ...]:
    """Take away the worktree of a session that is held and about to be deleted; return warnings.

    With `purge` its record goes as well, and a note says where the refs of its work are, until `undo_days` are over.

    Raises:
        RefusedError: its work has not landed, or what it has on other hosts is not settled, and `force` is not set.
        BusyError, OSError: as `drop_worktree`.
    """
    session_id = paths.session_id.removeprefix(NEW_PREFIX)
    if not force:
        refuse_unsettled(store.root_pathname, session_id)
    worktrees = store.path / WORKTREES
    if state is None:
        return _give_up_unknown(worktrees / session_id, session_id, force=force)
    if state.worktree is None:
        return _give_up_unknown(worktrees / session_id, session_id, force=force)
    tree, warnings = state.worktree, tuple[str, ...]()
    if tree.dropped_at is None or os.path.lexists(worktree_path(store, session_id)):
        tree, dropped = let_go(context, store, state, force=force)
        warnings = (*dropped.warnings, *_words(dropped))
        if not purge:
            save_state(paths.state, replace(state, worktree=tree))
    if purge:
        leave_note(worktrees, session_id, common_directory(tree, context.environ), tree.dropped_at or now())
    return warnings


def _words(dropped: Dropped) -> tuple[str, ...]:
    if not dropped.unlanded:
        return ()
    return (f"its work had not landed, and is kept for undo_days: {'; '.join(dropped.unlanded)}",)


def _give_up_unknown(path: Path, session_id: str, *, force: bool) -> tuple[str, ...]:
    """Move aside the worktree of a session whose record cannot be read."""
    if not os.path.lexists(path):
        return ()
    if not force:
        raise RefusedError(
            f"What of the work of session {session_id} has landed is unknown, as its record does not tell.",
            hint=f"csa repair {session_id}, or --force: its worktree, {path}, is kept for undo_days",
        )
    return (f"its worktree is kept for undo_days: {put_away(path, session_id)}",)


def put_away(path: Path, session_id: str) -> Path:
    """Move a worktree of which nothing is known aside, and note what it says of its repository; OSError."""
    repository = repository_beside(path)
    aside = move_aside(str(path), session_id)
    leave_note(path.parent, session_id, repository, now())
    return aside


def why_kept(context: Context, store: Store, session_id: str, state: SessionState | None) -> str | None:
    """Say why a session that is old enough is not deleted: its work has not landed, or is not settled. Only reads."""
    if placed := unsettled_below(store.root_pathname, session_id):
        return placed_in_words(placed)
    if state is None or state.worktree is None:
        is_there = os.path.lexists(f"{store.pathname}/{WORKTREES}/{session_id}")
        return "it has a worktree of which its record does not tell" if is_there else None
    tree = relocate(state.worktree, store, session_id, context.environ, repair=False)
    try:
        refuse_others_inside(store, tree, session_id)
    except BusyError as error:
        return error.message.rstrip(".")
    unlanded = examine_work(tree, context.environ, session_id=session_id).unlanded
    return f"its work has not landed: {'; '.join(unlanded)}" if unlanded else None


def move_worktree(context: Context, source: Store, state: SessionState) -> tuple[Worktree, str | None]:
    """Move the worktree of a session that is held to another store; return its record, and what was wrong.

    What is in it is kept before. Whatever goes wrong, the next turn makes it again from what was kept.
    """
    assert state.worktree is not None  # the caller has looked
    session_id, place = state.session_id, worktree_path(context.store, state.session_id)
    here = replace(state.worktree, path=worktree_path(source, session_id))
    moved = replace(here, path=place)
    _, problems = _keep(context, here, state) if is_directory(here.path) else (None, ())
    try:
        for name in (session_id, GONE_PREFIX + session_id):
            was = source.path / WORKTREES / name
            if os.path.lexists(was):
                os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
                os.rename(was, context.store.path / WORKTREES / name)
        repair_worktree(moved, context.environ)
    except (OSError, GitError, WorktreeError) as error:
        problems = (*problems, str(error))
    return moved, "; ".join(problems) or None


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
