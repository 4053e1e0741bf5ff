"""`csa list` as a table: columns, widths and styles."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from csa.cli.output import STATUS_STYLES, Style, count_of, cut, display_width, one_line, terminal_width
from csa.cli.views.naming import called, subject_of
from csa.cli.views.table import Column, Table
from csa.model.usage import Usage, counted_once
from csa.model.wording import tokens_of, usage_in_words
from csa.paths import RETIRED
from csa.runner.sessions.listing import once_each
from csa.store.sessions import format_age
from csa.store.shown import CLOSED, SessionInfo

_ROOMY_FROM = 120  # columns; narrower terminals get shortened tools and projects
_CUT_TOOLS, _CUT_PLACE = 18, 14
_LEAST_TOOLS = 5  # with the blank behind; less says nothing
_NUMBERS_WIDTH = 13
_TEXT_WIDTH = 10  # at least; numbers and tools are dropped for it


class View:
    """A terminal of some width, or a pipe, which gets everything in full."""

    def __init__(self, current: Mapping[str, str | None]) -> None:
        self.style = Style(sys.stdout)
        self.width = terminal_width(sys.stdout)
        self.now = datetime.now(UTC)
        self._current = current  # the current session of each store, by its pathname

    def name(self, info: SessionInfo) -> str:
        """Return the name of a session."""
        return called(info, self.width)

    def styled_name(self, info: SessionInfo, shown: str) -> str:
        """Return the styled name of a session, with the unique part of an id in bold."""
        if self.width is None:
            return shown
        length = display_width(shown) if info.name else info.unique_length
        return self.style(shown[:length], "bold") + (self.style(shown[length:], "dim") if shown[length:] else "")

    def subject(self, info: SessionInfo) -> str:
        return subject_of(info, self.width)

    def mark(self, info: SessionInfo) -> str:
        """Return a star for the current session of its project."""
        return "*" if self._current.get(info.store.pathname) == info.session_id else " "

    def age(self, info: SessionInfo) -> str:
        return format_age(self.now, info.state.last_accessed) if info.state else "-"

    def status(self, info: SessionInfo) -> str:
        if info.record.is_retired:
            return RETIRED
        if info.asking:
            return "asking"
        return CLOSED if info.phase == CLOSED and not info.is_running else info.status

    def styled_status(self, info: SessionInfo, shown: str) -> str:
        return self.style(shown, STATUS_STYLES.get(self.status(info), ""))


def print_table(view: View, infos: Sequence[SessionInfo], places: Mapping[str, str] | None = None) -> None:
    """Print the sessions; with the names of their stores, where they are."""
    table = Table(_columns(view, infos, places), infos)
    room = None if view.width is None else max(0, view.width - table.width)
    lines = [view.style(f"{table.head()}DESCRIPTION"[: view.width].rstrip(), "dim")]
    lines += [f"{table.line(info)}{cut(view.subject(info), room) if room != 0 else ''}".rstrip() for info in infos]
    print("\n".join(lines))


def _columns(view: View, infos: Sequence[SessionInfo], places: Mapping[str, str] | None) -> Iterator[Column]:
    """Yield the columns that fit: the name keeps its column, numbers are dropped first."""
    head = "ID" if view.width is None else "SESSION"
    name_room = max(len(head), *(display_width(view.name(info)) for info in infos))
    tool_room = max(4, *(len(tools_of(info)) for info in infos)) + 1
    place_room = 0 if places is None else max([7, *map(len, places.values())]) + 1
    if view.width is not None and view.width < _ROOMY_FROM:
        spare = max(0, view.width - name_room - 18)
        place_room = min(place_room, _CUT_PLACE + 1, spare)
        tool_room = min(tool_room, _CUT_TOOLS + 1, spare - place_room - _TEXT_WIDTH)
        tool_room = tool_room if tool_room >= _LEAST_TOOLS else 0
    yield Column(head, view.name, name_room, gap=1, style=view.styled_name)
    yield Column("", view.mark, 1, gap=1, style=lambda _, mark: view.style(mark, "bold") if mark == "*" else mark)
    yield Column("AGE", view.age, 4, gap=1, is_number=True)
    yield Column("STATUS", lambda info: f"{view.status(info):<10}", 10, gap=0, style=view.styled_status)
    if tool_room:
        yield Column("TOOL", lambda info: cut(tools_of(info), tool_room - 1), tool_room, gap=0)
    fixed = name_room + 18 + tool_room + place_room
    if view.width is None or view.width - fixed - _NUMBERS_WIDTH >= _TEXT_WIDTH:
        yield Column("TURNS", lambda info: str(info.state.turns) if info.state else "-", 5, gap=1, is_number=True)
        yield Column("TOKENS", lambda info: tokens_of(info.usage), 6, gap=1, is_number=True)
    if place_room:
        named = places or {}
        yield Column("PROJECT", lambda info: _end_of(named[info.store.pathname], place_room - 1), place_room, gap=0)


def _end_of(place: str, room: int) -> str:
    """Shorten a path at its beginning: its end is the distinctive part."""
    return place if len(place) <= room else "…" + place[len(place) - room + 1 :]


def print_totals(view: View, infos: Sequence[SessionInfo], *, more: int) -> None:
    """Print the totals of the shown sessions."""
    states = [info.state for info in once_each(infos) if info.state]
    count = f"{len(infos)} of {len(infos) + more}" if more else str(len(infos))
    running = sum(info.status == "running" for info in infos)
    turns = sum(state.turns for state in states)
    used = counted_once((info.session_id, info.usage or Usage()) for info in infos)
    noun = count_of(len(infos) + more, "session").partition(" ")[2]
    words = [f"{count} {noun}", f"{running} running", count_of(turns, "turn"), *usage_in_words(used)]
    line = ", ".join(words)
    if view.width is not None and len(line) > view.width:
        line = f"{', '.join(words[:2])},\n{', '.join(words[2:])}"
    for part in line.splitlines():
        print(view.style(part, "dim"))


def tools_of(info: SessionInfo) -> str:
    return one_line(",".join(info.state.tools)) or "-" if info.state else "-"
