"""What `csa run` shows on stderr: a live tree on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Protocol

from csa.cli.output import can_redraw, cut, has_room, one_line, printable, tell, terminal_width
from csa.model.events import Event
from csa.model.usage import Usage, number_of
from csa.model.wording import cost_of, describe, elapsed, tokens
from csa.runner.client import Csa
from csa.store.sessions import Record
from csa.structs import Struct

if TYPE_CHECKING:
    from csa.runner.turns.turn import Turn

_LINE_WIDTH = 160
_LOOK_FOR_ROOM_S = 0.05
_TOLD_AS_OUTCOME = {"run_started", "run_finished", "usage", "error", "warning", "retry"}


class Subject(Struct, kw_only=True):
    """The turn that is shown; `verb` and `facts` describe it."""

    record: Record
    turn: int
    verb: str
    facts: str
    tool: str
    is_new: bool  # its session's first turn
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
        return cls(
            record=Record(plan.context.store, turn.session_id, plan.context.store.paths(turn.session_id), plan.state),
            turn=turn.turn,
            verb="session" if plan.is_new else "continuing session",
            facts=f"{plan.adapter.name} ({plan.why_tool})",
            tool=plan.adapter.name,
            is_new=plan.is_new,
            started_at=time.time(),
        )

    def announce(self) -> None:
        """Announce the session: its record is on disk, so it can be named at once. A log keeps the whole id."""
        name = self.record.state.name if self.record.state else None
        by_name = sys.stderr.isatty() or not name
        words = f"{self.verb} {self.session_id}, turn {self.turn}, {self.facts}"
        tell("csa", words if by_name else f"{name}: {words}", by_name=by_name)


class Progress(Protocol):
    """What the command shows of a running turn; `speaks`: it writes to stderr. `text` may be long."""

    speaks: bool

    def begin(self, subject: Subject) -> None: ...
    def show(self, event: Event) -> None: ...
    def text(self, event: Event) -> str: ...
    async def keep_fresh(self) -> None: ...
    def end(self) -> None: ...


def make_progress(client: Csa, *, quiet: bool, plain: bool = False, verbose: bool = False) -> Progress:
    """Choose the view for stderr; with `plain` always lines, with `verbose` the conversation."""
    if quiet:
        return Silence()
    if verbose:
        return Talk(Outcomes())
    if plain or not can_redraw(sys.stderr):
        return PlainLines(Outcomes())
    from csa.cli.views.livetree import LiveTree  # noqa: PLC0415  # imports rich: 40 ms that only a terminal needs

    return LiveTree(client)


class Silence:
    """Shows nothing."""

    speaks = False

    def begin(self, subject: Subject) -> None:
        """Show nothing."""

    def show(self, event: Event) -> None:
        """Show nothing."""

    def text(self, event: Event) -> str:  # noqa: ARG002  # as `Progress` has it
        """Return nothing."""
        return ""

    async def keep_fresh(self) -> None:
        """Have nothing to keep fresh."""

    def end(self) -> None:
        """Show nothing."""


class Outcomes:
    """What to report about turns and their ends: each failure once.

    An error, and the end of a turn, are held back until it is clear whether the command's end reports them.
    """

    def __init__(self) -> None:
        self._error = ""
        self._finished: Event | None = None

    def take(self, event: Event) -> Iterator[tuple[str, str]]:
        """Yield what to report after this event: kinds, as for `tell`, and texts."""
        if event.type == "usage" or describe(event) is None:
            return
        if self._error and not (event.type in {"run_finished", "retry"} and _tells(event, self._error)):
            yield "error", self._error
        self._error = ""
        if event.type == "run_finished":
            self._finished = event
        elif event.type == "run_started" and self._finished:
            reason = (describe(self._finished) or "").partition(": ")[2]
            words = _closing_line(self._finished, f"{self._finished.data.get('status')} in")
            yield "csa", words + (f": {reason}" if reason else "")
            yield "csa", f"continuing in turn {event.turn} with {event.data.get('tool')}"
            self._finished = None
        elif event.type == "error":
            self._error = one_line(str(event.data.get("message", "")))
        elif event.type == "warning":
            yield "warning", one_line(str(event.data.get("message", "")))
        elif event.type == "retry" or _goes_elsewhere(event):
            yield "csa", describe(event) or ""

    def left(self) -> Iterator[tuple[str, str]]:
        """Yield what to report at the end: a turn's failure is reported with its error."""
        if self._error:
            yield "error", self._error
        if self._finished:
            status = self._finished.data.get("status")
            yield "csa", _closing_line(self._finished, "succeeded in" if status == "succeeded" else "ended after")


def _goes_elsewhere(event: Event) -> bool:
    """Say whether an event is about what another vendor gets."""
    return event.type == "handoff" and bool(event.data.get("vendor"))


def _tells(event: Event, error: str) -> bool:
    """Say whether a later event reports an error."""
    reason = (describe(event) or "").partition(": ")[2]
    return bool(reason) and (error in reason or reason in error)


class PlainLines(Silence):
    """One line per event, for logs, agents and terminals without colour.

    An agent's message is shown when another event follows: the last one is the answer, which goes to stdout.
    """

    speaks = True

    def __init__(self, outcomes: Outcomes) -> None:
        self._message = ""
        self._outcomes = outcomes

    def begin(self, subject: Subject) -> None:
        """Announce the session."""
        subject.announce()

    def show(self, event: Event) -> None:
        """Print an event."""
        line = describe(event)
        for kind, words in self._outcomes.take(event):
            self._say_message()
            tell(kind, cut(words, _LINE_WIDTH))
        if event.type == "agent_message":
            self._message = line or ""
        elif line and event.type not in _TOLD_AS_OUTCOME and not _goes_elsewhere(event):
            self._say_message()
            say(cut(line, _LINE_WIDTH))

    def end(self) -> None:
        """Print how it has ended."""
        for kind, words in self._outcomes.left():
            tell(kind, cut(words, _LINE_WIDTH))

    def _say_message(self) -> None:
        if self._message:
            say(cut(self._message, _LINE_WIDTH))
        self._message = ""


class Talk(Silence):
    """The conversation as it comes, and how it ends."""

    speaks = True

    def __init__(self, outcomes: Outcomes) -> None:
        from csa.cli.views.streaming import Stream  # noqa: PLC0415  # only `run -v` needs it

        self._stream = Stream(sys.stderr)
        self._outcomes = outcomes

    def begin(self, subject: Subject) -> None:
        """Announce the session."""
        subject.announce()

    def show(self, event: Event) -> None:
        """Print events outside the conversation."""
        for kind, words in self._outcomes.take(event):
            sys.stderr.write(self._stream.close())
            tell(kind, words)

    def text(self, event: Event) -> str:
        """Return the conversation's part of an event; `show` and `end` report how a turn ends."""
        return "" if event.type == "run_finished" else self._stream.text(event)

    def end(self) -> None:
        """Print how it has ended."""
        sys.stderr.write(self._stream.close())
        for kind, words in self._outcomes.left():
            tell(kind, words)


async def room_on(stream: IO[str]) -> None:
    """Wait until a little can be printed: a slow reader must not delay time limits or signals."""
    import anyio  # noqa: PLC0415  # imported by the caller

    while not has_room(stream):  # noqa: ASYNC110  # the reader sets no event
        await anyio.sleep(_LOOK_FOR_ROOM_S)


def _closing_line(event: Event, words: str) -> str:
    """Describe how a turn has ended."""
    usage, used = event.data.get("usage"), ""
    if isinstance(usage, Mapping):
        known = Usage.from_dict(usage)
        parts = (f"{tokens(known.input_tokens)} in", f"{tokens(known.output_tokens)} out", cost_of(known))
        used = "".join(f", {part}" for part in parts if part != "-")
    return f"{words} {elapsed(number_of(event.data.get('duration_s')) or 0)}{used}"


def say(line: str) -> None:
    """Print an agent's activity, cut to the terminal's width."""
    print(printable(cut(line, terminal_width(sys.stderr))), file=sys.stderr, flush=True)
