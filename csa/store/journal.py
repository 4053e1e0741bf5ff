"""Writing transcript.jsonl, the append-only journal of a session.

One writer (the supervisor), which redacts. Lines are numbered without gaps; a partial last line, left by a crash, is
dropped by the next writer. Writing never fails a run: what could not be written is counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from csa.model.events import TRANSCRIPT_VERSION, Event
from csa.model.redaction import Redactor, StreamRedactor
from csa.model.state import format_time
from csa.store.transcript import end_of_last_line, read_events_backwards

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class Journal:
    """The writer of one transcript. `turn` is stamped on every event; `lost` counts events that were not written."""

    def __init__(
        self,
        path: Path,
        redactor: Redactor,
        *,
        turn: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.turn = turn
        self.lost = 0
        self.fault: OSError | None = None
        self._redactor = redactor
        self._clock_ns = clock_ns
        self._stamped_ms = -1
        self._stamp = ""
        self._chunks: tuple[str, Mapping[str, Any], StreamRedactor] | None = None
        self._buffer: list[bytes] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._durable_seq, self._end = _recover(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise
        self._seq = self._durable_seq

    def append(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Take an event; return the events as they were recorded, redacted.

        Mostly that is one. The end of a streamed chunk that may be the beginning of a secret is held back and recorded
        with the next chunk, or before the next event of another type.
        """
        if data.get("chunk") is True and isinstance(data.get("text"), str):
            return self._append_chunk(kind, data)
        held = self._release_chunk() if self._chunks else []
        return [*held, self._record(kind, data)]

    def flush(self) -> None:
        """Hand the buffered lines to the kernel. A failure drops them, counts them and keeps the file whole."""
        if not self._buffer:
            return
        content, count = b"".join(self._buffer), len(self._buffer)
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
        try:
            os.fsync(self._fd)
        except OSError as error:
            self.fault = self.fault or error

    def close(self) -> None:
        """Flush and close; harmless when done twice."""
        if self._fd < 0:
            return
        if self._chunks:
            self._release_chunk()
        self.flush()
        os.close(self._fd)
        self._fd = -1

    def _record(self, kind: str, data: Mapping[str, Any]) -> Event:
        self._seq += 1
        event = Event(self._seq, self._now(), kind, self.turn, data)
        line = _encode(event)
        if self._redactor.may_hold_secret(line):
            event = Event(event.seq, event.ts, kind, self.turn, self._redactor.redact_data(data))
            line = _encode(event)
        self._buffer.append(line.encode("utf-8", "backslashreplace"))
        return event

    def _now(self) -> str:
        """Return the time, rendered once a millisecond."""
        ms = self._clock_ns() // 1_000_000
        if ms != self._stamped_ms:
            self._stamped_ms = ms
            self._stamp = format_time(datetime.fromtimestamp(ms / 1000, UTC))
        return self._stamp

    def _append_chunk(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        key = (kind, {name: value for name, value in data.items() if name != "text"})
        events: list[Event] = []
        if self._chunks and self._chunks[:2] != key:
            events = self._release_chunk()
        if not self._chunks:
            self._chunks = (*key, StreamRedactor(self._redactor))
        ready = self._chunks[2].feed(data["text"])
        return [*events, self._record(kind, {**key[1], "text": ready})] if ready else events

    def _release_chunk(self) -> list[Event]:
        if not self._chunks:
            return []
        kind, data, stream = self._chunks
        self._chunks = None
        rest = stream.close()
        return [self._record(kind, {**data, "text": rest})] if rest else []

    def _lose(self, count: int, error: OSError) -> None:
        self.lost += count
        self.fault = error
        self._seq = self._durable_seq  # so that what follows is numbered without a gap
        try:
            os.ftruncate(self._fd, self._end)
        except OSError:
            self._end = os.fstat(self._fd).st_size  # the next open drops the partial line


def _encode(event: Event) -> str:
    return (
        f'{{"v":{TRANSCRIPT_VERSION},"seq":{event.seq},"ts":"{event.ts}","type":{_encode_type(event.type)},'
        f'"turn":{event.turn},"data":{_ENCODE(event.data)}}}\n'
    )


@lru_cache(256)
def _encode_type(kind: str) -> str:
    return _ENCODE(kind)


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
    last = next(read_events_backwards(path), None)  # damaged lines before it stay as they are
    return (last.seq if last else 0), end
