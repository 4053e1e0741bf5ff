"""What `csa run` shows on stderr: a live tree on a terminal, plain lines elsewhere, nothing when quiet.

The live view draws the running session and the sessions its agents have started, each with its tool, what it is doing,
for how long, its tokens and its cost. It reads the store as any other command would, and writes nothing there.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import to_thread

from csa.cli.describe import describe, elapsed, money, tokens
from csa.cli.live import REFRESH_S, REST, Row, arrange, lay_out
from csa.cli.output import Style, cut, lossy, terminal_width
from csa.cli.roster import Roster
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.model.events import Event
from csa.model.usage import Usage
from csa.paths import home
from csa.runner.client import Csa
from csa.store.observer import Observer
from csa.store.stores import find_stores
from csa.structs import Struct, replace

if TYPE_CHECKING:
    from csa.runner.turn import Turn

MAX_ROWS_SHOWN = 30
_LINE_WIDTH = 160
_LABEL = 10


class Subject(Struct, kw_only=True):
    """The turn that is shown."""

    session_id: str
    turn: int
    headline: str
    tool: str
    project: str
    is_new: bool  # its session began with it
    started_at: float
    usage: Usage  # of the session, before the turn

    @classmethod
    def of(cls, turn: Turn) -> Subject:
        """Describe a turn that this process runs."""
        plan = turn.plan
        verb = "session" if plan.is_new else "continuing session"
        return cls(
            session_id=turn.session_id,
            turn=turn.turn,
            headline=f"csa: {verb} {turn.session_id}, turn {turn.turn}, {plan.adapter.name} ({plan.why_tool})",
            tool=plan.adapter.name,
            project=plan.state.project_path,
            is_new=plan.is_new,
            started_at=time.time(),
            usage=plan.state.usage,
        )


class Progress(Protocol):
    """What the command tells of a running turn."""

    def begin(self, subject: Subject) -> None: ...
    def show(self, event: Event) -> None: ...
    async def keep_fresh(self) -> None: ...
    def end(self) -> None: ...


def make_progress(client: Csa, *, quiet: bool, plain: bool = False) -> Progress:
    """Choose the view for stderr as it is; with `plain`, lines in any case."""
    if quiet:
        return Silence()
    return LiveTree(client) if Style(sys.stderr).enabled and not plain else PlainLines()


class Silence:
    """Shows nothing."""

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

    def __init__(self) -> None:
        self._message = ""
        self._first_turn = 0

    def begin(self, subject: Subject) -> None:
        """Say which session this is: its record is on disk, so the id can be used at once."""
        self._first_turn = subject.turn
        _say_whole(subject.headline)

    def show(self, event: Event) -> None:
        """Say what happened."""
        line = describe(event)
        if event.type == "run_started" and event.turn != self._first_turn:
            _say(_headline_of_fallback(event))
        elif event.type == "run_finished":
            _say(_closing(event))
        elif event.type == "agent_message":
            self._message = line or ""
        elif line and event.type not in {"run_started", "usage"}:
            if self._message:
                _say(cut(self._message, _LINE_WIDTH))
            self._message = ""
            _say(cut(line, _LINE_WIDTH))


class LiveTree(Silence):
    """The session and those its agents have started, redrawn in place; a closing line stays."""

    def __init__(self, client: Csa) -> None:
        from csa.cli.screen import Screen  # noqa: PLC0415  # brings rich: 40 ms that only a terminal is worth

        store, environ = client.store, client.setting.environ
        self._roster = Roster(lambda: find_stores(store.root), user_home=home(environ))
        self._screen = Screen(sys.stderr, whole=False)
        self._closing = ""
        self._subject: Subject
        self._own: Row
        self._before = Usage()
        self._others: list[Row] = []
        self._resumed: set[str] = set()
        self._since = ""

    def begin(self, subject: Subject) -> None:
        """Say which session this is, and begin to draw."""
        _say_whole(Style(sys.stderr)(subject.headline, "dim"))
        self._subject = subject
        self._before = subject.usage
        self._since = subject.session_id
        if not subject.is_new:
            self._since = max(self._since, new_session_id(time.time_ns() // 1_000_000, bytes(ENTROPY_BYTES)))
        self._own = Row(
            session_id=subject.session_id,
            place=self._roster.place(subject.project),
            label=subject.session_id[:_LABEL],
            tool=subject.tool,
            started_at=subject.started_at,
            usage=subject.usage,
        )
        self._screen.start()
        self._draw()

    def show(self, event: Event) -> None:
        """Take note of what happened."""
        if event.type == "run_started" and event.data.get("tool") != self._own.tool:
            self._fall_back(event)
        elif event.type == "run_finished":
            self._closing = _closing(event)
            self._before = self._own.usage
        elif event.type == "usage":
            self._own = replace(self._own, usage=self._before + Usage.from_dict(event.data))
            return
        line = describe(event)
        if line and event.type in {"retry", "warning", "error"}:
            self._screen.print(line, "yellow")
        if line:
            self._own = replace(self._own, doing=line)

    def _fall_back(self, event: Event) -> None:
        """Leave what became of the last tool on the screen, and go on with the next."""
        for line in (self._closing, _headline_of_fallback(event)):
            self._screen.print(line, "yellow")
        self._own = replace(self._own, tool=str(event.data.get("tool")))

    async def keep_fresh(self) -> None:
        """Draw again and again, with the sessions that the agents have started, in whichever project."""
        while True:
            began = time.monotonic()
            self._others = await to_thread.run_sync(self._roster.rows, self._is_ours, abandon_on_cancel=True)
            with lossy(sys.stderr):
                self._draw()
            await anyio.sleep(max(REFRESH_S, REST * (time.monotonic() - began)))

    def end(self) -> None:
        """Leave only the closing line."""
        self._screen.stop()
        if self._closing:
            _say(self._closing)

    def _is_ours(self, observer: Observer, session_id: str) -> bool:
        """Say whether a session may be one that an agent of this turn has begun, or goes on with."""
        if session_id <= self._subject.session_id:
            return False
        if session_id <= self._since and session_id not in self._resumed and observer.is_running(session_id):
            self._resumed.add(session_id)
        return session_id > self._since or session_id in self._resumed

    def _draw(self) -> None:
        width, height = self._screen.size
        tree = [node for node in arrange([self._own, *self._others]) if node.session_id == self._subject.session_id]
        height = min(MAX_ROWS_SHOWN, height - 1)
        self._screen.draw(lay_out(tree, width=width, height=height, now=time.time()))


def _headline_of_fallback(event: Event) -> str:
    return f"csa: going on in turn {event.turn} with {event.data.get('tool')}"


def _closing(event: Event) -> str:
    usage = event.data.get("usage") or {}
    used = f", {tokens(usage['input_tokens'])} in, {tokens(usage['output_tokens'])} out" if usage else ""
    if cost := money(usage.get("cost_usd")):
        used += f", {cost}"
    return f"csa: {event.data.get('status')} in {elapsed(float(event.data.get('duration_s', 0)))}{used}"


def _say(line: str) -> None:
    _say_whole(cut(line, terminal_width(sys.stderr)))


def _say_whole(line: str) -> None:
    """Print a line that has an id: a terminal that is too narrow folds it, and it can be copied."""
    print(line, file=sys.stderr, flush=True)
