"""Everything that is wrong with a session's files, each with its place. Only reads."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from csa.errors import NotFoundError, StateError
from csa.model.events import TRANSCRIPT_VERSION, Event
from csa.model.state import SessionState
from csa.paths import SEALED_FILE, SessionPaths
from csa.store.liveness import probe
from csa.store.queue import ORDER, WAITS, entries, has_order
from csa.store.recovery import caught_up, end_in_result
from csa.store.results import load_own_result, render_result
from csa.store.sessions import Store, is_directory
from csa.store.statefile import load_state, read_record
from csa.store.status import missing_turns
from csa.store.strangers import PUT_ASIDE, find_put_aside, strange_end
from csa.store.transcript import last_turn_event, read_lines
from csa.structs import Struct

Severity = Literal["error", "warning", "info"]
KNOWN_NAMES = frozenset(
    {
        "state.toml",
        "transcript.jsonl",
        "result.toml",
        "heartbeat",
        "cancel",
        "edits",
        "locks",
        "backup",
        "output",
        "queue",
        "runtime",
        ".reserve",
        SEALED_FILE,
    }
)
_DAMAGED_PREFIX = "state.toml.damaged-"  # what earlier versions have kept
_PRIVATE = 0o077
_FAULTS_SHOWN = 100


class Problem(Struct):
    """One thing that is wrong. An `error` is damage, a `warning` may become one, an `info` is worth knowing."""

    session_id: str
    severity: Severity
    path: Path
    text: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}" if self.line is not None else str(self.path)
        return f"{where}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "session_id": self.session_id,
            "severity": self.severity,
            "path": str(self.path),
            "line": self.line,
            "problem": self.text,
        }


def check_session(store: Store, paths: SessionPaths) -> list[Problem]:
    """Return what is wrong with one session. For a running one, only what a turn does not change meanwhile."""
    session_id = paths.root.name
    liveness = probe(paths)
    is_at_rest = liveness.state == "not_alive"
    problems = list(_check_layout(session_id, paths))
    if liveness.fault is not None:
        problems.append(_problem_of(session_id, liveness.fault))
    state: SessionState | None = None
    try:
        state = load_state(paths.state)
    except StateError as fault:
        problems.append(_problem_of(session_id, fault))
    if state is not None and state.sealed_at is not None:  # what is in plain was checked, or is a skeleton
        if not (sealed := paths.root / SEALED_FILE).exists():
            problems.append(Problem(session_id, "error", sealed, "is missing, and with it what was said"))
        return list(dict.fromkeys(problems))
    try:
        events, found = check_transcript(session_id, paths.transcript, is_at_rest=is_at_rest)
        problems += found
        if is_at_rest:
            problems += _check_result(session_id, paths)
    except StateError as fault:
        events = None
        problems.append(_problem_of(session_id, fault))
    problems += _check_queue(session_id, paths)
    if state is not None:
        problems += _check_state(store, paths, state, events, is_at_rest=is_at_rest)
    return list(dict.fromkeys(problems))  # an unreadable file is found more than once


def check_names(store: Store) -> Iterator[Problem]:
    """Yield the sessions whose name an older one has too."""
    holders: dict[str, str] = {}
    for session_id in store.ids():
        state = store.record(session_id).state
        if state is None or state.name is None:
            continue
        if state.name in holders:
            text = f"the name '{state.name}' is also that of session {holders[state.name]}"
            yield Problem(session_id, "error", store.paths(session_id).state, text)
        holders.setdefault(state.name, session_id)


def check_transcript(session_id: str, path: Path, *, is_at_rest: bool = True) -> tuple[list[Event], list[Problem]]:
    """Return the beginnings and ends of turns in a transcript, and what is wrong with its lines.

    Raises:
        StateError: it cannot be read.
    """
    ends: list[Event] = []
    problems: list[Problem] = []
    expected = 1
    for number, line in enumerate(read_lines(path), 1):
        if not line.endswith(b"\n"):
            if is_at_rest:
                text = f"the last line is truncated after {len(line)} bytes; the next turn drops it"
                problems.append(Problem(session_id, "warning", path, text, number))
            break
        event, fault = _read_line(line)
        if event is None:
            problems.append(Problem(session_id, "error", path, fault, number))
            expected += 1
            continue
        if b"NaN" in line or b"Infinity" in line:
            problems += _check_numbers(session_id, path, line, number)
        if number == 1 and event.seq == 0:
            expected = 0  # as another implementation counts
        if event.seq != expected:
            text = f"seq is {event.seq} instead of {expected}"
            problems.append(Problem(session_id, "error", path, text, number))
        expected = event.seq + 1
        if event.type in {"run_started", "run_finished"}:
            ends.append(event)
    if len(problems) > _FAULTS_SHOWN:
        more = Problem(session_id, "error", path, f"and {len(problems) - _FAULTS_SHOWN} more lines are wrong")
        problems = [*problems[:_FAULTS_SHOWN], more]
    return ends, problems


def find_broken_line(path: Path) -> tuple[int, str] | None:
    """Return the number of a transcript's first line that is not an event, except a truncated last one, and why."""
    for number, line in enumerate(read_lines(path), 1):
        event, fault = _read_line(line)
        if event is None and line.endswith(b"\n"):
            return number, fault
    return None


def expected_result(paths: SessionPaths) -> bytes | None:
    """Return what result.toml should contain according to the journal; None if no turn has finished.

    Raises:
        StateError: the last end in the journal is not a result.
    """
    if strange_end(paths, last_turn_event(paths.transcript)):
        return None  # the last turn was another program's
    try:
        result, last = load_own_result(paths, paths.root.name), last_turn_event(paths.transcript)
        totals = last.data.get("totals") if last and last.turn == result.turn else None
        return render_result(result, totals if isinstance(totals, dict) else None)
    except NotFoundError:
        return None


def differing_keys(paths: SessionPaths, expected: bytes) -> list[str]:
    """Return the keys in which result.toml is wrong; StateError if it cannot be read."""
    wanted = tomllib.loads(expected.decode())
    found = read_record(paths.result)
    return sorted(key for key in wanted if found.get(key) != wanted[key])


def _read_line(line: bytes) -> tuple[Event | None, str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"is not JSON ({error})"
    if not isinstance(found, dict):
        return None, "is not an object"
    try:
        event = Event.from_dict(found)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None, f"is not an event ({Event.fault_of(found)})"
    if found.get("v") != TRANSCRIPT_VERSION:
        return None, f"has version {found.get('v')!r}, not {TRANSCRIPT_VERSION}"
    return event, ""


def _check_numbers(session_id: str, path: Path, line: bytes, number: int) -> list[Problem]:
    """Look for numbers that are not JSON, although Python reads them."""
    found: list[str] = []
    json.loads(line, parse_constant=found.append)
    text = f"holds {' and '.join(sorted(set(found)))}, which is not JSON; it counts as null"
    return [Problem(session_id, "warning", path, text, number)] if found else []


def _problem_of(session_id: str, fault: StateError) -> Problem:
    return Problem(session_id, "error", Path(fault.path), fault.problem, fault.line)


def _check_layout(session_id: str, paths: SessionPaths) -> Iterator[Problem]:
    """Look for files that do not belong there, and for files that others can read."""
    for directory, below, files in os.walk(paths.root):
        at = Path(directory)
        if at == paths.root:
            for name in sorted({*below, *files} - KNOWN_NAMES):
                if not name.startswith(_DAMAGED_PREFIX):
                    yield Problem(session_id, "info", at / name, "is not a file of a session that this csa knows")
        if paths.output in at.parents:
            below.clear()  # agents' files are their own, and the directory keeps others out
            files = []  # noqa: PLW2901  # as above
        for path in (at, *(at / name for name in files)):
            yield from _check_mode(session_id, path)


def _check_mode(session_id: str, path: Path) -> Iterator[Problem]:
    try:
        found = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(found.st_mode):
        return
    if found.st_mode & _PRIVATE:
        yield Problem(session_id, "warning", path, f"others can access it (mode {stat.S_IMODE(found.st_mode):04o})")
    if found.st_uid != os.geteuid():
        yield Problem(session_id, "warning", path, f"belongs to another user (uid {found.st_uid})")


def _check_queue(session_id: str, paths: SessionPaths) -> Iterator[Problem]:
    """Look for prompts that cannot be read, and so wait for ever, and for a damaged order of them."""
    for entry in entries(paths):
        if entry.fault is not None:
            text = f"is no prompt that can be read ({entry.fault}); csa queue {session_id} --remove {entry.entry_id}"
            yield Problem(session_id, "error", paths.queue / f"{entry.entry_id}{WAITS}", text)
    if not has_order(paths):
        text = "is no order of prompts, which therefore follow as they came"
        yield Problem(session_id, "warning", paths.queue / ORDER, text)


def _check_result(session_id: str, paths: SessionPaths) -> Iterator[Problem]:
    """Compare result.toml with the event that it is a projection of."""
    try:
        expected = expected_result(paths)
        if expected is not None and not paths.result.exists():
            text = "is missing, although a turn has finished; csa repair rebuilds it"
            yield Problem(session_id, "warning", paths.result, text)
            return
        wrong = differing_keys(paths, expected) if expected is not None else []
    except StateError as fault:
        yield _problem_of(session_id, fault)
        return
    if wrong:
        text = f"differs from the last run_finished of the transcript in {', '.join(wrong)}"
        yield Problem(session_id, "error", paths.result, text)


def _check_state(
    store: Store, paths: SessionPaths, state: SessionState, ends: list[Event] | None, *, is_at_rest: bool
) -> Iterator[Problem]:
    """Compare the record with the turns in the transcript (None: it cannot be read) and with its place."""
    session_id = state.session_id
    if find_put_aside(paths):
        text = f"another program could not read the record, and has moved it to {PUT_ASIDE}; csa repair restores it"
        yield Problem(session_id, "error", paths.state, text)
    started = max((event.turn for event in ends or ()), default=0)
    if ends == [] and (fault := missing_turns(paths, state)):
        yield _problem_of(session_id, fault)
    if started > state.turns:
        text = f"turns is {state.turns}, but the transcript has turn {started}"
        was_cut_off = ends is not None and ends[-1].type == "run_started" and started == state.turns + 1
        yield Problem(session_id, "warning" if was_cut_off else "error", paths.state, text)
    elif ends is not None and is_at_rest and caught_up(paths, state) != state:
        text = (
            f"lacks the outcome of turn {state.turns}, which the transcript has; csa repair or the next turn fixes it"
        )
        yield Problem(session_id, "error", paths.state, text)
    if ends and is_at_rest and ends[-1].type == "run_started" and end_in_result(paths, ends[-1]):
        text = f"lacks the end of turn {ends[-1].turn}, which result.toml has; csa repair or the next turn fixes it"
        yield Problem(session_id, "error", paths.transcript, text)
    if state.project_path != str(store.project):
        text = f"its project is {state.project_path}, but it is in the store of {store.project}"
        yield Problem(session_id, "warning", paths.state, text)
    if state.last_accessed < state.created_at:
        yield Problem(session_id, "info", paths.state, "last_accessed is before created_at")
    parent = None if state.parent_host else state.parent_session_id
    if parent is not None and not _is_there(store, state, parent):
        yield Problem(session_id, "info", paths.state, f"its parent {parent} does not exist")


def _is_there(store: Store, state: SessionState, parent: str) -> bool:
    home = store if state.parent_project is None else Store(store.root, state.parent_project)
    return is_directory(home.find(parent).pathname)
