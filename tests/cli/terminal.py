"""A terminal in which csa runs, for tests: what it shows, its keys, and its size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

import pyte

from tests.support import CSA, PATIENCE_S

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
SHELLS = ("bash", "zsh", "fish")
_LOOK_S = 0.1  # what is waited for need not be shown
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Surroundings(Protocol):
    """Where a command runs."""

    @property
    def project(self) -> Path: ...

    def environment(self, changes: Mapping[str, str | None] | None) -> dict[str, str]: ...


class _Screen(pyte.Screen):
    """A screen that passes over what only asks the terminal something: gemini sends `CSI ? 4 m`."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Terminal:
    """A command with a terminal of its own; end it before leaving the `with` block."""

    patience_s = PATIENCE_S

    def __init__(
        self,
        place: Surroundings,
        *words: str,
        size: tuple[int, int] = (80, 24),
        env: dict[str, str | None] | None = None,
        stdout: int | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.output = ""
        self.screen = _Screen(*size)
        self._emulator = pyte.ByteStream(self.screen)
        self.resize(*size)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs  # kept open, so that it can be asked for its settings afterwards
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *(words if words[0] in SHELLS else (CSA, *words))],
            cwd=place.project,
            env=place.environment({"TERM": "xterm-256color", "COLUMNS": None, "LINES": None, **(env or {})}),
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self.theirs)
        os.close(self._ours)

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    @property
    def text(self) -> str:
        """All that was written, without colours."""
        return _STYLE.sub("", self.output)

    @property
    def frame(self) -> list[str]:
        """The lines that the terminal shows, those below the last text left out."""
        lines = [line.rstrip() for line in self.screen.display]
        return lines[: max((at + 1 for at, line in enumerate(lines) if line), default=0)]

    @property
    def marked(self) -> str:
        """The line that is shown in reverse."""
        rows = ((row, self.screen.buffer[row][0].reverse) for row in range(self.screen.lines))
        return next((self.screen.display[row].rstrip() for row, is_reverse in rows if is_reverse), "")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Read until something is so."""
        deadline = time.monotonic() + self.patience_s
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"did not happen: {what}; shown: {self.frame}, {self.output!r}"
            assert self._read(min(left, _LOOK_S)), f"ended before: {what}; shown: {self.output!r}"

    def wait_for(self, text: str) -> None:
        self.wait(lambda: text in self.text, text)

    def wait_for_frame(self, *texts: str, columns: int | None = None) -> list[str]:
        """Read until what is shown holds these texts, its first line as wide as given; return its lines."""

        def is_there() -> bool:
            frame = self.frame
            is_full = columns is None or (bool(frame) and len(frame[0]) == columns)
            return is_full and all(text in "\n".join(frame) for text in texts)

        self.wait(is_there, " and ".join(texts))
        return self.frame

    def end(self) -> int:
        """Read what is written up to the end; return the exit code."""
        while self.process.poll() is None or select.select([self._ours], [], [], 0)[0]:
            self._read(0.02)
        return self.process.returncode

    def _read(self, within_s: float) -> bool:
        if not select.select([self._ours], [], [], within_s)[0]:
            return True
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self._receive(chunk)
        return bool(chunk)

    def _receive(self, chunk: bytes) -> None:
        text = chunk.decode(errors="replace")
        self.output += text
        self._emulator.feed(chunk)
