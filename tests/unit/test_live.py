"""The rows of the live views: from data to lines of a given width."""

from datetime import UTC, datetime
from typing import Any

import pytest

from csa.cli.output import display_width, printable
from csa.cli.views.live import Line, arrange, choose, group, lay_out, lay_out_end
from csa.model.genealogy import walk
from csa.model.state import SessionState
from csa.model.usage import Usage, counted
from csa.model.wording import cost_of, elapsed, money, tokens_of
from csa.paths import SessionPaths
from csa.runner.sessions.genealogy import Forest
from csa.store.sessions import Record, Store
from csa.store.shown import SessionInfo

IDS = [f"01JH4QWERT00000000000000{at:02d}" for at in range(60)]
NOW = 1_700_000_000.0
EPOCH = datetime.fromtimestamp(0, UTC)


def row(
    at: int,
    parent: int | None = None,
    *,
    project: str = "~/api",
    parent_project: str | None = None,
    usage: Usage | None = None,
    name: str | None = None,
    description: str = "",
    **changes: object,
) -> SessionInfo:
    state = SessionState(
        session_id=IDS[at],
        project_path=project,
        created_at=EPOCH,
        name=name,
        description=description,
        last_accessed=EPOCH,
        parent_session_id=None if parent is None else IDS[parent],
        parent_project=parent_project,
    )
    known: dict[str, object] = {"status": "running", "tool": "codex", "started_at": NOW - 72 + at, **changes}
    record = Record(Store("/state", project), IDS[at], SessionPaths("/state"), state)
    return SessionInfo(record=record, _usage=usage or Usage(), **known)  # type: ignore[arg-type]


def done(at: int, parent: int | None = None, **changes: Any) -> SessionInfo:
    return row(at, parent, **{"status": "succeeded", "doing": "succeeded: fine", "duration_s": 4.2, **changes})


TREE = [
    row(
        0,
        doing="$ csa run --tool claude-code 'Implement the token bucket, with tests'",
        usage=counted(Usage(12000, 300)),
    ),
    row(1, 0, tool="claude-code", doing="edit: api/limits.py", usage=Usage(45000, 1200, 0, 0.1312)),
    done(2, 0, usage=counted(Usage(900, 50)), doing="succeeded: a bucket lets bursts pass and needs two numbers"),
    row(
        3,
        1,
        status="failed",
        doing="failed: the rate is limited",
        duration_s=3700.0,
        started_at=None,
        usage=counted(None),
    ),
]


def draw(forest: Forest, width: int, height: int = 40, title: str = "") -> list[str]:
    return [text(line) for line in lay_out(forest, width=width, height=height, now=NOW, title=title)]


def text(line: Line) -> str:
    return "".join(piece for piece, _ in line)


def test_at_140_columns() -> None:
    """Time, tokens and cost stand at the right; the rest is for what is being done."""
    assert draw(arrange(TREE), 140, title="~/api") == [
        "~/api" + " " * 112 + "    TIME TOKENS    COST",
        "● 01JH4QWERT codex $ csa run --tool claude-code 'Implement the token bucket, with tests'".ljust(117)
        + "   1m12s  12.3k       -",
        "├─ ● 01JH4QWERT claude-code edit: api/limits.py".ljust(117) + "   1m11s  46.2k   $0.13",
        "│  └─ ✗ 01JH4QWERT codex failed: the rate is limited".ljust(117) + "   1h01m      -       -",
        "└─ ✓ 01JH4QWERT codex a bucket lets bursts pass and needs two numbers".ljust(117) + "      4s    950       -",
        "4 sessions, 2 running".ljust(117) + "         59.5k+  $0.13+",
    ]


def test_at_80_columns() -> None:
    """The same columns; what does not fit of the doing is cut with an ellipsis."""
    assert draw(arrange(TREE), 80) == [
        "● 01JH4QWERT codex $ csa run --tool claude-code 'Impleme…   1m12s  12.3k       -",
        "├─ ● 01JH4QWERT claude-code edit: api/limits.py             1m11s  46.2k   $0.13",
        "│  └─ ✗ 01JH4QWERT codex failed: the rate is limited        1h01m      -       -",
        "└─ ✓ 01JH4QWERT codex a bucket lets bursts pass and need…      4s    950       -",
        "4 sessions, 2 running                                             59.5k+  $0.13+",
    ]


def test_at_40_columns() -> None:
    """Ids, tokens and cost give way; the time stays."""
    assert draw(arrange(TREE), 40) == [
        "● codex $ csa run --tool claude…   1m12s",
        "├─ ● claude-code edit: api/limi…   1m11s",
        "│  └─ ✗ codex failed: the rate …   1h01m",
        "└─ ✓ codex a bucket lets bursts…      4s",
        "4 sessions, 2 running                   ",
    ]


def test_what_a_session_is_called_comes_first() -> None:
    """Its name, however narrow the line; without one its id with what it is about, on narrow lines that alone."""
    named = row(0, name="limits", description="Add rate limiting", doing="$ make test")
    other = row(1, 0, description="Design the rate limiter, and more", doing="edit: api.py")
    wide = row(2, 0, name="日本語の長い名前", doing="$ ls")
    forest = arrange([named, other, wide])
    assert draw(forest, 100)[:3] == [
        "● limits codex $ make test".ljust(77) + "   1m12s      0       -",
        "├─ ● 01JH4QWERT codex Design the rate limiter,… · edit: api.py".ljust(77) + "   1m11s      0       -",
        "└─ ● 日本語の長い名前 codex $ ls".ljust(69) + "   1m10s      0       -",
    ]
    assert draw(forest, 40)[:3] == [
        "● limits codex $ make test         1m12s",
        "├─ ● Design the r… codex edit: …   1m11s",
        "└─ ● 日本語の長い… codex $ ls      1m10s",
    ]


def test_what_is_left_of_a_tree_at_its_end() -> None:
    """What has failed always, the others as far as there is room; then how many there were, and what they took."""
    many = [row(0, status="succeeded", name="root", duration_s=9.0), *(done(at, 0) for at in range(1, 20))]
    many[18] = row(18, 0, name="bad", status="failed", doing="failed: no luck", duration_s=1.0)
    lines, total = lay_out_end(arrange(many), width=80, now=NOW, place=str, time_s=9.4)
    shown = [text(line).rstrip() for line in lines]
    assert (len(shown), shown[0][:24], shown[-1]) == (13, "✓ root codex succeeded  ", "... and 8 more succeeded")
    assert [line[:34] for line in shown if "✗" in line] == ["└─ ✗ bad codex failed: no luck    "]
    assert total == "20 sessions in 9s, 1 failed"


NASTY = [
    "\033[2J\033]0;title\007 red",
    "日本語のテキストはここでは二桁です" * 8,
    "e\u0301" * 200,
    "\u202eright to left\u202c and\u200b zero\ttabs\r\nand lines",
    "❤\ufe0f👩\u200d💻" * 60,
    "\x9b31m c1",
    "",
]


@pytest.mark.parametrize("width", [1, 7, 20, 24, 39, 40, 59, 60, 80, 140, 300])
def test_no_text_breaks_the_frame(width: int) -> None:
    """Whatever an agent writes, no line is longer than the terminal is wide, and no control character is left."""
    deep = [row(at, at - 1 if at else None, doing=NASTY[at % len(NASTY)]) for at in range(30)]
    lines = lay_out(arrange(deep), width=width, height=40, now=NOW, title="日本/" * 40)
    assert len(lines) == 32
    for line in lines:
        assert display_width(text(line)) <= width
        assert text(line) == printable(text(line))
        assert "\n" not in text(line)
    if width >= 24:
        assert {display_width(text(line)) for line in lines} == {width}  # the right columns end at the edge


def test_what_runs_stays_when_rows_are_many() -> None:
    """More rows than lines: what runs is shown, with what it belongs to, and the rest is counted."""
    rows = [done(0), *(done(at, 0) for at in range(1, 20)), done(20), row(21, 20), row(22)]
    lines = draw(arrange(rows), 80, height=8, title="~/api")
    assert len(lines) == 8
    marks = [line[:4] for line in lines[1:6]]
    assert marks == ["● 01", "✓ 01", "└─ ●", "✓ 01", "└─ ✓"]  # the newest, a parent, what runs, the rest
    assert lines[6].rstrip() == "... and 18 more"
    assert lines[7].startswith("23 sessions, 2 running")


def test_running_rows_that_do_not_fit_are_counted() -> None:
    """Where even what runs is too much, the line says so."""
    lines = draw(arrange([row(at) for at in range(30)]), 80, height=10)
    assert lines[-2] == "... and 22 more, 22 of them running"
    assert lines[-1].startswith("30 sessions, 30 running")


def test_a_row_whose_parent_was_left_out_moves_up() -> None:
    """Of a deep branch with one line of room, the running leaf is what stays."""
    rows = [done(0), done(1, 0), row(2, 1), done(3, 0)]
    forest, hidden = choose(arrange(rows), 3)
    assert [node.session_id for node in walk(forest)] == [IDS[1], IDS[2]]
    assert {found.session_id for found in hidden} == {IDS[0], IDS[3]}
    assert choose(arrange(rows), 4) == (arrange(rows), [])


@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_a_low_terminal_is_not_overrun(height: int) -> None:
    """However low the terminal, there are not more lines than it has."""
    assert len(draw(arrange(TREE), 80, height=height, title="~/api")) <= height


def test_trees_in_which_something_runs_come_first() -> None:
    """Then the newest; children stay below their parents, oldest first."""
    rows = [done(0), row(1, 0), done(2), row(3), done(4, 3)]
    assert [node.session_id for node in arrange(rows)] == [IDS[3], IDS[0], IDS[2]]
    assert [node.session_id for node in walk(arrange([row(0), done(2, 0), row(1, 0)]))] == IDS[:3]


def test_missing_parents_are_named() -> None:
    """A parent that was removed is marked; one in another project says where it is."""
    lines = draw(arrange([row(1, 0), row(3, 2, parent_project="~/web")]), 80)
    assert any(line.startswith(f"{IDS[0][:10]}  (missing)") for line in lines)
    assert any(line.startswith(f"{IDS[2][:10]}  (in ~/web)") for line in lines)


def test_projects_are_headings() -> None:
    """Sessions stand below the project of their root; one that is elsewhere says where."""
    rows = [row(0), row(1, 0, project="~/web", parent_project="~/api"), row(2, project="~/web")]
    assert [line[:35].rstrip() for line in draw(group(rows), 50)] == [
        "~/web",
        "└─ ● codex starting",
        "~/api",
        "└─ ● codex starting",
        "   └─ ● codex (~/web) starting",
        "3 sessions, 3 running",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0s"), (59.9, "59s"), (72, "1m12s"), (7500, "2h05m"), (359_999, "99h59m"), (446_400, "5d04h")],
)
def test_elapsed(seconds: float, words: str) -> None:
    """A duration takes at most seven characters."""
    assert elapsed(seconds) == words


@pytest.mark.parametrize(
    ("cost", "words"),
    [(0.0, "$0"), (0.0042, "$0.004"), (0.1312, "$0.13"), (12.5, "$12.50"), (234.4, "$234"), (1234.4, "$1234")],
)
def test_money(cost: float, words: str) -> None:
    """Money takes at most six characters, up to very much of it."""
    assert money(cost) == words


@pytest.mark.parametrize(
    ("usage", "cells"),
    [
        (Usage(), ("0", "-")),
        (counted(None), ("-", "-")),
        (counted(Usage(5000, 200)), ("5.2k", "-")),
        (counted(Usage(5000, 200, 0, 0.0)), ("5.2k", "$0")),
        (counted(Usage(5000, 200, 0, 1.3)) + counted(None), ("5.2k+", "$1.30+")),
        (None, ("-", "-")),
    ],
)
def test_what_is_not_known_of_a_sum(usage: Usage | None, cells: tuple[str, str]) -> None:
    """`-` is not known, and `+` at least so much."""
    assert (tokens_of(usage), cost_of(usage)) == cells
