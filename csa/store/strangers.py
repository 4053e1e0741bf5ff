"""What another implementation of the format says about a session's last turn: its result.toml, and its answer.

It keeps no transcript of csa's form. Its result.toml says when a turn was completed (csa's says when one was finished),
and counts if that was after the last turn in the transcript. Only reads.
"""

from __future__ import annotations

import os

from csa.errors import StateError
from csa.ids import is_session_id
from csa.model.events import Event
from csa.model.state import format_time, parse_time
from csa.store.atomic import read_short
from csa.store.statefile import load_state, parse_text, read_record

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Any

    from csa.model.result import RunResult
    from csa.model.state import SessionState
    from csa.paths import SessionPaths

RESUMED = "resume-target.toml"
_WRAPPER = "resume-wrapper"
PUT_ASIDE = "state.toml.corrupt"
_MADE_INSTEAD = "(recovered from corrupt state)"
_MARK = b"completed_at"
_STATUSES = {
    "success": "succeeded",
    "failure": "failed",
    "interrupted": "cancelled",
    "timeout": "timed_out",
    "signal": "killed",
}
_ANSWERS = ("summary.md", "full.md")
_MEBIBYTE = 1 << 20


def ended_at(session: str) -> datetime | None:
    """Return when the other program's last turn in a session was completed; None if it does not say."""
    record = _read_strange_result(session)
    return parse_time(record.get(_MARK.decode())) if record else None


def strange_end(paths: SessionPaths, last: Event | None) -> Event | None:
    """Return how the other program's turn ended, as a `run_finished`, if that was after `last`, csa's last turn."""
    record = _read_strange_result(paths.pathname)
    ended = parse_time(record.get(_MARK.decode())) if record else None
    if record is None or ended is None or (last and (known := parse_time(last.ts)) and known >= ended):
        return None
    return Event(0, format_time(ended), "run_finished", _number_of_turn(paths, last), _as_end(record, ended))


def strange_result(
    paths: SessionPaths, session_id: str, end: Event, redact: Callable[[str], str] = lambda text: text
) -> RunResult:
    """Return the result of a turn with this end, and its answer, which may not be redacted."""
    from csa.model.result import RunResult, result_from_event  # noqa: PLC0415  # lists need no answers
    from csa.store.artifacts import list_artifacts  # noqa: PLC0415  # as above

    known = result_from_event(session_id, end.turn, end.data)
    return RunResult(**known, text=redact(strange_answer(paths)), artifacts=list_artifacts(paths, end.turn))


def strange_answer(paths: SessionPaths) -> str:
    """Return the answer of the other program's turn; empty if it left none."""
    from csa.store.artifacts import open_below  # noqa: PLC0415  # as above

    for name in _ANSWERS:
        try:
            file = open_below(paths.root, f"{paths.output.name}/{name}")
        except OSError:
            continue
        if file is not None:
            with file:
                text: str = file.read().decode("utf-8", "replace")
            if text:
                return text
    return ""


def resumed_session(session: str) -> str | None:
    """Return the id of the session that one stands for: that program resumes it under another id."""
    path = f"{session}/{RESUMED}"
    if not os.path.exists(path):
        return None
    try:
        record = read_record(path)
    except StateError:
        return None
    target = record.get("target_session_id")
    is_sound = record.get("kind") == _WRAPPER and isinstance(target, str) and is_session_id(target)
    return target if is_sound else None


def find_put_aside(paths: SessionPaths) -> SessionState | None:
    """Return the record that the other program has moved aside because it could not read it (its dates, for example).

    Only if its replacement is still in place, or no record can be read there, and csa can read this
    one.
    """
    try:
        if read_record(paths.state).get("description") != _MADE_INSTEAD:
            return None
    except StateError:  # not an improvement
        pass
    try:
        return load_state(f"{paths.pathname}/{PUT_ASIDE}")
    except StateError:
        return None


def _read_strange_result(session: str) -> Mapping[str, Any] | None:
    """Read a result.toml that is not csa's; None for anything else."""
    pathname = f"{session}/result.toml"
    try:
        content = read_short(pathname)
    except OSError:
        return None
    if _MARK not in content:
        return None
    try:
        record = parse_text(pathname, content)
    except StateError:  # `validate` reports it
        return None
    return record if isinstance(record.get("status"), str) else None


def _number_of_turn(paths: SessionPaths, last: Event | None) -> int:
    following = last.turn + 1 if last else 1
    try:
        return max(load_state(paths.state).turns, following)
    except StateError:
        return following


def _as_end(record: Mapping[str, Any], ended: datetime) -> dict[str, Any]:
    from csa.model.result import exit_code_for, text_of  # noqa: PLC0415  # csa's own are skipped without it

    began, code, memory = parse_time(record.get("started_at")), record.get("exit_code"), record.get("peak_memory_mb")
    status = _STATUSES.get(str(record["status"]), "failed")
    summary = text_of(record.get("summary")) or ""
    return {
        "status": status,
        "exit_code": exit_code_for(status),
        "tool": text_of(record.get("tool")) or "",
        "tool_exit_code": code if type(code) is int else None,
        "stop_reason": str(record["status"]),
        "error": None,
        "summary": summary,
        "duration_s": max(0.0, (ended - (began or ended)).total_seconds()),
        "usage": None,
        "peak_rss_bytes": memory * _MEBIBYTE if type(memory) is int else None,
        "started_at": format_time(began or ended),
        "finished_at": format_time(ended),
        "by": "another program",
    }
