"""Whether a session runs, and what became of its last turn. Computed from the lock and the journal; nothing is written.

Alive means that the lock is held. A free lock and no `run_finished` for the last `run_started`: the turn is lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from csa.model.events import Event
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.journal import read_events_backwards
from csa.store.locks import probe_lock
from csa.store.owner import Owner, boot_id, machine_id, parse_owner

HEARTBEAT_FRESH_S = 30.0
_MAX_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Liveness:
    """`unknown`: the session belongs to another machine whose heartbeat is old."""

    state: Literal["alive", "not_alive", "unknown"]
    owner: Owner | None = None


def probe(paths: SessionPaths) -> Liveness:
    """Say whether a supervisor holds the session."""
    held, content = probe_lock(paths.session_lock)
    owner = parse_owner(content)
    if held:
        return Liveness("alive", owner)
    if owner is None or owner.boot_id == boot_id() or owner.machine_id == machine_id():
        return Liveness("not_alive", owner)
    if _last_turn_finished(paths):
        return Liveness("not_alive", owner)
    fresh = _heartbeat_age_s(paths) < HEARTBEAT_FRESH_S
    return Liveness("alive" if fresh else "unknown", owner)


def session_status(paths: SessionPaths, state: SessionState) -> str:
    """Return `running`, `idle` (never ran), `unknown`, or the status of the last turn."""
    liveness, last = _settle(paths)
    if liveness.state == "alive":
        return "running"
    if liveness.state == "unknown":
        return "unknown"
    if last is None:
        return _status_without_transcript(state)
    return str(last.data.get("status", "failed")) if last.type == "run_finished" else "lost"


def last_turn_event(paths: SessionPaths) -> Event | None:
    """Return the last `run_finished` or `run_started`, whichever came later."""
    return next((e for e in read_events_backwards(paths.transcript) if e.type in {"run_finished", "run_started"}), None)


def _settle(paths: SessionPaths) -> tuple[Liveness, Event | None]:
    """Look at the lock, then at the journal; where that says `lost`, look again: a turn may have ended in between."""
    seen: Event | None = None
    for _ in range(_MAX_LOOKS):
        liveness = probe(paths)
        last = last_turn_event(paths)
        if liveness.state != "not_alive" or last is None or last.type == "run_finished" or last == seen:
            break
        seen = last
    return liveness, last


def _status_without_transcript(state: SessionState) -> str:
    tool = state.last_tool
    code = state.tools[tool].last_exit_code if tool else None
    if code is None:
        return "idle"
    return "succeeded" if code == 0 else "failed"


def _last_turn_finished(paths: SessionPaths) -> bool:
    last = last_turn_event(paths)
    return last is not None and last.type == "run_finished"


def _heartbeat_age_s(paths: SessionPaths) -> float:
    try:
        return time.time() - paths.heartbeat.stat().st_mtime
    except OSError:
        return float("inf")
