"""The keys of a record, read with a check of their kind: each function raises RecordFault with the key's name."""

from __future__ import annotations

from collections.abc import Mapping

from csa.ids import is_session_id
from csa.model.usage import LARGEST

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeGuard, TypeVar

    Kinds = Mapping[str, type | Callable[[Mapping[str, Any], str], Any]]  # see `values_in`
    _T = TypeVar("_T")

_NO_TABLE: Mapping[str, Any] = {}  # most records lack most tables, and lists read thousands of records


class RecordFault(ValueError):  # noqa: N818  # a fault of the record, which the store reports as a StateError
    """A value of the record is missing or invalid; `key` names it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


class NewerSchemaFault(RecordFault):
    """A newer csa wrote the record."""


def amount_in(table: Mapping[str, Any], where: str, key: str, kinds: tuple[type[int | float], ...]) -> float:
    """Return a number, 0 or more; 0 if it is missing."""
    value: Any = table.get(key)
    if value is None:
        return 0
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise RecordFault(f"{where}.{key}", f"{value!r} is not {'a count' if kinds == (int,) else 'an amount'}")
    number: float = value
    return number


def amounts_of(where: str, table: Mapping[str, Any]) -> dict[str, float]:
    """Return a table of numbers, each 0 or more."""
    for key, value in table.items():
        if (type(value) is not int and type(value) is not float) or not 0 <= value <= LARGEST:
            raise RecordFault(f"{where}.{key}", f"{value!r} is not an amount")
    return dict(table)


def table_of(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a table; an empty one if it is missing."""
    value = record.get(key)
    if value is None:
        return _NO_TABLE
    if not is_table(value):
        raise RecordFault(key, "is not a table")
    return value


def is_table(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Say whether a value is a table. A dict is one; to ask for a Mapping takes ten times as long."""
    return type(value) is dict or isinstance(value, Mapping)


def values_in(table: Mapping[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Return what a table has of the keys of `kinds`, each with the kind of its value, or a function that reads it.

    Most tables have few of the keys, so these are what is gone through.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        kind = kinds.get(key)
        if kind is None or value is None:
            continue
        if type(value) is kind:
            found[key] = value
        else:
            found[key] = optional(table, key, kind) if isinstance(kind, type) else kind(table, key)
    return found


def required(record: Mapping[str, Any], key: str, kind: type[str]) -> str:
    """Return a string that has to be there."""
    value = optional(record, key, kind)
    if value is None:
        raise RecordFault(key, "is missing")
    return value


def optional(record: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    """Return a value of a kind; None if it is missing."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordFault(key, f"{value!r} is not {'an integer' if kind is int else f'a {kind.__name__}'}")
    return value


def path_in(record: Mapping[str, Any], key: str) -> str | None:
    """Return a path; None if it is missing."""
    value = optional(record, key, str)
    if value is not None and "\0" in value:  # no system takes it, and another host may have written it
        raise RecordFault(key, f"{value!r} is not a path")
    return value


def paths_in(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of absolute paths; none if it is missing."""
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(path, str) and path.startswith("/") for path in value):
        raise RecordFault(key, "is not a list of absolute paths")
    return tuple(value)


def ids_in(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of session ids; none if it is missing."""
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and is_session_id(one) for one in value):
        raise RecordFault(key, "is not a list of ULIDs")
    return tuple(value)


def count_of(record: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number, 0 or more; None if it is missing."""
    number = optional(record, key, int)
    if number is not None and number < 0:
        raise RecordFault(key, f"{number} is negative")
    return number


def optional_id(record: Mapping[str, Any], key: str) -> str | None:
    """Return a session id; None if it is missing."""
    value = optional(record, key, str)
    if value is not None and not is_session_id(value):
        raise RecordFault(key, f"'{value}' is not a ULID")
    return value
