"""A prompt at the bottom of the terminal, with lines of a view above it, while output goes by.

With fullscreen.py the only module that imports prompt_toolkit. What stands at the prompt stays when one period of
editing ends and the next begins. The terminal is restored at the end of each, before a signal stops or kills us, and
when something fails. `Entry`s say what a person wants; what comes of that is up to whoever asked.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import PromptSession

from csa.cli.output import Style, is_in_background, lossy, terminal_size
from csa.cli.views.eventloop import run_with_signals
from csa.cli.views.fullscreen import OBEYED, obey, styled
from csa.cli.views.live import Line
from csa.process.wakeup import heeded
from csa.structs import Struct

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEADLY = (signal.SIGTERM, signal.SIGHUP)
_MENU_ROWS = 6


class Entry(Struct):
    """What a person wants: a line that was entered; Ctrl-C; Ctrl-D at an empty prompt; or a signal's number."""

    kind: str  # line, interrupt, leave, signal
    text: str = ""
    number: int = 0


class Candidate(Struct):
    """A completion: what replaces the last `length` characters, and what it is."""

    text: str
    length: int
    about: str = ""


class Editor:
    """The prompt. `above` lays out lines for a width and a height; `sign` stands before what is typed."""

    def __init__(
        self,
        *,
        past: Sequence[str],
        keep: Callable[[str], None],
        complete: Callable[[str], Iterable[Candidate]],
        above: Callable[[int, int], Sequence[Line]],
        sign: Callable[[], str],
    ) -> None:
        self._above = above
        self._sign = sign
        self._complete = complete
        self._is_styled = Style(sys.stdout).enabled
        self._given: list[Any] | None = None
        self._left = Document()
        self._heed: Callable[[Entry], None] = lambda _: None
        self._is_over, self._is_idle = True, True
        output = create_output(sys.stdout)
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # the answer to a question may come when nobody reads any more
        self._session: PromptSession[str] = PromptSession(
            message=self._message,
            multiline=True,
            completer=_Completer(complete),
            complete_while_typing=Condition(self._is_command),
            reserve_space_for_menu=_MENU_ROWS,
            history=_History(past, keep),
            prompt_continuation=lambda width, _line, _wrapped: " " * width,
            key_bindings=self._bindings(),
            color_depth=ColorDepth.DEPTH_4_BIT if self._is_styled else ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            erase_when_done=True,
            input=create_input(sys.stdin),
            output=output,
        )
        self._session.default_buffer.accept_handler = self._accept

    def __enter__(self) -> Self:
        """Take the terminal: keys that are pressed while nobody reads them wait, unechoed, for the next period."""
        self._given = _settings()
        self._hold()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back as it was."""
        _set(self._given)
        for number in heeded(_DEADLY):
            signal.signal(number, signal.SIG_DFL)

    def _hold(self) -> None:
        if self._given:
            quiet = [*self._given[:6], list(self._given[6])]
            quiet[0] &= ~(termios.ICRNL | termios.INLCR)
            quiet[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)  # Ctrl-C and Ctrl-Z work as usual
            _set(quiet)
        for number in heeded(_DEADLY):
            signal.signal(number, _leave)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have the terminal as it was given meanwhile, for what has its own use for it."""
        _set(self._given)
        try:
            yield
        finally:
            self._hold()

    def read(self) -> Entry:
        """Return the next thing that is wanted."""
        found: list[Entry] = []
        self.open()

        def end(entry: Entry) -> None:
            found.append(entry)
            self.close()

        handlers = {number: partial(end, _signalled(number)) for number in heeded(_ENDS)}
        with lossy(sys.stdout):  # the terminal may be gone
            try:
                run_with_signals(lambda: self.edit(end, is_idle=True), handlers)
            except KeyboardInterrupt:  # it came before or after that
                found.append(Entry("interrupt"))
            finally:
                self._hold()
        return found[0] if found else Entry("signal", number=signal.SIGHUP)

    async def edit(self, heed: Callable[[Entry], None], *, is_idle: bool = False) -> None:
        """Let a person type from `open` to `close`, or until the terminal is gone. Idle, Ctrl-C empties the prompt.

        `close` may come first.
        """
        if self._is_over:
            return
        self._heed, self._is_idle = heed, is_idle
        loop = asyncio.get_running_loop()
        taken = heeded([*OBEYED, signal.SIGCONT])
        for number in taken:
            loop.add_signal_handler(number, self._obey, number)
        try:
            await self._session.prompt_async(
                default=self._left, pre_run=self._begin, handle_sigint=False, set_exception_handler=False
            )
        except (EOFError, OSError):  # the terminal is gone
            self._is_over = True
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def open(self) -> None:
        """Have what comes next last until it is closed again."""
        self._is_over = False

    def close(self) -> None:
        """End the editing; what stands at the prompt is kept for the next time."""
        self._is_over = True
        app = self._session.app
        if app.is_running and not app.is_done:
            self._left = self._session.default_buffer.document
            app.exit(result="")

    def refill(self, text: str) -> None:
        """Put a text back to the prompt, if nothing else has been typed there."""
        buffer = self._session.default_buffer
        if self._session.app.is_running and not buffer.text:
            buffer.insert_text(text)
        elif not self._left.text:
            self._left = Document(text)

    def print(self, acts: Iterable[Callable[[], object]]) -> None:
        """Have things printed, above the prompt while there is one."""
        app = self._session.app
        if app.is_running:  # perhaps for its last moments
            app.renderer.erase()
        with lossy(sys.stdout):  # the terminal may be gone
            for act in acts:
                act()
            sys.stdout.flush()
        if app.is_running and not app.is_done:
            app.invalidate()

    def refresh(self) -> None:
        """Draw again, since what is above the prompt may have changed."""
        self._session.app.invalidate()

    def _begin(self) -> None:
        if self._is_over:
            self.close()

    def _message(self) -> StyleAndTextTuples:
        width, height = terminal_size(sys.stdout)
        typed = self._session.default_buffer.document.line_count + _MENU_ROWS * self._is_command()
        text: StyleAndTextTuples = []
        for line in self._above(width, max(1, height - typed - 2)):
            text += [*styled(line, is_coloured=self._is_styled), ("", "\n")]
        return [*text, ("bold", self._sign())]

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def _accept(self, _buffer: object) -> bool:
        text = self._session.default_buffer.text
        self._session.default_buffer.reset(append_to_history=bool(text.strip()))
        self._heed(Entry("line", text))
        return True  # it is reset already

    def _obey(self, number: int) -> None:
        """Stop or die with the terminal as it was; after that, draw again."""
        if number == signal.SIGCONT:
            self.refresh()
            return
        self._leave_terminal(lambda: obey(number))

    def _leave_terminal(self, act: Callable[[], None]) -> None:
        app = self._session.app
        app.renderer.erase()
        with app.input.detach(), app.input.cooked_mode():
            _set(self._given)
            act()
        app.renderer.reset()
        app.invalidate()

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("enter")(self._enter)
        keys.add("tab")(self._tab)
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        keys.add("c-c")(self._interrupt)
        is_empty = Condition(lambda: not self._session.default_buffer.text)
        keys.add("c-d", filter=is_empty)(lambda _: self._heed(Entry("leave")))
        keys.add("c-z")(lambda _: self._leave_for_key(signal.SIGTSTP))
        keys.add("c-\\")(lambda _: self._leave_for_key(signal.SIGQUIT))
        return keys

    def _enter(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def _tab(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        found = list(self._complete(buffer.document.text_before_cursor))
        if len(found) == 1:
            buffer.delete_before_cursor(found[0].length)
            buffer.insert_text(found[0].text)
            buffer.complete_state = None
        elif buffer.complete_state:
            buffer.complete_next()
        else:
            buffer.start_completion()

    def _interrupt(self, event: KeyPressEvent) -> None:
        if event.current_buffer.text and self._is_idle:
            event.current_buffer.reset()
        else:
            self._heed(Entry("interrupt"))

    def _leave_for_key(self, number: signal.Signals) -> None:
        if heeded([number]):
            self._leave_terminal(lambda: obey(number, with_job=True))


def _signalled(number: signal.Signals) -> Entry:
    return Entry("interrupt" if number == signal.SIGINT else "signal", number=number)


def _leave(number: int, _frame: object) -> None:
    """End as the signal would have had it, with the terminal given back on the way."""
    raise SystemExit(128 + number)


def _settings() -> list[Any] | None:
    with suppress(OSError, termios.error):  # the terminal is gone
        return termios.tcgetattr(sys.stdin)
    return None


def _set(settings: list[Any] | None) -> None:
    if settings and not is_in_background(sys.stdin):  # which it would stop
        with suppress(OSError, termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


class _History(History):
    """What was entered before, newest first; what is new is passed on to be kept."""

    def __init__(self, past: Sequence[str], keep: Callable[[str], None]) -> None:
        super().__init__()
        self._past = past
        self._keep = keep

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._past)

    def store_string(self, string: str) -> None:
        self._keep(string)


class _Completer(Completer):
    def __init__(self, complete: Callable[[str], Iterable[Candidate]]) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002  # its protocol
        for each in self._complete(document.text_before_cursor):
            yield Completion(each.text, -each.length, display_meta=each.about)
