"""Lengths of time as people write them: `90s`, `30m`, `12h`, `7d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORM = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)


def parse_duration(text: str) -> timedelta | None:
    """Return the time that one number and one unit mean; None for anything else, and for no time at all."""
    found = _FORM.fullmatch(text.strip().lower())
    if not found or int(found[1]) == 0:
        return None
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
