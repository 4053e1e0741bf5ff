"""A conversation as it comes: streamed text piece by piece, the rest line by line. For `run -v` and `show -f`.

`csa chat` has it in blocks, since Markdown can only be rendered in whole ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO

from csa.cli.conversation import FENCES, Renderer
from csa.cli.output import Style, can_redraw, printable, terminal_width
from csa.model.conversation import Conversation, Message, ToolCall
from csa.model.events import Event

_SPOKEN = frozenset({"agent_message", "agent_thought"})
_DONE = frozenset({"tool_call", "tool_call_update", "permission"})
_OVER_THE_LAST_LINE = "\033[1A\033[2K"


class Stream:
    """Turns a conversation's events into text, one by one. At most one message is in memory."""

    def __init__(self, stream: IO[str], *, is_full: bool = False) -> None:
        self._renderer = Renderer(is_full=is_full, width=terminal_width(stream), stream=stream)
        self._style = Style(stream)
        self._can_redraw = can_redraw(stream)
        self._conversation = Conversation()
        self._turn: int | None = None
        self._is_open = False  # a line that has begun goes on
        self._last_call: ToolCall | None = None  # what the last line is about
        self._told: dict[str, str] = {}  # of calls, the status that was shown last

    def text(self, event: Event) -> str:
        """Return the text to write after this event."""
        conversation = self._conversation
        if event.type == "run_started":
            conversation.take()
            self._told.clear()
        del conversation.messages[:-1]
        known = len(conversation.messages)
        conversation.add(event)
        new = conversation.messages[known:]
        if event.type in _SPOKEN and event.data.get("chunk"):
            return self._piece(event, new)
        lines = [line for message in new for line in (*self._heading(message), *self._renderer.words(message))]
        said = self._lines(lines)
        call = self._call_of(event) if event.type in _DONE else None
        return said + (self._called(call) if call else "")

    def close(self) -> str:
        """Return what ends a line that has begun."""
        was_open, self._is_open = self._is_open, False
        return "\n" if was_open else ""

    def _lines(self, lines: Sequence[str]) -> str:
        if not lines:
            return ""
        self._last_call = None
        return self.close() + "".join(f"{line}\n" for line in lines)

    def _heading(self, message: Message) -> Iterator[str]:
        if message.turn != self._turn:
            yield from ([""] if self._turn is not None else [])
            yield self._renderer.heading(message)
            self._turn = message.turn

    def _piece(self, event: Event, new: Sequence[Message]) -> str:
        """Return a piece of what is streamed, below a blank line where it is the first."""
        text = printable(str(event.data.get("text") or ""))
        before = self._lines([*(line for message in new for line in self._heading(message)), ""]) if new else ""
        text = text.lstrip("\n") if new else text
        self._is_open = self._is_open or bool(new)
        return before + "\n".join(
            self._style(line, "dim" * (event.type == "agent_thought")) for line in text.split("\n")
        )

    def _call_of(self, event: Event) -> ToolCall | None:
        """Return the call that an event is about, where there is something new to tell of it."""
        last = self._conversation.messages[-1:]
        found = str(event.data.get("id") or "")
        call = self._conversation.calls.get(found) or (last[0].calls[-1] if last and last[0].calls else None)
        if call is None or self._told.get(found) == call.status:
            return None
        self._told[found] = call.status
        return call

    def _called(self, call: ToolCall) -> str:
        """Return a call's line: over the one of its beginning, where that was the last and the terminal can."""
        lines = [*self._renderer.call(call)]
        is_next = self._last_call is not None
        over = _OVER_THE_LAST_LINE if is_next and call is self._last_call and self._can_redraw else ""
        text = self._lines(lines if is_next else ["", *lines])
        self._last_call = call
        return over + text


class BlockStream(Stream):
    """The same in whole blocks of Markdown, each rendered for the terminal's width at that moment."""

    def __init__(self, stream: IO[str], markdown: Callable[[str, int], str]) -> None:
        super().__init__(stream)
        self._of = stream
        self._markdown = markdown
        self._role = "assistant"
        self._blocks = Blocks()

    @property
    def tail(self) -> str:
        """What has been said of a block that is not complete."""
        return self._blocks.rest

    def text(self, event: Event) -> str:
        """Return the text to write after this event."""
        self._renderer = Renderer(
            is_full=False, width=terminal_width(self._of), stream=self._of, markdown=self._markdown
        )
        return super().text(event)

    def close(self) -> str:
        """Return what has been said of the last block."""
        text, self._blocks = self._blocks.rest, Blocks()
        return super().close() + self._rendered(text)

    def _piece(self, event: Event, new: Sequence[Message]) -> str:
        before = ""
        if new:
            before = self.close() + self._lines([line for message in new for line in self._heading(message)])
            self._role, self._last_call = new[-1].role, None
        piece = str(event.data.get("text") or "")
        if self._role != "assistant":  # a thought is shortened to a line, once it is complete
            self._blocks.rest += piece
            return before
        return before + self._rendered(self._blocks.add(piece))

    def _rendered(self, text: str) -> str:
        if not text.strip():
            return ""
        return "".join(f"{line}\n" for line in ("", *self._renderer.said(self._role, text.strip("\n"))))


class Blocks:
    """Streamed Markdown, of which `rest` is not complete. Each line is looked at once, however long its block is."""

    def __init__(self) -> None:
        self.rest = ""
        self._at = 0  # where the last line begins in it
        self._fence, self._was_blank = "", False

    def add(self, piece: str) -> str:
        """Return what is complete by now; with the rest it is the text.

        A block is complete where a line that is not indented follows a blank one, outside of what is fenced.
        """
        self.rest += piece
        end = 0
        *lines, last = self.rest[self._at :].split("\n")
        for line in lines:
            end = self._at if self._begins_block(line) else end
            self._pass(line.strip())
            self._at += len(line) + 1
        end = self._at if self._begins_block(last) else end
        whole, self.rest = self.rest[:end], self.rest[end:]
        self._at -= end
        return whole

    def _begins_block(self, line: str) -> bool:
        return not self._fence and self._was_blank and bool(line.strip()) and not line[0].isspace()

    def _pass(self, words: str) -> None:
        if fence := self._fence:
            self._fence = "" if words and not words.strip(fence[0]) and len(words) >= len(fence) else fence
        elif words.startswith(FENCES):
            self._fence = words[0] * (len(words) - len(words.lstrip(words[0])))
        self._was_blank = not words
