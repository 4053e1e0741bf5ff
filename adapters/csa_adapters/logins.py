"""Helpers for judging whether a tool is logged in. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


def object_of(text: str | None, *, spare_commas: bool = False) -> dict[str, Any] | None:
    """Read a JSON object with comments, as the tools do; None if it is not one."""
    try:
        plain = _COMMENT.sub(lambda match: match.group(1) or "", text or "")
        if spare_commas:
            plain = _TRAILING_COMMA.sub(lambda match: match.group(1) or "", plain)
        found = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    return found if type(found) is dict else None


def is_word(value: object) -> bool:
    """Say whether a value can be a key: an empty one is sent, and refused."""
    return type(value) is str and bool(value.strip())


def first_set(environ: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return the first of these variables whose value can be a key."""
    return next((name for name in names if is_word(environ.get(name))), None)


def first_file(
    files: Mapping[str, str], environ: Mapping[str, str], variable: str, default: str, name: str
) -> str | None:
    """Return the text of a file in the directory that a variable names, else in the default one."""
    return files.get(f"${variable}/{name}" if environ.get(variable) else f"{default}/{name}")
