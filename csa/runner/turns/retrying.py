"""csa's own retries of transient provider errors: how often, and after which pauses.

Loaded when a provider has failed, and the only importer of tenacity.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_exponential_jitter

from csa.model.adapter import Outcome
from csa.runner.turns.attempt import CANCEL_POLL_S, HEARTBEAT_S, cancelled_by
from csa.runner.turns.recorder import Recorder
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import lock_lost, out_of_time

LONGEST_PAUSE_S = 5.0
PAUSES_S = 10.0  # in total, if the provider does not say how long
_backoff = wait_exponential_jitter(max=LONGEST_PAUSE_S)  # 1, 2, 4 s, and up to a second more


async def try_again(
    first: Outcome,
    attempt: Callable[[], Awaitable[Outcome]],
    *,
    retries: int,
    may_retry: Callable[[Outcome], bool],
    pause: Callable[[float], Awaitable[None]],
) -> None:
    """Make up to `retries` further attempts, each after a pause, while `may_retry` accepts the last outcome.

    `pause` gets the length: what the provider asked for, else growing pauses of at most PAUSES_S in total.
    """
    known = [first]

    async def next_outcome() -> Outcome:
        return known.pop() if known else await attempt()

    await AsyncRetrying(
        retry=retry_if_result(may_retry),
        wait=_pause_length,
        stop=lambda state: stop_after_attempt(retries + 1)(state) or _has_paused_enough(state),
        sleep=pause,
        retry_error_callback=_last_outcome,
    )(next_outcome)


def _pause_length(state: RetryCallState) -> float:
    asked = _last_outcome(state).retry_after_s
    return _backoff(state) if asked is None else asked


def _has_paused_enough(state: RetryCallState) -> bool:
    return _last_outcome(state).retry_after_s is None and state.idle_for + state.upcoming_sleep > PAUSES_S


def _last_outcome(state: RetryCallState) -> Outcome:
    assert state.outcome is not None
    outcome: Outcome = state.outcome.result()
    return outcome


async def rest(
    seconds: float, recorder: Recorder, stopping: Stopping, *, deadline: float | None, limit_s: float | None
) -> None:
    """Wait between two attempts, with no tool running; return at once if the turn is to end, or its time is up."""
    now = anyio.current_time()
    until, beat_at = now + seconds, now + HEARTBEAT_S
    while stopping.stop is None and now < until:
        with anyio.move_on_after(min(until - now, CANCEL_POLL_S)):
            await stopping.requested.wait()
        now = anyio.current_time()
        recorder.apply_edits()
        if (asked := recorder.cancellation()) is not None:
            stopping.request(cancelled_by(asked))
        if deadline is not None and now >= deadline:
            stopping.request(out_of_time(limit_s))
        if now >= beat_at:
            recorder.beat()
            beat_at = now + HEARTBEAT_S
            if recorder.held.is_lost:
                stopping.request(lock_lost())
