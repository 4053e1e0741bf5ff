"""Taking a session's lock, for every writer: there is only one, on any machine.

Getting the lock is not enough: the owner that its file names may be at work where the lock is not visible
(`csa.store.liveness`). Then it is released, with nothing written, unless the caller knows better and steals it.
Another implementation of the format may be at work too, which holds a flock on another file (`csa.store.flocks`).
That is proof, and never stolen.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from csa.errors import BusyError, Obstacle, StateError
from csa.model.clock import local_clock
from csa.model.state import format_time, parse_time
from csa.paths import SessionPaths
from csa.store.atomic import require_regular
from csa.store.flocks import Flocks, Stranger, find_stranger
from csa.store.liveness import Liveness, judge_owner, probe
from csa.store.locks import Lock, acquire_lock, is_locked
from csa.store.mirrors import refuse_mirrored
from csa.store.owner import Owner, current_owner, parse_owner

_TRIES, _PAUSE_S = 3, 0.01
RETRY, RETRY_OR_WAIT = "retry later", "retry later, or use --wait"


def take_session_lock(
    paths: SessionPaths, *, steal: bool = False, advice: str = RETRY, way: str | None = None
) -> tuple[Lock, Owner | None]:
    """Take the lock; also return the owner it was stolen from, if it was.

    Args:
        paths: the session's.
        steal: also take it from an owner whose lock is not visible here.
        advice: what to do if it is busy.
        way: the command that steals, for the hint; None for commands that do.

    Raises:
        BlockingIOError: someone holds it.
        BusyError: its owner is at work, or may be, where its lock is not visible; or another program is.
        StateError: the evidence for that cannot be read.
        RefusedError: it is another host's, and in a mirror.
    """
    refuse_mirrored(paths.pathname, paths.session_id)
    refuse_stranger(paths, advice=advice)
    lock = acquire_lock(paths.session_lock)
    try:
        _require_file(lock)
        _take_flocks(paths, lock, advice)
        found = judge_owner(paths, parse_owner(lock.read()))
    except BaseException:
        lock.close()
        raise
    if found.state == "not_alive":
        return lock, None
    if steal:
        return lock, found.owner
    lock.close()
    raise _elsewhere(paths, found, advice=advice, way=way)


def _take_flocks(paths: SessionPaths, lock: Lock, advice: str) -> None:
    """Take the flocks on all lock files of a session, which stay with its lock; BusyError if another has one."""
    lock.flocks = Flocks(paths.pathname)
    for _ in range(_TRIES):
        name = lock.flocks.take_all(lock)
        if name is None:
            return
        time.sleep(_PAUSE_S)  # a killed csa releases them a moment after its lock
    raise _strange(paths, find_stranger(paths.pathname) or Stranger(str(name).removesuffix(".lock"), None), advice)


def refuse_stranger(paths: SessionPaths, *, advice: str = RETRY) -> None:
    """Raise BusyError if another program is visibly working in a session, before any of its files is changed."""
    if find_stranger(paths.pathname) and not is_locked(paths.session_lock):
        stranger = find_stranger(paths.pathname)  # it may have been a csa that has just ended
        if stranger and stranger.is_seen:
            raise _strange(paths, stranger, advice)


def _require_file(lock: Lock) -> None:
    try:
        require_regular(lock.fd)
    except OSError as error:
        raise StateError.unreadable(lock.path, error) from error


def refuse_busy(paths: SessionPaths, *, advice: str = RETRY, steal: bool = False) -> None:
    """Raise BusyError if the session is in use right now, or may be; StateError if its lock cannot be read.

    RefusedError if it is another host's.
    """
    refuse_mirrored(paths.pathname, paths.session_id)
    found = probe(paths)
    if found.fault is not None:
        raise found.fault
    if found.is_held:
        raise busy(paths, advice)
    if found.stranger:
        if found.stranger.is_seen:  # otherwise taking the lock will show
            raise _strange(paths, found.stranger, advice)
    elif found.state != "not_alive" and not steal:
        raise _elsewhere(paths, found, advice=advice, way=None)


def _strange(paths: SessionPaths, stranger: Stranger, advice: str) -> BusyError:
    words = f"Session {paths.session_id} is in use by {stranger.in_words}"
    return BusyError(f"{words}; {advice}.", obstacle=Obstacle(words, lambda: find_stranger(paths.pathname) is None))


def busy(paths: SessionPaths, advice: str = RETRY) -> BusyError:
    """Return the error for a session whose lock is held."""
    owner = probe(paths).owner
    by = f"PID {owner.pid} ({owner.tool}, {owner.work}, since {owner.since_clock})" if owner else "another process"
    words = f"Session {paths.session_id} is locked by {by}"
    return BusyError(f"{words}; {advice}.", obstacle=Obstacle(words, lambda: not is_locked(paths.session_lock)))


def _elsewhere(paths: SessionPaths, found: Liveness, *, advice: str, way: str | None) -> BusyError:
    owner, session_id = found.owner, paths.session_id
    assert owner is not None  # a free lock that names nobody is not in use
    since = local_clock(parse_time(owner.since), "%Y-%m-%d %H:%M")
    who = f"{owner.tool}, {owner.work}, since {since}"
    place = f"PID {owner.pid}, which has lost its lock" if owner.is_same_boot else f"host {owner.host}"
    way = way or way_to_steal(session_id)
    if found.state == "alive":
        words = f"Session {session_id} is in use by {place} ({who})"
        return BusyError(
            f"{words}; {advice}.",
            hint=f"if that is over: {way}",
            obstacle=Obstacle(words, lambda: probe(paths).state != "alive"),
        )
    return BusyError(
        f"Session {session_id} may be in use by {place} ({who}), which has not been heard from lately.",
        hint=f"if you know that it is not running: {way}",
    )


def way_to_steal(session_id: str) -> str:
    """Return the command that frees a session of which it is unknown here whether it is in use."""
    return f'csa repair --steal {session_id}, or csa run --steal --session {session_id} "..."'


def owner_record(tool: str, turn: int, *, detached: bool = False, errand: str = "", parked_until: str = "") -> bytes:
    """Return the new content of a lock's file."""
    since = format_time(datetime.now(UTC))
    return current_owner(
        tool=tool, turn=turn, since=since, detached=detached, errand=errand, parked_until=parked_until
    ).to_bytes()
