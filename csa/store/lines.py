"""A transcript's whole lines by position: byte offsets, and the numbers of events. Nothing is written.

Lines are passed on as they are, without being parsed; an event's number stands at the line's beginning. As numbers only
grow, the place of one is found by halving, however long the transcript is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Self

from csa.errors import StateError
from csa.store.atomic import open_regular
from csa.store.transcript import end_of_last_line, lines_backwards, parse_line

BLOCK = 64 << 10
_STEP = 4 << 10  # bytes that are searched for the end of a line at first
_HIGHEST = 1 << 62
_TYPE = re.compile(r"\w{1,40}", re.ASCII)  # what cannot end a line of a stream
_HEAD = re.compile(rb'\{"v":\s?\d+,\s?"seq":\s?(\d{1,18}),\s?"ts":\s?"[^"]{0,40}",\s?"type":\s?"(\w{1,40})"')


def head_of(line: bytes) -> tuple[int, str] | None:
    """Return the number and the type of a line's event; None if it is not an event."""
    if found := _HEAD.match(line):
        return int(found[1]), found[2].decode()
    event = parse_line(line)  # as another implementation writes it
    return (event.seq, event.type if _TYPE.fullmatch(event.type) else "other") if event else None


class Lines:
    """A transcript, kept open, so that the end of one that is deleted is seen too; StateError if unreadable."""

    def __init__(self, transcript: Path) -> None:
        self._path = transcript
        self._fd = -1

    def end(self) -> int:
        """Return where the last whole line ends; 0 while there is none."""
        if self._fd < 0 and not self._open():
            return 0
        try:
            return end_of_last_line(self._fd, os.fstat(self._fd).st_size)
        except OSError as error:
            raise StateError.unreadable(self._path, error) from error

    def size(self) -> int:
        """Return the size, which costs one system call: `end` is only worth asking when it has changed."""
        return os.fstat(self._fd).st_size if self._fd >= 0 or self._open() else 0

    def is_replaced(self) -> bool:
        """Say whether another file has taken its place: one that is encrypted, or opened, or was repaired."""
        try:
            return self._fd >= 0 and not os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:  # it is gone, and what is open is all there is
            return False

    def block(self, at: int, end: int) -> bytes:
        """Return whole lines between two offsets, about a block of them, but at least one if there is one."""
        size = BLOCK
        while at < end:
            found = self._pread(min(size, end - at), at)
            if (cut := found.rfind(b"\n") + 1) or len(found) < size:
                return found[:cut]
            size *= 2  # a line longer than a block
        return b""

    def after(self, seq: int, end: int) -> int:
        """Return where the first line begins whose event has a number above `seq`; `end` if there is none."""
        low, high = 0, end
        while low < high:
            middle = (low + high) // 2
            number, _ = self._event_from(middle, end)
            if number is None or number > seq:
                high = middle
            else:
                low = middle + 1
        return self._event_from(low, end)[1]

    def before(self, seq: int, end: int, limit: int) -> list[bytes]:
        """Return the last `limit` lines of events with numbers below `seq`, in their order."""
        at = self.after(seq - 1, end)
        try:
            found = list(islice(filter(head_of, lines_backwards(self._fd, at)), limit))
        except OSError as error:
            raise StateError.unreadable(self._path, error) from error
        return found[::-1]

    def last(self, end: int) -> int:
        """Return the number of the last event before an offset; 0 if there is none."""
        found = self.before(_HIGHEST, end, 1)
        return head[0] if found and (head := head_of(found[0])) else 0

    def from_(self, at: int, end: int) -> Iterator[bytes]:
        """Yield the lines of events between two offsets."""
        while block := self.block(at, end):
            yield from filter(head_of, block.split(b"\n"))
            at += len(block)

    def _event_from(self, at: int, end: int) -> tuple[int | None, int]:
        """Return the number of the first event whose line begins at an offset or later, and where; None and `end`."""
        start = at and self._line_end(at - 1, end)
        while start < end:
            after = self._line_end(start, end)
            if head := head_of(self._pread(after - start, start)):
                return head[0], start
            start = after
        return None, end

    def _line_end(self, at: int, end: int) -> int:
        """Return the offset after the first line end at an offset or later."""
        size = _STEP
        while at < end:
            found = self._pread(min(size, end - at), at).find(b"\n")
            if found >= 0:
                return at + found + 1
            at, size = at + size, 2 * size
        return end

    def _pread(self, size: int, at: int) -> bytes:
        try:
            return os.pread(self._fd, size, at)
        except OSError as error:
            raise StateError.unreadable(self._path, error) from error

    def _open(self) -> bool:
        try:
            self._fd = open_regular(self._path)
        except FileNotFoundError:  # there is none before the first event
            return False
        except OSError as error:
            raise StateError.unreadable(self._path, error) from error
        return True

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_page(
    transcript: Path, *, after: int | None = None, before: int | None = None, limit: int | None = None
) -> list[bytes]:
    """Return the lines of events with numbers above `after` and below `before`: the first `limit` of them.

    Without `after` the last `limit`.
    """
    with Lines(transcript) as lines:
        end = lines.end()
        if after is None and limit is not None:
            return lines.before(before if before is not None else _HIGHEST, end, limit)
        until = end if before is None else lines.after(before - 1, end)
        return list(islice(lines.from_(0 if after is None else lines.after(after, end), until), limit))


def start_of_tail(file: IO[bytes], count: int) -> int:
    """Return where the last `count` lines of a file begin; one that is still being written counts."""
    fd = file.fileno()
    at = size = os.fstat(fd).st_size
    wanted = count + (size > 0 and os.pread(fd, 1, size - 1) == b"\n")
    while at and wanted:
        start = max(0, at - BLOCK)
        block, end = os.pread(fd, at - start, start), at - start
        while wanted and (end := block.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if not wanted:
                return start + end + 1
        at = start
    return size if not count else 0
