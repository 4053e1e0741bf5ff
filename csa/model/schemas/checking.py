"""Checking what a program asks for against a schema of `kit`, with errors that say what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.nearest import did_you_mean

_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_LARGEST = 1 << 62


def check_object(body: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise UsageError for an object with unknown or missing keys, or with values that the schema does not allow."""
    known = schema["properties"]
    for name, value in body.items():
        if name not in known:
            raise UsageError(f"There is no key '{name}' here.", hint=known_names(name, known))
        check_value(value, known[name], name)
    for name in schema["required"]:
        if name not in body:
            raise UsageError(f"The key {name} is missing.")


def known_names(name: str, known: Mapping[str, object]) -> str:
    """Return a hint for a name that is not known."""
    return did_you_mean(name, tuple(known)) or (", ".join(known) or "it takes none")


def check_value(value: Any, schema: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for a value of another type, or one that is not among those allowed."""
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    is_of_kind = any(
        isinstance(value, _KINDS[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
    )
    if not is_of_kind:
        raise UsageError(f"{name} is not {' or '.join(map(with_article, kinds))}.")
    if "enum" in schema and value not in schema["enum"]:
        raise UsageError(f"{name} is none of {', '.join(map(str, schema['enum']))}.")
    if isinstance(value, str):
        check_text(value, name)
    if isinstance(value, int | float) and not schema.get("minimum", 0) <= value <= schema.get("maximum", _LARGEST):
        raise UsageError(f"{name} is out of range.")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            raise UsageError(f"{name} has too few items, or too many.")
        for item in value:
            check_value(item, schema["items"], name)


def with_article(kind: str) -> str:
    """Name a type of JSON in a sentence."""
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aio" else f"a {kind}"


def check_text(value: str, name: str) -> None:
    """Raise UsageError for text that cannot be encoded, or that no command line could have."""
    if "\0" in value:
        raise UsageError(f"{name} has a NUL character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} is not valid Unicode.") from error
