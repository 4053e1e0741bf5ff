"""What `csa run` shows on stderr: a live tree on a terminal, plain lines elsewhere, nothing when quiet.

The live view draws the running session and the sessions its agents have started, each with its tool, what it is doing,
for how long, and its tokens. It reads the store as any other command would, and writes nothing there.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

import anyio

from csa.cli.describe import describe, elapsed, tokens
from csa.cli.output import STATUS_STYLES, Style, cut, one_line, terminal_width
from csa.model.events import Event
from csa.model.state import parse_time
from csa.model.tree import Node, build_forest
from csa.model.usage import Usage
from csa.runner.client import Csa
from csa.store.sessions import Record
from csa.store.transcript import read_events_backwards

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from csa.runner.turn import Turn

REFRESH_S = 0.25
MAX_ROWS_SHOWN = 30
_MAX_LOOK_BACK = 40
_LINE_WIDTH = 160


class Progress(Protocol):
    """What the command tells of a running turn."""

    def begin(self, turn: Turn) -> None: ...
    def show(self, event: Event) -> None: ...
    async def keep_fresh(self) -> None: ...
    def end(self) -> None: ...


def make_progress(client: Csa, *, quiet: bool) -> Progress:
    """Choose the view for stderr as it is."""
    if quiet:
        return Silence()
    return LiveTree(client) if Style(sys.stderr).enabled else PlainLines()


class Silence:
    """Shows nothing."""

    def begin(self, turn: Turn) -> None:
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

    def begin(self, turn: Turn) -> None:
        """Say which session this is: its record is on disk, so the id can be used at once."""
        _say(_headline(turn))

    def show(self, event: Event) -> None:
        """Say what happened."""
        line = describe(event)
        if event.type == "run_finished":
            _say(_closing(event))
        elif event.type == "agent_message":
            self._message = line or ""
        elif line and event.type not in {"run_started", "usage"}:
            if self._message:
                _say(cut(self._message, _LINE_WIDTH))
            self._message = ""
            _say(cut(line, _LINE_WIDTH))


class LiveTree(Silence):
    """A tree that is redrawn in place, and a closing line that stays."""

    def __init__(self, client: Csa) -> None:
        self._client = client
        self._started_at = time.monotonic()
        self._doing = "starting"
        self._usage = Usage()
        self._others: list[Record] = []
        self._closing = ""
        self._turn: Turn
        self._live: Live

    def begin(self, turn: Turn) -> None:
        """Say which session this is, and begin to draw."""
        from rich.console import Console  # noqa: PLC0415  # 40 ms that only a terminal is worth
        from rich.live import Live  # noqa: PLC0415  # as above

        self._turn = turn
        _say(Style(sys.stderr)(_headline(turn), "dim"))
        self._live = Live(
            self._draw(), console=Console(stderr=True), transient=True, refresh_per_second=8, get_renderable=self._draw
        )
        self._live.start()

    def show(self, event: Event) -> None:
        """Take note of what happened."""
        if event.type == "run_finished":
            self._closing = _closing(event)
        elif event.type == "usage":
            self._usage = Usage.from_dict(event.data)
        elif event.type in {"retry", "warning", "error"}:
            self._live.console.print(describe(event), style="yellow", markup=False, highlight=False)
        if line := describe(event):
            self._doing = line

    async def keep_fresh(self) -> None:
        """Look for sessions that the agents have started."""
        while True:
            self._others = [
                self._client.store.record(session_id)
                for session_id in self._client.store.ids()
                if session_id > self._turn.session_id
            ]
            await anyio.sleep(REFRESH_S)

    def end(self) -> None:
        """Leave only the closing line."""
        self._live.stop()
        if self._closing:
            _say(self._closing)

    def _draw(self) -> Table:
        from rich.table import Table  # noqa: PLC0415  # loaded by `begin`

        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, justify="right", width=7)
        table.add_column(no_wrap=True, justify="right", width=6)
        used = self._usage.input_tokens + self._usage.output_tokens
        table.add_row(
            _row_text("", "●", "cyan", self._turn.plan.adapter.name, self._doing),
            elapsed(time.monotonic() - self._started_at),
            tokens(used) if used else "",
        )
        for lead, record in self._descendants()[:MAX_ROWS_SHOWN]:
            table.add_row(*_child_row(lead, record))
        return table

    def _descendants(self) -> list[tuple[str, Record]]:
        items = [(r.session_id, r.state.parent_session_id, r) for r in self._others if r.state]
        rows: list[tuple[str, Record]] = []
        for node in build_forest(items):
            if node.session_id == self._turn.session_id:  # the running session, as the missing parent of its children
                _collect(node, "", rows)
        return rows


def _collect(node: Node[Record], lead: str, rows: list[tuple[str, Record]]) -> None:
    for index, child in enumerate(node.children):
        is_last = index == len(node.children) - 1
        if child.item:
            rows.append((lead + ("└─ " if is_last else "├─ "), child.item))
        _collect(child, lead + ("   " if is_last else "│  "), rows)


def _child_row(lead: str, record: Record) -> tuple[Text, str, str]:
    doing, started_at, finished_at, tool = _look_at(record)
    status = record.status
    mark = "●" if status == "running" else "✓" if status == "succeeded" else "✗"
    until = time.time() if finished_at is None else finished_at
    state = record.state
    used = state.usage.input_tokens + state.usage.output_tokens if state else 0
    return (
        _row_text(lead, mark, STATUS_STYLES.get(status, ""), tool, doing),
        elapsed(max(0, until - started_at)) if started_at else "",
        tokens(used) if used else "",
    )


def _look_at(record: Record) -> tuple[str, float | None, float | None, str]:
    """Return what the session's agent is doing, and when its turn began and ended (Unix seconds), and its tool."""
    doing = ""
    finished_at: float | None = None
    for count, event in enumerate(read_events_backwards(record.paths.transcript)):
        moment = parse_time(event.ts)
        seconds = moment.timestamp() if moment else None
        if event.type == "run_finished" and not doing:
            finished_at = seconds
        if event.type != "usage" and not doing:
            doing = describe(event) or ""
        if event.type == "run_started" or count > _MAX_LOOK_BACK:
            return doing, seconds, finished_at, str(event.data.get("tool", ""))
    return doing, None, finished_at, ""


def _row_text(lead: str, mark: str, style: str, tool: str, doing: str) -> Text:
    from rich.text import Text  # noqa: PLC0415  # loaded by `begin`

    return Text.assemble((lead, "dim"), (f"{mark} ", style), (f"{tool} ", "bold"), one_line(doing))


def _headline(turn: Turn) -> str:
    plan = turn.plan
    verb = "session" if plan.is_new else "continuing session"
    return f"csa: {verb} {turn.session_id}, turn {turn.turn}, {plan.adapter.name} ({plan.why_tool})"


def _closing(event: Event) -> str:
    usage = event.data.get("usage") or {}
    used = f", {tokens(usage['input_tokens'])} in, {tokens(usage['output_tokens'])} out" if usage else ""
    return f"csa: {event.data.get('status')} in {elapsed(float(event.data.get('duration_s', 0)))}{used}"


def _say(line: str) -> None:
    width = terminal_width(sys.stderr)
    print(line if width is None else cut(line, width), file=sys.stderr, flush=True)
