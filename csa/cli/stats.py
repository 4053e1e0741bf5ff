"""Sum up what sessions have done and used: by tool, day, tree of sessions, or owner; or what landed work has cost.

SESSIONS are those with a turn in the given time; OK is the success rate of finished turns; SHARE the share of all
turns; CONTEXT what a turn read on average, in all its requests together; TOKENS and COST include compactions, and what
is known of turns that failed, were lost or are still running; TIME is the time of its turns; MEMORY what 95 of 100
turns did not exceed at their peak. A + means at least this much: some turns did not report what they used; - that none
did.

With --landed a row is the work of a session in a worktree, with all its attempts, repairs and sub-agents, or that of a
plan's task. It is landed if commits of it are in the history of the branch you are on, also if they were rebased or
squashed since; merged if it is in the tree of a plan that has not landed; elsewhere if it was landed in another branch,
or was removed from this one; else open, or what it was refused for: conflict, check failed. COMMITS and LINES are those
in the history. Below are the sums of what is landed and of what is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from csa.cli.output import Style, count_of, cut, display_width, one_line, print_json, tell, terminal_width, warn
from csa.cli.outputs import human_bytes
from csa.cli.selecting import add_hosts, open_client, selected_stores
from csa.cli.session_list import read_since
from csa.cli.views.table import Column, Table, columns_for
from csa.errors import UsageError
from csa.ids import unique_prefix_length
from csa.model.statistics import Tally
from csa.model.wording import cost_of, elapsed, tokens, tokens_of
from csa.paths import home
from csa.runner.sessions.statistics import KEYS, Statistics, gather_statistics

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from csa.model.state import SessionState
    from csa.runner.client import Csa
    from csa.store.sessions import Store

_MIN_NAME = 8


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=tuple(KEYS), help="group by (default: tool)")
    parser.add_argument("--landed", action="store_true", help="what work in worktrees cost, and what is left of it")
    parser.add_argument("--since", metavar="WHEN", help="only turns since: 12h, 2d, 3w ago, or a local date")
    parser.add_argument("--all-projects", action="store_true", help="of all projects")
    add_hosts(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    since = read_since(arguments.since, datetime.now(UTC))
    client = open_client()
    stores = selected_stores(client, arguments)
    if arguments.landed:
        if arguments.host or arguments.all_hosts:
            raise UsageError("--landed looks at the commits here.", hint="csa stats --landed --all-projects")
        return _show_landed(client, stores, arguments, since)
    by = arguments.by or "tool"
    found = gather_statistics(stores, by=by, since=since)
    if arguments.json:
        print_json(found.to_json(by=by, since=since))
    elif not found.total.turns:
        print("No turns found")
    else:
        _print_table(found, by)
        print(cut(_summary(found), terminal_width(sys.stdout)))
    if found.replayed and not arguments.json:
        tell("csa", f"{count_of(found.replayed, 'replayed turn')} not counted")
    warn(f"left out: {one_line(fault.message)}" for fault in found.left_out)
    return 0


def _show_landed(client: Csa, stores: list[Store], arguments: argparse.Namespace, since: datetime | None) -> int:
    from csa.cli.landed import print_landed  # noqa: PLC0415  # other statistics need none of it
    from csa.runner.sessions.landed import gather_landed  # noqa: PLC0415  # nor of this

    if arguments.by:
        raise UsageError("--by and --landed cannot be combined.")
    found = gather_landed(client.context, stores, since=since)
    if arguments.json:
        print_json(found.to_json(since=since))
    else:
        print_landed(found, home(os.environ))
    warn([*found.notes, *(f"left out: {one_line(fault.message)}" for fault in found.left_out)])
    return 0


def _summary(found: Statistics) -> str:
    """Return one line of what the table has not: how many sessions are running, and which tool is used most."""
    total = found.total
    parts = [f"{count_of(total.running, 'turn')} running"]
    if tool := total.most_active_tool:
        parts.append(f"most active tool: {one_line(tool)} ({total.tools[tool] / total.turns:.0%} of the turns)")
    return ", ".join(parts)


def _print_table(found: Statistics, by: str) -> None:
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    names = _names(found, by, whole=width is None)
    numbers = columns_for(width, _columns(found.total.turns))
    widest = max(map(display_width, [*names, by, "total"]))
    room = widest if width is None else max(_MIN_NAME, min(widest, width - sum(each.room for each in numbers)))
    rows = list(zip(names, found.rows.values(), strict=True))
    table = Table([Column(by.upper(), lambda row: cut(row[0], room), room, gap=0), *numbers], rows)
    print(style(table.head(), "dim"))
    for row in rows:
        print(table.line(row))
    if len(rows) > 1:
        print(style(table.line(("total", found.total)), "bold"))


def _names(found: Statistics, by: str, *, whole: bool) -> list[str]:
    if by != "tree":
        return list(map(one_line, found.rows))
    ordered = sorted(found.rows)
    shown = {key: key if whole else key[: unique_prefix_length(key, ordered)] for key in ordered}
    return [_name_of_tree(found.roots.get(key), shown[key], whole=whole) for key in found.rows]


def _name_of_tree(root: SessionState | None, shown_id: str, *, whole: bool) -> str:
    """Return the name of a root; without a name, or in a pipe, its id and description."""
    name = one_line(root.name or "") if root else ""
    if name and not whole:
        return name
    return f"{shown_id} {name or one_line(root.description if root else '')}".rstrip()


def _columns(all_turns: int) -> Iterator[Column]:
    for name, room, since, render in (
        ("SESSIONS", 9, 0, lambda tally: str(len(tally.sessions))),
        ("TURNS", 6, 0, lambda tally: str(tally.turns)),
        ("MSGS", 6, 100, lambda tally: str(tally.messages)),
        ("OK", 5, 0, lambda tally: _known(tally.success_rate, "{:.0%}".format)),
        ("SHARE", 6, 100, lambda tally: f"{tally.turns / all_turns:.0%}"),
        ("CONTEXT", 8, 62, lambda tally: _known(tally.average_context, lambda count: tokens(round(count)))),
        ("TOKENS", 7, 0, lambda tally: tokens_of(tally.usage)),
        ("COST", 8, 47, lambda tally: cost_of(tally.usage)),
        ("TIME", 7, 54, lambda tally: elapsed(tally.time_s)),
        ("MEMORY", 7, 69, lambda tally: _known(tally.p95_memory, human_bytes)),
    ):
        yield Column(name, _of_tally(render), room, gap=0, since=since, is_number=True)


def _of_tally(render: Callable[[Tally], str]) -> Callable[[tuple[str, Tally]], str]:
    return lambda row: render(row[1])


def _known(value: Any, render: Callable[[Any], str]) -> str:
    return "-" if value is None else render(value)
