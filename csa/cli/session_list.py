"""List the project's sessions, newest first, or as the tree of who started whom.

The prefix that is enough to name a session is printed in bold. On a terminal the 50 newest are shown.

With --watch the tree is drawn over the whole screen, four times a second, with what each agent is doing, for how long
its last turn has run, its tokens and its cost; q or Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from csa.cli.describe import tokens
from csa.cli.output import STATUS_STYLES, Style, can_redraw, cut, display_width, one_line, print_json, terminal_width
from csa.cli.selecting import open_client
from csa.errors import UsageError
from csa.model.tree import Node
from csa.paths import home
from csa.runner.client import Csa, SessionInfo
from csa.store.sessions import format_age

if TYPE_CHECKING:
    from csa.cli.live import Line

SHOWN_ON_TERMINAL = 50
WIDE_COLUMNS = 72  # narrower terminals are shown no numbers
_SHORT_ID = 10
_TEXT_WIDTH = 10  # at least
_NUMBERS_FROM = 80  # columns


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tree", action="store_true", help="show who started whom")
    parser.add_argument("--limit", type=int, metavar="N", help="at most the N newest")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--watch", action="store_true", help="keep showing the tree as it changes; needs a terminal")
    kinds.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError("--limit takes a number from 1 up.")
    client = open_client(arguments)
    if arguments.watch:
        return _watch(client, arguments.limit)
    if arguments.json:
        print_json([info.to_json() for info in client.sessions(limit=arguments.limit)])
        return 0
    view = _View()
    if arguments.tree:
        shown = _print_tree(view, client, arguments.limit)
        total = shown
    else:
        total = len(client.store.ids())
        limit = arguments.limit or (SHOWN_ON_TERMINAL if view.width else None)
        shown = _print_rows(view, client.sessions(limit=limit))
    if not total:
        print("No sessions found")
        print('hint: csa run "what to do" starts one', file=sys.stderr)
    elif shown < total:
        print(f"... and {total - shown} more (--limit {total} shows all)", file=sys.stderr)
    return 0


def _watch(client: Csa, limit: int | None) -> int:
    if not can_redraw(sys.stdout):
        raise UsageError("--watch needs a terminal that can be redrawn.", hint="csa session list --tree")
    from csa.cli.live import arrange, lay_out  # noqa: PLC0415  # a plain list needs none of it
    from csa.cli.roster import Roster, shorten  # noqa: PLC0415  # as above
    from csa.cli.screen import watch  # noqa: PLC0415  # as above; this one brings rich

    store, user_home = client.store, home(client.setting.environ)
    roster = Roster(lambda: [store], user_home=user_home)
    title = shorten(store.project, user_home)

    def frame(width: int, height: int) -> list[Line]:
        forest = arrange(roster.rows())[:limit]
        return lay_out(forest, width=width, height=height, now=time.time(), title=title, empty="No sessions yet")

    return watch(frame)


class _View:
    """How wide, and how, to print."""

    def __init__(self) -> None:
        self.style = Style(sys.stdout)
        self.width = terminal_width(sys.stdout)
        self.now = datetime.now(UTC)

    def session_id(self, info: SessionInfo) -> str:
        """The whole id in a pipe; on a terminal the unique prefix, in bold, and as much more as makes ten."""
        if self.width is None:
            return info.session_id
        return self.style(info.prefix, "bold") + self.style(info.session_id[len(info.prefix) : _SHORT_ID], "dim")

    def id_width(self, infos: Sequence[SessionInfo]) -> int:
        if self.width is None:
            return 26
        return max((max(len(info.prefix), _SHORT_ID) for info in infos), default=_SHORT_ID)


def _print_rows(view: _View, infos: list[SessionInfo]) -> int:
    if not infos:
        return 0
    id_width = view.id_width(infos)
    tool_width = max(4, *(len(_tools(info)) for info in infos))
    is_wide = view.width is None or view.width >= WIDE_COLUMNS
    fixed = id_width + 2 + 5 + 10 + tool_width + 1 + (14 if is_wide else 1)
    numbers = f" {'TURNS':>5} {'TOKENS':>6} " if is_wide else " "
    print(
        view.style(f"{'ID':<{id_width}}  {'AGE':>4} {'STATUS':<10}{'TOOL':<{tool_width}} {numbers}DESCRIPTION", "dim")
    )
    for info in infos:
        shown = view.session_id(info)
        pad = " " * (id_width - (26 if view.width is None else max(len(info.prefix), _SHORT_ID)))
        status = view.style(f"{info.status:<10}", STATUS_STYLES.get(info.status, ""))
        state = info.record.state
        age = format_age(view.now, state.last_accessed) if state else "-"
        used = tokens(state.usage.input_tokens + state.usage.output_tokens) if state else "-"
        numbers = f" {state.turns if state else '-':>5} {used:>6} " if is_wide else " "
        text = cut(_description(info), view.width and max(10, view.width - fixed))
        print(f"{shown}{pad}  {age:>4} {status}{_tools(info):<{tool_width}} {numbers}{text}")
    return len(infos)


def _print_tree(view: _View, client: Csa, limit: int | None) -> int:
    right = _right_of(client, view.width) if view.width and view.width >= _NUMBERS_FROM else {}
    return sum(_print_node(view, root, right) for root in client.tree()[:limit])


def _right_of(client: Csa, width: int) -> dict[str, str]:
    """Return for each session what stands at the right end of its line: time, tokens and cost."""
    from csa.cli.live import numbers  # noqa: PLC0415  # a plain list needs none of it
    from csa.cli.roster import Roster  # noqa: PLC0415  # as above

    rows = Roster(lambda: [client.store], user_home=home(client.setting.environ)).rows()
    return {row.session_id: numbers(row, width, time.time()) for row in rows}


def _print_node(view: _View, root: Node[SessionInfo], right: dict[str, str]) -> int:
    stack = [(root, "", "")]
    count = 0
    while stack:
        at, head, tail = stack.pop()
        _print_branch(view, at, head, right.get(at.session_id, ""))
        count += 1
        last = len(at.children) - 1
        stack += [
            (child, tail + ("└─ " if index == last else "├─ "), tail + ("   " if index == last else "│  "))
            for index, child in reversed(list(enumerate(at.children)))
        ]
    return count


def _print_branch(view: _View, node: Node[SessionInfo], lead: str, right: str) -> None:
    info = node.item
    if info is None:
        print(f"{lead}{view.style(f'{node.session_id}  (missing)', 'yellow')}")
        return
    plain_id = info.session_id if view.width is None else info.session_id[: max(len(info.prefix), _SHORT_ID)]
    status = view.style(info.status, STATUS_STYLES.get(info.status, ""))
    before = f"{plain_id} {_tools(info)} {info.status}  "
    left = view.width and view.width - len(lead) - len(before) - len(right)
    if left is not None and left < _TEXT_WIDTH:
        left, right = max(_TEXT_WIDTH, left + len(right)), ""
    text = cut(_description(info), left)
    pad = " " * (left - display_width(text)) if left and right else ""
    print(f"{lead}{view.session_id(info)} {_tools(info)} {status}  {text}{pad}{view.style(right, 'dim')}")


def _tools(info: SessionInfo) -> str:
    return ",".join(info.record.state.tools) or "-" if info.record.state else "-"


def _description(info: SessionInfo) -> str:
    state = info.record.state
    if state is None:
        return one_line(str(info.record.fault))
    return one_line(f"[{state.name}] {state.description}" if state.name else state.description)
