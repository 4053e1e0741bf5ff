"""Searching all sessions of a store for those to clean up. Only reads.

Most of a hundred thousand sessions are too young, and one line of their state.toml shows it: only
the other records are read completely.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from csa.errors import DeniedError, StateError
from csa.model.clock import from_timestamp
from csa.model.collection import Reason, Rule
from csa.model.state import SessionState, parse_time
from csa.paths import GONE_PREFIX, NEW_PREFIX, SessionPaths, is_of_session, make_path
from csa.store.backups import BACKUP, old_backups
from csa.store.flocks import find_stranger
from csa.store.liveness import probe
from csa.store.locks import probe_lock
from csa.store.owner import may_be_running, parse_owner
from csa.store.sessions import Store, read_state_text
from csa.store.statefile import load_state, parse_state_bytes
from csa.store.status import find_fault
from csa.structs import Struct

_REMAINS_AFTER_S = 3600.0
_FORGOTTEN_AFTER = timedelta(days=1)
_USED = b"\nlast_accessed = "


class Candidate(Struct):
    """A candidate for deletion. `changed_at` is when the files of a damaged one were last changed."""

    session_id: str
    paths: SessionPaths
    state: SessionState | None
    fault: StateError | None = None
    reason: Reason | None = None
    is_running: bool = False


def find_candidates(store: Store, rule: Rule, now: datetime) -> Iterator[Candidate]:
    """Yield the sessions that the rule selects or cannot judge, oldest first; running ones are marked."""
    kept_from = f"{rule.last_kept(now):%Y-%m-%dT%H:%M:%S}".encode().rjust(19, b"0")
    for session_id, directory in _each_session(store):
        content = read_state_text(session_id, directory=directory)
        if content is None or not _is_surely_kept(content, kept_from):
            found = judge(store.paths(session_id), rule, now, content=content)
            if found is not None:
                yield found


def _each_session(store: Store) -> Iterator[tuple[str, int]]:
    """Yield the ids, oldest first, and a descriptor of their directory."""
    try:
        directory = os.open(store.sessions_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        yield from ((session_id, directory) for session_id in store.ids())
    finally:
        os.close(directory)


def judge(paths: SessionPaths, rule: Rule, now: datetime, *, content: bytes | None = None) -> Candidate | None:
    """Say why a session is deleted, or that its record cannot be read; None if it stays, or does not exist."""
    session_id, pathname = paths.session_id, f"{paths.pathname}/state.toml"
    try:
        state = load_state(pathname) if content is None else parse_state_bytes(pathname, content)
    except StateError as fault:
        return _judge_damaged(paths, fault, rule, now)
    reason = rule.verdict(state, now)
    if reason is None:
        return None
    try:
        runs = _is_running(paths) and not is_forgotten(paths, rule, now)
    except StateError as fault:
        return _judge_damaged(paths, fault, rule, now)
    if not runs and (found := find_fault(paths, state)):
        return _judge_damaged(paths, found, rule, now)
    return Candidate(session_id, paths, state, None, reason, runs)


def _judge_damaged(paths: SessionPaths, fault: StateError, rule: Rule, now: datetime) -> Candidate | None:
    changed_at = changed(paths)
    if changed_at is None:
        return None
    is_damage = not isinstance(fault, DeniedError)  # another user's file may be undamaged
    reason: Reason | None = "damaged" if is_damage and rule.takes_damaged(changed_at, now) else None
    try:
        runs = _is_running(paths) and not is_forgotten(paths, rule, now)
        return Candidate(paths.session_id, paths, None, fault, reason, runs)
    except StateError:  # what cannot be inspected stays
        return Candidate(paths.session_id, paths, None, fault)


def changed(paths: SessionPaths) -> datetime | None:
    """Return when a session's files were last written; None if it is gone."""
    times = []
    for path in (paths.root, paths.state, paths.transcript, paths.heartbeat, paths.output):
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            if path == paths.root:
                return None
    return from_timestamp(max(times))


def retired_at(paths: SessionPaths) -> tuple[SessionState | None, datetime]:
    """Return a deleted session's record, if it is readable, and when it was deleted.

    If the record does not say, the time of the move counts; restoring a backup makes that
    later, never earlier.

    Raises:
        OSError: it is gone.
    """
    moved = from_timestamp(os.stat(paths.root).st_ctime)
    try:
        state = load_state(paths.state)
    except StateError:
        return None, moved
    return state, state.retired_at or moved


def is_running(paths: SessionPaths) -> bool:
    """Say whether a session is running, or may be running on another machine."""
    try:
        return _is_running(paths)
    except StateError:
        return True  # what cannot be inspected stays


def _is_running(paths: SessionPaths) -> bool:
    held, content = probe_lock(f"{paths.pathname}/locks/session.lock")
    return held or (bool(content or find_stranger(paths.pathname)) and probe(paths).state != "not_alive")


def is_forgotten(paths: SessionPaths, rule: Rule, now: datetime) -> bool:
    """Say whether a session may be running on a silent machine, but all signs of life are old.

    It has not been used, its transcript not written, and its heartbeat not touched, for as long as the rule asks
    for, and for a day.
    """
    found = probe(paths)
    if found.state != "unknown" or found.fault is not None or found.owner is None:
        return False
    signs = [
        _modified(paths.heartbeat) or parse_time(found.owner.since),
        _modified(paths.transcript),
        parse_time(found.owner.parked_until or None),
        _last_use(paths),
    ]
    oldest = min(now - _FORGOTTEN_AFTER, rule.last_kept(now) if rule.has_age else now)
    return all(sign < oldest for sign in signs if sign is not None)


def _modified(path: Path) -> datetime | None:
    try:
        return from_timestamp(os.stat(path).st_mtime)
    except OSError:
        return None


def _last_use(paths: SessionPaths) -> datetime | None:
    """Return when a session was used last; for a damaged one, when its files were changed."""
    try:
        return load_state(paths.state).last_accessed
    except StateError:
        return changed(paths)


def find_remains(store: Store, now: datetime) -> list[Path]:
    """Return the remains of interrupted starts and deletions: held by nobody, and an hour old or provably dead."""
    return [
        path
        for directory in (store.sessions_dir, store.retired_dir)
        for name in _names_in_order(directory)
        if name.startswith((NEW_PREFIX, GONE_PREFIX)) and is_of_session(name)
        if is_abandoned(path := make_path(f"{directory}/{name}"), now)
    ]


def is_abandoned(path: Path, now: datetime) -> bool:
    """Say whether nobody is creating or deleting a directory any more; anything else never was a session."""
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return True
        held, content = probe_lock(SessionPaths(path).session_lock)
    except (OSError, StateError):
        return False
    owner = parse_owner(content)
    is_dead = owner is not None and owner.is_local and not may_be_running(owner)
    # A session that is being deleted may not have been written for years, but has just been renamed.
    since = found.st_ctime if path.name.startswith(GONE_PREFIX) else found.st_mtime
    return not held and (is_dead or now.timestamp() - since > _REMAINS_AFTER_S)


def find_runtime(store: Store) -> Iterator[str]:
    """Yield the ids of sessions that have a directory for the files of a running turn."""
    for session_id, directory in _each_session(store):
        with suppress(OSError):
            os.lstat(f"{session_id}/runtime", dir_fd=directory)
            yield session_id


def find_backups(store: Store, before: datetime) -> Iterator[tuple[str, Path]]:
    """Yield what repairs before that moment have kept, and the ids of the sessions."""
    for session_id, directory in _each_session(store):
        with suppress(OSError):
            os.lstat(f"{session_id}/{BACKUP}", dir_fd=directory)
            yield from ((session_id, path) for path in old_backups(store.paths(session_id).root, before))


def _is_surely_kept(content: bytes, kept_from: bytes) -> bool:
    """Say whether a simple line shows that a session was used later, and no other line may select it anyway."""
    at = content.find(_USED) + len(_USED)
    used = content[at : at + 20]
    if at < len(_USED) or used[:19] <= kept_from or used[10:11] != b"T" or used[19:] not in {b"Z", b"."}:
        return False
    head = content[: content.find(b"\n[")]  # before the tables
    if at >= len(head) or head.find(b"Z\n", at, at + 28) < 0:
        return False
    # The first two are reasons for deletion; after the others, a line may be part of a longer text.
    return not (b"expires_at" in head or b"ephemeral" in head or b'"""' in head or b"'''" in head)


def _names_in_order(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
