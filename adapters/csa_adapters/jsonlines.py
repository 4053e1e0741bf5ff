"""Reads one line of a tool's stream; it never raises, and its results can be written as UTF-8.

The accessors treat a value of the wrong type like a missing one: a stream is foreign data,
and a decoder must not fail because a field changed its type between two versions of a tool.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from csa.model.adapter import Update

Json = dict[str, Any]
_NOTHING: Json = {}
_NO_ITEMS: list[Any] = []
_BLANKS = " \t\r\n"  # JSON's


def read_object(line: bytes) -> Json | None:
    """Return the line's JSON object; None if it is not one."""
    try:
        text = line.decode("utf-8", "replace").strip(_BLANKS)
        value, end = _DECODER.raw_decode(text)  # `decode` spends half of its time looking for blanks
    except (ValueError, RecursionError):  # a line of brackets nests deeper than the parser goes
        return None
    if type(value) is not dict or end != len(text):
        return None
    return _without_surrogates(value) if _SURROGATE.search(line) else value


def other(line: bytes, event: Json | None = None) -> list[Update]:
    """Keep what was not recognised: the object, or the text of any other line; blank lines are dropped."""
    if event is not None:
        return [Update("other", {"raw": event})]
    text = line.decode("utf-8", "replace").strip()
    return [Update("other", {"raw": text})] if text else []


def text_of(value: Any) -> str:
    """Return a string; empty if it is not one."""
    return value if type(value) is str else ""


def mapping_of(value: Any) -> Json:
    """Return an object; empty (do not write to it) if it is not one."""
    return value if type(value) is dict else _NOTHING


def list_of(value: Any) -> list[Any]:
    """Return a list; empty (do not write to it) if it is not one."""
    return value if type(value) is list else _NO_ITEMS


def number_of(value: Any) -> float | None:
    """Return a finite, non-negative number (true is not a number); None for anything else."""
    if type(value) is not int and type(value) is not float:
        return None
    return value if 0 <= value < _LARGEST else None


def count_of(value: Any) -> int:
    """Return a count; 0 if it is not one."""
    return int(number_of(value) or 0)


def _finite(digits: str) -> float | None:
    number = float(digits)  # 1e999 is valid JSON, but becomes Infinity, which is not
    return number if math.isfinite(number) else None


def _no_constant(_name: str) -> None:
    """Replace NaN and the infinities, which Python reads although JSON does not have them."""


def _without_surrogates(value: Any) -> Any:
    """Replace unpaired surrogates: JSON may escape them, UTF-8 cannot encode them."""
    if type(value) is str:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if type(value) is list:
        return [_without_surrogates(item) for item in value]
    if type(value) is dict:
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


_LARGEST = 1e15
_SURROGATE = re.compile(rb"\\u[dD]")
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
