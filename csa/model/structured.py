"""Answers that are JSON: what is asked for in words, and reading the value from what an agent wrote. Pure.

JSON here is stricter than Python's: no duplicate keys, no NaN or infinity, no half surrogates; and it is bounded, since
the value is kept in records that every reader parses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from csa.model.result import json_text

MAX_BYTES = 1 << 20
MAX_DEPTH = 100
_MOST_STARTS = 100  # in prose: each may be read to its end
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_START = re.compile(r"[{\[]")


class NotJsonError(ValueError):
    """A text is not JSON of this kind, or not one value; the message says why."""


def parse_json(text: str) -> Any:
    """Return the value of a text that is JSON and nothing else; raises NotJsonError."""
    if len(text) > MAX_BYTES:
        raise NotJsonError(f"it is longer than {MAX_BYTES >> 20} MiB")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise NotJsonError(_TOO_DEEP) from None
    except ValueError as error:  # also of a number with more digits than Python reads
        raise NotJsonError(str(error)) from None
    return _checked(value)


def find_json(text: str) -> Any:
    """Return the one JSON value of an answer: the whole of it, in a code fence, or an object or array in a sentence.

    Raises NotJsonError if there is none, or more than one.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise NotJsonError(f"the answer is longer than {MAX_BYTES >> 20} MiB")
    if not (text := text.strip().removeprefix("\ufeff")):
        raise NotJsonError("the answer is empty")
    try:
        return parse_json(text)
    except NotJsonError as error:
        fault = error
    fenced = [found[2] for found in _FENCED.finditer(text)]
    values = _values_of(fenced) or _values_within(text)
    if len(values) == 1:
        return _checked(values[0])
    if values:
        raise NotJsonError("the answer has more than one JSON value")
    raise NotJsonError(f"the answer is not JSON: {fault}")


def ask_for(schema: Mapping[str, Any]) -> str:
    """Return the words that ask for an answer of this schema; they follow the prompt."""
    return (
        "Your final answer must be one JSON value that conforms to the JSON Schema below, and nothing else: "
        f"no explanation, no code fence.\n\n{json_text(schema)}"
    )


def ask_again(fault: str, *, asked: str = "", answer: str = "") -> str:
    """Return the prompt after an answer that does not conform.

    `asked` and `answer` are what the agent no longer knows, in a conversation that cannot be continued.
    """
    known = f"{asked}\n\nYou have done this already, and answered:\n\n{answer}\n\n" if asked else ""
    return (
        f"{known}That answer cannot be used: {fault}\nAnswer once more, with the corrected JSON value alone. "
        "Do not repeat the work itself."
    )


def depth_of(value: Any, limit: int = MAX_DEPTH) -> int:
    """Return how deeply objects and arrays are nested; more than `limit` is not counted any further."""
    depth, level = 0, [value]
    while depth <= limit and (level := [item for item in level if isinstance(item, dict | list)]):
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def _checked(value: Any) -> Any:
    if depth_of(value) > MAX_DEPTH:
        raise NotJsonError(_TOO_DEEP)
    try:
        json_text(value).encode()
    except UnicodeEncodeError:
        raise NotJsonError("it has half of a surrogate pair") from None
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    return value


def _values_of(texts: list[str]) -> list[Any]:
    found = []
    for text in texts:
        try:
            found.append(parse_json(text.strip()))
        except NotJsonError:
            continue
    return found


def _values_within(text: str) -> list[Any]:
    """Return the outermost objects and arrays in prose."""
    found: list[Any] = []
    at = 0
    for _ in range(_MOST_STARTS):
        if (start := _START.search(text, at)) is None:
            return found
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            found.append(value)
        except (ValueError, RecursionError):
            at = start.end()
    return found if len(found) > 1 else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotJsonError(f"the key {json.dumps(twice)[:100]} occurs twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise NotJsonError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise NotJsonError(f"{digits[:40]} is too large a number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
