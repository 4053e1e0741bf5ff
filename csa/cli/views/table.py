"""Tables: columns as wide as necessary, some of which are dropped on a narrow terminal."""

from __future__ import annotations

from csa.cli.output import display_width
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any


class Column(Struct):
    """A column, and how to make a cell from a row. `room` 0: as wide as its widest cell."""

    name: str
    cell: Callable[[Any], str]
    room: int = 0
    gap: int = 2  # blanks behind it
    since: int = 0  # how many columns the terminal must have
    is_number: bool = False
    style: Callable[[Any, str], str] = lambda _, text: text  # of a row's cell


class Table:
    """The lines of some rows, without what follows the columns; `width` is that of the columns."""

    def __init__(self, columns: Iterable[Column], rows: Sequence[Any]) -> None:
        self._columns = [(each, each.room or max(map(display_width, _cells(each, rows)))) for each in columns]
        self.width = sum(room + column.gap for column, room in self._columns)

    def head(self) -> str:
        """Return the names."""
        return "".join(_pad(column, room, column.name, column.name) for column, room in self._columns)

    def line(self, row: Any) -> str:
        """Return the cells of a row."""
        cells = [(column, room, column.cell(row)) for column, room in self._columns]
        return "".join([_pad(column, room, cell, column.style(row, cell)) for column, room, cell in cells])


def columns_for(width: int | None, columns: Iterable[Column]) -> list[Column]:
    """Return the columns that a terminal of a width has; a pipe (None) has all."""
    return [column for column in columns if width is None or width >= column.since]


def _cells(column: Column, rows: Sequence[Any]) -> list[str]:
    return [column.name, *map(column.cell, rows)]


def _pad(column: Column, room: int, cell: str, shown: str) -> str:
    blank, gap = " " * (room - display_width(cell)), " " * column.gap
    return f"{blank}{shown}{gap}" if column.is_number else f"{shown}{blank}{gap}"
