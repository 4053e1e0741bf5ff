"""What a turn has left in the session's worktree: committed at its end, or before the next turn if it was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from csa.errors import CsaError
from csa.model.events import Event
from csa.model.result import summarise
from csa.model.text import shortened
from csa.model.worktree import Refused, Worktree
from csa.runner.context import is_sealed_after
from csa.runner.turns.turnrecorder import TurnRecorder
from csa.store.held import HeldSession
from csa.store.keeping import HookError, Kept, keep_work
from csa.structs import replace

_T = TypeVar("_T")
_SUBJECT = 72
_BEAT_S = 1.0  # sooner than a turn's: git alone is at work


async def keep_turn(recorder: TurnRecorder) -> tuple[Kept | None, list[Event]]:
    """Commit what a turn has left in the session's worktree; return the work by now, and warnings, as recorded.

    git works in a thread, as it takes seconds in a large repository; the session's heartbeat goes on meanwhile.
    """
    plan, tree = recorder.plan, recorder.held.state.worktree
    if tree is None or not recorder.is_ours():
        return None, []
    about = plan.state.description if plan.request.repair or plan.request.plan else plan.request.prompt
    keep = _keeping(recorder, tree, turn=recorder.turn, subject=summarise(recorder.held.redactor.redact(about)))
    return _note(recorder, tree, await _in_thread(recorder, keep))


async def release(recorder: TurnRecorder, heed: Callable[[], None]) -> None:
    """End as `TurnRecorder.close` does; a large session is encrypted in a thread, while `heed` may end that."""
    try:
        if recorder.settle():
            with recorder.held.losing("the session", "encrypted"):
                if is_sealed_after(recorder.plan.context, recorder.held):
                    await _in_thread(recorder, partial(recorder.seal, heed))
    finally:
        recorder.held.close()


async def _in_thread(recorder: TurnRecorder, work: Callable[[], _T]) -> _T:
    """Do what takes long in a thread, while the session's heartbeat goes on."""
    import anyio  # noqa: PLC0415  # `keep_lost` comes before there is a loop

    async with beating(recorder.beat):
        return await anyio.to_thread.run_sync(work)


@asynccontextmanager
async def beating(beat: Callable[[], None]) -> AsyncIterator[None]:
    """Touch a session's heartbeat now and then, for other machines; what the body raises is in no group."""
    import anyio  # noqa: PLC0415  # as above

    failure: Exception | None = None

    async def keep_beating() -> None:
        while True:
            await anyio.sleep(_BEAT_S)
            beat()

    async with anyio.create_task_group() as others:
        others.start_soon(keep_beating)
        try:
            yield
        except Exception as error:  # noqa: BLE001  # of any kind: it is raised below
            failure = error
        others.cancel_scope.cancel()
    if failure:
        raise failure


def keep_lost(recorder: TurnRecorder) -> list[Event]:
    """Commit what a lost turn has left, before the next one begins to work; return warnings, as recorded."""
    tree = recorder.held.state.worktree
    if tree is None or not recorder.follows_lost or recorder.plan.request.repair:  # which has done so, if it had to
        return []
    keep = _keeping(recorder, tree, turn=recorder.turn - 1, subject="what a turn has left that was lost")
    return _note(recorder, tree, keep())[1]


def _keeping(recorder: TurnRecorder, tree: Worktree, *, turn: int, subject: str) -> partial[Kept | Exception]:
    context, held = recorder.plan.context, recorder.held
    return partial(
        _try_to_keep,
        tree,
        context.environ,
        session_id=held.state.session_id,
        turn=turn,
        subject=shortened(" ".join(subject.split()), _SUBJECT) or f"turn {turn}",
        run_hooks=context.config.worktree_hooks,
    )


def _try_to_keep(
    tree: Worktree, environ: Mapping[str, str], *, session_id: str, turn: int, subject: str, run_hooks: bool
) -> Kept | Exception:
    """Commit what is left; return why it could not be, if it could not. Nothing of the session is touched."""
    try:
        return keep_work(tree, environ, session_id=session_id, turn=turn, subject=subject, run_hooks=run_hooks)
    except (CsaError, OSError) as error:
        return error


def _note(recorder: TurnRecorder, tree: Worktree, kept: Kept | Exception) -> tuple[Kept | None, list[Event]]:
    held = recorder.held
    if isinstance(kept, HookError):
        _note_refusal(held, Refused(kind="hook", message=held.redactor.redact(kept.said)))
        return None, warn_of_worktree(recorder, [f"{kept.message.rstrip('.')}: {kept.hint}"])
    if isinstance(kept, Exception):
        return None, warn_of_worktree(recorder, [f"what was left in the worktree could not be committed: {kept}"])
    if tree.refused and tree.refused.kind == "hook":
        _note_refusal(held, None)
    return kept, warn_of_worktree(recorder, kept.problems)


def _note_refusal(held: HeldSession, refused: Refused | None) -> None:
    """Record whether the project's hook has refused the last commit."""
    tree = held.state.worktree
    assert tree is not None
    held.attempt("state.toml", lambda: held.save(replace(held.state, worktree=replace(tree, refused=refused))))


def warn_of_worktree(recorder: TurnRecorder, problems: Sequence[str]) -> list[Event]:
    """Note problems with the session's worktree in the transcript."""
    data = [{"kind": "worktree", "message": recorder.held.redactor.redact(problem)} for problem in problems]
    return [event for one in data for event in recorder.append("warning", one)]
