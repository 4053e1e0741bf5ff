"""Moments as a file system, git or a record tells them, which need not lie within the years that a time can have."""

from __future__ import annotations

from datetime import UTC, datetime

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def from_timestamp(seconds: float) -> datetime:
    """Return the moment so many seconds after 1970, or the first or last that there is."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return _FIRST if seconds < 0 else _LAST


def local_clock(moment: datetime | None, form: str = "%Y-%m-%d %H:%M", *, otherwise: str = "-") -> str:
    """Render a moment in local time, or in its own where that is out of reach; None as `otherwise`."""
    if moment is None:
        return otherwise
    try:
        return moment.astimezone().strftime(form)
    except (OverflowError, ValueError):
        return moment.strftime(form)
