"""Lines out of a byte stream cut anywhere, in bounded memory whatever their length.

A line longer than `MAX_LINE_BYTES` has its long JSON strings shortened while it streams by, so that it stays valid
JSON: a 50 MB tool output costs no more memory than a small one, and the keys around it are still read.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 8 << 20
KEPT_STRING_BYTES = 256 << 10
_STRING_PART = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SAFE_TAIL_BYTES = 16  # longer than any escape sequence or character


class LineFramer:
    """Cuts bytes into lines, without their newlines."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._shortener: _StringShortener | None = None

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
        if not part:
            return
        if self._shortener is not None:
            part = self._shortener.feed(part)
        elif self._size + len(part) > self._max:
            self._shortener = _StringShortener()
            part = self._shortener.feed(b"".join([*self._parts, part]))
            self._parts.clear()
            self._size = 0
        if self._size < self._max:  # a line that is long without long strings is cut, and read as no JSON
            self._parts.append(part)
            self._size += len(part)

    def _take(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._shortener = None
        return line


class _StringShortener:
    """Copies JSON text, leaving out what long strings hold beyond `KEPT_STRING_BYTES`."""

    def __init__(self) -> None:
        self._in_string = False
        self._kept = 0
        self._dropped = 0
        self._pending = b""  # a backslash that ended the last chunk

    def feed(self, chunk: bytes) -> bytes:
        data = self._pending + chunk
        self._pending = b""
        out: list[bytes] = []
        at = 0
        while at < len(data):
            at = self._copy_string(data, at, out) if self._in_string else self._copy_outside(data, at, out)
        return b"".join(out)

    def _copy_outside(self, data: bytes, at: int, out: list[bytes]) -> int:
        quote = data.find(b'"', at)
        if quote < 0:
            out.append(data[at:])
            return len(data)
        out.append(data[at : quote + 1])
        self._in_string, self._kept, self._dropped = True, 0, 0
        return quote + 1

    def _copy_string(self, data: bytes, at: int, out: list[bytes]) -> int:
        match = _STRING_PART.match(data, at)
        end = match.end() if match else at
        self._keep(data[at:end], out)
        if end == len(data):
            return end
        if data[end : end + 1] == b"\\":
            self._pending = data[end:]
            return len(data)
        if self._dropped:
            out.append(f"... [{self._dropped} bytes left out]".encode())
        out.append(b'"')
        self._in_string = False
        return end + 1

    def _keep(self, part: bytes, out: list[bytes]) -> None:
        room = KEPT_STRING_BYTES - self._kept
        kept = b""
        if not self._dropped and room > 0:
            kept = part if len(part) <= room else _cut_safely(part[:room])
            out.append(kept)
            self._kept += len(kept)
        self._dropped += len(part) - len(kept)


def _cut_safely(part: bytes) -> bytes:
    """Cut before an escape or character that may be broken: behind a space, else well before the end."""
    space = part.rfind(b" ", max(0, len(part) - 4096))
    if space >= 0:
        return part[:space]
    end = len(part) - _SAFE_TAIL_BYTES
    backslash = part.rfind(b"\\", end - _SAFE_TAIL_BYTES, end)
    end = backslash if backslash >= 0 else end
    while end > 0 and part[end - 1] >= 0x80:  # noqa: PLR2004  # inside a UTF-8 sequence
        end -= 1
    return part[: max(0, end)]
