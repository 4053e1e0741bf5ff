"""When a turn is tried again, and after which pauses."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from csa.model.adapter import Outcome, ToolExit
from csa.model.events import Event
from csa.model.usage import Usage
from csa.runner.turns.failover import RetryGate, Tried, peak_rss
from csa.runner.turns.meter import Meter
from csa.runner.turns.retrying import LONGEST_PAUSE_S, PAUSES_S, try_again


def failed(kind: Any = "server", *, after: float | None = None, **more: Any) -> Outcome:
    return Outcome(succeeded=False, error_kind=kind, retry_after_s=after, **more)


def event(kind: str) -> Event:
    return Event(1, "", kind, 1, {})


async def pauses_of(outcomes: list[Outcome], *, retries: int) -> list[float]:
    """Play the outcomes of attempts, and return the pauses that were made; no time passes."""
    pauses: list[float] = []
    left = iter(outcomes)

    async def attempt() -> Outcome:
        return next(left)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    def may_retry(outcome: Outcome) -> bool:
        return not outcome.succeeded

    await try_again(next(left), attempt, retries=retries, may_retry=may_retry, pause=pause)
    return pauses


@pytest.mark.parametrize("retries", [1, 2, 3])
def test_pauses_grow(retries: int) -> None:
    """One, two, four seconds, each with up to a second more."""
    pauses = anyio.run(lambda: pauses_of([failed()] * 9, retries=retries))
    assert len(pauses) == retries
    assert all(2**n <= length <= 2**n + 1 for n, length in enumerate(pauses))


def test_pauses_are_bounded() -> None:
    """However many retries are asked for, ten seconds of pauses are the end."""
    pauses = anyio.run(lambda: pauses_of([failed()] * 99, retries=98))
    assert sum(pauses) <= PAUSES_S
    assert max(pauses) <= LONGEST_PAUSE_S


def test_no_pause_after_a_success() -> None:
    """An attempt that succeeds is the last."""
    done = Outcome(succeeded=True)
    assert len(anyio.run(lambda: pauses_of([failed(), done], retries=5))) == 1


def test_retry_after_counts_instead() -> None:
    """What the provider asks for is waited, beyond csa's own bound, and once it has been asks no more csa stops."""
    pauses = anyio.run(lambda: pauses_of([failed(after=30), failed(after=0), failed(after=45), failed()], retries=9))
    assert pauses == [30, 0, 45]


def test_an_error_of_our_own_comes_out() -> None:
    """An attempt that raises is no failure of the provider."""

    async def attempt() -> Outcome:
        raise RuntimeError("ours")

    async def pause(_seconds: float) -> None:
        pass

    async def scenario() -> None:
        await try_again(failed(), attempt, retries=3, may_retry=lambda _: True, pause=pause)

    with pytest.raises(RuntimeError, match="ours"):
        anyio.run(scenario)


@pytest.mark.parametrize("kind", ["rate_limit", "overloaded", "server", "network"])
def test_passing_kinds(kind: str) -> None:
    """These may be gone in a moment."""
    assert RetryGate().allows_retry(failed(kind), 0)


@pytest.mark.parametrize(
    "kind",
    ["auth", "quota", "invalid_request", "context_overflow", "permission", "protocol", "spawn", "internal", None],
)
def test_lasting_kinds(kind: str | None) -> None:
    """These would be the same again."""
    assert not RetryGate().allows_retry(failed(kind), 0)


@pytest.mark.parametrize("kind", ["tool_call", "tool_call_update", "permission"])
def test_effects(kind: str) -> None:
    """A call, finished or not, or one that was refused."""
    gate = RetryGate()
    gate.note([event("agent_message"), event(kind), event("usage")], 0)
    assert not gate.allows_retry(failed(), 0)


def test_words_are_no_effect() -> None:
    """What the agent said, thought and planned changes nothing."""
    gate = RetryGate()
    gate.note([event(kind) for kind in ("agent_message", "agent_thought", "plan", "usage", "error", "other")], 0)
    assert gate.allows_retry(failed(), 0)
    assert not gate.allows_retry(failed(denied=("Bash",)), 0)


def test_long_retry_after() -> None:
    """More than a minute is not waited for."""
    assert RetryGate().allows_retry(failed("rate_limit", after=60), 0)
    assert not RetryGate().allows_retry(failed("rate_limit", after=60.5), 0)


def test_patience_ends() -> None:
    """Ten seconds of failing, counted from the tool's own first retry, are enough; an answer begins them anew."""
    gate = RetryGate()
    gate.note([event("retry")], 100)
    gate.note([event("retry")], 105)
    assert gate.allows_retry(failed(), 110)
    assert not gate.allows_retry(failed(), 111)
    gate.excuse(30)
    assert gate.allows_retry(failed(), 140)
    gate.note([event("agent_message")], 200)
    assert gate.allows_retry(failed(), 300)
    assert not gate.allows_retry(failed(), 311)


def test_attempts_add_up() -> None:
    """Usage is summed, where it is known; memory is that of the largest."""
    end = ToolExit(1, None)
    tried = [
        Tried(failed(usage=Usage(10, 1, 0, 0.5)), end, 5),
        Tried(failed(), end),
        Tried(failed(usage=Usage(20, 2)), end, 3),
    ]
    assert peak_rss(tried) == 5
    assert peak_rss(tried[1:2]) is None


def test_the_attempts_of_a_turn_add_up() -> None:
    """Each tells of itself alone; one whose end says nothing has used what it said last, and unknown stays unknown."""
    meter = Meter()
    assert meter.total is None
    meter.settle(None)
    assert meter.total is None
    told = meter.note({"input_tokens": 10, "output_tokens": 1, "cost_usd": 0.5, "more": True})
    assert told == {**Usage(10, 1, 0, 0.5, 1, 1).to_dict(), "more": True}
    meter.note({"input_tokens": 20, "output_tokens": 1, "cost_usd": 0.75})
    meter.settle(None)
    meter.note({"input_tokens": 1})
    meter.settle(Usage(5, 5))
    assert meter.total == Usage(25, 6, 0, 0.75, 1, 1)


def test_one_attempt_is_as_it_says() -> None:
    """What the end of the tool says counts over what it has said before."""
    meter = Meter()
    meter.note({"input_tokens": 10})
    meter.settle(Usage(12, 1))
    assert meter.total == Usage(12, 1)
