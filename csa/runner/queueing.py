"""Queueing a prompt for a session, and the passing of a session's lock from one turn to the next queued prompt.

Whoever has run a turn goes on with the queue: under the same lock where it can, else in another process. It looks at
the queue again once it has released the lock, and who adds a prompt looks at the lock once that is durable. So one of
them sees what waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from csa.errors import BusyError, CsaError, FullError, NotFoundError, RefusedError, UsageError
from csa.model.redaction import Redactor
from csa.model.state import format_time
from csa.runner.caller import refuse_own_lineage
from csa.runner.context import Context
from csa.runner.detach import (
    AppearedError,
    Detached,
    hand_over_queue,
    order_for,
    refuse_sandbox,
    start_detached,
    start_queue,
)
from csa.runner.environment import refuse_in_replay
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.runner.secrets import refuse_later
from csa.runner.session import Session
from csa.runner.sessions.acting import record_act
from csa.runner.turns.admission import check_again
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_turn
from csa.runner.turns.starting import StartedTurn
from csa.runner.turns.turnrecorder import TurnRecorder
from csa.store.liveness import probe
from csa.store.queue import Entry, GoneError, HeldError, enqueue, hold, lift_hold, move, next_entry, remove, why_held
from csa.store.taking import refuse_busy, refuse_stranger
from csa.structs import Struct, asdict, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.paths import SessionPaths

_LOOKS, _PAUSE_S = 20, 0.05


class Queued(Struct, kw_only=True):
    """A prompt that waits for its session, or has begun at once: then `started` is its turn.

    `position` counts from 1; of a new session, which has no queue, the `entry_id` is None. `held` says why nothing is
    taken from the queue.
    """

    session_id: str
    name: str | None
    project: str
    entry_id: str | None
    position: int
    started: Detached | None = None
    held: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `run --queue --json` prints."""
        known = {name: value for name, value in asdict(self).items() if name != "started"}
        return {**known, "started": self.started and self.started.to_json()}


def queue_prompt(
    context: Context, request: RunRequest, *, on_finish: FollowUp | None = None, starts: bool = True
) -> Queued:
    """Add a prompt to the queue of its session; if that is not running, start it in the background.

    Without `starts` it only waits: the caller runs the session's turn, and goes on with the queue.

    It is refused here as `plan_turn` refuses it, and planned again when its turn comes: for the same caller, who has
    then no more rights than now.

    Raises:
        UsageError: an ephemeral session has no queue.
        RefusedError: the queue is full; or csa runs in a sandbox; or an agent wants something to follow.
        BusyError: the session is in use by another program, which takes nothing from a queue.
        And as `plan_turn`, and as entering the turn where it begins at once: nothing waits then.
    """
    refuse_in_replay(context, "a queue of prompts")
    refuse_sandbox()  # the prompt would run outside of it
    if context.caller is not None and on_finish:
        raise RefusedError(
            "An agent's prompt that waits in a queue cannot have --on-finish: another process would run the command.",
            hint="csa run --detach --wait --on-finish",
        )
    refuse_later(request.secrets, is_agents=context.caller is not None)
    if request.after_turn is not None:
        raise UsageError("--queue and --after-turn cannot be combined: other turns may come first.")
    plan = plan_turn(context, request)
    state, place = plan.state, plan.context
    if request.ephemeral or state.ephemeral:
        raise UsageError("--queue and --ephemeral cannot be combined: the session is gone when its turn ends.")
    session_id, project = state.session_id, str(place.store.project)
    if plan.is_new:
        try:
            started = start_detached(context, request, on_finish=on_finish)
        except (BusyError, AppearedError):  # somebody was faster: the session is there now, and this one waits for it
            if plan_turn(context, request).is_new:
                raise
            return queue_prompt(context, request, on_finish=on_finish, starts=starts)
        return Queued(
            session_id=started.session_id, name=state.name, project=project, entry_id=None, position=0, started=started
        )
    paths = place.store.paths(session_id)
    refuse_stranger(paths)
    caller = context.caller
    order = order_for(context, replace(request, steal=False), plan, wait_s=None, on_finish=on_finish)
    order["ceiling"] = caller.ceiling if caller else None
    if request.secrets:
        order["shown"] = plan.context.redactor.redact(request.prompt)
    with _changing(paths, "nothing was queued"):
        entry, position = enqueue(
            paths, order, at=format_time(datetime.now(UTC)), by=caller.session_id if caller else None
        )
    queued = Queued(session_id=session_id, name=state.name, project=project, entry_id=entry.entry_id, position=position)
    if not starts:
        return queued
    try:
        return _see_to(place, queued)
    except BaseException:
        with suppress(GoneError, OSError):
            remove(paths, entry.entry_id)
        raise


@contextmanager
def _changing(paths: SessionPaths, loss: str) -> Iterator[None]:
    """Raise NotFoundError, or CsaError, for a queue that cannot be written."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"Session {paths.session_id} has just been deleted.", hint="csa ls") from error
    except OSError as error:
        raise CsaError(
            f"The queue cannot be written: {error.strerror}: {error.filename or paths.root}.",
            hint=f"make it writable, or free space; {loss}",
        ) from error


def _see_to(context: Context, queued: Queued) -> Queued:
    """Start the queue, unless somebody will: the session's turn, or who looks after a queue that is held."""
    paths = context.store.paths(queued.session_id)
    for _ in range(_LOOKS):
        found = probe(paths)
        if found.runs_turn and found.owner:
            return queued
        if found.state == "unknown":
            refuse_busy(paths)
        is_first = queued.position == 1
        if not is_first and (held := why_held(paths)):
            return replace(queued, held=held)
        if found.is_held and found.owner:  # an errand, such as a compaction
            break
        try:
            started = start_queue(context, queued.session_id, resumes=True, holds=not is_first)
            return replace(queued, started=started)
        except BusyError:  # somebody was faster: a turn, which takes what waits, or an errand
            time.sleep(_PAUSE_S)
        except CsaError as error:
            if is_first:
                raise
            return replace(queued, held=str(error))  # what waited before cannot begin; this one is as good
    hand_over_queue(context, queued.session_id, resumes=True)
    return queued


def resume_queue(session: Session) -> Detached | None:
    """Go on with a queue that is held, or that nobody looks after, in the background; None if nothing waits.

    Raises RefusedError for the caller's own session and those above it, BusyError if it is running, and as entering the
    next turn.
    """
    refuse_own_lineage(session.context.caller, session.session_id, verb="go on with the queue of")
    refuse_sandbox()
    refuse_busy(session.paths)
    with _changing(session.paths, "it is still held"):
        lift_hold(session.paths)
    return start_queue(session.context, session.session_id, resumes=True, holds=True)


def move_queued(session: Session, entry_id: str, position: int) -> list[str]:
    """Put a queued prompt at a position, from 1; return what could not be recorded of it.

    Raises RefusedError for the caller's own session and those above it, and as `queue.move`.
    """
    refuse_own_lineage(session.context.caller, session.session_id, verb="change the queue of")
    with _changing(session.paths, "nothing was moved"):
        move(session.paths, entry_id, position)
    return _note_change(session, moved=entry_id, position=position)


def remove_queued(session: Session, entry_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove queued prompts; return the ids of those that still waited, and what could not be recorded of it.

    Raises RefusedError for the caller's own session and those above it.
    """
    refuse_own_lineage(session.context.caller, session.session_id, verb="change the queue of")
    removed: list[str] = []
    for entry_id in entry_ids:
        with suppress(GoneError), _changing(session.paths, f"{len(removed)} were removed"):
            remove(session.paths, entry_id)
            removed.append(entry_id)
    return removed, _note_change(session, removed=removed) if removed else []


def _note_change(session: Session, **what: Any) -> list[str]:
    loss = record_act(session.context, "session queue", session.session_id, **what)
    return [loss] if loss else []


def begin_next(recorder: TurnRecorder, make_plan: Callable[[Entry], TurnPlan]) -> StartedTurn | None:
    """Begin the next queued prompt under the lock of a turn that has ended; None if there is none that may begin.

    A prompt that cannot begin stays the first, and the queue is held, unless waiting will help.
    """
    paths = recorder.paths
    while (
        recorder.is_ours()
        and recorder.cancellation() is None
        and why_held(paths) is None
        and (entry := next_entry(paths))
    ):
        following = None
        try:
            plan = replace(make_plan(entry), queued=entry.entry_id)
            notes = check_again(plan)
            following = recorder.pass_to(plan, notes)
            return StartedTurn(following)
        except GoneError:
            continue
        except (BusyError, FullError, HeldError):
            return None
        except (CsaError, OSError) as error:
            hold(paths, why_not(entry, error, recorder.held.redactor))
            return None
        finally:
            if following:
                following.withdraw()
    return None


def why_not(entry: Entry, error: Exception, redactor: Redactor) -> str:
    """Return why a queue is held whose next prompt could not begin."""
    return redactor.redact(f"prompt {entry.entry_id} could not begin: {error}".rstrip("."))
