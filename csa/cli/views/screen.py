"""Redrawing lines in one place of a terminal, below earlier output; and Markdown as it looks on one.

The only module that imports rich; full-screen views are in csa/cli/views/fullscreen.py.
"""

from __future__ import annotations

import io
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from csa.cli.output import Style, display_width, has_room, lossy, terminal_size
from csa.cli.views.live import REFRESH_S, Line

_DEATHS = (signal.SIGQUIT, signal.SIGABRT, signal.SIGXCPU)  # nothing else restores the terminal before them
_NOTICED_S = 3 * REFRESH_S  # regardless of the drawing: we were stopped


class Screen:
    """A place on the terminal of `stream`, between `start` and `stop`.

    Before a signal stops or kills us the terminal is restored, as between `leave` and the next `draw`.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._is_styled = Style(stream).enabled
        self._interruptions = _Interruptions(self._interrupted)
        self._echo = _Echo(stream.fileno())
        self._looked_at = time.monotonic()
        self._renew()

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and lines."""
        return terminal_size(self._stream)

    def start(self) -> None:
        """Prepare to draw."""
        self._interruptions.start()

    def stop(self) -> None:
        """Remove the drawing."""
        try:
            self.leave()
        finally:
            self._interruptions.stop()

    def leave(self) -> None:
        """Remove the drawing, and leave the terminal to another process for a while."""
        with self._interruptions.held():
            try:
                if self._live.is_started:
                    self._make_way()
                    self._live.stop()
            finally:
                self._echo.turn_on()
                self._renew()

    def _renew(self) -> None:
        """Forget the drawing."""
        self._console = Console(
            file=self._stream,
            force_terminal=True,
            no_color=not self._is_styled,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._live = self._new_live()
        self._drawn: tuple[tuple[int, int], list[Line]] | None = None

    def _interrupted(self, number: int) -> None:
        """Handle a signal that stops or kills us, or that continues us after an uncaught stop."""
        if number == signal.SIGCONT:
            if (
                time.monotonic() - self._looked_at > _NOTICED_S
            ):  # `csa kill` also sends it to processes that were not stopped
                self._renew()  # the shell has written meanwhile
            return
        with lossy(self._stream):
            if has_room(self._stream):
                self.leave()
        self._echo.turn_on()
        obey(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with lossy(self._stream):  # the terminal may be gone
            self.stop()

    def draw(self, lines: list[Line]) -> None:
        """Show these lines instead of the previous ones."""
        with self._interruptions.held():
            self._looked_at = time.monotonic()
            self._echo.turn_off()
            if not self._live.is_started:
                self._live.start()
            size = self.size
            if self._drawn == (size, lines):
                return
            self._make_way()
            self._drawn = (size, lines)
            self._live.update(Text("\n").join(map(self._text, lines)), refresh=True)

    def print(self, line: Line) -> None:
        """Print a line that stays, above the drawing."""
        pieces = [(text, style if self._is_styled else "") for text, style in line]
        with self._interruptions.held():
            self._console.print(Text.assemble(*pieces))

    def _new_live(self) -> Live:
        return Live(
            console=self._console,
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
        """Remove the lines after the terminal has become narrower, which wraps those that are too long."""
        columns, rows = self.size
        self._console.size = (columns, rows)
        if not self._drawn or self._drawn[0][0] <= columns:
            return
        folds = sum((sum(display_width(text) for text, _ in line) - 1) // columns for line in self._drawn[1])
        up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        self._console.control(Control(*(up * min(folds, rows))))


class _Interruptions:
    """Signals that stop or kill us, passed to `obeyed` between `start` and `stop`; ignored ones stay ignored.

    A signal that comes during a write to the terminal waits until that is done.
    """

    def __init__(self, obeyed: Callable[[int], None]) -> None:
        self._obeyed = obeyed
        self._taken: list[signal.Signals] = []
        self._waiting: list[int] = []
        self._is_held = False

    def start(self) -> None:
        for number in (signal.SIGTSTP, signal.SIGCONT, *_DEATHS):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._come)
                self._taken.append(number)

    def stop(self) -> None:
        for number in self._taken:
            signal.signal(number, signal.SIG_DFL)
        self._taken = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals meanwhile."""
        before, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = before
            while self._waiting and not before:
                self._obeyed(self._waiting.pop(0))

    def _come(self, number: int, _frame: object) -> None:
        if self._is_held:
            self._waiting.append(number)
        else:
            self._obeyed(number)


class _Echo:
    """The terminal's echo of keys, such as `^C`, which moves the cursor away from where the next lines are expected.

    In the background the terminal belongs to another process, and is left alone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_off = False  # by us

    def turn_off(self) -> None:
        """Turn it off, unless it is off."""
        self._is_off = self._set(echo=False) or self._is_off

    def turn_on(self) -> None:
        """Turn it on, if we have turned it off."""
        if self._is_off:
            self._set(echo=True)
        self._is_off = False

    def _set(self, *, echo: bool) -> bool:
        """Return whether that has changed anything."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # it would stop us at the wrong time
        try:
            attributes = termios.tcgetattr(self._fd)
            if bool(attributes[3] & termios.ECHO) == echo or os.tcgetpgrp(self._fd) != os.getpgrp():
                return False
            attributes[3] ^= termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        except (OSError, termios.error):  # the terminal is gone, or is not our controlling terminal
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return True


def render_markdown(text: str, width: int, *, is_styled: bool) -> str:
    """Return what a terminal shows of Markdown, as printable lines; nothing that was written is left out."""
    from rich.markdown import CodeBlock, Heading, Markdown, MarkdownIt  # type: ignore[attr-defined]  # noqa: PLC0415  # 50 ms
    from rich.syntax import Syntax  # noqa: PLC0415  # as above
    from rich.theme import Theme  # noqa: PLC0415  # as above

    class Left(Heading):
        LEVEL_ALIGN = {}  # noqa: RUF012  # as in the class

    class Code(CodeBlock):
        def __rich_console__(self, *_: object) -> Iterator[Syntax]:
            code = str(self.text).rstrip()
            yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 1))

    class Whole(Markdown):
        elements = {**Markdown.elements, "heading_open": Left, "fence": Code, "code_block": Code}  # noqa: RUF012  # as above

    shown = Whole("", code_theme="ansi_dark", hyperlinks=False)
    parser = MarkdownIt(options_update={"html": False})  # rich would drop what looks like a tag
    shown.parsed = parser.enable(["strikethrough", "table"]).parse(text)
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=is_styled,
        color_system="standard" if is_styled else None,
        highlight=False,
        emoji=False,
        theme=Theme({"markdown.code": "bold cyan"}),  # on whatever ground there is
    )
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").split("\n"))


def obey(number: int) -> None:
    """Stop or die, as the signal would have had us do; a process whose shell is gone is not stopped."""
    heeded = signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    signal.signal(number, heeded)
