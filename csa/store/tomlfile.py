"""Writing TOML so that what csa does not know stays: unknown keys, comments, order, and the style of times.

csa's own text is read, changed and rendered again. Any other text is edited in place by tomlkit, which
takes longer to load than python to start, and the result is compared with the intended values before use: if
tomlkit fails, comments and order are lost, but never a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from datetime import datetime

from csa.model.state import format_time, parse_time
from csa.store.plaintoml import is_bare, load_plain

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_INLINE = frozenset({"totals", "usage_of_turn"})  # inline tables


def render_toml(values: Mapping[str, Any]) -> bytes:
    """Render a new document, without keys whose value is None and tables of nothing else."""
    document: dict[str, Any] = {}
    _merge(document, values, lambda _: {})
    return _render(document).encode()


def render_texts(values: Mapping[str, Any]) -> bytes:
    """Render a document without tables for people to edit: a text of several lines stands on several lines."""
    return "".join(f"{_key(key)} = {_paragraphs(value)}\n" for key, value in values.items()).encode()


def _paragraphs(value: Any) -> str:
    if not isinstance(value, str) or "\n" not in value:
        return _value(value)
    return '"""\n' + "\n".join(_quoted(line)[1:-1] for line in value.split("\n")) + '"""'


def edit_toml(content: bytes, values: Mapping[str, Any]) -> bytes:
    """Set the given keys if they differ, and remove those whose value is None. `content` must be valid TOML.

    A table with only None is not created, and is removed with its last key; with unknown keys, it stays.
    """
    text = content.decode()
    document = load_plain(text)
    if document is None or _render(document) != text:
        return _edit_foreign(text, values).encode()
    _merge(document, values, lambda _: {})
    return _render(document).encode()


def _edit_foreign(text: str, values: Mapping[str, Any]) -> str:
    import tomllib  # noqa: PLC0415  # csa's own text is edited without it

    wanted = tomllib.loads(text)
    _merge(wanted, values, lambda _: {})
    try:
        edited = _edit_in_place(text, values)
        if _is_equal(tomllib.loads(edited), wanted):
            return edited
    except Exception:  # noqa: BLE001, S110  # anything tomlkit fails on: dotted keys, inline tables, its own output
        pass
    return _render(wanted)


def _edit_in_place(text: str, values: Mapping[str, Any]) -> str:
    import tomlkit  # noqa: PLC0415  # as above

    document = tomlkit.parse(text)
    _merge(document, values, lambda key: tomlkit.inline_table() if key in _INLINE else tomlkit.table())
    return tomlkit.dumps(document)


def _merge(
    target: MutableMapping[str, Any],
    values: Mapping[str, Any],
    make_table: Callable[[str], MutableMapping[str, Any]],
) -> None:
    for key, value in values.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, Mapping) and key in target:
            was_empty = not target[key]  # except comments, perhaps
            _merge(target[key], value, make_table)
            if not was_empty and not target[key] and _is_void(value):
                target.pop(key)
        elif isinstance(value, Mapping):
            if _is_void(value):
                continue
            table = make_table(key)
            _merge(table, value, make_table)
            target[key] = table
        elif key not in target:
            target[key] = value
        elif not _is_same(target[key], value):
            target[key] = _in_style_of(target[key], value)


def _is_void(table: Mapping[str, Any]) -> bool:
    """Say whether there are keys in a table, and no values."""
    return bool(table) and all(
        each is None or (isinstance(each, Mapping) and _is_void(each)) for each in table.values()
    )


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(new, datetime):
        return parse_time(old) == new
    return bool(old == new)


def _in_style_of(old: Any, new: Any) -> Any:
    """Keep a time a string if another implementation writes strings."""
    if isinstance(new, datetime) and isinstance(old, str):
        return format_time(new)
    return new


def _is_equal(one: Any, other: Any) -> bool:
    """Compare parsed values, in which one NaN equals another."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other) or repr(one) == repr(other)


def _render(values: Mapping[str, Any]) -> str:
    return "\n".join(_blocks("", values))


def _blocks(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table, or the document, and the tables in it, separated by an empty line."""
    given = {key: value for key, value in values.items() if value is not None}
    tables = {key: value for key, value in given.items() if isinstance(value, Mapping) and key not in _INLINE}
    rows = {key: value for key, value in given.items() if _is_of_tables(value)}
    lines = _lines({key: value for key, value in given.items() if key not in tables | rows})
    if name and (lines or not tables):
        lines.insert(0, f"[{name}]\n")
    if lines:
        yield "".join(lines)
    above = f"{name}." if name else ""
    for key, table in tables.items():
        yield from _blocks(above + _key(key), table)
    for key, several in rows.items():
        for each in several:
            yield f"[[{above}{_key(key)}]]\n" + "".join(_lines(each))


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}\n" for key, value in values.items() if value is not None]


def _is_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int | float):  # infinities and NaN have the same names in TOML
        return str(value).lower()
    if isinstance(value, Mapping):
        pairs = [f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value.isoformat()).replace("+00:00", "Z")


def _key(key: str) -> str:
    return key if key and is_bare(key) else _quoted(key)


def _quoted(text: str) -> str:
    """Return a quoted string, with JSON's escapes, all of which are valid in TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
