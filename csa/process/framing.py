"""Lines out of a byte stream cut anywhere, in bounded memory whatever their length.

A line longer than `MAX_LINE_BYTES` has its long JSON strings shortened while it streams by, so that it stays valid
JSON: a 50 MB tool output costs no more memory than a small one, and the keys around it are still read.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 8 << 20
KEPT_STRING_BYTES = 256 << 10
_STRING_PART = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_CHARACTER = (
    rb"[\x00-\x21\x23-\x5b\x5d-\x7f]|\\u[0-9a-fA-F]{4}|\\[^u]"
    rb"|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_CHARACTERS = re.compile(rb"(?:" + _CHARACTER + rb")*+", re.DOTALL)
_CUT_CHARACTER = re.compile(
    rb"(?:\\(?:u[0-9a-fA-F]{0,3})?|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)


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
        self._pending = b""  # the beginning of an escape or character that ended the last chunk

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
        end = _end_of_string(data, at)
        if data[end : end + 1] != b'"':  # the chunk ends inside the string: what it cuts in two waits for the next
            end = max(at, len(data) - _length_of_cut_character(data))
            self._keep(data[at:end], out)
            self._pending = data[end:]
            return len(data)
        self._keep(data[at:end], out)
        if self._dropped:
            out.append(f"... [{self._dropped} bytes left out]".encode())
        out.append(b'"')
        self._in_string = False
        return end + 1

    def _keep(self, part: bytes, out: list[bytes]) -> None:
        """Keep what there is room for, in whole characters and escapes."""
        room = KEPT_STRING_BYTES - self._kept
        kept = b""
        if not self._dropped:
            match = _CHARACTERS.match(part, 0, room) if len(part) > room else None
            kept = match[0] if match else part
            out.append(kept)
            self._kept += len(kept)
        self._dropped += len(part) - len(kept)


def _end_of_string(data: bytes, at: int) -> int:
    """Return where the closing quote is of the string that goes on at `at`; where there is none, no quote is."""
    quote = data.find(b'"', at)
    if quote < 0:
        return len(data)
    if data[quote - 1 : quote] != b"\\":  # looking for one byte is a hundred times as fast as the pattern
        return quote
    match = _STRING_PART.match(data, at)
    return match.end() if match else at


def _length_of_cut_character(data: bytes) -> int:
    """Count the bytes at the end that begin an escape sequence or a character and do not complete it."""
    match = _CUT_CHARACTER.search(data, max(0, len(data) - 6))
    if match is None:
        return 0
    before = data[: match.start()]
    if match[0][:1] == b"\\" and (len(before) - len(before.rstrip(b"\\"))) % 2:
        return 0  # that backslash is itself escaped
    return len(match[0])
