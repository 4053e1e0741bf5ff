"""Lengths of time as people write them."""

from datetime import timedelta

import pytest

from csa.model.duration import parse_duration, parse_on_quota


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        (" 2W ", timedelta(weeks=2)),
        ("0d", None),
        ("7", None),
        ("d", None),
        ("-1d", None),
        ("1d2h", None),
        ("1.5h", None),
        ("9999999d", None),
        ("999999w", None),
        ("٣d", None),
        ("", None),
    ],
)
def test_durations(text: str, expected: timedelta | None) -> None:
    """One number and one unit; nothing else, and not zero."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "hours"), [("fail", 0), ("wait", 26), ("wait=2h", 2), ("wait=1d", 24), ("wait=", None), ("no", None)]
)
def test_what_to_do_about_a_quota(text: str, hours: int | None) -> None:
    """Fail, or wait for at most so long."""
    assert parse_on_quota(text) == (None if hours is None else timedelta(hours=hours))
