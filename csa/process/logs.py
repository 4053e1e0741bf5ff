"""stdout.log and stderr.log: the tool's output, redacted, up to a size limit (the oldest part is dropped)."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from csa.model.redaction import Redactor, StreamRedactor
from csa.ownership import open_private

MAX_LOG_BYTES = 64 << 20
_REPLACING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK  # a pipe would wait for a reader


class OutputLog:
    """Appends to one log. A full or read-only disk is noted in `fault` and otherwise ignored.

    The log is two files while it runs, each of half the cap: when the newer is full it replaces the older.
    """

    def __init__(self, path: Path, redactor: Redactor, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.fault: OSError | None = None
        self._path = path
        self._older = path.with_name(path.name + ".older")
        self._half = max_bytes // 2
        self._redactor = StreamRedactor(redactor)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._size = 0
        self._written = 0
        self._dropped = 0
        self._fd = -1
        self._is_sealed = False
        self._open()

    def seal(self) -> None:
        """Stop writing."""
        self._is_sealed = True

    def write(self, chunk: bytes) -> None:
        """Take the tool's next bytes."""
        self._append(self._redactor.feed(self._decoder.decode(chunk)))

    def flush(self) -> int:
        """Write what was held back, as one process of the tool has ended; return how many bytes the log has had."""
        self._append(self._redactor.feed(self._decoder.decode(b"", final=True)))
        self._append(self._redactor.close())
        return self._written

    def close(self) -> None:
        """Write what was held back, and join the two halves."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._older.exists() and not self._is_sealed:
            self._join()

    def _append(self, text: str) -> None:
        if not text or self.fault or self._is_sealed:
            return
        content = text.encode("utf-8", "surrogateescape")
        try:
            if self._size + len(content) > self._half and self._size:
                self._rotate()
            view = memoryview(content)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(content)
            self._written += len(content)
        except OSError as error:
            self.fault = error

    def _open(self) -> None:
        try:
            self._fd = open_private(self._path, _REPLACING)
        except OSError as error:
            self.fault = error

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        if self._older.exists():
            self._dropped += self._older.stat().st_size
        os.replace(self._path, self._older)
        self._size = 0
        self._open()

    def _join(self) -> None:
        """Append the newer half to the older one, below a line that says what is missing."""
        import shutil  # noqa: PLC0415  # few logs get that long

        joined = self._path.with_name(self._path.name + ".joined")
        try:
            with open(open_private(joined, _REPLACING), "wb") as file:
                if self._dropped:
                    file.write(f"[csa: the oldest {self._dropped} bytes were dropped]\n".encode())
                for half in (self._older, self._path):
                    with open(os.open(half, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            os.replace(joined, self._path)
            self._older.unlink()
        except OSError as error:
            self.fault = error
