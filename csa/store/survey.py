"""The whole state root at a glance: its stores, what is in them, and what is wrong. Only reads.

A state root may contain a hundred thousand sessions, so each pass has a deadline, and says whether it was complete.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from csa.errors import StateError
from csa.ids import is_session_id
from csa.paths import GONE_PREFIX, NEW_PREFIX, WORKTREES, SessionPaths, is_of_session
from csa.store.locks import is_locked
from csa.store.sessions import Store
from csa.store.stores import find_stores
from csa.structs import Struct, field

_REMAINS_AFTER_S = 60.0  # younger ones may still be in the process of creation or deletion


class Survey(Struct, frozen=False):
    """The findings. `looked_at` is less than `sessions` if there was not enough time; sizes are those on disk."""

    projects: int = 0
    sessions: int = 0
    looked_at: int = 0
    damaged: list[tuple[str, StateError]] = field(default_factory=list)  # session id and fault, newest first
    remains: list[Path] = field(default_factory=list)
    size_bytes: int = 0
    is_size_whole: bool = True
    worktrees: list[Path] = field(default_factory=list)  # those of sessions, and of sessions that are gone
    worktrees_bytes: int = 0  # with what was taken away; not in the size
    unlisted: list[StateError] = field(default_factory=list)  # directories that cannot be read


def survey(root: Path, *, limit_s: float) -> Survey:
    """Survey a state root, first the sessions, newest first, then the sizes; each for at most `limit_s`."""
    found = Survey()
    records: list[tuple[str, Store]] = []
    below: list[str] = []
    for store in find_stores(root, with_retired=True, on_fault=found.unlisted.append):
        below += [f"{store.pathname}/{WORKTREES}/{name}" for name in _names(f"{store.pathname}/{WORKTREES}")]
        if not os.path.isdir(store.sessions_dir):
            continue
        found.projects += 1
        try:
            records += [(session_id, store) for session_id in store.ids()]
        except StateError as fault:
            found.unlisted.append(fault)
        found.remains += _remains(store)
    found.sessions = len(records)
    deadline = time.monotonic() + limit_s
    for session_id, store in sorted(records, key=lambda item: item[0], reverse=True):
        if time.monotonic() > deadline:
            break
        found.looked_at += 1
        record = store.record(session_id).examine().record
        if record.fault is not None and not record.is_gone:
            found.damaged.append((session_id, record.fault))
    found.worktrees = [Path(path) for path in below if is_session_id(os.path.basename(path))]
    found.size_bytes, found.is_size_whole = measure(root, limit_s=limit_s, with_worktrees=False)
    deadline = time.monotonic() + limit_s
    for path in below:
        size, is_whole = measure(Path(path), limit_s=deadline - time.monotonic())
        found.worktrees_bytes += size
        found.is_size_whole = found.is_size_whole and is_whole
    return found


def measure(root: Path, *, limit_s: float, with_worktrees: bool = True) -> tuple[int, bool]:
    """Return the bytes that a directory takes on disk (links: none), and whether everything was counted in time."""
    if os.path.islink(root):
        return 0, True
    deadline = time.monotonic() + limit_s
    total = 0
    for directory, below, files in os.walk(root):
        if not with_worktrees and os.path.basename(directory) == WORKTREES and any(map(is_of_session, below)):
            below.clear()
        if time.monotonic() > deadline:
            return total, False
        for name in (".", *files):
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total, True


def _remains(store: Store) -> list[Path]:
    """Return the remains of crashed starts and deletions: by their names, old enough, and held by nobody."""
    found = []
    for name in sorted(_names(store.sessions_dir)):
        path = Path(store.sessions_dir, name)
        if name.startswith((NEW_PREFIX, GONE_PREFIX)) and is_of_session(name) and _is_abandoned(path):
            found.append(path)
    return found


def _is_abandoned(path: Path) -> bool:
    try:
        if path.is_symlink():
            return True
        return time.time() - path.stat().st_mtime > _REMAINS_AFTER_S and not is_locked(SessionPaths(path).session_lock)
    except (OSError, StateError):
        return False


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
