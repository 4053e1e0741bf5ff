"""Lengths of time as people write them."""

from datetime import timedelta

import pytest

from csa.model.duration import parse_duration


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
