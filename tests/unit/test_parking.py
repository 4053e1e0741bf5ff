"""When a provider can be asked again after a turn that failed, and when csa does."""

from datetime import UTC, datetime

import pytest

from csa.model.adapter import Outcome
from csa.runner.turns.parking import retry_moment, wake_at, with_stated_delay

NOW = datetime(2026, 11, 29, 20, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (Outcome(succeeded=False, error_kind="quota", retry_at=NOW.timestamp() + 9, retry_after_s=5.0), 9),
        (Outcome(succeeded=False, error_kind="quota", retry_after_s=5.0, error_message="try again in 7s"), 5),
        (Outcome(succeeded=False, error_kind="rate_limit", error_message="try again in 7s"), 7),
        (Outcome(succeeded=False, error_kind="quota", error_message="try again later"), None),
        (Outcome(succeeded=False, error_kind="server", error_message="try again in 7s"), None),
        (Outcome(succeeded=True, text="try again in 7s"), None),
    ],
)
def test_when_it_can_be_asked_again(outcome: Outcome, seconds: float | None) -> None:
    """A typed moment, else a typed delay, else what the message says; of limits alone."""
    moment = retry_moment(outcome, NOW)
    assert (moment and (moment - NOW).total_seconds()) == seconds


def test_a_delay_in_words() -> None:
    """It counts for csa's own retries where the tool has no field for it."""
    limited = Outcome(succeeded=False, error_kind="rate_limit", error_message="Please retry in 34.5s.")
    assert with_stated_delay(limited).retry_after_s == 34.5
    typed = Outcome(succeeded=False, error_kind="rate_limit", error_message="Please retry in 34.5s.", retry_after_s=2.0)
    assert with_stated_delay(typed).retry_after_s == 2.0
    assert with_stated_delay(Outcome(succeeded=False, error_kind="server")).retry_after_s is None


def test_a_little_later() -> None:
    """Not before the reset, not all at once, and for long waits a minute or two after it."""
    assert wake_at(100.0, 90.0, 0.0) == 100.5
    assert wake_at(100_000.0, 0.0, 0.0) == 100_060.0
    assert wake_at(100_000.0, 0.0, 0.999) < 100_120.0
    assert wake_at(100.0, 200.0, 0.5) == 100.0
