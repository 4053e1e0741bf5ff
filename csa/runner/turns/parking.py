"""A turn that failed because a quota is used up: when the provider can be used again, and waiting for that.

csa only waits for a time that was stated, in a typed field of the tool or in the text of its error.
"""

from __future__ import annotations

import os
import time
from datetime import datetime

import anyio

from csa.model.adapter import Outcome
from csa.model.clock import LOCAL, from_timestamp
from csa.model.resets import delay_of, stated_reset
from csa.model.result import RunResult
from csa.runner.request import going_on
from csa.runner.session import Session
from csa.runner.turns.attempt import CANCEL_POLL_S as LOOK_S
from csa.runner.turns.attempt import HEARTBEAT_S, cancelled_by
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_resume
from csa.runner.turns.recorder import Recorder
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import lock_lost
from csa.structs import replace

LIMIT_KINDS = frozenset({"quota", "rate_limit"})
SLACK_SHARE, LONGEST_SLACK_S = 0.05, 60.0
GO_ON = "A usage limit ended the last turn before its work was done. The limit is over: continue where you stopped."


def with_stated_delay(outcome: Outcome) -> Outcome:
    """Return the outcome with the delay that its message states, if its tool has none in a field."""
    if outcome.succeeded or outcome.error_kind != "rate_limit" or outcome.retry_after_s is not None:
        return outcome
    return replace(outcome, retry_after_s=delay_of(outcome.error_message or ""))


def retry_moment(outcome: Outcome, now: datetime) -> datetime | None:
    """Return when the provider can be used again after a failure at `now`; None if that was not stated."""
    if outcome.succeeded or outcome.error_kind not in LIMIT_KINDS:
        return None
    at = outcome.retry_at
    if at is None and outcome.retry_after_s is not None:
        at = now.timestamp() + outcome.retry_after_s
    if at is None:
        at = stated_reset(outcome.error_message or "", now.astimezone(LOCAL))
    return None if at is None else from_timestamp(at)


def plan_return(failed: TurnPlan, result: RunResult, *, has_acted: bool) -> TurnPlan | None:
    """Plan the turn that continues a failed one after the reset; None if that is not stated, or beyond the limit."""
    if not failed.park_limit_s or result.retry_at is None or result.error_kind not in LIMIT_KINDS:
        return None
    span_s = (result.retry_at - result.finished_at).total_seconds()
    if not 0 < span_s <= failed.park_limit_s:
        return None
    wanted = going_on(
        failed.request,
        prompt=GO_ON if has_acted else failed.request.prompt,
        tool=failed.adapter.name,
        session=failed.state.session_id,
        transport=failed.transport,
        model=None,  # the session has kept it, and the permission
        permission=None,
        **({"images": (), "files": ()} if has_acted else {}),  # the conversation has them
    )
    plan = plan_resume(Session(failed.context, failed.state.session_id), wanted, now=result.finished_at)
    fork = failed.fork if result.provider_session_id is None else None
    why = f"after the {result.error_kind} of turn {result.turn}"
    left_s = failed.park_limit_s - span_s
    return replace(plan, why_tool=why, fork=fork, park_limit_s=left_s, starts_at=result.retry_at)


async def rest_until(moment: datetime, recorder: Recorder, stopping: Stopping) -> None:
    """Wait for the reset, with no tool running; return at once if the turn is to end.

    It uses the wall clock: a machine that was suspended meanwhile continues when it wakes.
    """
    at = wake_at(moment.timestamp(), time.time(), int.from_bytes(os.urandom(2), "big") / (1 << 16))
    beat_at = 0.0
    while stopping.stop is None and time.time() < at:
        if anyio.current_time() >= beat_at:
            recorder.beat()
            beat_at = anyio.current_time() + HEARTBEAT_S
        with anyio.move_on_after(max(0.0, min(LOOK_S, at - time.time()))):
            await stopping.requested.wait()
        recorder.apply_edits()
        if (asked := recorder.cancellation()) is not None:
            stopping.request(cancelled_by(asked))
        if recorder.held.is_lost:
            stopping.request(lock_lost())


def wake_at(until: float, now: float, fraction: float) -> float:
    """Return when to continue: a little later than stated, as resets are stated by the minute, and with jitter."""
    return until + min(LONGEST_SLACK_S, max(0.0, until - now) * SLACK_SHARE) * (1 + fraction)
