"""`csa list --tree`: who started whom, with the totals of each subtree.

The statuses in brackets and the numbers on the right cover the session and everything below it; the time is that during
which any of them was running.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csa.cli.output import STATUS_STYLES, cut, cut_behind, display_width, one_line, shorten
from csa.cli.views.list_table import View, tools_of
from csa.cli.views.live import NAMES, at_right
from csa.cli.views.naming import name_host
from csa.ids import is_session_id
from csa.model.genealogy import Branch, Node, Rollup, branches, walk
from csa.model.wording import cost_of, elapsed, tokens_of
from csa.runner.sessions.genealogy import Forest, is_fork_edge, items, statuses_below
from csa.store.sessions import Store
from csa.store.shown import SessionInfo

_NUMBERS_FROM = 80  # columns
_TEXT_WIDTH = 10  # at least
_QUIET = {"succeeded", "idle"}  # statuses that a parent does not show for those below it


class TreePrinter:
    """Prints a forest with its sums. `names` says where sessions are that are in another project, or missing."""

    def __init__(self, view: View, forest: Forest, sums: Mapping[str, Rollup], names: Mapping[str, str]) -> None:
        self._view = view
        self._forest = forest
        self._names = names
        self._sums = sums
        self._known = {info.session_id: view.name(info) for info in items(*forest)}
        self._merges: dict[str, list[str]] = {}
        for info in items(*forest):
            for source in info.state.merged_from if info.state else ():
                self._merges.setdefault(source, []).append(self._known[info.session_id])
        self._has_numbers = view.width is None or view.width >= _NUMBERS_FROM

    def print(self) -> list[SessionInfo]:
        """Print it; return the sessions in it."""
        width = self._view.width
        if self._has_numbers and width:
            print(self._view.style(f"{at_right(NAMES, width):>{width}}", "dim"))
        for branch in branches(self._forest, edge=_edge):
            self._print_branch(branch)
        return items(*self._forest)

    def _print_branch(self, branch: Branch[SessionInfo]) -> None:
        view, node, lead = self._view, branch.node, branch.lead
        info = node.item
        right = _numbers(self._sums[node.session_id]) if self._has_numbers else ()
        if info is None:
            where = f"  ({self._names.get(node.session_id, 'missing')})"
            name = cut_behind(_name_of_missing(node, view), where, view.width and max(0, view.width - len(lead)))
            _print_line(view, lead + view.style(name, "yellow"), display_width(lead + name), "", right=right)
            return
        below = statuses_below(node, self._sums)
        troubles = {status: count for status, count in below.items() if status not in _QUIET}
        mark, bracket, tools = f" {view.mark(info)}".rstrip(), _bracket(troubles), f" {tools_of(info)}"
        name, status = view.name(info), view.status(info)
        head = f"{lead}{name}{mark}"
        if view.width is not None:
            room = max(0, view.width - display_width(head) - 1 - len(status))
            bracket = cut(bracket, room)
            tools = cut(tools, room - len(bracket))
        plain = f"{head}{tools} {status}{bracket}  "
        styled = (
            f"{lead}{view.styled_name(info, name)}{view.style(mark, 'bold')}{tools} "
            f"{view.styled_status(info, status)}{view.style(bracket, _style_of(troubles))}  "
        )
        away = self._names.get(node.session_id)
        text = (
            (f"({away}) " if away else "")
            + self._fork_of(info, branch.parent)
            + self._merged(info)
            + view.subject(info)
        )
        _print_line(view, styled, display_width(plain), text, right=right)

    def _fork_of(self, info: SessionInfo, parent: Node[SessionInfo] | None) -> str:
        if parent and is_fork_edge(parent.item, info):
            return "(fork) "
        source = info.state.fork_of if info.state else None
        return f"(fork of {self._name_of(source, info)}) " if source else ""

    def _merged(self, info: SessionInfo) -> str:
        sources = [self._name_of(source, info) for source in (info.state.merged_from if info.state else ())]
        words = f"(merged from {', '.join(sources)}) " if sources else ""
        merges = self._merges.get(info.session_id)
        return words + (f"(merged into {', '.join(merges)}) " if merges else "")

    def _name_of(self, session_id: str, beside: SessionInfo) -> str:
        return self._known.get(session_id, session_id[: len(beside.prefix)])


def _edge(parent: Node[SessionInfo], child: Node[SessionInfo]) -> str:
    return "╌" if child.item and is_fork_edge(parent.item, child.item) else "─"


def _bracket(troubles: Mapping[str, int]) -> str:
    """Render the troubles below a session, running ones first: ` [2 running, 1 failed]`."""
    words = [f"{troubles[status]} {status}" for status in sorted(troubles, key=_urgency)]
    return f" [{', '.join(words)}]" if words else ""


def _style_of(troubles: Mapping[str, int]) -> str:
    return STATUS_STYLES.get(min(troubles, key=_urgency), "") if troubles else ""


def _urgency(status: str) -> tuple[bool, str]:
    return status != "running", status


def _print_line(view: View, styled: str, used: int, text: str, *, right: tuple[str, ...]) -> None:
    if view.width is None:
        numbers = " ".join(cell for cell in right if cell)
        print(f"{styled}{text}  ({numbers})" if numbers else f"{styled}{text}")
        return
    numbers = at_right(right, view.width) if right else ""
    room = view.width - used - len(numbers)
    if numbers and room < _TEXT_WIDTH:
        numbers, room = "", view.width - used
    shown = cut(text, max(0, room)) if text else ""
    pad = " " * max(0, room - display_width(shown)) if numbers.strip() else ""
    print(f"{styled}{shown}{pad}{view.style(numbers.rstrip(), 'dim') if numbers.strip() else ''}".rstrip())


def _numbers(total: Rollup) -> tuple[str, ...]:
    time_s = total.time_s
    return (
        elapsed(time_s) if total.spans else "",
        tokens_of(total.usage),
        cost_of(total.usage),
    )


def name_places(forest: Forest, user_home: Path) -> dict[str, str]:
    """Say where sessions are that are missing, or elsewhere than their parent; by their keys."""
    names: dict[str, str] = {}
    for node in walk(forest):
        if node.item is None:
            names[node.session_id] = _name_missing(node, user_home)
            continue
        for child in node.children:
            if child.item and child.item.store != node.item.store:
                host = name_host(child.item.store, node.item.store)
                names[child.session_id] = host or f"in {shorten(child.item.project, user_home)}"
    return names


def _name_of_missing(node: Node[SessionInfo], view: View) -> str:
    """Return the label of a parent that is not in the forest: it may be in another project, or deleted."""
    child = next(child.item for child in node.children if child.item)
    store = Store(child.store.root_pathname, child.parent_project or child.store.project_pathname)
    if not is_session_id(node.session_id):
        return one_line(node.session_id)
    return view.name(SessionInfo(record=store.record(node.session_id), status=""))


def _name_missing(node: Node[SessionInfo], user_home: Path) -> str:
    child = next(child.item for child in node.children if child.item)
    if child.state and child.state.parent_host:
        return f"on {child.state.parent_host}"
    if elsewhere := child.parent_project:
        return f"in {shorten(elsewhere, user_home)}"
    return "retired" if child.store.retired_paths(node.session_id).root.is_dir() else "missing"
