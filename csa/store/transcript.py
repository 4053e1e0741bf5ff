"""Reading transcript.jsonl, from either end. Lines that are not events, and a partial last one, are skipped.

A missing transcript has no events; one that the system does not let csa read is a StateError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from csa.errors import StateError
from csa.model.events import Event
from csa.store.atomic import open_regular, require_regular

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 1 << 16
_TAIL = 1 << 12  # what is read first from the end: it has the last event of most
_STARTED, _FINISHED = b'"run_started"', b'"run_finished"'
_TURN_EVENTS = {"run_started", "run_finished"}
HEAD_BYTES = 160  # of a line, in which its type stands


def end_of_last_line(fd: int, size: int) -> int:
    """Return where the last complete line of a file of `size` bytes ends."""
    while size:
        start = max(0, size - _BLOCK)
        at = os.pread(fd, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0


def parse_line(line: bytes) -> Event | None:
    """Parse one line; None if it is not an event."""
    try:
        return Event.from_dict(json.loads(line))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def read_events(path: Path) -> Iterator[Event]:
    """Yield the transcript's events from the first on; other lines, and a partial last one, are skipped."""
    for line in read_lines(path):
        if line.endswith(b"\n") and (event := parse_line(line)):
            yield event


def read_lines(path: Path | str) -> Iterator[bytes]:
    """Yield the transcript's raw lines; StateError if they cannot be read."""
    try:
        with open(open_regular(path), "rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError.unreadable(path, error) from error


def read_events_backwards(path: Path | str) -> Iterator[Event]:
    """Yield the events from the last to the first, reading only as much as needed."""
    for line in _lines_backwards(path):
        if event := parse_line(line):
            yield event


def last_turn_event(transcript: Path | str) -> Event | None:
    """Return the last `run_finished` or `run_started`, whichever came later; lines without either are not parsed."""
    for line in _lines_backwards(transcript):
        if (_FINISHED in line or _STARTED in line) and (event := parse_line(line)) and event.type in _TURN_EVENTS:
            return event
    return None


def last_started(transcript: Path | str) -> Event | None:
    """Return the last `run_started`; the lines after it, which may be very many, are not parsed."""
    for line in _lines_backwards(transcript):
        if _STARTED in line[:HEAD_BYTES] and (event := parse_line(line)) and event.type == "run_started":
            return event
    return None


def started_after(transcript: Path | str, turn: int) -> list[Event]:
    """Return the `run_started` of the turns after this one, in their order; other lines are not parsed."""
    found: list[Event] = []
    for line in _lines_backwards(transcript):
        if _STARTED in line[:HEAD_BYTES] and (event := parse_line(line)) and event.type == "run_started":
            if event.turn <= turn:
                break
            found.append(event)
    return found[::-1]


def started_of_entry(transcript: Path | str, entry_id: str) -> Event | None:
    """Return the `run_started` of the turn that a queued prompt has become; None if there is none."""
    events = (parse_line(line) for line in _lines_backwards(transcript) if entry_id.encode() in line)
    started = (event for event in events if event and event.type == "run_started")
    return next((event for event in started if event.data.get("queued") == entry_id), None)


def _lines_backwards(path: Path | str) -> Iterator[bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    try:
        yield from lines_backwards(fd, require_regular(fd).st_size)
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    finally:
        os.close(fd)


def lines_backwards(fd: int, end: int, *, down_to: int = 0) -> Iterator[bytes]:
    """Yield the complete lines between two line ends, the last first, without anything after the last end."""
    at, size = end, _TAIL
    parts: list[bytes] | None = None  # parts of the current line, last part first; None: the partial last line
    while at > down_to:
        start = max(down_to, at - size)
        size = _BLOCK
        head, *lines = os.pread(fd, at - start, start).split(b"\n")
        at = start
        if not lines:
            if parts is not None:
                parts.append(head)
            continue
        tail = lines.pop()
        if parts is not None:
            lines.append(b"".join([tail, *reversed(parts)]))
        yield from (line for line in reversed(lines) if line)
        parts = [head]
    if parts and (first := b"".join(reversed(parts))):
        yield first
