"""The pauses of a replay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.model.pacing import LONGEST_PAUSE_S, parse_speed, pause_s
from csa.model.state import format_time
from csa.runner.turns.replaying import Moment, paced

START = datetime(2026, 1, 1, tzinfo=UTC)
GAPS_AND_LINES = st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(["out", "err"]), st.text(max_size=3)))
SPEEDS = st.floats(0.01, 1000)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), SPEEDS)
def test_pauses_keep_their_order(one: float, other: float, speed: float) -> None:
    """A pause is never negative, never longer than the cut one, and never shorter than that of a shorter one."""
    shorter, longer = sorted((one, other))
    assert 0 <= pause_s(shorter, speed) <= pause_s(longer, speed) <= LONGEST_PAUSE_S / speed


@given(st.floats(1e-9, LONGEST_PAUSE_S), SPEEDS)  # halves of what is next to nothing are rounded
def test_pauses_are_scaled(recorded: float, speed: float) -> None:
    """Twice as fast halves each pause; `max` and 0 have none."""
    assert pause_s(recorded, 2 * speed) == pause_s(recorded, speed) / 2
    assert pause_s(recorded, parse_speed("max")) == pause_s(recorded, parse_speed("0")) == 0


@given(GAPS_AND_LINES, st.sampled_from([0.0, 0.5, 1.0, 4.0]))
def test_lines_keep_their_order(told: list[tuple[int, str, str]], speed: float) -> None:
    """Whatever the pauses, each stream has its whole text in order, and the pauses are those between the lines."""
    now, moments = START, list[Moment]()
    for gap_ms, stream, text in told:
        now += timedelta(milliseconds=gap_ms)
        moments.append((format_time(now), 1, [[stream, text]]))
    steps = list(paced(moments, format_time(START), speed))
    order = [(step[0], letter) for step in steps if step[0] != "sleep" for letter in step[1]]
    assert order == [(stream, letter) for _, stream, text in told for letter in text]
    slept = sum(step[1] for step in steps if step[0] == "sleep")
    assert slept == pytest.approx(sum(pause_s(gap_ms / 1000, speed) for gap_ms, *_ in told))
