"""Lengths of time, and moments, as people write them: `90s`, `30m`, `12h`, `7d`, `2w`, `2026-02-28`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from csa.model.clock import from_local
from csa.model.state import parse_time

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
EXAMPLE = "give a number and a unit (90s, 30m, 12h, 7d, 2w), or a date (2026-02-28, 2026-02-28T14:30) in local time"


def parse_span(text: str) -> timedelta | None:
    """Read a length of time; None when it is none."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal() or not number.isascii():
        return None
    try:
        return timedelta(seconds=int(number) * _UNITS[unit])
    except OverflowError:
        return None


def parse_moment(text: str, now: datetime) -> datetime | None:
    """Read a moment, as UTC: a length of time before `now`, or a date or time (local unless it says otherwise)."""
    span = parse_span(text)
    if span is None:
        return _parse_clock(text)
    try:
        return now - span
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _parse_clock(text: str) -> datetime | None:
    try:
        clock = datetime.fromisoformat(text)
    except ValueError:
        return None
    return from_local(clock) if clock.tzinfo is None else parse_time(text)
