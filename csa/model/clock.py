"""Times as people write them, and from a file system, git or a record: these may be in any year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from csa.model.duration import parse_span
from csa.model.state import parse_time

EXAMPLE = "give a number and a unit (90s, 30m, 12h, 7d, 2w), or a date (2026-02-28, 2026-02-28T14:30) in local time"
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class _Local(tzinfo):
    """The reader's time zone, with its summer time; `astimezone()` knows only one offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        clock = moment.replace(tzinfo=None)
        return clock - from_timestamp(clock.timestamp()).replace(tzinfo=None)

    def dst(self, _moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, _moment: datetime | None) -> str:
        return "local time"

    def fromutc(self, moment: datetime) -> datetime:
        local = datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp())  # noqa: DTZ006  # that determines the fold
        return local.replace(tzinfo=self)


LOCAL = _Local()


def from_local(clock: datetime) -> datetime:
    """Return the UTC time for a local time: the first of two, and for a skipped hour as if the clock had not changed.

    Times out of range are clamped.
    """
    try:
        return from_timestamp(clock.replace(tzinfo=None).timestamp())
    except (OverflowError, ValueError):
        return _FIRST if clock.year == _FIRST.year else _LAST


def from_timestamp(seconds: float) -> datetime:
    """Return the time so many seconds after 1970, clamped to the valid range."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return _FIRST if seconds < 0 else _LAST


def local_clock(moment: datetime | None, form: str = "%Y-%m-%d %H:%M", *, otherwise: str = "-") -> str:
    """Render a time in local time, or in its own zone if that is out of range; None as `otherwise`."""
    if moment is None:
        return otherwise
    try:
        return moment.astimezone().strftime(form)
    except (OverflowError, ValueError):
        return moment.strftime(form)


def parse_moment(text: str, now: datetime) -> datetime | None:
    """Parse a time, as UTC: a duration before `now`, or a date or time (local unless it has a zone)."""
    try:
        span = parse_span(text)
        if span is not None:
            return now - span
        clock = datetime.fromisoformat(text)
    except OverflowError:
        return _FIRST
    except ValueError:
        return None
    return from_local(clock) if clock.tzinfo is None else parse_time(text)
