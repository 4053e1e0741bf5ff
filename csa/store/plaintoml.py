"""Reads TOML as csa writes it, ten times as fast as a general parser: for lists of ten thousand sessions.

Only unambiguous lines are accepted: blank ones, headers of new tables, and `key = value` with a string without
escapes, an integer, a decimal fraction, a boolean, a UTC time, or numbers in an inline table or a list. For any other
text the result is None, and the caller asks tomllib; any other result is the same as tomllib's (a property test
compares them).
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from sys import intern

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

_WORDS = {"true": True, "false": False}
_MAX_DIGITS, _MAX_FRACTION = 18, 6
_LENGTH = len("2026-01-01T00:00:00Z")
_MAX_KNOWN = 1000
_known: dict[str, tuple[str, Any]] = {}  # three of four lines are the same in most sessions


class _NotPlainError(Exception):
    """The text needs a real parser."""


def load_plain(text: str) -> dict[str, Any] | None:
    """Return what `tomllib.loads` would, or None if the text is not that simple."""
    if "\\" in text or not text.replace("\n", "").isprintable():  # escapes, and control characters
        return None
    document: dict[str, Any] = {}
    tables = {"": document}
    table, known = document, _known.get
    try:
        for line in text.split("\n"):
            if pair := known(line) or _read_pair(line):
                key, value = pair
                if key in table:
                    return None
                table[key] = value
            elif line:
                table = _open_table(tables, line)
    except (ValueError, _NotPlainError):
        return None
    return document


def _read_pair(line: str) -> tuple[str, Any] | None:
    """Return the key of a line and its value; None if the line sets none."""
    key, equals, text = line.partition(" = ")
    if not equals:
        return None
    if not _is_name(key):
        raise _NotPlainError
    key = intern(key)  # it becomes the name of an argument, and python compares others letter by letter
    first = text[:1]
    if first == "{" and text[-1] == "}":
        return key, _inline_table(text[1:-1])
    if first == "[" and text[-1] == "]":
        return key, _inline_list(text[1:-1])
    pair = key, text[1:-1] if first == '"' and text.find('"', 1) == len(text) - 1 else _value(text)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[line] = pair
    return pair


def _value(value: str) -> Any:
    if _is_whole(value) and len(value) <= _MAX_DIGITS:
        return int(value)
    if value in _WORDS:
        return _WORDS[value]
    if value[-1:] == "Z":
        return _time(value)
    whole, _, part = value.partition(".")
    if _is_whole(whole) and _is_digits(part):
        return float(value)
    raise _NotPlainError


def _time(value: str) -> datetime:
    moment, (point, digits) = datetime.fromisoformat(value), (value[19:20], value[20:-1])  # which takes other forms too
    is_fraction = point == "." and _is_digits(digits) and len(digits) <= _MAX_FRACTION
    if value[:19] != moment.isoformat()[:19] or not (is_fraction or len(value) == _LENGTH):
        raise _NotPlainError
    return moment


def _is_whole(value: str) -> bool:
    return _is_digits(value) and (value[0] != "0" or value == "0")


def _is_digits(value: str) -> bool:
    return value.isdecimal() and value.isascii()


def _inline_table(inside: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in inside.split(", ") if inside else ():
        key, equals, value = part.partition(" = ")
        if not equals or key in found or not _is_name(key) or not value[:1].isdecimal():
            raise _NotPlainError
        found[key] = _value(value)
    return found


def _inline_list(inside: str) -> list[Any]:
    parts = inside.split(", ") if inside else []
    if not all(part[:1].isdecimal() for part in parts):
        raise _NotPlainError
    return [_value(part) for part in parts]


def _open_table(tables: dict[str, dict[str, Any]], line: str) -> dict[str, Any]:
    """Begin the table that a header names."""
    if line[0] != "[" or line[-1] != "]":
        raise _NotPlainError
    return _make_table(tables, line[1:-1])


def _make_table(tables: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    above, _, key = name.rpartition(".")
    upper = tables[above] if above in tables else _make_table(tables, above)  # one without a header of its own
    if not is_bare(key) or key in upper:
        raise _NotPlainError
    table: dict[str, Any] = {}
    upper[key] = tables[name] = table
    return table


@lru_cache(256)
def _is_name(key: str) -> bool:
    return key.isidentifier() and key.isascii()


@lru_cache(256)
def is_bare(key: str) -> bool:
    """Say whether a key needs no quotes, if it is not empty."""
    return key.isascii() and key.replace("-", "").replace("_", "").isalnum()
