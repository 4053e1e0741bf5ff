"""What became of a session's last turn. Computed from the lock and the journal; nothing is written.

A free lock and no `run_finished` for the last `run_started`: the turn is lost.
"""

from __future__ import annotations

import os

from csa.errors import StateError
from csa.model.events import Event
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.liveness import Liveness, probe
from csa.store.transcript import last_turn_event

_MAX_LOOKS = 5
_HEAD = 160  # bytes of a line in which its type stands


def session_status(paths: SessionPaths, state: SessionState) -> str:
    """Return `running`, `idle` (never ran), `unknown`, or the status of the last turn.

    Raises:
        StateError: the lock or the journal cannot be read, so that nobody knows.
    """
    liveness, last = settle(paths)
    if liveness.state == "alive":
        return "running"
    if liveness.state == "unknown":
        return "unknown"
    if last is None:
        return _status_without_transcript(state)
    return str(last.data.get("status", "failed")) if last.type == "run_finished" else "lost"


def settle(paths: SessionPaths) -> tuple[Liveness, Event | None]:
    """Look at the lock, then at the journal; where that says `lost`, look again: a turn may have ended in between.

    Return also the last `run_started` or `run_finished` of a session that does not run; None where there is none.

    Raises:
        StateError: the lock or the journal cannot be read.
    """
    seen: Event | None = None
    for _ in range(_MAX_LOOKS):
        liveness = probe(paths)
        if liveness.fault is not None:
            raise liveness.fault
        if liveness.state != "not_alive":
            return liveness, None  # what the journal says does not matter, and a turn's may be long
        last = last_turn_event(paths.transcript)
        if last is None or last.type == "run_finished" or last == seen:
            break
        seen = last
    return liveness, last


def find_fault(paths: SessionPaths) -> StateError | None:
    """Say why nobody knows how the last turn of a session that does not run has ended; None where that is known.

    A transcript that begins with a turn, as most do, is not read any further: collectors ask for thousands.
    """
    try:
        fd = os.open(f"{paths.root}/transcript.jsonl", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if b'"run_started"' in os.read(fd, _HEAD):
                return None
        finally:
            os.close(fd)
    except OSError:
        pass  # said below, unless there is none
    try:
        last_turn_event(paths.transcript)
    except StateError as fault:
        return fault
    return None


def _status_without_transcript(state: SessionState) -> str:
    tool = state.last_tool
    code = state.tools[tool].last_exit_code if tool else None
    if code is None:
        return "idle"
    return "succeeded" if code == 0 else "failed"
