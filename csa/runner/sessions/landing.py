"""Landing: the work of a session's worktree is brought into a checkout, or nothing there changes.

Under the session's lock the work is put onto the head of the checkout, in the session's own worktree; a command may
check it there. Then the checkout moves, by a fast-forward. What was landed, and what was refused, is in the record.
Killed at any moment, it can be asked for again: each step leaves the work whole, and the checkout before or after.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from csa.errors import CsaError, RefusedError
from csa.process.launch import SpawnError
from csa.process.shell import ShellEnd, run_shell
from csa.runner.caller import Caller, refuse_check
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, refuse_others_work
from csa.runner.sessions.landing_outcome import Landed
from csa.runner.sessions.landing_work import LandingWork
from csa.runner.turns.turnwork import beating
from csa.runner.turns.worktree import refuse_foreign
from csa.store.inherited import without_descriptors, without_repository
from csa.store.landing import MovedError
from csa.store.owner import LANDING
from csa.store.project import git_top
from csa.store.sessions import Store

if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")

_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})  # from somebody, or for memory
TRIES = 5  # to follow a checkout that moves meanwhile


ADVICE = "csa wait, then land it"


async def land_session(
    session: Session,
    *,
    into: Path | str,
    squash: bool = False,
    check: str | None = None,
    dry_run: bool = False,
    keep: bool = False,
    on_output: Callable[[bytes], None] | None = None,
) -> Landed:
    """Bring the work of a session's worktree into the checkout around a directory.

    Args:
        session: whose work.
        into: the directory.
        squash: as one commit.
        check: a shell command that must succeed in the worktree, with the work on the checkout's head.
        dry_run: say what would be landed, and change nothing; nothing is checked.
        keep: leave the worktree and its branch where they are.
        on_output: called with what the check writes, as it comes.

    Raises:
        LandError: the work conflicts with the checkout, or the check fails. Only the session's record says so.
        RefusedError: a changed file is in the way, or the directory is no checkout of this repository; or an agent
            asks for what it may not.
        BusyError: the session is running.
        WorktreeError: the worktree is gone and cannot be made again.
        GitError: git refuses.
    """
    refuse_to_land(session, into)
    if check is not None:
        refuse_check(session.context.caller)
    with hold_session(session, errand=LANDING, advice=ADVICE) as held:
        work = LandingWork(session, held, str(into), squash=squash)
        if dry_run:
            return await in_thread(work.preview)
        async with beating(held.beat):
            return await _land(work, check, keep=keep, on_output=on_output)


async def _land(
    work: LandingWork, check: str | None, *, keep: bool, on_output: Callable[[bytes], None] | None
) -> Landed:
    for _ in range(TRIES):
        if (found := await in_thread(work.begin)) is None:
            return await in_thread(lambda: work.note_nothing(keep=keep))
        try:
            if check is not None:
                await _check(work, check, on_output)
            return await in_thread(lambda: work.finish(found, keep=keep))
        except MovedError:
            continue
        except anyio.get_cancelled_exc_class():  # before it has moved anything: git itself is not interrupted
            with anyio.CancelScope(shield=True):
                await in_thread(work.give_back)
            raise
    raise RefusedError(f"{work.target.top} keeps moving.", hint="land again when nobody commits there")


async def in_thread(act: Callable[[], _T]) -> _T:
    """Run git without holding up the event loop; when cancelled, after it has ended."""
    return await anyio.to_thread.run_sync(act)


def refuse_to_land(session: Session, into: Path | str) -> None:
    """Raise RefusedError unless the caller may land a session there.

    An agent lands what it has started, into the work tree where it works itself, if that is of the same repository.
    """
    caller = session.context.caller
    if caller is None:
        return
    refuse_others_work(session, verb="land")
    top = git_top(os.path.realpath(into))
    if top and top == _work_tree_of(caller):
        refuse_foreign(session.context.in_store(Store(caller.root, caller.state.project_path)), top)
    else:
        raise RefusedError(
            f"Session {caller.session_id} can only land into its own work tree, {_work_tree_of(caller)}.",
            hint="call csa land there",
        )


def _work_tree_of(caller: Caller) -> str | None:
    state = caller.state
    known = state.tools.get(state.last_tool or "")
    place = state.worktree.path if state.worktree else (known and known.cwd) or state.project_path
    return git_top(os.path.realpath(place))


async def _check(work: LandingWork, check: str, on_output: Callable[[bytes], None] | None) -> None:
    """Prepare the worktree if it was made again, run the check in it, and clean it of what that has left.

    LandError if one of them fails. Raises as `run_check`.
    """
    tree = work.tree
    commands = [tree.setup] if tree.setup and not tree.is_ready else []
    try:
        command, end = await run_check(
            work.session.context,
            [*commands, check],
            tree.path,
            number=tree.number,
            shared_fds=work.held.shared_fds,
            on_output=on_output,
        )
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(work.give_back)
    if not end.has_succeeded:
        raise await in_thread(lambda: work.refuse_check(command, end))


async def run_check(
    context: Context,
    commands: Sequence[str],
    directory: str,
    *,
    number: int = 0,
    shared_fds: Sequence[int] = (),
    on_output: Callable[[bytes], None] | None = None,
) -> tuple[str, ShellEnd]:
    """Run shell commands, up to the first that fails; return the last one that ran, and how it has ended.

    `number` is that of the worktree. CsaError for what cannot be started; what a signal has ended has not judged the
    work: CsaError as well.
    """
    environ = without_descriptors(without_repository(context.environ))
    try:
        for command in commands:
            end = await run_shell(
                command,
                cwd=directory,
                env={**environ, "CSA_WORKTREE": str(number)},
                shared_fds=shared_fds,
                owns_process=context.owns_process,
                on_output=on_output,
            )
            if not end.has_succeeded:
                break
    except SpawnError as error:
        raise CsaError(f"The check cannot be started: {error}.") from error
    if (ended_by := end.exit.signal) in _OUTSIDE:
        name = signal.Signals(ended_by).name
        raise CsaError(f"The check was ended by {name}; the work is as it was.", hint="land it again")
    return command, end
