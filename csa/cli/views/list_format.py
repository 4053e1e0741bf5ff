"""`csa ls --format`: a custom line for each session, as in docker and git.

A template has fields: `{name} {status}`. They are looked up in a table, never in objects. `{field:<12}` pads, and
`{{` is a brace. With `table` in front the fields become columns with a header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from string import Formatter

from csa.cli.output import one_line
from csa.cli.views.list_table import View, tools_of
from csa.cli.views.table import Column, Table
from csa.errors import UsageError
from csa.model.clock import local_clock
from csa.model.wording import cost_of, tokens_of
from csa.store.shown import SessionInfo
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.state import SessionState

TABLE = "table"
_UNKNOWN = "-"
_WIDTH = re.compile(r"([<>^]?)(\d{0,3})")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def _of_state(render: Callable[[SessionState], object]) -> Callable[[View, SessionInfo], object]:
    return lambda _, info: render(info.state) if info.state else None


def _clock(moment: datetime) -> str:
    return local_clock(moment)


FIELDS: Mapping[str, Callable[[View, SessionInfo], object]] = {
    "name": _of_state(lambda state: state.name),
    "id": lambda _, info: info.session_id,
    "prefix": lambda _, info: info.prefix,
    "description": _of_state(lambda state: state.description),
    "status": lambda view, info: view.status(info),
    "phase": lambda _, info: info.phase,
    "tools": lambda _, info: tools_of(info),
    "turns": _of_state(lambda state: state.turns),
    "tokens": lambda _, info: tokens_of(info.usage),
    "cost": lambda _, info: cost_of(info.usage),
    "age": lambda view, info: view.age(info),
    "used": _of_state(lambda state: _clock(state.last_accessed)),
    "created": _of_state(lambda state: _clock(state.created_at)),
    "project": lambda _, info: info.project,
    "branch": _of_state(lambda state: state.branch),
    "worktree": _of_state(lambda state: state.worktree and state.worktree.path),
    "landed": lambda _, info: info.worktree and info.worktree.landed,
    "owner": _of_state(lambda state: state.owner),
    "parent": lambda _, info: info.parent,
    "depth": _of_state(lambda state: state.depth),
    "queued": lambda _, info: info.queued,
    "children": lambda _, info: info.children,
}


class _Part(Struct):
    """A piece of a template: a text, then a field, if there is one, and how it is padded."""

    text: str
    field: str | None = None
    align: str = "<"
    width: int = 0


class Template:
    """A parsed `--format`; UsageError if it is invalid."""

    def __init__(self, text: str) -> None:
        words = text.strip()
        self.is_plain_table = words == TABLE
        self._is_table = words.startswith(f"{TABLE} ")
        body = words[len(TABLE) :].strip() if self._is_table else text
        for escape, meaning in _ESCAPES.items():
            body = body.replace(escape, meaning)
        self._parts = [] if self.is_plain_table else _parse(body)

    def lines(self, view: View, infos: Sequence[SessionInfo]) -> list[str]:
        """Return the output for some sessions."""
        if not self._is_table:
            return ["".join(_render(part, view, info) for part in self._parts) for info in infos]
        names = [part.field for part in self._parts if part.field]
        table = Table([Column(name.upper(), _cell_of(name, view)) for name in names], infos)
        return [view.style(table.head().rstrip(), "dim"), *(table.line(info).rstrip() for info in infos)]


def _parse(text: str) -> list[_Part]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise _refused(f"{error}") from error
    parts = [_part(*piece) for piece in pieces]
    if not any(part.field for part in parts):
        raise _refused("it names no field")
    return parts


def _part(text: str, field: str | None, padding: str | None, conversion: str | None) -> _Part:
    if field is None:
        return _Part(text)
    if field not in FIELDS:
        raise _refused(f"there is no field '{field}'")
    found = _WIDTH.fullmatch(padding or "")
    if found is None or conversion:
        raise _refused(f"a field takes a width, as {{{field}:<12}} does")
    return _Part(text, field, found[1] or "<", int(found[2] or 0))


def _refused(problem: str) -> UsageError:
    return UsageError(f"--format: {problem[:1].lower()}{problem[1:]}.", hint=f"the fields are {', '.join(FIELDS)}")


def _render(part: _Part, view: View, info: SessionInfo) -> str:
    return part.text + (f"{_cell_of(part.field, view)(info):{part.align}{part.width or ''}}" if part.field else "")


def _cell_of(field: str, view: View) -> Callable[[SessionInfo], str]:
    value = FIELDS[field]

    def cell(info: SessionInfo) -> str:
        found = value(view, info)
        return _UNKNOWN if found is None else one_line(str(found)) or _UNKNOWN

    return cell
