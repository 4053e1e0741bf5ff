"""Which JSON Schemas a vendor's structured output takes: a subset; what is outside of it ends a turn with an error.

What is not certain counts as not taken, since csa can ask for any schema in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_MAPS = ("properties", "$defs", "definitions")  # of schemas, by name
_LISTS = ("anyOf", "oneOf", "allOf")
_ONE = ("items", "additionalProperties", "not")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# What means the same in every dialect of regular expressions: no groups that begin with `(?`, few escapes.
_PLAIN_PATTERN = re.compile(r"(?:[^\\(]|\((?!\?)|\\[dDwWsSbB.^$*+?()\[\]{}|/\\])*")


def without_dialect(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without its `$schema`, which vendors do not take: what is used of it is in all drafts."""
    return {key: value for key, value in schema.items() if key != "$schema"}


def subschemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all within it, as far as they are objects."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Mapping):
            continue
        yield part
        waiting += (each for key in _MAPS for each in dict(part.get(key) or {}).values())
        waiting += (each for key in _LISTS for each in part.get(key) or ())
        waiting += (part[key] for key in _ONE if key in part)


def keeps_to(schema: Mapping[str, Any], keywords: str) -> bool:
    """Say whether a schema is of an object, and uses these keywords alone, with names and patterns that all take."""
    if schema.get("type") != "object" or any(key in schema for key in _LISTS):
        return False
    known = set(keywords.split())
    return all(
        part.keys() <= known
        and all(map(_NAME.fullmatch, part.get("properties", {})))
        and str(part.get("$ref", "#")).startswith("#")
        and _PLAIN_PATTERN.fullmatch(part.get("pattern", "")) is not None
        for part in subschemas(without_dialect(schema))
    )


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Say whether every object in it says that it has these properties, all of them, and no others."""
    return all(
        part.get("additionalProperties") is False and set(part.get("required", ())) == part.get("properties", {}).keys()
        for part in subschemas(schema)
        if "properties" in part or "object" in part.get("type", ())
    )
