"""state.toml on disk: read with the standard library, edited so that unknown keys and comments stay."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

from csa.errors import StateError
from csa.model.recordkeys import NewerSchemaFault, RecordFault
from csa.model.state import SessionState, format_time, parse_state, render_state
from csa.store.atomic import MAX_RECORD_BYTES, Draft, read_short, write_atomically
from csa.store.plaintoml import load_plain

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def load_state(path: Path | str) -> SessionState:
    """Read a state.toml.

    Raises:
        StateError: it is missing, unreadable, not TOML, or not a session's record; the file is left as it is.
    """
    return parse_record(path, read_record(path))


def read_record(path: Path | str) -> dict[str, Any]:
    """Read a state.toml as a mapping; StateError as in `load_state`."""
    try:
        content = read_short(path)
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    return parse_text(path, content)


def parse_state_bytes(path: Path | str, content: bytes) -> SessionState:
    """Interpret the content of `path`; StateError as in `load_state`."""
    return parse_record(path, parse_text(path, content))


def parse_text(path: Path | str, content: bytes) -> dict[str, Any]:
    """Parse the content of `path` as TOML; StateError if it is not."""
    if not content and os.path.exists(path) and not os.path.isfile(path):  # a pipe, from which nothing can be read
        raise StateError(path, "is not a regular file")
    if len(content) > MAX_RECORD_BYTES:
        raise StateError(path, f"is longer than {MAX_RECORD_BYTES} bytes, too long for a state.toml")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StateError(path, "is not UTF-8", line=line) from error
    plain = load_plain(text)
    return _parse_any_toml(path, text) if plain is None else plain


def _parse_any_toml(path: Path | str, text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # csa's own files are read without it

    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise StateError(path, "is not TOML (nested too deeply)") from error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise StateError(path, f"is not TOML ({error})", line=_line_of(error, text)) from error


def parse_record(path: Path | str, record: Mapping[str, Any]) -> SessionState:
    """Interpret a mapping read from `path`; StateError if it is not a session's record."""
    try:
        state = parse_state(record)
    except NewerSchemaFault as error:
        raise StateError(path, str(error), hint="upgrade csa") from error
    except RecordFault as error:
        raise StateError(path, str(error), line=_line_of_key(path, error.key)) from error
    directory = str(path).rpartition("/")[0].rpartition("/")[2]
    if directory.removeprefix(".new-") != state.session_id:
        raise StateError(path, f"holds the id {state.session_id}, which is not its directory's name")
    return state


def create_state(path: Path, state: SessionState) -> None:
    """Write the first record of a session."""
    from csa.store.tomlfile import render_toml  # noqa: PLC0415  # readers write none

    write_atomically(path, render_toml(render_state(state)))


def save_state(path: Path, state: SessionState) -> None:
    """Update the record, changing only values that differ.

    Raises:
        StateError: the existing file is damaged; it is left as it is.
        OSError: it cannot be read or written; the old content stays.
    """
    draft_state(path, state).commit()


def draft_state(path: Path, state: SessionState) -> Draft:
    """Return the update as a draft, whose `commit` puts it in place. Raises as `save_state`."""
    from csa.store.tomlfile import edit_toml  # noqa: PLC0415  # readers write none

    record = read_record(path)
    parse_record(path, record)  # the same checks, and errors, as every reader's
    values = render_state(state)
    content = read_short(path)
    return Draft(path, edit_toml(content, as_there(values, record) if is_of_another(record) else values))


def is_of_another(record: Mapping[str, Any]) -> bool:
    """Say whether a record is from an implementation that cannot read TOML dates, and moves such files aside."""
    return isinstance(record.get("created_at") or record.get("last_accessed"), str)


def as_there(values: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's values in that implementation's form: new times as strings, no tool without its keys."""
    plain = _with_texts(values, record)
    for tool in plain.get("tools", {}).values():
        if tool.get("last_exit_code") is None and tool.get("updated_at") is not None:
            tool["last_exit_code"] = 0
    return plain


def _with_texts(values: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Make strings of times that are new in a record; existing ones keep their form."""
    texts: dict[str, Any] = {}
    for key, value in values.items():
        there = record.get(key)
        if isinstance(value, Mapping):
            texts[key] = _with_texts(value, there if isinstance(there, Mapping) else {})
        else:
            texts[key] = format_time(value) if isinstance(value, datetime) and there is None else value
    return texts


def _line_of(error: ValueError, text: str) -> int | None:
    line = getattr(error, "lineno", None)  # an attribute from Python 3.14 on
    if line is None:
        _, _, tail = str(error).rpartition("at line ")
        digits = tail.partition(",")[0]
        line = int(digits) if digits.isdigit() else text.count("\n") + 1
    return line


def _line_of_key(path: Path | str, key: str) -> int | None:
    name = key.rpartition(".")[2]
    try:
        lines = read_short(path).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    return next((number for number, line in enumerate(lines, 1) if line.lstrip().startswith(name)), None)
