"""Drawing lines again and again in one place of a terminal: over the whole screen, or below what was printed before.

The only module that imports rich. The whole screen is the alternate one, so that it leaves nothing behind.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from csa.cli.live import REFRESH_S, REST, Line
from csa.cli.output import Style, display_width, lossy, terminal_size
from csa.process.wakeup import woken_by

_ENDS = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGHUP: 129}
_WAKES = (*_ENDS, signal.SIGTSTP, signal.SIGWINCH)


class Screen:
    """A place on the terminal of `stream`, between `start` and `stop`."""

    def __init__(self, stream: IO[str], *, whole: bool) -> None:
        self._stream = stream
        self._whole = whole
        self._is_styled = Style(stream).enabled
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._live = self._new_live()
        self._echo = _Echo(stream.fileno())
        self._drawn: tuple[tuple[int, int], list[Line]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        return terminal_size(self._stream)

    def start(self) -> None:
        """Begin to draw."""
        if not self._whole:  # there the keys are read (see `watch`)
            self._echo.start()
        self._live.start()

    def stop(self) -> None:
        """Remove what was drawn."""
        try:
            self._make_way()
            self._live.stop()
        finally:
            self._echo.stop()
        self._live = self._new_live()
        self._drawn = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with lossy(self._stream):  # the terminal may be gone
            self.stop()

    def draw(self, lines: list[Line]) -> None:
        """Show these lines instead of those before."""
        if not self._whole:
            self._echo.turn_off()
        size = self.size
        if self._drawn == (size, lines):
            return
        self._make_way()
        self._drawn = (size, lines)
        self._live.update(Text("\n").join(map(self._text, lines)), refresh=True)

    def print(self, text: str, style: str) -> None:
        """Print a line that stays, above what is drawn."""
        self._console.print(Text(text, style=style))

    def _new_live(self) -> Live:
        return Live(
            console=self._console,
            screen=self._whole,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,  # the answer goes where the caller has sent stdout
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def _text(self, line: Line) -> Text:
        pieces = [(text, style if self._is_styled else "") for text, style in line]
        return Text.assemble(*pieces, no_wrap=True, overflow="crop")

    def _make_way(self) -> None:
        """Remove what a terminal that has become narrower has made of the lines: it folds each that is too long."""
        columns, rows = self.size
        self._console.size = (columns, rows)
        if self._whole or not self._drawn or self._drawn[0][0] <= columns:
            return
        folds = sum((sum(display_width(text) for text, _ in line) - 1) // columns for line in self._drawn[1])
        up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        self._console.control(Control(*(up * min(folds, rows))))


class _Echo:
    """The terminal's echo of keys: of `^C`, say, which moves the cursor away from where the next lines are expected.

    It is off between `start` and `stop`, and back while Ctrl-Z has us stopped. In the background the terminal is
    another's, and is left alone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_off = False  # by us
        self._heeded: Any = signal.SIG_IGN

    def start(self) -> None:
        """Begin; `turn_off` is to be called again and again, as who goes on after Ctrl-Z does not know when."""
        self._heeded = signal.getsignal(signal.SIGTSTP)
        if self._heeded is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._pause)

    def turn_off(self) -> None:
        """Turn it off, unless it is."""
        self._is_off = self._set(echo=False) or self._is_off

    def stop(self) -> None:
        """Turn it on, if we have turned it off."""
        self._turn_on()
        if self._heeded is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _pause(self, *_: object) -> None:
        self._turn_on()
        _pause()

    def _turn_on(self) -> None:
        if self._is_off:
            self._set(echo=True)
        self._is_off = False

    def _set(self, *, echo: bool) -> bool:
        """Say whether that has changed anything."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # it would stop us where we are too late
        try:
            attributes = termios.tcgetattr(self._fd)
            if bool(attributes[3] & termios.ECHO) == echo or os.tcgetpgrp(self._fd) != os.getpgrp():
                return False
            attributes[3] ^= termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        except (OSError, termios.error):  # the terminal is gone, or does not control us
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return True


def watch(frame: Callable[[int, int], list[Line]]) -> int:
    """Show what `frame` makes of columns and lines on stdout's whole screen, until `q` or a signal; give the exit code.

    A frame that takes long is made less often.
    """
    screen = Screen(sys.stdout, whole=True)
    frame(*screen.size)  # before the screen changes: the first may take a while, and Ctrl-C ends it as ever
    with woken_by(_WAKES) as wakes:
        while (code := _watch(screen, frame, wakes)) is None:
            _pause()
    return code


def _watch(screen: Screen, frame: Callable[[int, int], list[Line]], wakes: int) -> int | None:
    """Draw until the end, and return the exit code; None when the shell wants us stopped (Ctrl-Z)."""
    with _keys() as keys, screen:
        while True:
            began = time.monotonic()
            screen.draw(frame(*screen.size))
            rest = max(REFRESH_S, REST * (time.monotonic() - began))
            ready = select.select([wakes, *keys], [], [], rest)[0]
            for number in os.read(wakes, 64) if wakes in ready else b"":
                if number in _ENDS:
                    return _ENDS[signal.Signals(number)]
                if number == signal.SIGTSTP:
                    return None
            if any(_is_quit(key) for key in keys if key in ready):
                return 0


def _pause() -> None:
    """Stop, as the signal would have had us do; a process whose shell is gone is not stopped."""
    heeded = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, heeded)


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Yield stdin, where that is a terminal, with keys readable at once and not echoed."""
    if not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(fd, termios.TCSADRAIN, changed)
    try:
        yield [fd]
    finally:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _is_quit(fd: int) -> bool:
    """Say whether `q` was typed, or the terminal is gone."""
    try:
        typed = os.read(fd, 1024)
    except OSError:
        return True
    return not typed or b"q" in typed
