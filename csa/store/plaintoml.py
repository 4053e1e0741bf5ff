"""TOML as csa writes it, read ten times as fast as TOML in general: a list of ten thousand sessions is read so.

It is written here as well, where it is so plain: what writes TOML in general takes half of python's start to load.

Only lines that can mean one thing are taken: blank ones, headers of new tables, and `key = value` with a string without
escapes, an integer, a decimal fraction, a boolean, a UTC time, or numbers in an inline table or a list. For any other
text the answer is None, and the caller asks tomllib; where there is an answer, it is tomllib's (a property test
compares them).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_TIME = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_FRACTION = re.compile(r"(?:0|[1-9]\d*)\.\d+", re.ASCII)
INLINE = frozenset({"totals", "usage_of_turn"})  # tables that stand in one line
_WORDS = {"true": True, "false": False}
_MAX_DIGITS = 18
_MAX_KNOWN = 1000
_known: dict[str, tuple[str, Any]] = {}  # three lines of four are the same in most sessions


class _NotPlainError(Exception):
    """The text has to be read by a real parser."""


def load_plain(text: str) -> dict[str, Any] | None:
    """Return what `tomllib.loads` would, or None when the text is not so plain."""
    if "\\" in text or not text.replace("\n", "").isprintable():  # escapes, and control characters
        return None
    document: dict[str, Any] = {}
    tables = {"": document}
    table = document
    try:
        for line in text.split("\n"):
            if pair := _known.get(line) or _read_pair(line):
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
    """Return the key of a line and what it is set to; None where the line sets none."""
    key, equals, text = line.partition(" = ")
    if not equals:
        return None
    if not _is_name(key):
        raise _NotPlainError
    if text[:1] == "{" and text[-1] == "}":
        return key, _numbers(text[1:-1])
    if text[:1] == "[" and text[-1] == "]":
        return key, _list_of_numbers(text[1:-1])
    pair = key, text[1:-1] if text[:1] == '"' and text.find('"', 1) == len(text) - 1 else _value(text)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[line] = pair
    return pair


def render_plain(values: Mapping[str, Any]) -> str | None:
    """Return what tomlkit would write for a new document without its None values; None when that is not so plain."""
    blocks: list[str] = []
    try:
        _render_table("", values, blocks)
    except _NotPlainError:
        return None
    return "\n".join(blocks)


def _render_table(name: str, values: Mapping[str, Any], blocks: list[str]) -> None:
    """Add a table, and those within it, to the blocks that an empty line divides."""
    given = {key: value for key, value in values.items() if value is not None}
    tables = {key: value for key, value in given.items() if isinstance(value, dict) and key not in INLINE}
    lines = [f"{key} = {_render(value)}\n" for key, value in given.items() if key not in tables and _is_plain_name(key)]
    if name and (lines or not tables):
        lines.insert(0, f"[{name}]\n")
    if lines:
        blocks.append("".join(lines))
    for key, table in tables.items():
        if not _is_bare(key):
            raise _NotPlainError
        _render_table(f"{name}.{key}" if name else key, table, blocks)


def _is_plain_name(key: str) -> bool:
    if not _is_name(key):
        raise _NotPlainError
    return True


def _render(value: Any) -> str:
    if type(value) is list and not any(isinstance(each, dict) for each in value):
        return f"[{', '.join(map(_render, value))}]"
    if type(value) is dict:
        return f"{{{', '.join([f'{key} = {_render(each)}' for key, each in value.items() if _is_plain_name(key)])}}}"
    return _render_one(value)


def _render_one(value: Any) -> str:
    kind = type(value)  # what only looks like one of these is left to others
    if kind is str and '"' not in value and "\\" not in value and value.isprintable():
        return f'"{value}"'
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float and _FRACTION.fullmatch(str(value)):
        return str(value)
    if kind is datetime and value.utcoffset() == timedelta():
        return f"{value.replace(tzinfo=None).isoformat()}Z"
    raise _NotPlainError


def render_any(values: Mapping[str, Any], *above: str) -> str:
    """Return a document, or the table of that name in one, that says all that TOML can say, plainly and at length."""
    lines = [f"{_key(key)} = {_one(value)}\n" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(f"\n[{'.'.join(map(_key, (*above, key)))}]\n{render_any(value, *above, key)}")
    return "".join(lines)


def _one(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_one, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_one(each)}' for key, each in value.items())}}}"
    if isinstance(value, int | float):  # infinities and what is no number have the same names in TOML
        return str(value).lower()
    return str(value.isoformat())


def _key(key: str) -> str:
    return key if key and _is_bare(key) else _quoted(key)


def _quoted(text: str) -> str:
    """Return a string between quotes, with JSON's escapes, all of which are TOML's too."""
    import json  # noqa: PLC0415  # what csa wrote itself is written without it

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: str) -> Any:
    if value.isdecimal() and value.isascii() and len(value) <= _MAX_DIGITS and (value[0] != "0" or value == "0"):
        return int(value)
    if _TIME.fullmatch(value):
        return datetime.fromisoformat(value)
    if value in _WORDS:
        return _WORDS[value]
    if _FRACTION.fullmatch(value):
        return float(value)
    raise _NotPlainError


def _numbers(inside: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in inside.split(", ") if inside else ():
        key, equals, value = part.partition(" = ")
        if not equals or key in found or not _is_name(key) or not value[:1].isdecimal():
            raise _NotPlainError
        found[key] = _value(value)
    return found


def _list_of_numbers(inside: str) -> list[Any]:
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
    if not _is_bare(key) or key in upper:
        raise _NotPlainError
    table: dict[str, Any] = {}
    upper[key] = tables[name] = table
    return table


@lru_cache(256)
def _is_name(key: str) -> bool:
    return key.isidentifier() and key.isascii()


@lru_cache(256)
def _is_bare(key: str) -> bool:
    return key.isascii() and key.replace("-", "").replace("_", "").isalnum()
