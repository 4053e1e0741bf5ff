"""Whether a session is in use: the only place that decides this, for readers and for writers.

Its lock is held: alive. It is free, and names an owner: it may still be at work, where its lock is not visible
(another machine on a shared disk, a copy of a store) or was lost. Then the heartbeat decides. Another implementation of
the format holds a flock instead (`csa.store.flocks`). Nothing is written, no lock is taken.
"""

from __future__ import annotations

import os
import time

from csa.errors import StateError
from csa.paths import MIRRORS, SessionPaths
from csa.procfs import is_running, machine_id
from csa.store.flocks import Stranger, find_stranger
from csa.store.locks import probe_lock
from csa.store.owner import COMPACTION, INTERFACE, Owner, may_be_running, parse_owner
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Literal

    from csa.store.mirrors import Away

HEARTBEAT_FRESH_S = 30.0
_MAX_LOOKS = 10
_MIRRORED = f"/{MIRRORS}/"
_LOOK_AGAIN_S = 0.01


class Liveness(Struct):
    """`unknown`: it belongs to another machine whose heartbeat is old; or its lock cannot be read, as `fault` says.

    `is_held`: its lock is held, so nobody can take it. `stranger`: another program is at work, or may be. `away`: it is
    another host's, which was not heard of lately.
    """

    state: Literal["alive", "not_alive", "unknown"]
    owner: Owner | None = None
    fault: StateError | None = None
    is_held: bool = False
    stranger: Stranger | None = None
    away: Away | None = None

    @property
    def runs_turn(self) -> bool:
        """Whether a turn is running, not an errand."""
        return self.state == "alive" and (self.owner is None or not self.owner.errand)


_AT_REST = Liveness("not_alive")


def probe(paths: SessionPaths) -> Liveness:
    """Say whether a supervisor holds the session. Never fails: what cannot be inspected is unknown."""
    try:
        return _probe(paths)
    except StateError as fault:
        return Liveness("unknown", fault=fault)


def _probe(paths: SessionPaths) -> Liveness:
    if _MIRRORED in paths.pathname:
        from csa.store.mirrors import mirror_with, probe_mirrored  # noqa: PLC0415  # most sessions are this host's

        if mirror := mirror_with(paths.pathname):
            return probe_mirrored(paths, mirror)
    held, owner = _look_at_lock(paths)
    for _ in range(_MAX_LOOKS):
        if not held or (owner is not None and may_be_running(owner)):
            break
        time.sleep(_LOOK_AGAIN_S)  # a process that has just taken the lock has not written its record yet
        held, owner = _look_at_lock(paths)
    if held:
        return Liveness("alive", owner, is_held=True)
    judged = judge_owner(paths, owner)
    if judged.state == "not_alive" and find_stranger(paths.pathname):
        held, owner = _look_at_lock(paths)  # a csa that has started meanwhile has a flock too
        if held:
            return Liveness("alive", owner, is_held=True)
        if (stranger := find_stranger(paths.pathname)) is None:  # or one that has just ended had one
            return judged
        return Liveness("alive" if stranger.is_seen else "unknown", stranger=stranger)
    return judged


def judge_owner(paths: SessionPaths, owner: Owner | None) -> Liveness:
    """Judge a session whose lock nobody holds, or only the caller, by the owner that its lock file names.

    Raises:
        StateError: the transcript cannot be read.
    """
    if owner is None:
        return _AT_REST
    age_s = heartbeat_age_s(paths)
    if _is_over(paths, owner, age_s):
        return Liveness("not_alive", owner)
    return Liveness("alive" if age_s < HEARTBEAT_FRESH_S else "unknown", owner)


def _is_over(paths: SessionPaths, owner: Owner, age_s: float) -> bool:
    """Say whether the owner is certainly gone, or certainly done with the session."""
    if owner.is_same_boot:  # its lock would be visible here, unless it was lost while the owner lives
        is_there = owner.is_local and is_running(owner.process)
        return not is_there or age_s >= HEARTBEAT_FRESH_S
    if owner.machine_id and owner.machine_id == machine_id() and age_s > time.clock_gettime(time.CLOCK_BOOTTIME):
        return True  # this machine was rebooted since; a younger heartbeat comes from one with a copied id
    return is_done(paths, owner)


def _look_at_lock(paths: SessionPaths) -> tuple[bool, Owner | None]:
    held, content = probe_lock(f"{paths.pathname}/locks/session.lock")
    return held, parse_owner(content)


def is_done(paths: SessionPaths, owner: Owner) -> bool:
    """Say whether the transcript has the end of the turn that an owner runs; StateError if it cannot be read."""
    from csa.store.transcript import last_turn_event  # noqa: PLC0415  # only records of other machines need it

    if owner.errand in {INTERFACE, COMPACTION}:
        return False
    last = last_turn_event(f"{paths.pathname}/transcript.jsonl")
    return last is not None and last.type == "run_finished" and last.turn >= owner.turn


def heartbeat_age_s(paths: SessionPaths) -> float:
    """Return how long ago the session's heartbeat was touched; infinite if it has none."""
    try:
        return time.time() - os.stat(f"{paths.pathname}/heartbeat").st_mtime
    except OSError:
        return float("inf")
