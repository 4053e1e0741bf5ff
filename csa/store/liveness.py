"""Whether a session runs: alive means that its lock is held. Nothing is written, and nothing is taken."""

from __future__ import annotations

import time

from csa.errors import StateError
from csa.paths import SessionPaths
from csa.procfs import boot_id, machine_id
from csa.store.locks import probe_lock
from csa.store.owner import Owner, may_be_running, parse_owner
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Literal

HEARTBEAT_FRESH_S = 30.0
_MAX_LOOKS = 10
_LOOK_AGAIN_S = 0.01


class Liveness(Struct):
    """`unknown`: it belongs to another machine whose heartbeat is old; or its lock cannot be read, as `fault` says."""

    state: Literal["alive", "not_alive", "unknown"]
    owner: Owner | None = None
    fault: StateError | None = None


_AT_REST = Liveness("not_alive")


def probe(paths: SessionPaths) -> Liveness:
    """Say whether a supervisor holds the session. Never fails: what cannot be looked at is unknown."""
    try:
        return _probe(paths)
    except StateError as fault:
        return Liveness("unknown", fault=fault)


def _probe(paths: SessionPaths) -> Liveness:
    held, owner = _look(paths)
    for _ in range(_MAX_LOOKS):
        if not held or (owner is not None and may_be_running(owner)):
            break
        time.sleep(_LOOK_AGAIN_S)  # who has just taken the lock has not yet said who he is
        held, owner = _look(paths)
    if held:
        return Liveness("alive", owner)
    if owner is None:
        return _AT_REST
    if owner.boot_id == boot_id() or (owner.machine_id and owner.machine_id == machine_id()):
        return Liveness("not_alive", owner)
    if _last_turn_finished(paths):
        return Liveness("not_alive", owner)
    fresh = _heartbeat_age_s(paths) < HEARTBEAT_FRESH_S
    return Liveness("alive" if fresh else "unknown", owner)


def _look(paths: SessionPaths) -> tuple[bool, Owner | None]:
    held, content = probe_lock(f"{paths.pathname}/locks/session.lock")
    return held, parse_owner(content)


def _last_turn_finished(paths: SessionPaths) -> bool:
    from csa.store.transcript import last_turn_event  # noqa: PLC0415  # only records of other machines need it

    last = last_turn_event(paths.transcript)
    return last is not None and last.type == "run_finished"


def _heartbeat_age_s(paths: SessionPaths) -> float:
    try:
        return time.time() - paths.heartbeat.stat().st_mtime
    except OSError:
        return float("inf")
