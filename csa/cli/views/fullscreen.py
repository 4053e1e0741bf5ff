"""Full-screen interactive views: draws their lines, and passes keys to the one on top.

With lineedit.py the only module that imports prompt_toolkit, which decodes keys, draws changes, and keeps the terminal
in raw mode meanwhile. The terminal is always restored: before a signal stops or kills us, before another command uses
it, and at the end. A view's `look` runs in its own thread, so that a slow disk does not delay keys.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, Self

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import ColorDepth, create_output

from csa.cli.output import Style, is_in_background, lossy, terminal_size
from csa.cli.views.eventloop import run_with_signals
from csa.cli.views.live import REFRESH_S, REST, Line
from csa.process.wakeup import heeded
from csa.structs import Struct

_ENDS: dict[int, int] = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGHUP: 129}
OBEYED = (signal.SIGQUIT, signal.SIGABRT, signal.SIGXCPU, signal.SIGTSTP)  # once the terminal is restored
_SIGNALS = {"c-c": signal.SIGINT, "c-z": signal.SIGTSTP, "c-\\": signal.SIGQUIT}  # keys of a cooked terminal
_NAMES = {"c-m": "enter", "c-j": "enter", "c-h": "backspace", "<bracketed-paste>": "paste"}
_ESCAPE_S = 0.05  # bytes that follow an Esc this quickly belong to one key
_LOOK_FOR_TERMINAL_S = 0.2
_STYLES = {"cyan": "ansicyan", "red": "ansired", "green": "ansigreen", "yellow": "ansiyellow"}


class View(Protocol):
    """A full-screen view."""

    def look(self) -> None:
        """Gather what to show; called repeatedly, in a separate thread."""

    def lines(self, width: int, height: int) -> Sequence[Line | str]:
        """Return what to show, at most `height` lines; text may have SGR sequences."""

    def press(self, key: str, text: str) -> Step | None:
        """Handle a key; `text` is what it types, if anything. Return where that leads."""


class Step(Struct):
    """Where a key leads: back to the view below, to another view, or to a command that needs the terminal.

    `outside` returns None to come back, or csa's exit code.
    """

    to: View | None = None
    outside: Callable[[], int | None] | None = None


BACK = Step()


def show(view: View) -> int:
    """Show a view, and those it leads to, until the first is left or a signal ends it; return the exit code."""
    views = [view]
    view.look()  # before the screen changes: the first look may take a while, and Ctrl-C ends it as usual
    with _Looker(views) as looker:
        while True:
            _wait_for_terminal()
            ended = _Showing(views, looker).run()
            if ended.outside:
                code = ended.outside()
                if code is not None:
                    return code
            elif ended.by in _ENDS:
                return _ENDS[ended.by]
            elif ended.by != signal.SIGCONT:
                obey(ended.by, with_job=ended.was_typed)
            if not views:
                return 0


class _Ended(Struct):
    """Why the terminal was restored: a signal (or its key), or a command that needs it."""

    by: int = 0
    was_typed: bool = False
    outside: Callable[[], int | None] | None = None


class _Looker:
    """The thread that looks, at most a fifth of the time; nobody waits for it."""

    def __init__(self, views: list[View]) -> None:
        self._views = views
        self._is_over = False
        self._soon = threading.Event()
        self.fault: Exception | None = None
        self.tell: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.look_soon()

    def look_soon(self) -> None:
        """Do not wait until the next look is due."""
        self._soon.set()

    def _run(self) -> None:
        while not self._is_over:
            began = time.monotonic()
            try:
                for view in self._views[-1:]:
                    view.look()
            except Exception as error:  # noqa: BLE001  # it is raised where it can be seen
                self.fault = error
            self.tell()
            self._soon.wait(max(REFRESH_S, REST * (time.monotonic() - began)))
            self._soon.clear()


class _Showing:
    """One period of control over the terminal."""

    def __init__(self, views: list[View], looker: _Looker) -> None:
        self._views = views
        self._looker = looker
        self._is_styled = Style(sys.stdout).enabled
        self._is_stale = True  # a key may have changed what is shown
        self._drawn: object = None
        self._size = 0, 0
        self._text: StyleAndTextTuples = []
        bindings = KeyBindings()
        bindings.add(Keys.Any, eager=True)(self._press)
        window = Window(FormattedTextControl(self._show, show_cursor=False), always_hide_cursor=True)
        self._app: Application[_Ended] = Application(
            Layout(window),
            key_bindings=bindings,
            full_screen=True,
            input=create_input(always_prefer_tty=True),
            output=create_output(sys.stdout),
            color_depth=ColorDepth.DEPTH_4_BIT,  # csa decides about colours
            include_default_pygments_style=False,
            enable_page_navigation_bindings=False,
        )
        self._app.ttimeoutlen = _ESCAPE_S

    def run(self) -> _Ended:
        """Show the views until something needs the terminal."""
        ended = _Ended(signal.SIGHUP)
        taken = heeded([*map(signal.Signals, _ENDS), *OBEYED, signal.SIGCONT])
        handlers = {number: partial(self._end, _Ended(number)) for number in taken}
        with lossy(sys.stdout):  # the terminal may be gone
            try:
                ended = run_with_signals(self._run, handlers)
            except EOFError:
                pass
            except KeyboardInterrupt:  # it came before or after that
                ended = _Ended(signal.SIGINT)
            finally:
                self._looker.tell = lambda: None
        if self._looker.fault:
            raise self._looker.fault
        return ended

    async def _run(self) -> _Ended:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        self._looker.tell = lambda: self._refresh_from(loop)
        return await self._app.run_async(handle_sigint=False, set_exception_handler=False)

    def _end(self, ended: _Ended) -> None:
        if self._app.future and not self._app.future.done():
            self._app.exit(result=ended)

    def _fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and self._app.future and not self._app.future.done():
            self._app.exit(exception=error)

    def _refresh_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Draw changes; called in another thread, perhaps after our end."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._refresh)

    def _refresh(self) -> None:
        if self._looker.fault:
            self._end(_Ended())
        elif self._has_changed():
            self._app.invalidate()

    def _has_changed(self) -> bool:
        """Say whether the top view's lines have changed; drawing costs more than computing them."""
        width, height = size = terminal_size(sys.stdout)
        lines = self._views[-1].lines(width, height) if self._views else []
        self._is_stale = False
        if (size, lines) == self._drawn:
            return False
        self._drawn, self._size = (size, lines), size
        self._text = []
        for at, line in enumerate(lines[:height]):
            self._text += [("", "\n")] if at else []
            self._text += (
                to_formatted_text(ANSI(line)) if isinstance(line, str) else styled(line, is_coloured=self._is_styled)
            )
        return True

    def _show(self) -> StyleAndTextTuples:
        if self._is_stale or self._size != terminal_size(sys.stdout):
            self._has_changed()
        return self._text

    def _press(self, event: KeyPressEvent) -> None:
        pressed = event.key_sequence[0]
        key = pressed.key.value if isinstance(pressed.key, Keys) else pressed.key
        if key in _SIGNALS:
            if key == "c-c" or heeded([_SIGNALS[key]]):
                self._end(_Ended(_SIGNALS[key], was_typed=True))
            return
        self._is_stale = True
        key = _NAMES.get(key, key)
        text = pressed.data if key == "paste" or not isinstance(pressed.key, Keys) else ""
        step = self._views[-1].press(key, text) if self._views else None
        if step is not None:
            self._go(step)

    def _go(self, step: Step) -> None:
        if step.outside:
            self._end(_Ended(outside=step.outside))
        elif step.to:
            step.to.lines(*terminal_size(sys.stdout))  # it gets its width before it looks
            self._views.append(step.to)
            self._looker.look_soon()
        else:
            self._views.pop()
            self._looker.look_soon()
            if not self._views:
                self._end(_Ended())


def _wait_for_terminal() -> None:
    """Be stopped until we are in the foreground."""
    while is_in_background(sys.stdout):
        signal.raise_signal(signal.SIGTTOU)
        time.sleep(_LOOK_FOR_TERMINAL_S)  # do not stop if no shell could continue us


def obey(number: int, *, with_job: bool = False) -> None:
    """Stop or die as the signal would have done, with our whole job if it came from a key."""
    if not number:
        return
    heeded_before = signal.signal(number, signal.SIG_DFL)
    if with_job:
        os.killpg(0, number)
    else:
        signal.raise_signal(number)
    signal.signal(number, heeded_before)


def styled(line: Line, *, is_coloured: bool) -> StyleAndTextTuples:
    """Return a line of a view as prompt_toolkit has it."""

    def style_of(name: str) -> str:
        return name if name == "reverse" else _STYLES.get(name, name) if is_coloured else ""

    return [(" ".join(filter(None, map(style_of, style.split()))), text) for text, style in line]
