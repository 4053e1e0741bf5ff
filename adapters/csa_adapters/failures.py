"""What kind of failure a tool's messages and numbers mean.

Only typed evidence is used here: the message of an error event, an HTTP status, the tool's stderr. No model's text:
an agent that writes about "429" is not rate limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from csa.model.adapter import ErrorKind, ToolExit

Failure = tuple[ErrorKind, str]  # its kind, and its text for people
Rules = tuple[tuple[re.Pattern[str], ErrorKind], ...]
MESSAGE_LIMIT = 2000

_STATUS_KINDS: dict[int, ErrorKind] = {
    401: "auth",
    402: "quota",
    403: "auth",
    408: "network",
    429: "rate_limit",
    503: "overloaded",
    529: "overloaded",
}
_STATUS_CLASSES: dict[int, ErrorKind] = {4: "invalid_request", 5: "server"}
_NOISE = re.compile(
    r"^(WARNING|warning|Warning|Reading additional input|Reading prompt|\s*\d+: |\s+at |Stack backtrace)"
)
_ERROR_LINE = re.compile(r"^\s*(?:error: |Error: |ERROR: )?((?:(?<=: )|Error |error ).+)$", re.MULTILINE)


def rules(*pairs: tuple[str, ErrorKind]) -> Rules:
    """Compile a table of patterns, most specific first, ignoring case."""
    return tuple((re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in pairs)


def kind_of_message(message: str, table: Rules) -> ErrorKind | None:
    """Return the kind of the first rule that fits."""
    return next((kind for pattern, kind in table if pattern.search(message)), None)


def kind_of_status(status: object) -> ErrorKind | None:
    """Return the kind of an HTTP status; None if it is not an error status."""
    if type(status) is not int:
        return None
    return _STATUS_KINDS.get(status) or _STATUS_CLASSES.get(status // 100)


def stderr_message(tail: str) -> str:
    """Return the line of a stderr that says what went wrong: its first error line, else its last line."""
    found = _ERROR_LINE.search(tail)
    if found:
        return found.group(1).strip()[:MESSAGE_LIMIT]
    lines: Iterable[str] = (line for line in reversed(tail.splitlines()) if line.strip())
    return next((line.strip()[:MESSAGE_LIMIT] for line in lines if not _NOISE.match(line)), "")


def unclean(end: ToolExit) -> Failure | None:
    """Say how the exit contradicts a typed success: code 0 does not, nor being reaped by csa after the end."""
    return ("internal", ending_message(end, "a clean exit")) if end.signal is not None or end.code else None


def unfinished(end: ToolExit, lacking: str) -> Failure:
    """Judge an end without the typed event `lacking`."""
    return "internal" if end.signal is not None else "protocol", ending_message(end, lacking)


def ending_message(end: ToolExit, lacking: str) -> str:
    """Describe an end without the typed event `lacking`."""
    said = stderr_message(end.stderr_tail)
    how = _manner(end)
    return f"{how} without {lacking}" + (f": {said}" if said else "")


def _manner(end: ToolExit) -> str:
    if end.signal is not None:
        return f"killed by signal {end.signal}"
    return "ended" if end.code is None else f"exited with {end.code}"
