"""TOML written so that what csa does not know stays: unknown keys, comments, order, and the style of times."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any

import tomlkit

from csa.model.state import format_time, parse_time

_INLINE = frozenset({"totals", "usage_of_turn"})


def render_toml(values: Mapping[str, Any]) -> bytes:
    """Render a new document; keys whose value is None are left out."""
    return edit_toml(b"", values)


def edit_toml(content: bytes, values: Mapping[str, Any]) -> bytes:
    """Set the given keys where they differ, and remove those whose value is None. `content` must be valid TOML."""
    document = tomlkit.parse(content)
    _merge(document, values)
    return tomlkit.dumps(document).encode()


def _merge(target: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, Mapping) and key in target:
            _merge(target[key], value)
        elif isinstance(value, Mapping):
            table = tomlkit.inline_table() if key in _INLINE else tomlkit.table()
            _merge(table, value)
            target[key] = table
        elif key not in target:
            target[key] = value
        elif not _is_same(target[key], value):
            target[key] = _in_style_of(target[key], value)


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(new, datetime):
        return parse_time(old) == new
    return bool(old == new)


def _in_style_of(old: Any, new: Any) -> Any:
    """Keep a time a string where another implementation writes strings."""
    if isinstance(new, datetime) and isinstance(old, str):
        return format_time(new)
    return new
