"""`csa plan status`: a line for each task of a plan, the alternatives of a race below theirs, and what would conflict.

Pure: from a plan's status to lines of a given width.
"""

from __future__ import annotations

from collections.abc import Iterator

from csa.cli.output import count_of, cut, display_width, one_line
from csa.cli.views.live import Line
from csa.cli.views.table import Column, Table, columns_for
from csa.model.genealogy import Rollup
from csa.model.planstates import OVER, TaskState
from csa.model.usage import Usage
from csa.model.wording import cost_of, elapsed, tokens_of, usage_in_words
from csa.runner.plans.status import PlanStatus, TaskStatus, UnitStatus
from csa.structs import Struct

_MARKS = {
    "running": "●",
    "repairing": "●",
    "away": "?",
    "waiting": "○",
    "to_do": "○",
    **dict.fromkeys(("merged", "done", "finished"), "✓"),
}
_STYLES = {
    **dict.fromkeys(("merged", "done"), "green"),
    **dict.fromkeys(("running", "repairing"), "cyan"),
    **dict.fromkeys(("conflict", "check_failed", "failed", "blocked"), "red"),
    **dict.fromkeys(("away", "parked", "changed", "stopped", "to_choose", "finished"), "yellow"),
    **dict.fromkeys(("waiting", "to_do"), "dim"),
}
_ID_LENGTH = 10
_HOST_LENGTH = 16
_LEAST_STATE = 12


class _Row(Struct, kw_only=True):
    """A line: a task, or an alternative of a race."""

    name: str
    indent: str = ""
    state: TaskState
    words: str
    session_id: str
    host: str
    changed: tuple[int, int] | None
    cost: Rollup


def lines_of(status: PlanStatus, width: int | None) -> list[Line]:
    """Return the table, what would conflict, and the sum; a pipe (None) gets everything in full."""
    rows = [row for task in status.tasks for row in _rows(task)]
    fixed = columns_for(width, _columns(width, has_hosts=any(row.host for row in rows)))
    names = Table([Column("TASK", _named)], rows)
    numbers = Table(fixed, rows)
    longest = max([display_width("STATE"), *(display_width(row.words) for row in rows)])
    room = longest if width is None else max(_LEAST_STATE, min(longest, width - names.width - numbers.width - 1))
    lines: list[Line] = [[(cut(f"{names.head()}{'STATE':<{room}} {numbers.head()}".rstrip(), width), "dim")]]
    for row in rows:
        state = cut(one_line(row.words), room)
        blank = " " * (room - display_width(state) + 1)
        lines.append([(names.line(row), ""), (state, _STYLES.get(row.state.kind, "")), (blank + numbers.line(row), "")])
    lines += [[(cut(one_line(text), width), "yellow")] for text in _warnings(status)]
    lines.append([(cut(_summary(status), width), "dim")])
    return lines if width is None else [_fitting(line, width) for line in lines]


def _rows(task: TaskStatus) -> Iterator[_Row]:
    is_race = bool(task.task.tools)
    whole = task.units[0].session_id if len(task.units) == 1 and not is_race else ""
    host = task.units[0].host if whole else task.task.host
    yield _Row(
        name=task.task.name,
        state=task.state,
        words=task.state.words,
        session_id=whole,
        host=host or "",
        changed=task.changed,
        cost=task.cost,
    )
    for unit in task.units if is_race else ():
        yield _alternative(task, unit)


def _alternative(task: TaskStatus, unit: UnitStatus) -> _Row:
    name = unit.unit.removeprefix(f"{task.task.name}.")
    changed, words = unit.changed, unit.words
    return _Row(
        name=name,
        indent="  ",
        state=unit.state,
        words=words,
        session_id=unit.session_id,
        host=unit.host or "",
        changed=changed,
        cost=unit.cost,
    )


def _named(row: _Row) -> str:
    return f"{row.indent}{_MARKS.get(row.state.kind, '!')} {one_line(row.name)}"


def _columns(width: int | None, *, has_hosts: bool) -> Iterator[Column]:
    if has_hosts:
        yield Column("HOST", lambda row: cut(row.host or "here", _HOST_LENGTH), since=40)
    for name, room, since, render in (
        ("LINES", 11, 50, lambda row: "{:+} -{}".format(*row.changed) if row.changed else ""),
        ("TOKENS", 8, 66, lambda row: tokens_of(row.cost.usage) if row.cost.sessions else ""),
        ("COST", 8, 58, lambda row: cost_of(row.cost.usage) if row.cost.sessions else ""),
        ("TIME", 7, 74, lambda row: elapsed(row.cost.time_s) if row.cost.spans else ""),
    ):
        yield Column(name, render, room, gap=0, since=since, is_number=True)
    shown = None if width is None else _ID_LENGTH
    yield Column("  SESSION", lambda row: f"  {row.session_id[:shown]}", gap=0, since=90)


def _warnings(status: PlanStatus) -> Iterator[str]:
    for clash in status.clashes:
        other = f"and {clash.other} would conflict" if clash.other else "would conflict with what is merged"
        yield f"{clash.one} {other}: {', '.join(clash.files)}"
    if status.unchecked:
        yield f"{count_of(status.unchecked, 'further pair')} of tasks not looked at"


def _summary(status: PlanStatus) -> str:
    over = sum(each.state.kind in OVER for each in status.tasks)
    head = f"{over} of {count_of(len(status.tasks), 'task')} merged or done"
    words = [head, *([f"plan {status.status}"] if status.status else ["never ran"])]
    used = status.cost.usage
    return ", ".join([*words, *(usage_in_words(used) if used != Usage() else [])])


def _fitting(line: Line, width: int) -> Line:
    """Cut a line of several pieces."""
    found: Line = []
    for text, style in line:
        shown = cut(text.rstrip() if text is line[-1][0] else text, max(0, width))
        width -= display_width(shown)
        found.append((shown, style))
    return found
