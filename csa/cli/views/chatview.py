"""What a chat shows of a running turn: the conversation above the prompt, and what happens right now just above it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio import to_thread

from csa.cli.output import Style, fold, one_line, printable, tell, terminal_size
from csa.cli.views.lineedit import Editor, Entry
from csa.cli.views.live import REFRESH_S, REST, Line
from csa.cli.views.progress import Outcomes, Silence, Subject, room_on
from csa.cli.views.screen import render_markdown
from csa.cli.views.streaming import BlockStream
from csa.cli.views.turntree import TurnTree
from csa.model.events import Event
from csa.runner.client import Csa

_FLUSH_S = 0.1
_TAIL_ROWS = 6  # of a block that is not complete
_MOST_ROWS = 16


class ChatView(Silence):
    """The view of one turn; `heed` gets what the person does at the prompt meanwhile."""

    def __init__(self, client: Csa, editor: Editor, heed: Callable[[Entry], None]) -> None:
        self._client = client
        self._editor = editor
        editor.open()
        self._heed = heed
        self._outcomes = Outcomes()
        markdown = partial(render_markdown, is_styled=Style(sys.stdout).enabled)
        self._stream = BlockStream(sys.stdout, markdown)
        self._unprinted: list[Callable[[], object]] = []
        self._tree: TurnTree
        self._has_begun = self._has_ended = False
        self.denied = 0  # actions
        self.asks: list[str] = []  # what waits for an answer

    def begin(self, subject: Subject) -> None:
        """Begin to show it."""
        self._tree = TurnTree(self._client, subject)
        self._has_begun = True

    def above(self, width: int, height: int) -> Sequence[Line]:
        """Return what is drawn above the prompt."""
        if not self._has_begun or self._has_ended:
            return []
        height = min(height, _MOST_ROWS)
        said = [line for text in printable(self._stream.tail).split("\n") for line in fold(text, width) if line]
        tail: list[Line] = [[(line, "dim")] for line in said[-min(_TAIL_ROWS, height // 2) :]] if height > 1 else []
        return [*tail, *self._tree.lines(width, height - len(tail))]

    def show(self, event: Event) -> None:
        """Note an event; it is printed soon."""
        for kind, words in self._outcomes.take(event):
            self._write(self._stream.close())
            self._unprinted.append(partial(tell, kind, words))
        if event.type != "run_finished":
            self._write(self._stream.text(event))
        self._tree.note(event)
        if event.type == "permission":
            self._permission(event)

    def _permission(self, event: Event) -> None:
        self.denied += event.data.get("status") == "denied"
        if ask := event.data.get("ask"):
            if event.data.get("status") != "pending":  # decided, perhaps elsewhere
                self.asks = [each for each in self.asks if each != ask]
                return
            self.asks.append(str(ask))
            title = one_line(str(event.data.get("title") or "something"))
            self._unprinted.append(partial(tell, "csa", f"may it do this? {title}: /allow or /deny", by_name=False))

    async def keep_fresh(self) -> None:
        """Let the person type, print what comes and draw what happens, until `end`."""
        with anyio.CancelScope(shield=True):  # the terminal must be left in order
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_printing)
                tasks.start_soon(self._keep_looking)
                await self._editor.edit(self._heed)
                tasks.cancel_scope.cancel()
            if not self._has_ended:  # the terminal is gone
                signal.raise_signal(signal.SIGHUP)
            self.flush()

    def end(self) -> None:
        """Print the rest, and how it has ended."""
        self._write(self._stream.close())
        self._tree.finish()
        left = list(self._outcomes.left())
        if self._tree.others:
            lines, total = self._tree.last_lines(terminal_size(sys.stdout)[0])
            style = Style(sys.stdout)
            drawn = ("".join(style(text, look) for text, look in line).rstrip() for line in lines)
            self._write("\n" + "".join(f"{line}\n" for line in drawn))
            left = [("csa", total)]
        self._unprinted += [partial(tell, kind, words) for kind, words in left]
        self._has_ended = True
        self._editor.close()

    def flush(self) -> None:
        """Print what has come."""
        acts, self._unprinted = self._unprinted, []
        if acts:
            self._editor.print(acts)

    def _write(self, text: str) -> None:
        if text:
            self._unprinted.append(partial(sys.stdout.write, text))

    async def _keep_printing(self) -> None:
        while True:
            if self._unprinted:
                await room_on(sys.stdout)
                self.flush()
            await anyio.sleep(_FLUSH_S)

    async def _keep_looking(self) -> None:
        while True:
            began = time.monotonic()
            await to_thread.run_sync(self._tree.look, abandon_on_cancel=True)
            self._editor.refresh()
            await anyio.sleep(max(REFRESH_S, REST * (time.monotonic() - began)))
