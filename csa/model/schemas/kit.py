"""Small pieces of JSON Schema (draft 2020-12), and records made of them. Pure.

A record is one of csa's own objects: all of its keys are always present, and there are no others. Keys that mean the
same in all commands are taken from a vocabulary by name, so that each has only one meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def text(about: str) -> Schema:
    """A string."""
    return {"type": "string", "description": about}


def moment(about: str) -> Schema:
    """A time: RFC 3339, UTC."""
    return {"type": "string", "format": "date-time", "description": about}


def integer(about: str) -> Schema:
    """A whole number."""
    return {"type": "integer", "description": about}


def number(about: str) -> Schema:
    """A number."""
    return {"type": "number", "description": about}


def flag(about: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": about}


def one_of(about: str, *values: str) -> Schema:
    """One of these strings."""
    return {"type": "string", "enum": list(values), "description": about}


def anything(about: str) -> Schema:
    """Any value."""
    return {"description": about}


def each(item: Schema, about: str) -> Schema:
    """An array."""
    return {"type": "array", "items": item, "description": about}


def texts(about: str) -> Schema:
    """An array of strings."""
    return each({"type": "string"}, about)


def mapping(values: Schema, about: str) -> Schema:
    """An object whose keys are data."""
    return {"type": "object", "additionalProperties": values, "description": about}


def ref(name: str, about: str = "") -> Schema:
    """A shared piece; `document` includes it."""
    return {"$ref": f"#/$defs/{name}", **({"description": about} if about else {})}


def maybe(schema: Schema) -> Schema:
    """Allow null, for what is unknown or does not apply."""
    if isinstance(schema.get("type"), list) or "anyOf" in schema:
        return schema  # it may be null
    if "enum" in schema:
        return {**schema, "type": ["string", "null"], "enum": [*schema["enum"], None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    about = {key: value for key, value in schema.items() if key == "description"}
    return {"anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}], **about}


def old(schema: Schema, use: str) -> Schema:
    """Mark a key as deprecated in favour of another."""
    return {**schema, "deprecated": True, "description": f"Deprecated: use `{use}`."}


def record(keys: Mapping[str, Schema], about: str = "", *, optional: str = "", open_: bool = False) -> Schema:
    """One of csa's objects: `optional` names keys that may be missing; an `open_` one may have others."""
    return {
        "type": "object",
        **({"description": about} if about else {}),
        "properties": dict(keys),
        "required": [key for key in keys if key not in optional.split()],
        "additionalProperties": open_,
    }


def document(schema: Schema, pieces: Mapping[str, Schema], *, title: str) -> Schema:
    """Return a self-contained schema, with the shared pieces that it refers to."""
    used: dict[str, Schema] = {}
    names = _references(schema)
    while names:
        name = names.pop()
        if name not in used:
            used[name] = pieces[name]
            names += _references(pieces[name])
    definitions = {"$defs": {name: pieces[name] for name in pieces if name in used}} if used else {}
    return {"$schema": DIALECT, "title": title, **schema, **definitions}


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for item in value for name in _references(item)]
    if not isinstance(value, dict):
        return []
    own = [str(value["$ref"]).rpartition("/")[2]] if isinstance(value.get("$ref"), str) else []
    return own + [name for item in value.values() for name in _references(item)]
