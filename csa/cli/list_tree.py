"""`session list --tree`: who started whom, with what each subtree adds up to.

The status in brackets and the numbers at the right count the session and all below it; the time is that during which
any of them ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csa.cli.describe import cost_of, elapsed, tokens_of
from csa.cli.list_table import View, description_of, tools_of
from csa.cli.output import STATUS_STYLES, cut, cut_behind, display_width
from csa.model.rollup import Rollup
from csa.model.tree import Node, walk
from csa.runner.sessions.genealogy import Forest, is_fork_edge, statuses_below
from csa.runner.sessions.listing import SessionInfo
from csa.structs import Struct

_NUMBERS_FROM = 80  # columns
_TEXT_WIDTH = 10  # at least
_QUIET = {"succeeded", "idle"}  # what a parent need not say of those below it
_WIDTHS = (8, 7, 8)
_NAMES = ("TIME", "TOKENS", "COST")


class _Place(Struct):
    """Where in a tree a node stands: the lines before it, and those before its children."""

    lead: str = ""
    below: str = ""
    is_fork: bool = False


class TreePrinter:
    """Prints a forest with its sums. `names` says where those are that are in another project, or not in it."""

    def __init__(self, view: View, forest: Forest, sums: Mapping[str, Rollup], names: Mapping[str, str]) -> None:
        self._view = view
        self._forest = forest
        self._names = names
        self._sums = sums
        self._has_numbers = view.width is None or view.width >= _NUMBERS_FROM

    def print(self) -> list[SessionInfo]:
        """Print it; return the sessions in it."""
        width = self._view.width
        if self._has_numbers and width:
            print(self._view.style(" " * (width - sum(_WIDTHS)) + _right(_NAMES), "dim"))
        stack = [(root, _Place()) for root in reversed(self._forest)]
        while stack:
            node, place = stack.pop()
            self._print_node(node, place)
            last = len(node.children) - 1
            stack += [
                (child, _place_below(place, node.item, child, is_last=at == last))
                for at, child in reversed(list(enumerate(node.children)))
            ]
        return [node.item for node in walk(self._forest) if node.item]

    def _print_node(self, node: Node[SessionInfo], place: _Place) -> None:
        view, info = self._view, node.item
        right = _numbers(self._sums[node.session_id]) if self._has_numbers else ()
        if info is None:
            where = f"  ({self._names.get(node.session_id, 'missing')})"
            name = cut_behind(node.session_id, where, view.width and max(0, view.width - len(place.lead)))
            _print_line(view, place.lead + view.style(name, "yellow"), len(place.lead + name), "", right=right)
            return
        below = statuses_below(node, self._sums)
        troubles = {status: count for status, count in below.items() if status not in _QUIET}
        mark, bracket, tools = " *" if view.is_current(info) else "", _bracket(troubles), f" {tools_of(info)}"
        head = f"{place.lead}{view.shown_id(info)}{mark}"
        if view.width is not None:
            room = max(0, view.width - len(head) - 1 - len(view.status(info)))
            bracket = cut(bracket, room)
            tools = cut(tools, room - len(bracket))
        plain = f"{head}{tools} {view.status(info)}{bracket}  "
        styled = (
            f"{place.lead}{view.styled_id(info)}{view.style(mark, 'bold')}{tools} "
            f"{view.styled_status(info)}{view.style(bracket, _style_of(troubles))}  "
        )
        away = self._names.get(node.session_id)
        text = (f"({away}) " if away else "") + _fork_of(info, place) + description_of(info)
        _print_line(view, styled, display_width(plain), text, right=right)


def _place_below(place: _Place, parent: SessionInfo | None, child: Node[SessionInfo], *, is_last: bool) -> _Place:
    is_fork = child.item is not None and is_fork_edge(parent, child.item)
    lead = f"{'└' if is_last else '├'}{'╌' if is_fork else '─'} "
    return _Place(place.below + lead, place.below + ("   " if is_last else "│  "), is_fork=is_fork)


def _fork_of(info: SessionInfo, place: _Place) -> str:
    if place.is_fork:
        return "(fork) "
    source = info.record.state.fork_of if info.record.state else None
    return f"(fork of {source[: len(info.prefix)]}) " if source else ""


def _bracket(troubles: Mapping[str, int]) -> str:
    """Render what is not as it should be below a session, what runs first: ` [2 running, 1 failed]`."""
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
    numbers = _right(right)
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


def _right(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:>{width}}" for width, cell in zip(_WIDTHS, cells, strict=False))


def name_places(forest: Forest, user_home: Path) -> dict[str, str]:
    """Say where those are that are not in the forest, and those in another project than their parent; by their keys."""
    from csa.cli.roster import shorten  # noqa: PLC0415  # few trees need it

    names: dict[str, str] = {}
    for node in walk(forest):
        if node.item is None:
            names[node.session_id] = _name_missing(node, user_home)
            continue
        for child in node.children:
            if child.item and child.item.store != node.item.store:
                names[child.session_id] = f"in {shorten(child.item.store.project, user_home)}"
    return names


def _name_missing(node: Node[SessionInfo], user_home: Path) -> str:
    from csa.cli.roster import shorten  # noqa: PLC0415  # as above

    child = next(child.item for child in node.children if child.item)
    elsewhere = child.record.state.parent_project if child.record.state else None
    if elsewhere:
        return f"in {shorten(Path(elsewhere), user_home)}"
    return "retired" if child.store.retired_paths(node.session_id).root.is_dir() else "missing"
