"""Lines of `session logs`: events as people read them, the transcript's own, and those of plain log files."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from csa.cli.describe import describe
from csa.cli.output import Style, cut, printable, terminal_width
from csa.model.clock import local_clock
from csa.model.events import Event
from csa.model.state import parse_time
from csa.store.atomic import open_regular
from csa.store.transcript import parse_line, read_events, read_events_backwards, read_lines
from csa.structs import replace

_BLOCK = 1 << 20
_LEAD = 14  # columns of the time and the turn


class EventPrinter:
    """Prints events in words."""

    def __init__(self) -> None:
        self._style = Style(sys.stdout)
        self._width = terminal_width(sys.stdout)

    def print(self, event: Event) -> None:
        """Print an event, unless a person need not see it."""
        if (line := describe(event)) is not None:
            head = self._style(f"{_clock(event.ts)} {event.turn:>3}", "dim")
            print(f"{head}  {cut(line, self._width and self._width - _LEAD)}")


def select_events(transcript: Path, *, tail: int | None, turn: int | None) -> Iterator[Event]:
    """Yield the events of a transcript, or of one turn of it; the last `tail` of them where that is given."""
    if tail is None:
        yield from (event for event in read_events(transcript) if turn in {None, event.turn})
        return
    yield from reversed(list(islice(_of_turn(read_events_backwards(transcript), turn), tail)))


def join_chunks(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events with each streamed message as one, of its last chunk's number and time."""
    held: Event | None = None
    for event in events:
        is_next = held is not None and (event.type, event.turn) == (held.type, held.turn)
        if held and not (is_next and event.data.get("chunk")):
            yield held
            held = None
        if not event.data.get("chunk"):
            yield event
        else:
            before = str(held.data.get("text", "")) if held else ""
            held = replace(event, data={**event.data, "text": before + str(event.data.get("text", ""))})
    if held:
        yield held


def _of_turn(backwards: Iterable[Event], turn: int | None) -> Iterator[Event]:
    """Yield the events of a turn, without reading on to the transcript's beginning."""
    for event in backwards:
        if turn is not None and event.turn < turn:
            return
        if turn in {None, event.turn}:
            yield event


def print_transcript(transcript: Path, *, tail: int | None, turn: int | None) -> int:
    """Print the transcript's whole lines as they are; return how many there were."""
    sys.stdout.flush()
    lines: Iterable[bytes] = (line for line in _lines(transcript) if turn is None or _turn_of(line) == turn)
    count = 0
    for line in lines if tail is None else deque(lines, maxlen=tail):
        _write(line)
        count += 1
    return count


def _lines(transcript: Path) -> Iterator[bytes]:
    yield from (line for line in read_lines(transcript) if line.endswith(b"\n"))  # one without is still being written


def _turn_of(line: bytes) -> int | None:
    event = parse_line(line)
    return event.turn if event else None


def print_file(path: Path, *, tail: int | None, is_stamped: bool = False) -> None:
    """Copy a log to stdout, or its last lines; to a pipe as it is, but for times that its lines begin with."""
    sys.stdout.flush()
    with open(open_regular(path), "rb") as file:
        if tail is None and not is_stamped and not sys.stdout.isatty():
            while block := file.read(_BLOCK):
                _write(block)
        else:
            for line in file if tail is None else deque(file, maxlen=tail):
                _write(_with_local_stamp(line) if is_stamped else line)


def _with_local_stamp(line: bytes) -> bytes:
    stamp, _, rest = line.partition(b" ")
    moment = parse_time(stamp.decode(errors="replace")) if stamp.endswith(b"Z") else None
    return f"{local_clock(moment, '%Y-%m-%d %H:%M:%S')} ".encode() + rest if moment else line


def _write(content: bytes) -> None:
    """Write whole lines, or, where stdout is no terminal, any part of them."""
    if sys.stdout.isatty():
        content = printable(content.decode(errors="replace")).encode()
    view = memoryview(content)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def _clock(stamp: str) -> str:
    return local_clock(parse_time(stamp), "%H:%M:%S", otherwise="--:--:--")
