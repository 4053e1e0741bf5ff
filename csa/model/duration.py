"""Durations as people write them: `90s`, `30m`, `12h`, `7d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TOO_LONG = timedelta(days=365_000)  # before it is added to the current time, which ends with the year 9999
_FORM = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)
DEFAULT_PARK = timedelta(hours=26)  # a day, plus clock error


def parse_on_quota(text: str) -> timedelta | None:
    """Return the longest wait for a quota, from `fail`, `wait` or `wait=26h`; None for anything else."""
    word, equals, span = text.partition("=")
    if word == "wait" and equals:
        return parse_duration(span)
    return {"fail": timedelta(), "wait": DEFAULT_PARK}.get(text)


def parse_duration(text: str) -> timedelta | None:
    """Return what `parse_span` does, but None for no time or 1000 years."""
    span = parse_span(text)
    return span if span is not None and timedelta() < span < _TOO_LONG else None


def parse_span(text: str) -> timedelta | None:
    """Return the duration of one number with one unit; None for anything else."""
    found = _FORM.fullmatch(text.strip().lower())
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
