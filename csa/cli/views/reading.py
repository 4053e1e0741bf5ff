"""Full-screen reading views: a session's conversation, its log, the keys. They follow what is added.

Free of I/O but for reading transcripts; `csa.cli.views.fullscreen` draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from csa.cli.conversation import Renderer
from csa.cli.output import cut, display_width
from csa.cli.outputs import event_lines
from csa.cli.views.fullscreen import BACK, Step
from csa.cli.views.live import Line
from csa.errors import CsaError
from csa.model.conversation import read_conversation
from csa.model.events import Event
from csa.store.following import Follower
from csa.store.shown import SessionInfo

KEYS = (
    "In the list",
    "  Up Down j    select a session",
    "  PgUp PgDn    select further away; Home End g G too",
    "  Enter        show its conversation, as it grows",
    "  l            show its log, as it grows",
    "  a            attach: csa attach, until Ctrl-C",
    "  k            kill its turn, after a y",
    "  /            filter by name, status, tool, project;",
    "               every word must match",
    "  Esc          clear the filter",
    "  q            quit",
    "",
    "In a conversation or a log",
    "  Up Down k j  scroll; PgUp PgDn Space Home End g G",
    "  q Esc        go back",
    "",
    "Ctrl-C quits, Ctrl-Z suspends.",
)
_HINT = "↑↓ scroll  g top  G end  q back"
_FAR = 1 << 30


class Source(Protocol):
    """Lines that may grow."""

    def read(self, width: int) -> Sequence[str]:
        """Return all of them for a width; the same object if nothing has changed."""


class Reader:
    """A scrolling view; at the end it follows new lines."""

    def __init__(self, title: str, lines: Sequence[str] = (), source: Source | None = None) -> None:
        self._title = title
        self._source = source
        self._lines = lines or ["Reading ..."]
        self._width = 0
        self._first = 0
        self._room = 1
        self._is_at_end = source is not None

    def look(self) -> None:
        """Read what was added."""
        if self._source and self._width:
            self._lines = self._source.read(self._width)

    def lines(self, width: int, height: int) -> Sequence[Line | str]:
        """Return a heading, the lines that fit, and the keys."""
        self._width, self._room = width, max(1, height - 2)
        lines, last = self._lines, max(0, len(self._lines) - self._room)
        self._first = last if self._is_at_end else min(self._first, last)
        body = lines[self._first : self._first + self._room]
        seen = f"{self._first + len(body)}/{len(lines)}" + (" follows" if self._is_at_end and self._source else "")
        title = cut(self._title, max(0, width - len(seen) - 1))
        gap = " " * max(0, width - display_width(title) - len(seen))
        head: Line = [(title, "bold"), (gap + seen, "dim")]
        blank = [""] * (self._room - len(body))
        hint: Line = [(cut(_HINT, width), "dim")]
        shown: list[Line | str] = [head, *body, *blank, hint]
        return shown[:height]

    def press(self, key: str, _text: str) -> Step | None:
        """Handle a key."""
        if key in {"q", "escape"}:
            return BACK
        pages = {"pageup": -1, "b": -1, "pagedown": 1, " ": 1}
        by = {"up": -1, "k": -1, "down": 1, "j": 1, "enter": 1, "home": -_FAR, "g": -_FAR, "end": _FAR, "G": _FAR}
        self._scroll(by.get(key, pages.get(key, 0) * max(1, self._room - 1)))
        return None

    def _scroll(self, by: int) -> None:
        last = max(0, len(self._lines) - self._room)
        if by:
            self._first = min(max(0, self._first + by), last)
            self._is_at_end = self._source is not None and self._first == last


class Transcript:
    """A transcript as lines, rendered turn by turn: new events only cost their turn."""

    def __init__(self, info: SessionInfo, render: Callable[[list[Event], int], list[str]]) -> None:
        self._path = info.record.paths.transcript
        self._render = render
        self._width = 0
        self._follower: Follower | None = None
        self._before: list[str] = []  # of the turns that are over
        self._turn: list[Event] = []
        self._lines: list[str] = []

    def __del__(self) -> None:
        if self._follower:
            self._follower.close()

    def read(self, width: int) -> Sequence[str]:
        """Return the lines."""
        try:
            return self._read(width)
        except CsaError as error:
            return [error.message]

    def _read(self, width: int) -> Sequence[str]:
        if width != self._width or not self._follower:
            if self._follower:
                self._follower.close()
            self._follower, self._before, self._turn = Follower(self._path), [], []
            self._width = width
        has_more = False
        for event in self._follower.read():
            if event.type == "run_started" and self._turn:
                self._before += [*self._fold(self._turn), ""]
                self._turn = []
            self._turn.append(event)
            has_more = True
        if has_more:
            self._lines = [*self._before, *self._fold(self._turn)]
        return self._lines or ["Nothing was said yet."]

    def _fold(self, events: list[Event]) -> Iterator[str]:
        """Yield lines that fit the screen's width; styled ones are cut there."""
        for line in self._render(events, self._width):
            text = line.expandtabs()
            while "\x1b" not in text and display_width(text) > self._width > 1:
                piece = cut(text, self._width)[:-1]  # it ends in an ellipsis
                yield piece
                text = text[len(piece) :]
            yield text


def conversation(info: SessionInfo, name: str) -> Reader:
    """Return the view of a session's conversation, as `csa show` prints it."""

    def render(events: list[Event], width: int) -> list[str]:
        return list(Renderer(is_full=False, width=width).render(read_conversation(events)))

    return Reader(f"{name}  conversation", source=Transcript(info, render))


def log(info: SessionInfo, name: str) -> Reader:
    """Return the view of what happened in a session, as `csa logs` prints it."""
    return Reader(f"{name}  log", source=Transcript(info, lambda events, width: list(event_lines(events, width))))
