"""What `csa run` shows on stderr: a live tree on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Protocol

from csa.cli.describe import cost_of, describe, elapsed, tokens
from csa.cli.output import Style, can_redraw, cut, has_room, printable, terminal_width
from csa.model.events import Event
from csa.model.usage import Usage, number_of
from csa.runner.client import Csa
from csa.store.sessions import Record
from csa.structs import Struct

if TYPE_CHECKING:
    from csa.runner.turns.turn import Turn

_LINE_WIDTH = 160
_LOOK_FOR_ROOM_S = 0.05


class Subject(Struct, kw_only=True):
    """The turn that is shown."""

    record: Record
    turn: int
    headline: str
    tool: str
    is_new: bool  # its session began with it
    started_at: float

    @property
    def session_id(self) -> str:
        return self.record.session_id

    @property
    def usage(self) -> Usage:
        """What the session had used before the turn."""
        return self.record.state.usage if self.record.state else Usage()

    @classmethod
    def of(cls, turn: Turn) -> Subject:
        """Describe a turn that this process runs."""
        plan = turn.plan
        verb = "session" if plan.is_new else "continuing session"
        return cls(
            record=Record(plan.context.store, turn.session_id, plan.context.store.paths(turn.session_id), plan.state),
            turn=turn.turn,
            headline=f"csa: {verb} {turn.session_id}, turn {turn.turn}, {plan.adapter.name} ({plan.why_tool})",
            tool=plan.adapter.name,
            is_new=plan.is_new,
            started_at=time.time(),
        )


class Progress(Protocol):
    """What the command tells of a running turn; `speaks`: that needs room on stderr."""

    speaks: bool

    def begin(self, subject: Subject) -> None: ...
    def show(self, event: Event) -> None: ...
    async def keep_fresh(self) -> None: ...
    def end(self) -> None: ...


def make_progress(client: Csa, *, quiet: bool, plain: bool = False) -> Progress:
    """Choose the view for stderr as it is; with `plain`, lines in any case."""
    if quiet:
        return Silence()
    if plain or not can_redraw(sys.stderr):
        return PlainLines()
    from csa.cli.livetree import LiveTree  # noqa: PLC0415  # brings rich: 40 ms that only a terminal is worth

    return LiveTree(client)


class Silence:
    """Shows nothing."""

    speaks = False

    def begin(self, subject: Subject) -> None:
        """Show nothing."""

    def show(self, event: Event) -> None:
        """Show nothing."""

    async def keep_fresh(self) -> None:
        """Have nothing to keep fresh."""

    def end(self) -> None:
        """Show nothing."""


class PlainLines(Silence):
    """A line for each thing that happens, for logs, agents and terminals without colour.

    A message of the agent is shown when another event follows it: the last one is the answer, which stdout has.
    """

    speaks = True

    def __init__(self) -> None:
        self._message = ""
        self._first_turn = 0

    def begin(self, subject: Subject) -> None:
        """Say which session this is: its record is on disk, so the id can be used at once."""
        self._first_turn = subject.turn
        say_whole(subject.headline, "dim")

    def show(self, event: Event) -> None:
        """Say what happened."""
        line = describe(event)
        if event.type == "run_started" and event.turn != self._first_turn:
            say(headline_of_fallback(event))
        elif event.type == "run_finished":
            say(closing_line(event))
        elif event.type == "agent_message":
            self._message = line or ""
        elif line and event.type not in {"run_started", "usage"}:
            if self._message:
                say(cut(self._message, _LINE_WIDTH))
            self._message = ""
            say(cut(line, _LINE_WIDTH))


async def room_on(stream: IO[str]) -> None:
    """Wait until a little can be printed: who does not read what csa says holds up neither time limits nor signals."""
    import anyio  # noqa: PLC0415  # imported by the caller

    while not has_room(stream):  # noqa: ASYNC110  # the reader sets no event
        await anyio.sleep(_LOOK_FOR_ROOM_S)


def headline_of_fallback(event: Event) -> str:
    """Say that the next turn, by another tool, begins."""
    return f"csa: going on in turn {event.turn} with {event.data.get('tool')}"


def closing_line(event: Event) -> str:
    """Say how a turn has ended."""
    usage, used = event.data.get("usage"), ""
    if isinstance(usage, Mapping):
        known = Usage.from_dict(usage)
        parts = (f"{tokens(known.input_tokens)} in", f"{tokens(known.output_tokens)} out", cost_of(known))
        used = "".join(f", {part}" for part in parts if part != "-")
    return f"csa: {event.data.get('status')} in {elapsed(number_of(event.data.get('duration_s')) or 0)}{used}"


def say(line: str) -> None:
    """Print as much of a line as the terminal is wide."""
    say_whole(cut(line, terminal_width(sys.stderr)))


def say_whole(line: str, style: str = "") -> None:
    """Print a line that has an id: a terminal that is too narrow folds it, and it can be copied."""
    print(Style(sys.stderr)(printable(line), style), file=sys.stderr, flush=True)
