"""Everything that is running, in all projects: printed once, with the usage of its processes, or as a live view."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from csa.cli.output import STATUS_STYLES, Style, can_redraw, cut, one_line, print_json, shorten, terminal_width
from csa.cli.selecting import add_hosts, find_projects, open_client
from csa.cli.views.live import group, lay_out
from csa.cli.views.naming import called, doing_of, place_of
from csa.cli.views.table import Column, Table, columns_for
from csa.model.wording import describe, elapsed, size
from csa.paths import home, make_path, state_root
from csa.runner.sessions.observing import LiveSessions
from csa.runner.sessions.resources import Resources, measure_trees
from csa.store.shown import SessionInfo
from csa.store.stores import find_stores
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.runner.sessions.genealogy import Forest
    from csa.store.sessions import Store

OTHERS_SHOWN = 50
_LINGERING_S = 30.0  # finished sessions stay in the live view, so that one sees how they ended
_PIPE_WIDTH = 160
_TEXT_WIDTH = 10  # at least
_SUBJECT_WIDTH = 30  # in a pipe: of what a session is about, before what it does


class _Line(Struct):
    info: SessionInfo
    place: str
    resources: Resources | None


def configure_ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"also the {OTHERS_SHOWN} newest of the others")
    add_hosts(parser)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_ps(arguments: argparse.Namespace) -> int:
    """Print what runs, in all projects: each session with its supervisor's PID and what its process tree uses.

    TIME is how long the turn has run, CPU and MEM are what its processes have used and use, nested sessions included.
    Both are unknown for a turn in another pid namespace or on another machine. What a running session has started on
    another host is shown too, with --all-hosts all that runs there. csa top shows the same as a live view.
    """
    find = partial(find_projects, with_retired=False)
    sessions = LiveSessions(_finder(arguments, find), describe)
    infos = sessions.running(others=_others(arguments))
    lines = [_Line(info, place_of(info.store, home(os.environ)), _resources(info)) for info in infos]
    if arguments.json:
        print_json([_to_json(line) for line in lines])
    elif lines:
        _print_table(lines)
    else:
        print("No sessions found" if arguments.all else "Nothing is running")
    return 0


def configure_top(parser: argparse.ArgumentParser) -> None:
    configure_ps(parser)
    parser.add_argument("--once", action="store_true", help="print what csa ps prints, and exit")


def execute_top(arguments: argparse.Namespace) -> int:
    """Watch what is running in all projects: what each agent is doing, for how long, its tokens and its cost.

    On a terminal the list fills the screen and refreshes four times a second. The arrow keys select a session; Enter
    shows its conversation, l its log, a attaches to it, k kills its turn, / filters the list, ? lists all keys and q
    quits. Sessions that end stay for half a minute. With --all the 50 newest of the other sessions are shown as well.

    When stdout is not a terminal, the tree is printed once.
    """
    if arguments.once:
        return execute_ps(arguments)
    others = _others(arguments)
    is_live = can_redraw(sys.stdout) and not arguments.json
    # the live view has no place for warnings
    find = find_stores if is_live else partial(find_projects, with_retired=False)
    sessions = LiveSessions(_finder(arguments, find), describe)
    if arguments.json:
        print_json([info.to_live_json(time.time()) for info in sessions.running(others=others)])
        return 0

    def find_forest() -> Forest:
        return group(sessions.running(others=others, lingering_s=_LINGERING_S))

    title, place = "csa top", partial(shorten, user_home=home(os.environ))
    empty = "No sessions found" if arguments.all else "Nothing is running; --all shows the newest sessions"
    if is_live:
        from csa.cli.views.browsing import browse  # noqa: PLC0415  # imports prompt_toolkit, which only a terminal needs

        return browse(open_client, find_forest, title=title, empty=empty, place=place)
    width = terminal_width(sys.stdout) or _PIPE_WIDTH
    lines = lay_out(
        find_forest(), width=width, height=sys.maxsize, now=time.time(), title=title, empty=empty, place=place
    )
    print("\n".join("".join(text for text, _ in line).rstrip() for line in lines))
    return 0


def _finder(arguments: argparse.Namespace, find: Callable[[Path], Iterable[Store]]) -> Callable[[], Iterable[Store]]:
    """Return what finds the stores that are asked for: by default those of all projects here."""
    root = Path(state_root(os.environ))
    if not (arguments.host or arguments.all_hosts):
        return lambda: find(root)
    from csa.store.mirrors import find_mirror, find_mirrors  # noqa: PLC0415  # few look at other hosts

    if arguments.host:
        pathname = find_mirror(str(root), arguments.host).pathname
        return lambda: find(make_path(pathname))
    return lambda: [
        *find(root),
        *(store for each in find_mirrors(str(root)) for store in find(make_path(each.pathname))),
    ]


def _others(arguments: argparse.Namespace) -> int:
    """Return how many sessions to show that are not running."""
    return OTHERS_SHOWN if arguments.all else 0


def _resources(info: SessionInfo) -> Resources | None:
    owner = info.owner
    return measure_trees([owner.process]) if owner and owner.is_local and not info.store.host else None


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
