"""`csa logs --tree`: the events of a session and all its descendants, as one log; each line names its session."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from heapq import merge

from csa.cli.output import Style, display_width, one_line
from csa.cli.outputs import EventPrinter
from csa.model.events import Event
from csa.runner.context import Context
from csa.runner.session import Session
from csa.store.family import family_of
from csa.store.following import Follower
from csa.store.liveness import probe
from csa.store.sessions import Target
from csa.structs import Struct

_LOOK_S = 0.05
_FIND_S = 0.5  # between two looks for new descendants
_REST = 20  # ... but at least this many times as long as a look takes
_SHORT = 10  # characters of an id
_COLOURS = ("cyan", "green", "yellow", "red")


class Whose(Struct):
    """What the lines of a session begin with."""

    label: str
    colour: str

    @classmethod
    def of(cls, session_id: str, name: str | None, number: int) -> Whose:
        """Return it for the session with that number in its tree."""
        return cls(one_line(name or "") or session_id[:_SHORT], _COLOURS[number % len(_COLOURS)])


class TreeLines:
    """Prints the events of many sessions, each with its session's label; these are as wide as the widest so far."""

    def __init__(self) -> None:
        self._printer, self._style, self._width = EventPrinter(), Style(sys.stdout), _SHORT

    def print(self, whose: Whose, event: Event) -> None:
        """Print an event, if it is relevant to people."""
        self._width = max(self._width, display_width(whose.label))
        if (line := self._printer.line(event, taken=self._width + 2)) is not None:
            pad = " " * (self._width - display_width(whose.label))
            print(f"{self._style(whose.label, whose.colour)}{pad}  {line}")


class _Member:
    """A session of the tree, and how far it has been read."""

    def __init__(self, context: Context, target: Target, number: int, *, tail: int | None) -> None:
        store, session_id = target
        paths = Session(context.in_store(store), session_id).content
        state = store.record(session_id).state
        self.whose = Whose.of(session_id, state.name if state else None, number)
        self._paths = paths
        self._follower = Follower(paths.transcript, tail=tail)

    def is_running(self) -> bool:
        return probe(self._paths).state == "alive"

    def news(self) -> Iterator[tuple[str, _Member, Event]]:
        """Yield what has come, with its time."""
        for event in self._follower.read():
            yield event.ts, self, event

    def rest(self) -> None:
        """Close the file until there may be more to read: there may be very many sessions."""
        self._follower.close()


class _Tree:
    """The current members, and what is new in them."""

    def __init__(self, top: Session, *, tail: int | None) -> None:
        self._context, self._top = top.context, top.target
        self._family = family_of([top.target])
        self._members: dict[tuple[str, str], _Member] = {}
        self._running: list[_Member] = []
        self._tail = tail
        self._find_at = 0.0
        self.has_ended = False

    def look(self) -> Iterator[tuple[_Member, Event]]:
        """Yield what is new, in the order in which it happened."""
        finds = time.monotonic() >= self._find_at or not self._running
        looked_at = self._find() if finds else self._running
        running = [member for member in looked_at if member.is_running()]  # asked first, or the end could be missed
        for _, member, event in merge(*(member.news() for member in looked_at), key=lambda each: each[0]):
            yield member, event
        for member in {*looked_at}.difference(running):
            member.rest()
        self._running = running
        self.has_ended = finds and not running

    def _find(self) -> list[_Member]:
        began = time.monotonic()
        for store, session_id in (self._top, *self._family.look()):
            key = store.key(session_id)
            if key not in self._members:
                self._members[key] = _Member(self._context, (store, session_id), len(self._members), tail=self._tail)
        self._tail = None  # of those that begin later, everything is new
        now = time.monotonic()
        self._find_at = now + max(_FIND_S, _REST * (now - began))
        return [*self._members.values()]


def print_tree(top: Session, *, follows: bool, tail: int | None) -> None:
    """Print a tree's events; with `follows` also new ones, until nothing in it is running."""
    tree, lines = _Tree(top, tail=tail), TreeLines()
    while True:
        look = tree.look()
        for member, event in look if tail is None else deque(look, maxlen=tail):
            lines.print(member.whose, event)
        sys.stdout.flush()
        tail = None
        if tree.has_ended or not follows:
            return
        time.sleep(_LOOK_S)
