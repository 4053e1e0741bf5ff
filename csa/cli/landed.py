"""`csa stats --landed`: the table of works in worktrees, with what has stayed of them, and what they have cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from csa.cli.output import Style, cut, display_width, one_line, shorten, terminal_width
from csa.cli.views.table import Column, Table, columns_for
from csa.ids import unique_prefix_length
from csa.model.landed import LANDED, Landed, Sum, Work
from csa.model.wording import cost_of, elapsed, tokens_of
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

_MIN_NAME = 10
_STYLES = {LANDED: "green", "conflict": "red", "check failed": "red", "elsewhere": "yellow", "merged": "yellow"}


class _Row(Struct):
    """A line of the table: a work, or a sum."""

    name: str
    state: str
    commits: str
    changed: tuple[int, int] | None
    of: Work | Sum


def print_landed(found: Landed, user_home: Path) -> None:
    """Print the works, and how much of their cost was for what is landed."""
    if not found.works:
        print("No work in worktrees found")
        return
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    rows = list(_rows(found, whole=width is None))
    sums = [_sum("landed", found.landed, found), _sum("not landed", found.not_landed, found)]
    numbers = columns_for(width, _columns(style))
    widest = max(display_width(row.name) for row in [*rows, *sums])
    room = widest if width is None else max(_MIN_NAME, min(widest, width - sum(each.room for each in numbers)))
    table = Table([Column("SESSION", lambda row: cut(row.name, room), room, gap=0), *numbers], rows)
    print(style(table.head().rstrip(), "dim"))
    for row in rows:
        print(table.line(row).rstrip())
    for row in sums:
        print(style(table.line(row).rstrip(), "bold"))
    for base in found.bases:
        where = f"{base.branch or base.head[:12]} of {shorten(base.directory, user_home)}"
        print(cut(f"landed: in {where}", width))


def _rows(found: Landed, *, whole: bool) -> Iterator[_Row]:
    ordered = sorted(work.last.session_id for work in found.works)
    for work in found.works:
        state = work.last
        length = len(state.session_id) if whole else max(10, unique_prefix_length(state.session_id, ordered))
        name = state.task.name if state.task and work.above else state.name
        called = name or f"{state.session_id[:length]} {state.description}"
        if whole and name:
            called = f"{state.session_id} {name}"
        indent = "  " * sum(1 for _ in work.line())
        commits = str(len(work.commits)) if work.commits else "-"
        yield _Row(indent + one_line(called), work.outcome, commits, work.changed if work.commits else None, work)


def _sum(name: str, total: Sum, found: Landed) -> _Row:
    return _Row(
        name,
        f"{len(total.works)} of {len(found.works)}",
        str(len(total.lines) or "-"),
        total.changed if total.lines else None,
        total,
    )


def _columns(style: Style) -> Iterator[Column]:
    def painted(row: _Row, cell: str) -> str:
        return style(cell, _STYLES.get(row.state, ""))

    yield Column("  STATE", lambda row: f"  {row.state:<12}", 14, gap=0, style=painted)
    for name, room, since, render in (
        ("COMMITS", 8, 72, lambda row: row.commits),
        ("LINES", 12, 54, lambda row: "{:+} -{}".format(*row.changed) if row.changed else "-"),
        ("TRIES", 6, 100, lambda row: str(len(row.of.attempts)) if isinstance(row.of, Work) else ""),
        ("TURNS", 6, 90, lambda row: str(row.of.tally.turns)),
        ("TOKENS", 8, 45, lambda row: tokens_of(row.of.tally.usage)),
        ("COST", 9, 0, lambda row: cost_of(row.of.tally.usage)),
        ("TIME", 8, 80, lambda row: elapsed(row.of.tally.time_s)),
    ):
        yield Column(name, render, room, gap=0, since=since, is_number=True)
