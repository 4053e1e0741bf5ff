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

from csa.cli.describe import elapsed, size
from csa.cli.live import Row
from csa.cli.output import STATUS_STYLES, Style, cut, display_width, one_line, print_json, terminal_width
from csa.cli.roster import Roster
from csa.cli.selecting import find_projects
from csa.cli.top import OTHERS_SHOWN, by_start, to_json
from csa.paths import home, state_root
from csa.runner.sessions.resources import Resources, measure_trees
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_TEXT_WIDTH = 10  # at least


class _Line(Struct):
    row: Row
    resources: Resources | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"also the {OTHERS_SHOWN} newest sessions that do not run")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    root = Path(state_root(os.environ))
    roster = Roster(lambda: find_projects(root, with_retired=False), user_home=home(os.environ))
    rows = by_start(roster.running(others=OTHERS_SHOWN if arguments.all else 0))
    lines = [_Line(row, _resources(row)) for row in rows]
    if arguments.json:
        print_json([_to_json(line) for line in lines])
    elif lines:
        _print_table(lines)
    else:
        print("No sessions found" if arguments.all else "Nothing runs")
    return 0


def _resources(row: Row) -> Resources | None:
    owner = row.owner
    return measure_trees([owner.process]) if owner and owner.is_local else None


def _to_json(line: _Line) -> dict[str, object]:
    owner, used = line.row.owner, line.resources
    return {
        **to_json(line.row),
        "pid": line.row.pid,
        "since": owner.since if owner else None,
        "host": owner.host if owner else None,
        "detached": owner.detached if owner else None,
        "processes": used.processes if used else None,
        "cpu_s": round(used.cpu_s, 2) if used else None,
        "rss_bytes": used.resident_bytes if used else None,
    }


def _print_table(lines: list[_Line]) -> None:
    width = terminal_width(sys.stdout)
    columns = [column for column in _COLUMNS if width is None or width >= column.since]
    table, rooms = _arrange(columns, lines, width)
    while width and sum(rooms) + 2 * len(rooms) + _TEXT_WIDTH > width and len(columns) > 1:
        columns.remove(max(columns, key=lambda column: column.since))
        table, rooms = _arrange(columns, lines, width)
    style = Style(sys.stdout)
    for cells, line in zip(table, [None, *lines], strict=True):
        padded = [_pad(cell, room, column) for cell, room, column in zip(cells, rooms, columns, strict=True)]
        left = "  ".join(padded) + "  "
        doing = "DOING" if line is None else one_line(line.row.doing) or line.row.status
        text = left + cut(doing, width and max(0, width - display_width(left)))
        print(style(text, "dim" if line is None else STATUS_STYLES.get(line.row.status, "")).rstrip())


def _arrange(columns: list[_Column], lines: list[_Line], width: int | None) -> tuple[list[list[str]], list[int]]:
    """Return the cells, the heads first, and what each column takes."""
    table = [[column.name for column in columns], *([column.cell(line, width) for column in columns] for line in lines)]
    return table, [max(display_width(cells[at]) for cells in table) for at in range(len(columns))]


def _pad(cell: str, room: int, column: _Column) -> str:
    blank = " " * (room - display_width(cell))
    return blank + cell if column.is_number else cell + blank


def _time(line: _Line, _width: int | None) -> str:
    seconds = line.row.elapsed_s(time.time())
    return "-" if seconds is None else elapsed(seconds)


class _Column(Struct):
    name: str
    since: int  # how many columns the terminal must have, or more where the others are wide
    cell: Callable[[_Line, int | None], str]  # the width is None in a pipe
    is_number: bool = False


_COLUMNS = (
    _Column("SESSION", 0, lambda line, width: line.row.session_id if width is None else line.row.label),
    _Column("PROJECT", 60, lambda line, width: line.row.place if width is None else cut(line.row.place, width // 5)),
    _Column("TOOL", 40, lambda line, _: line.row.tool or "-"),
    _Column("STATUS", 110, lambda line, _: line.row.status),
    _Column("TURN", 100, lambda line, _: str(line.row.turn or "-"), is_number=True),
    _Column("PID", 50, lambda line, _: str(line.row.pid or "-"), is_number=True),
    _Column("TIME", 0, _time, is_number=True),
    _Column("CPU", 70, lambda line, _: elapsed(line.resources.cpu_s) if line.resources else "-", is_number=True),
    _Column("MEM", 90, lambda line, _: size(line.resources.resident_bytes) if line.resources else "-", is_number=True),
)
