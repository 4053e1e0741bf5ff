"""Splits a byte stream, cut anywhere, into lines, in bounded memory whatever their length."""

from __future__ import annotations

MAX_LINE_BYTES = 64 << 20  # a turn needs six times as much for a moment: as bytes, as text, as an event, as JSON again
KEPT_BYTES = 64 << 10  # of a longer line: no longer JSON, but enough to show what it was


class LineFramer:
    """Cuts bytes into lines, without newlines; `cut` has the lengths of those that were too long to keep."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.cut: list[int] = []
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines they complete."""
        first, *rest = chunk.split(b"\n")
        self._extend(first)
        if not rest:
            return []
        lines = [self._take(), *rest]
        self._extend(lines.pop())
        return lines

    def close(self) -> list[bytes]:
        """Return the last line if it did not end with a newline."""
        line = self._take()
        return [line] if line else []

    def _extend(self, part: bytes) -> None:
        if self._size <= self._max < self._size + len(part):
            self._parts = [_beginning([*self._parts, part])]
        elif part and self._size <= self._max:
            self._parts.append(part)
        self._size += len(part)

    def _take(self) -> bytes:
        if self._size > self._max:
            self.cut.append(self._size)
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line


def _beginning(parts: list[bytes]) -> bytes:
    """Return what is kept of a line, without putting all of it together."""
    kept = bytearray()
    for part in parts:
        kept += part[: KEPT_BYTES - len(kept)]
        if len(kept) == KEPT_BYTES:
            break
    return bytes(kept)
