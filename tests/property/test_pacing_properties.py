"""The pauses of a replay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csa.model.pacing import LONGEST_PAUSE_S, parse_speed, pause_s

SPEEDS = st.floats(0.01, 1000)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), SPEEDS)
def test_pauses_keep_their_order(one: float, other: float, speed: float) -> None:
    """A pause is never negative, never longer than the cut one, and never shorter than that of a shorter one."""
    shorter, longer = sorted((one, other))
    assert 0 <= pause_s(shorter, speed) <= pause_s(longer, speed) <= LONGEST_PAUSE_S / speed


@given(st.floats(0, LONGEST_PAUSE_S), SPEEDS)
def test_pauses_are_scaled(recorded: float, speed: float) -> None:
    """Twice as fast halves each pause; `max` and 0 have none."""
    assert pause_s(recorded, 2 * speed) == pause_s(recorded, speed) / 2
    assert pause_s(recorded, parse_speed("max")) == pause_s(recorded, parse_speed("0")) == 0
