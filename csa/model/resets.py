"""When a provider can be used again, as stated in tools' error messages. Pure; never an unstated time.

Known messages (2025 and 2026, from the tools' own reports):

    codex        try again in 5 days 22 hours 11 minutes / at 3:39 AM / at Jul 5th, 2026 8:19 PM / in 1.898s / in 6m0s
    claude-code  usage limit reached|1764480000 / limit reached · resets 3am (Europe/Berlin) / resets Oct 8, 5am (UTC)
    gemini-cli   Your quota will reset after 2h3m4s / Please retry in 34.074824224s
    opencode     its provider's message; Copilot: Please wait 587 hours 33 minutes / retry after 840 seconds

A time without a date is the next such time; one without a zone is in the reader's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNIT = r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)(?![a-z])"
_UNIT_GLUED = r"(?:ms|s|m|h|d|w)(?=\d)"
_PART = rf"\d+(?:\.\d+)?\s*(?:{_UNIT}|{_UNIT_GLUED})"
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
# Only words that introduce a delay: a message may also state how long something took.
_DELAY = re.compile(
    rf"(?:(?:try|retry|trying|wait|resets?|available|resume)\b[^.|\n]{{0,40}}?\b(?:in|after|for)"
    rf"|\bwait|retry[- ]after[:=]?|retry[-_]?delay\W{{1,4}})\s*(?:about|approximately|at least)?\s*"
    rf"(?P<span>{_PART}(?:(?:\s*,)?(?:\s+and)?\s*{_PART})*)",
    re.IGNORECASE,
)
_BARE_SECONDS = re.compile(
    r"(?:retry[-_ ]after|resets_in_seconds)\W{1,4}(\d+(?:\.\d+)?)(?![\d.]*\s*[a-z])", re.IGNORECASE
)
_EPOCH = re.compile(r"(?:\||resets?_?at\W{1,4}|reset\W{1,4})(\d{10}|\d{13})(?!\d)", re.IGNORECASE)
_INTRODUCED = re.compile(
    r"\b(?:resets?(?: time)?(?: at| on)?|try again (?:at|on|after)|retry (?:at|on|after)|available (?:again )?(?:at|on)"
    r"|(?:until|reset_?at|resets_?at)\W{0,3})\s*:?\s*(?P<rest>.{1,60})",
    re.IGNORECASE | re.DOTALL,
)
_ISO = re.compile(r"\W{0,2}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)\s?(Z|UTC|[+-]\d\d:?\d\d)?", re.IGNORECASE)
_CLOCK = r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?(?::\d\d)?\s*(?P<half>[ap]\.?m\b\.?)?"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DATE = (
    rf"(?:(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{{4}}))?"
    rf"|(?P<weekday>{'|'.join(_DAYS)})[a-z]*|(?P<near>today|tomorrow))"
)
_MOMENT = re.compile(
    rf"\W{{0,2}}(?:(?:on\s+)?{_DATE}(?:,|\s+at)?\s+(?:at\s+)?)?{_CLOCK}"
    rf"(?P<tomorrow>\s+tomorrow)?(?:\s*\(?(?P<zone>[A-Z][\w+-]*(?:/[\w+-]+)+|UTC|GMT)\)?)?",
    re.IGNORECASE,
)
_HALF_DAY, _LAST_HOUR = 12, 23


def delay_of(text: str) -> float | None:
    """Return the delay in seconds after which the provider can be used again, if a message states it, else None."""
    if found := _DELAY.search(text):
        parts = _PARTS.findall(found["span"])
        return round(sum(float(number) * _seconds(unit) for number, unit in parts), 3)
    bare = _BARE_SECONDS.search(text)
    return float(bare[1]) if bare else None


_LENGTH = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?")
_MILLISECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


def retry_after(headers: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the delay in seconds, or the time since the epoch, that an answer's headers state for the next request."""
    told = {name.lower(): value.strip() for name, value in headers.items() if isinstance(value, str)}
    header = told.get("retry-after", "")
    exact = told.get("retry-after-ms", "")
    if _MILLISECONDS.fullmatch(exact):
        return float(exact) / 1000, None
    if header and (found := _LENGTH.fullmatch(header)):
        hours, minutes, seconds = (float(each or 0) for each in found.groups())
        return hours * 3600 + minutes * 60 + seconds, None
    return None, _http_date(header)


def stated_reset(text: str, at: datetime) -> float | None:
    """Return that time, in seconds since the epoch; None if no time is stated.

    `at` is when it was stated, aware, in the reader's zone: delays count from there.
    """
    if epoch := _EPOCH.search(text):
        return int(epoch[1][:10])
    if (delay := delay_of(text)) is not None:
        return at.timestamp() + delay
    for introduced in _INTRODUCED.finditer(text):
        if (moment := _moment(introduced["rest"], at)) is not None:
            return moment.timestamp()
    return None


def _http_date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # few turns fail, and fewer with a date

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _seconds(unit: str) -> float:
    unit = unit.lower()
    return _UNITS["ms" if unit.startswith(("ms", "milli")) else unit[0]]


def _moment(words: str, at: datetime) -> datetime | None:
    if iso := _ISO.match(words):
        return _iso(iso[1], (iso[2] or "").upper(), at)
    found = _MOMENT.match(words)
    if not found or (found["half"] is None and found["minute"] is None):  # a bare number is not a time of day
        return None
    hour = _hour(int(found["hour"]), found["half"])
    minute = int(found["minute"] or 0)
    zone = _zone(found["zone"], at)
    if hour is None or minute > 59 or zone is None:  # noqa: PLR2004  # minutes
        return None
    here = at.astimezone(zone)
    try:
        return _on_day(found, here, here.replace(hour=hour, minute=minute, second=0, microsecond=0))
    except (ValueError, OverflowError):  # the 31st of a shorter month
        return None


def _on_day(found: re.Match[str], here: datetime, clock: datetime) -> datetime:
    """Put a time of day on the named day, or on the next day on which it is in the future."""
    if found["month"]:
        month = 1 + _MONTHS.index(found["month"].lower())
        named = clock.replace(year=int(found["year"] or here.year), month=month, day=int(found["day"]))
        is_past = found["year"] is None and named < here - timedelta(
            days=1
        )  # of December, stated in January, or similar
        return named.replace(year=named.year + 1) if is_past else named
    if found["weekday"]:
        days = (_DAYS.index(found["weekday"].lower()) - here.weekday()) % 7
        return clock + timedelta(days=days + 7 * (days == 0 and clock < here))
    if found["tomorrow"] or (found["near"] or "").lower() == "tomorrow":
        return clock + timedelta(days=1)
    return clock + timedelta(days=clock < here.replace(second=0, microsecond=0) and not found["near"])


def _hour(hour: int, half: str | None) -> int | None:
    if half is None:
        return hour if hour <= _LAST_HOUR else None
    if not 1 <= hour <= _HALF_DAY:
        return None
    return hour % _HALF_DAY + (_HALF_DAY if half[0].lower() == "p" else 0)


def _zone(name: str | None, at: datetime) -> tzinfo | None:
    """Return the named zone, or the zone of `at` if there is none; None for an unknown one."""
    if name is None:
        return at.tzinfo
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # few messages have one

    try:
        return ZoneInfo("UTC" if name.upper() == "GMT" else name)
    except (KeyError, ValueError, OSError):
        return None


def _iso(text: str, zone: str, at: datetime) -> datetime | None:
    offset = "+00:00" if zone in {"Z", "UTC"} else zone
    try:
        moment = datetime.fromisoformat(text.upper() + offset)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=at.tzinfo)
