"""Spans of time, sums over subtrees and turns, and lengths of time as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.ids import is_session_id, renew_session_id
from csa.model.clock import parse_moment
from csa.model.duration import parse_span
from csa.model.genealogy import Rollup, merge_spans
from csa.model.statistics import percentile
from csa.model.usage import Usage

NOW = datetime(2026, 1, 10, tzinfo=UTC)
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))), max_size=8)


@given(SPANS)
def test_spans_cover_the_same_seconds(spans: list[tuple[int, int]]) -> None:
    """Merged spans cover what the spans cover, each second once."""
    covered = {second for start, end in spans for second in range(start, end)}
    merged = merge_spans(spans)
    assert sum(end - start for start, end in merged) == len(covered)
    assert merged == sorted(merged)


def test_rollup() -> None:
    """Counts, times and use of two sessions, one within the other."""
    whole, child = Rollup(), Rollup()
    whole.add("succeeded", [(0.0, 10.0)], Usage(10, 1))
    child.add("failed", [(2.0, 4.0)], Usage(5, 1, 0, 0.5))
    whole.merge(child)
    assert (whole.sessions, whole.statuses, whole.time_s) == (2, {"succeeded": 1, "failed": 1}, 10.0)
    assert whole.usage == Usage(15, 2, 0, 0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([7], 7), (list(range(1, 101)), 95), (list(range(1, 21)), 19), ([1, 2], 2)],
)
def test_percentile(values: list[int], expected: int | None) -> None:
    """The nearest rank: a value that is there."""
    assert percentile(values[::-1], 95) == expected


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(weeks=1)),
        ("0d", timedelta()),
        ("d", None),
        ("", None),
        ("2", None),
        (" 2 D", timedelta(days=2)),
        ("-2d", None),
        ("1.5h", None),
        ("٣d", None),
        ("9" * 30 + "d", None),
    ],
)
def test_lengths_of_time(text: str, span: timedelta | None) -> None:
    """A number and a unit, and nothing else."""
    assert parse_span(text) == span


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2d", NOW - timedelta(days=2)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T10:00:00+02:00", datetime(2026, 1, 1, 8, tzinfo=UTC)),
        ("999999d", datetime.min.replace(tzinfo=UTC)),
        ("soon", None),
    ],
)
def test_moments(text: str, moment: datetime | None) -> None:
    """A length of time before now, or a date."""
    assert parse_moment(text, NOW) == moment


@given(st.binary(min_size=10, max_size=10))
def test_renewed_ids(entropy: bytes) -> None:
    """Another id of the same time."""
    renewed = renew_session_id("01JH4QWERT1234567890ABCDEF", entropy)
    assert is_session_id(renewed)
    assert renewed[:10] == "01JH4QWERT"
