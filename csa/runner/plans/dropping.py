"""Taking away the worktrees and branches of a plan that are not needed any more."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from csa.errors import BusyError, CsaError, NotFoundError
from csa.model.worktree import Worktree
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import refuse_others_work
from csa.runner.sessions.worktrees import Dropped, drop_worktree
from csa.store.gitwork import commit_of
from csa.store.shown import Siblings
from csa.structs import Struct


class Kept(Struct):
    """A worktree that stays, and why."""

    session_id: str
    name: str
    error: CsaError


def drop_plan(session: Session, tasks: Collection[str], *, force: bool = False) -> Iterator[tuple[str, Dropped] | Kept]:
    """Take away the worktrees of some tasks, or of all and of the plan itself; yield each, with its name.

    Without `force` those stay of which the work has not landed. The plan's own goes last: the work of its tasks is in
    its branch.

    Raises:
        BusyError: the plan is running.
        NotFoundError: none of the named tasks has a session.
        RefusedError: an agent would drop a plan that it has not started.
    """
    refuse_others_work(session, verb="drop")
    if session.record.status == "running":
        raise BusyError(f"The plan {session.session_id} is running.", hint=f"csa wait {session.session_id}")
    found = list(_sessions(session, tasks))
    if tasks and not found:
        raise NotFoundError(f"No task {', '.join(tasks)} of the plan has a worktree.", hint="csa plan status")
    for each, name in found:
        try:
            yield name, drop_worktree(each, force=force)
        except CsaError as error:
            yield Kept(each.session_id, name, error)


def _sessions(session: Session, tasks: Collection[str]) -> Iterator[tuple[Session, str]]:
    """Yield the sessions with worktrees that are still there, each with its name."""
    store = session.store
    for record in [*Siblings(store, store.ids()).children(session.session_id), session.record]:
        state = record.state
        if state is None or state.worktree is None or not _is_there(state.worktree, session.context):
            continue
        task = state.task.name if state.task else ""
        if not tasks or task in tasks or task.partition(".")[0] in tasks:
            yield Session(session.context, record.session_id), state.name or record.session_id


def _is_there(tree: Worktree, context: Context) -> bool:
    """Say whether there is anything to take away."""
    return os.path.lexists(tree.path) or commit_of(tree, context.environ) is not None
