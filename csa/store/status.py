"""The outcome of a session's last turn. Computed from the lock and the journal; nothing is written.

A free lock and no `run_finished` for the last `run_started`: the turn is lost.
"""

from __future__ import annotations

import os

from csa.errors import StateError
from csa.model.events import Event
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.liveness import Liveness, probe
from csa.store.owner import INTERFACE
from csa.store.strangers import strange_end
from csa.store.transcript import HEAD_BYTES, last_turn_event, read_events

_MAX_LOOKS = 5


def session_status(paths: SessionPaths, state: SessionState) -> tuple[str, Event | None]:
    """Return `running`, `open` (the tool's interface), `idle` (never ran), `unknown`, or the last turn's status.

    `away` is what seemed to run on another host, which was not heard of lately.

    Also return the event it comes from, if there is one: see `settle`.

    Raises:
        StateError: the lock or the journal cannot be read, or lacks the turns, so that it is unknown.
    """
    liveness, last = settle(paths)
    if liveness.runs_turn:
        return "running", None
    if liveness.state == "alive" and liveness.owner and liveness.owner.errand == INTERFACE:
        return "open", last
    if liveness.state == "unknown":
        return "away" if liveness.away else "unknown", None
    if last is None:
        return _status_without_turn(paths, state), None
    return str(last.data.get("status", "failed")) if last.type == "run_finished" else "lost", last


def settle(paths: SessionPaths) -> tuple[Liveness, Event | None]:
    """Read the lock, then the journal; if that says `lost`, read again: a turn may have ended in between.

    Also return the last `run_started` or `run_finished` of a session without a running turn; None if there is none.

    Raises:
        StateError: the lock or the journal cannot be read.
    """
    seen: Event | None = None
    for _ in range(_MAX_LOOKS):
        liveness = probe(paths)
        if liveness.fault is not None:
            raise liveness.fault
        if liveness.state == "unknown" or liveness.runs_turn:
            return liveness, None  # the journal does not matter, and may be long
        last = last_turn_event(f"{paths.pathname}/transcript.jsonl")
        last = strange_end(paths, last) or last
        if last is None or last.type == "run_finished" or last == seen:
            break
        seen = last
    return liveness, last


def find_fault(paths: SessionPaths, state: SessionState) -> StateError | None:
    """Say why it is unknown how the last turn of a session that is not running ended; None if it is known.

    A transcript that begins with a turn, as most do, is not read any further: clean-ups check thousands.
    """
    try:
        fd = os.open(f"{paths.pathname}/transcript.jsonl", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if b'"run_started"' in os.read(fd, HEAD_BYTES):
                return None
        finally:
            os.close(fd)
    except OSError:
        pass  # reported below, unless there is none
    try:
        if last_turn_event(paths.transcript) is None:
            _status_without_turn(paths, state)
    except StateError as fault:
        return fault
    return None


def missing_turns(paths: SessionPaths, state: SessionState) -> StateError | None:
    """Report a record of csa's whose turns are all missing from the journal.

    None for one that never ran, for another implementation's, which has no journal, and for a session that was deleted
    meanwhile; and if csa died between the record of a first turn and its first event.
    """
    if (
        state.schema is None
        or state.turn_count is not None
        or not state.turns
        or _is_cut_off(paths, state)
        or not paths.root.exists()
    ):
        return None
    turns = "1 turn" if state.turns == 1 else f"{state.turns} turns"
    problem = "has no turn" if paths.transcript.exists() else "is missing"
    return StateError(paths.transcript, f"{problem}, but the record has {turns}")


def _is_cut_off(paths: SessionPaths, state: SessionState) -> bool:
    """Say whether a first turn ended before its first event: the journal exists, and nothing in it is damaged."""
    try:
        is_sound = os.stat(paths.transcript).st_size == 0 or next(read_events(paths.transcript), None) is not None
    except OSError:
        return False
    return state.turns == 1 and is_sound


def _status_without_turn(paths: SessionPaths, state: SessionState) -> str:
    """Return the status of a session whose turns are only in its record; StateError if there should be more."""
    if fault := missing_turns(paths, state):
        raise fault
    if state.schema is not None and state.turn_count is None and state.turns and paths.transcript.exists():
        return "lost"
    tool = state.last_tool
    code = state.tools[tool].last_exit_code if tool else None
    if tool is None or code is None:
        return "idle"
    if code == 0 and state.tools[tool].last_action_summary == "":
        return "unknown"  # another implementation's turn begins like this: it does not show its end
    return "succeeded" if code == 0 else "failed"
