"""One task for each line, `csa plan run --each`: what the prompt's variables stand for, and stable names. Pure.

Lines are texts, each in place of `{}`; or all of them are JSON objects, and `{key}` is the value of a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from csa.errors import UsageError
from csa.structs import Struct

WHOLE = ""  # what `{}` is named
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)?\}")
_NO_WORD = re.compile(r"[^A-Za-z0-9]+")
_SLUG, _HASH = 24, 6


class Each(Struct):
    """The tasks of the lines: by name, the prompt of each; and how many lines were repetitions."""

    prompts: Mapping[str, str]
    repeated: int


def tasks_of_lines(lines: Iterable[str], prompt: str) -> Each:
    """Make a task of each line that is not blank; a line that comes twice is one task.

    Raises:
        UsageError: the prompt has no place for a line, or a line no value for the prompt.
    """
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UsageError("--each: there are no lines.", hint="one task for each line: csa plan run --each FILE PROMPT")
    given = [_variables(line) for line in found]
    is_json = given[0] is not None
    prompts: dict[str, str] = {}
    for number, (line, values) in enumerate(zip(found, given, strict=True), 1):
        if is_json and values is None:
            raise UsageError(f"--each: line {number} is not a JSON object, as the first one is.")
        known = {WHOLE: line, **((values if is_json else None) or {})}
        text, subject = _filled(prompt, known, number)
        prompts[_name_of(subject, line)] = text
    return Each(prompts, len(found) - len(prompts))


def _variables(line: str) -> dict[str, str] | None:
    """Return the values of a JSON object, as texts; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return {key: _text(value) for key, value in values.items()} if isinstance(values, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _filled(prompt: str, values: Mapping[str, str], number: int) -> tuple[str, str]:
    """Return the prompt with the values of a line, and the first of them, for its name."""
    names = [place[1] or WHOLE for place in _PLACE.finditer(prompt)]
    if not names:
        raise UsageError("--each: the prompt has no {}.", hint="{} is where a line goes; {key}, a value of a JSON line")
    known = [name for name in names if name in values]
    if not known:
        keys = ", ".join(f"{{{key}}}" for key in values if key) or "{}"
        raise UsageError(f"--each: line {number} has nothing for {{{names[0]}}}.", hint=f"it has {keys}")
    if len(values) > 1 and (missing := [name for name in names if name not in values]):
        raise UsageError(f"--each: line {number} has no '{missing[0]}'.")
    text = _PLACE.sub(lambda place: values.get(place[1] or WHOLE, place[0]), prompt)
    return text, values[next((name for name in known if name != WHOLE), WHOLE)]


def _name_of(subject: str, line: str) -> str:
    """Return a name that the same line always has, and another one hardly ever."""
    slug = _NO_WORD.sub("-", subject)[-_SLUG:].strip("-") or "line"
    return f"{slug}-{sha256(line.encode('utf-8', 'surrogateescape')).hexdigest()[:_HASH]}"
