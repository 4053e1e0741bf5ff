"""Print what runs, in all projects: each session with its supervisor's PID and what its process tree uses.

TIME is how long the turn has run, CPU and MEM are what its processes have used and use, nested sessions included. Both
are unknown for a turn in another pid namespace or on another machine. csa top shows the same as a live view.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from csa.cli.describe import describe, elapsed, size
from csa.cli.naming import called, doing_of
from csa.cli.output import STATUS_STYLES, Style, cut, one_line, print_json, shorten, terminal_width
from csa.cli.selecting import find_projects
from csa.cli.table import Column, Table, columns_for
from csa.cli.top import OTHERS_SHOWN
from csa.paths import home, state_root
from csa.runner.sessions.observing import LiveSessions
from csa.runner.sessions.resources import Resources, measure_trees
from csa.store.shown import SessionInfo
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_TEXT_WIDTH = 10  # at least
_SUBJECT_WIDTH = 30  # in a pipe: of what a session is about, before what it does


class _Line(Struct):
    info: SessionInfo
    place: str
    resources: Resources | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"also the {OTHERS_SHOWN} newest sessions that do not run")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    root = Path(state_root(os.environ))
    sessions = LiveSessions(lambda: find_projects(root, with_retired=False), describe)
    infos = sessions.running(others=OTHERS_SHOWN if arguments.all else 0)
    lines = [_Line(info, shorten(info.project, home(os.environ)), _resources(info)) for info in infos]
    if arguments.json:
        print_json([_to_json(line) for line in lines])
    elif lines:
        _print_table(lines)
    else:
        print("No sessions found" if arguments.all else "Nothing runs")
    return 0


def _resources(info: SessionInfo) -> Resources | None:
    owner = info.owner
    return measure_trees([owner.process]) if owner and owner.is_local else None


def _to_json(line: _Line) -> dict[str, object]:
    owner, used = line.info.owner, line.resources
    return {
        **line.info.to_live_json(time.time()),
        "pid": line.info.pid,
        "since": owner.since if owner else None,
        "host": owner.host if owner else None,
        "detached": owner.detached if owner else None,
        "processes": used.processes if used else None,
        "cpu_s": round(used.cpu_s, 2) if used else None,
        "rss_bytes": used.resident_bytes if used else None,
    }


def _print_table(lines: list[_Line]) -> None:
    width = terminal_width(sys.stdout)
    columns = columns_for(width, _columns(width, time.time()))
    table = Table(columns, lines)
    while width and table.width + _TEXT_WIDTH > width and len(columns) > 1:
        columns.remove(max(columns, key=lambda column: column.since))
        table = Table(columns, lines)
    style = Style(sys.stdout)
    room = width and max(0, width - table.width)
    print(style(table.head() + cut("DOING", room), "dim").rstrip())
    for line in lines:
        doing = doing_of(line.info, width, room=_SUBJECT_WIDTH if room is None else room // 2)
        shown = table.line(line) + cut(doing, room)
        print(style(shown, STATUS_STYLES.get(line.info.status, "")).rstrip())


def _columns(width: int | None, now: float) -> tuple[Column, ...]:
    def time_of(line: _Line) -> str:
        seconds = line.info.elapsed_s(now)
        return "-" if seconds is None else elapsed(seconds)

    return (
        Column("SESSION", lambda line: called(line.info, width)),
        Column("PROJECT", lambda line: line.place if width is None else cut(line.place, width // 5), since=60),
        Column("TOOL", lambda line: one_line(line.info.tool) or "-", since=40),
        Column("STATUS", lambda line: line.info.status, since=110),
        Column("TURN", lambda line: str(line.info.turn or "-"), since=100, is_number=True),
        Column("PID", lambda line: str(line.info.pid or "-"), since=50, is_number=True),
        Column("TIME", time_of, is_number=True),
        Column("CPU", lambda line: _measured(line, lambda used: elapsed(used.cpu_s)), since=70, is_number=True),
        Column("MEM", lambda line: _measured(line, lambda used: size(used.resident_bytes)), since=90, is_number=True),
    )


def _measured(line: _Line, render: Callable[[Resources], str]) -> str:
    return render(line.resources) if line.resources else "-"
