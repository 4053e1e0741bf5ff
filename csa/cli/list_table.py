"""`session list` as a table: how wide, and how, sessions are printed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from csa.cli.describe import tokens_of, usage_in_words
from csa.cli.output import STATUS_STYLES, Style, cut, one_line, terminal_width
from csa.model.usage import Usage, counted_once
from csa.paths import RETIRED
from csa.runner.sessions.listing import SessionInfo, once_each
from csa.store.sessions import format_age

_ROOMY_FROM = 120  # columns; narrower terminals are shown the tools and the project cut
_CUT_TOOLS, _CUT_PLACE = 18, 14
_LEAST_TOOLS = 5  # with the blank behind; less says nothing
_NUMBERS_WIDTH = 13
_TEXT_WIDTH = 10  # at least; numbers give way to it


class View:
    """A terminal of some width, or a pipe, which takes everything whole."""

    def __init__(self, current: Mapping[str, str | None]) -> None:
        self.style = Style(sys.stdout)
        self.width = terminal_width(sys.stdout)
        self.now = datetime.now(UTC)
        self._current = current  # the current session of each store, by its pathname

    def shown_id(self, info: SessionInfo) -> str:
        """Return what is shown of an id: the whole in a pipe, on a terminal what is enough, and at least ten."""
        return info.session_id if self.width is None else info.prefix

    def styled_id(self, info: SessionInfo) -> str:
        """Return the same with the unique prefix in bold."""
        shown = self.shown_id(info)
        if self.width is None:
            return shown
        return self.style(shown[: info.unique_length], "bold") + self.style(shown[info.unique_length :], "dim")

    def is_current(self, info: SessionInfo) -> bool:
        return self._current.get(info.store.pathname) == info.session_id

    def status(self, info: SessionInfo) -> str:
        return RETIRED if info.record.is_retired else info.status

    def styled_status(self, info: SessionInfo, *, width: int = 0) -> str:
        status = self.status(info)
        return self.style(f"{status:<{width}}", STATUS_STYLES.get(status, ""))


def print_table(view: View, infos: Sequence[SessionInfo], places: Mapping[str, str] | None = None) -> None:
    """Print the sessions; with the names of their stores, where they are."""
    columns = _Columns(view, infos, places)
    print("\n".join([view.style(columns.head(), "dim"), *map(columns.row, infos)]))


class _Columns:
    """What each column of a table takes."""

    def __init__(self, view: View, infos: Sequence[SessionInfo], places: Mapping[str, str] | None) -> None:
        self._view = view
        self._places = places
        is_roomy = view.width is None or view.width >= _ROOMY_FROM
        self._id = max(len(view.shown_id(info)) for info in infos)
        widest = max(4, *(len(tools_of(info)) for info in infos))
        widest_place = max([7, *(len(place) for place in (places or {}).values())])
        self._place = 0 if places is None else widest_place + 1
        self._tool = widest + 1
        if view.width is not None and not is_roomy:
            spare = max(0, view.width - self._id - 18)
            self._place = min(self._place, _CUT_PLACE + 1, spare)
            self._tool = min(self._tool, _CUT_TOOLS + 1, spare - self._place)
            if self._tool < _LEAST_TOOLS:
                self._tool = 0
        fixed = self._id + 18 + self._tool + self._place
        self._has_numbers = view.width is None or view.width - fixed - _NUMBERS_WIDTH >= _TEXT_WIDTH
        taken = fixed + (_NUMBERS_WIDTH if self._has_numbers else 0)
        self._text = None if view.width is None else max(0, view.width - taken)

    def head(self) -> str:
        numbers = f"{'TURNS':>5} {'TOKENS':>6} " if self._has_numbers else ""
        place = f"{'PROJECT':<{self._place}}" if self._place else ""
        tool = f"{'TOOL':<{self._tool}}" if self._tool else ""
        line = f"{'ID':<{self._id}}   {'AGE':>4} {'STATUS':<10}{tool}{numbers}{place}DESCRIPTION"
        return line[: self._view.width].rstrip()

    def row(self, info: SessionInfo) -> str:
        view, state = self._view, info.record.state
        pad = " " * (self._id - len(view.shown_id(info)))
        mark = view.style("*", "bold") if view.is_current(info) else " "
        age = format_age(view.now, state.last_accessed) if state else "-"
        tools = f"{cut(tools_of(info), self._tool - 1):<{self._tool}}" if self._tool else ""
        numbers = f"{state.turns if state else '-':>5} {tokens_of(info.usage):>6} " if self._has_numbers else ""
        text = "" if self._text == 0 else cut(description_of(info), self._text)
        return (
            f"{view.styled_id(info)}{pad} {mark} {age:>4} {view.styled_status(info, width=10)}{tools}"
            f"{numbers}{self._place_of(info)}{text}".rstrip()
        )

    def _place_of(self, info: SessionInfo) -> str:
        if not self._places:
            return ""
        room = self._place - 1
        place = self._places[info.store.pathname]
        shown = place if len(place) <= room else "…" + place[len(place) - room + 1 :]  # its end tells it from others
        return f"{shown:<{room}} "


def print_totals(view: View, infos: Sequence[SessionInfo], *, more: int) -> None:
    """Print what the sessions that are shown add up to."""
    states = [info.record.state for info in once_each(infos) if info.record.state]
    count = f"{len(infos)} of {len(infos) + more}" if more else str(len(infos))
    running = sum(info.status == "running" for info in infos)
    turns = sum(state.turns for state in states)
    used = counted_once((info.session_id, info.usage or Usage()) for info in infos)
    words = [plural(len(infos) + more, "session", count), f"{running} running", plural(turns, "turn")]
    words += usage_in_words(used)
    line = ", ".join(words)
    if view.width is not None and len(line) > view.width:
        line = f"{', '.join(words[:2])},\n{', '.join(words[2:])}"
    for part in line.splitlines():
        print(view.style(part, "dim"))


def plural(count: int, noun: str, shown: str = "") -> str:
    return f"{shown or count} {noun}{'' if count == 1 else 's'}"


def tools_of(info: SessionInfo) -> str:
    return one_line(",".join(info.record.state.tools)) or "-" if info.record.state else "-"


def description_of(info: SessionInfo) -> str:
    state = info.record.state
    if state is None:
        return one_line(str(info.record.fault))
    return one_line(f"[{state.name}] {state.description}" if state.name else state.description)
