"""Writing transcript.jsonl, the append-only journal of a session.

One writer (the supervisor), which redacts. Lines are numbered without gaps; a partial last line, left by a crash, is
dropped by the next writer. Writing never fails a run: what could not be written is counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]  # the first is undocumented
from pathlib import Path
from typing import Any, NamedTuple

from csa.model.events import TRANSCRIPT_VERSION, Event
from csa.model.redaction import Redactor, StreamRedactor
from csa.model.state import format_time
from csa.ownership import open_private
from csa.store.atomic import sync_file
from csa.store.transcript import end_of_last_line, read_events_backwards

_LINES_AT_ONCE = 16  # is searched for secrets: searching a short line costs less than the call


def _make_encoder() -> Callable[[Any], str]:
    """Return a JSON encoder function: as `JSONEncoder.encode`, which builds a new C encoder for every value."""
    if c_make_encoder is None:
        return json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
    encode = c_make_encoder(None, str, encode_basestring, None, ":", ",", False, False, True)
    return lambda value: "".join(encode(value, 0))


_encode_value = _make_encoder()


class Mark(NamedTuple):
    """How far a transcript goes: its last event, its bytes, and what had been lost by then."""

    seq: int
    end: int
    lost: int
    fault: OSError | None


class Journal:
    """The writer of one transcript. `turn` is stamped on every event; `lost` counts events that were not written."""

    def __init__(
        self,
        path: Path,
        redactor: Redactor,
        *,
        turn: int,
        clock_ns: Callable[[], int] = time.time_ns,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """Open it; `may_write` is called before each write, and after its first "no" nothing more is written."""
        self.turn = turn
        self.lost = 0
        self._path = path
        self.fault: OSError | None = None
        self.redactor = redactor
        self._clock_ns = clock_ns
        self._may_write = may_write
        self._stamped_ms = -1
        self._stamp = ""
        self._chunks: tuple[str, Mapping[str, Any], StreamRedactor] | None = None
        self._buffer: list[bytes] = []
        self.is_sealed = False  # the transcript belongs to another process; events are still taken, for listeners
        self._fd = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            self._durable_seq, self._end = _recover(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise
        self._seq = self._durable_seq

    def append(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Take an event; return the events as recorded, redacted."""
        return self.extend([(kind, data)])

    def extend(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Event]:
        """Take events that have come together; return the events as recorded, redacted.

        Usually the same number. The end of a streamed chunk that may be the beginning of a secret is held back and
        recorded with the next chunk, or before the next event of another type.
        """
        ready: list[tuple[str, Mapping[str, Any]]] = []
        for kind, data in entries:
            if data.get("chunk") is True and isinstance(data.get("text"), str):
                ready += self._take_chunk(kind, data)
            else:
                ready += self._release_chunk() if self._chunks else ()
                ready.append((kind, data))
        return [
            event
            for at in range(0, len(ready), _LINES_AT_ONCE)
            for event in self._record(ready[at : at + _LINES_AT_ONCE])
        ]

    def flush(self) -> None:
        """Hand the buffered lines to the kernel. A failure drops them, counts them and keeps the file intact."""
        if not self._buffer:
            return
        self.is_sealed = self.is_sealed or not self._may_write()
        if self.is_sealed:
            self._buffer.clear()
            return
        content, count = b"".join(self._buffer), self._seq - self._durable_seq
        self._buffer.clear()
        try:
            _write_at(self._fd, content, self._end)
        except OSError as error:
            self._lose(count, error)
        else:
            self._end += len(content)
            self._durable_seq = self._seq

    def sync(self) -> None:
        """Flush, and make it survive a power cut."""
        self.flush()
        if self.is_sealed:
            return
        try:
            sync_file(self._fd)
        except OSError as error:
            self._note(error)

    def mark(self) -> Mark:
        """Write the buffered lines, and return how far the file goes then, for `return_to`."""
        self.flush()
        return Mark(self._durable_seq, self._end, self.lost, self.fault)

    def return_to(self, mark: Mark) -> None:
        """Take back what came after a mark, even if it was written: what it describes was refused."""
        self._buffer.clear()
        self._chunks = None
        is_written = self._end > mark.end
        self._durable_seq, self._end, self.lost, self.fault = mark
        self._seq = self._durable_seq
        if is_written and not self.is_sealed:
            with suppress(OSError):  # then a turn without an end, as after a crash here
                os.ftruncate(self._fd, self._end)

    def close(self) -> None:
        """Flush and close; harmless when repeated."""
        if self._fd < 0:
            return
        if self._chunks:
            self._record(self._release_chunk())
        self.flush()
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _note(self, error: OSError) -> None:
        error.filename = str(self._path)
        self.fault = error

    def _record(self, entries: list[tuple[str, Mapping[str, Any]]]) -> list[Event]:
        ts, turn = self._now(), self.turn
        events = [Event(seq, ts, kind, turn, data) for seq, (kind, data) in enumerate(entries, self._seq + 1)]
        lines = [encode_event(event) for event in events]
        text = "".join(lines)
        if self.redactor.may_hold_secret(text):
            for at, event in enumerate(events):
                if self.redactor.may_hold_secret(lines[at]):
                    data = self.redactor.redact_data(event.data)
                    events[at] = Event(event.seq, ts, event.type, turn, data)
                    lines[at] = encode_event(events[at])
            text = "".join(lines)
        self._seq += len(events)
        self._buffer.append(text.encode("utf-8", "backslashreplace"))
        return events

    def _now(self) -> str:
        """Return the time, rendered once a millisecond."""
        ms = self._clock_ns() // 1_000_000
        if ms != self._stamped_ms:
            self._stamped_ms = ms
            self._stamp = format_time(datetime.fromtimestamp(ms / 1000, UTC))
        return self._stamp

    def _take_chunk(self, kind: str, data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Return what can be recorded now that this event has come."""
        key = (kind, {name: value for name, value in data.items() if name != "text"})
        ready = self._release_chunk() if self._chunks and self._chunks[:2] != key else []
        if not self._chunks:
            self._chunks = (*key, StreamRedactor(self.redactor))
        text = self._chunks[2].feed(data["text"])
        return [*ready, (kind, {**key[1], "text": text})] if text else ready

    def _release_chunk(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return what was held back, to be recorded."""
        if not self._chunks:
            return []
        kind, data, stream = self._chunks
        self._chunks = None
        rest = stream.close()
        return [(kind, {**data, "text": rest})] if rest else []

    def _lose(self, count: int, error: OSError) -> None:
        self.lost += count
        self._note(error)
        self._seq = self._durable_seq  # so that the following events are numbered without a gap
        try:
            os.ftruncate(self._fd, self._end)
        except OSError:
            self._end = os.fstat(self._fd).st_size  # the next open drops the partial line


def encode_event(event: Event) -> str:
    """Return the line of an event."""
    return (
        f'{{"v":{TRANSCRIPT_VERSION},"seq":{event.seq},"ts":"{event.ts}","type":{_encode_type(event.type)},'
        f'"turn":{event.turn},"data":{_encode_value(event.data)}}}\n'
    )


@lru_cache(256)
def _encode_type(kind: str) -> str:
    return _encode_value(kind)


def _write_at(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _recover(fd: int, path: Path) -> tuple[int, int]:
    """Drop a partial last line; return the last `seq` (0 for none) and the length of the file."""
    size = os.fstat(fd).st_size
    end = end_of_last_line(fd, size)
    if end < size:
        os.ftruncate(fd, end)
    last = next(read_events_backwards(path), None) if end else None  # damaged lines before it stay as they are
    return (last.seq if last else 0), end
