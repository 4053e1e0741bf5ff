"""TOML written so that what csa does not know stays: unknown keys, comments, order, and the style of times.

Where a file is written as csa would not write it, what is made of it is read back and compared with what was meant
before anybody gets it: comments and order may go then, a key never does.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import datetime

from csa.model.state import format_time, parse_time
from csa.store.plaintoml import INLINE, load_plain, render_any, render_plain

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def render_toml(values: Mapping[str, Any]) -> bytes:
    """Render a new document; keys whose value is None are left out."""
    return edit_toml(b"", values)


def edit_toml(content: bytes, values: Mapping[str, Any]) -> bytes:
    """Set the given keys where they differ, and remove those whose value is None. `content` must be valid TOML.

    A table of nothing but None is not made, and goes with its last key; with the keys of others, it stays.
    """
    text = content.decode()
    edited = _edit_plain(text, values)
    return (_edit_any(text, values) if edited is None else edited).encode()


def _edit_plain(text: str, values: Mapping[str, Any]) -> str | None:
    """Edit what is written as csa itself would write it; None where that is not so, or would not be."""
    document = load_plain(text)
    if document is None or render_plain(document) != text:
        return None
    _merge(document, values, lambda _: {})
    return render_plain(document)


def _edit_any(text: str, values: Mapping[str, Any]) -> str:
    import tomllib  # noqa: PLC0415  # what csa wrote itself is edited without it

    wanted = tomllib.loads(text)
    _merge(wanted, values, lambda _: {})
    try:
        edited = _edit_in_place(text, values)
        if _is_equal(tomllib.loads(edited), wanted):
            return edited
    except Exception:  # noqa: BLE001, S110  # whatever tomlkit trips over: dotted keys, inline tables, its own output
        pass
    rendered = render_plain(wanted) or render_any(wanted)
    if not _is_equal(tomllib.loads(rendered), wanted):
        raise ValueError("this cannot be written as TOML")
    return rendered


def _edit_in_place(text: str, values: Mapping[str, Any]) -> str:
    import tomlkit  # noqa: PLC0415  # what csa wrote itself is edited without it

    document = tomlkit.parse(text)
    _merge(document, values, lambda key: tomlkit.inline_table() if key in INLINE else tomlkit.table())
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
            was_empty = not target[key]  # but for comments, perhaps
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
    """Keep a time a string where another implementation writes strings."""
    if isinstance(new, datetime) and isinstance(old, str):
        return format_time(new)
    return new


def _is_equal(one: Any, other: Any) -> bool:
    """Compare what was read, in which a value that is no number is as good as another."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other) or repr(one) == repr(other)
