"""Moving sessions to the trash, restoring and purging them. Each step is one rename.

Wherever a process dies, a session is in its place, in the trash, or being purged under a hidden name that
the next clean-up removes. The caller holds the session's lock, taken by `hold`, which needs no readable record.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from csa.errors import BusyError, StateError
from csa.model.state import SessionState
from csa.ownership import make_directory
from csa.paths import GONE_PREFIX, NEW_PREFIX, WORKTREES, SessionPaths
from csa.store.atomic import Draft, move_directory, sync_directory, write_private
from csa.store.held import store_lock
from csa.store.owner import CHANGE, Owner
from csa.store.sessions import Store, is_directory
from csa.store.statefile import draft_state, load_state, save_state
from csa.store.survey import measure
from csa.store.taking import owner_record, take_session_lock
from csa.structs import replace

_MEASURE_LIMIT_S = 60.0
_LOCKS = {"store.lock", "usage_stats.lock"}


@contextmanager
def hold(paths: SessionPaths, *, steal: bool = False, way: str | None = None) -> Iterator[Owner | None]:
    """Hold a session's lock, whether its record is readable or not; it stays held after a rename.

    Yields whom it was stolen from, if it was.

    Raises:
        FileNotFoundError: the session is gone.
        Others as `take_session_lock`.
    """
    if not paths.session_lock.parent.is_dir():
        before = os.stat(paths.root)
        make_directory(paths.session_lock.parent)
        os.utime(paths.root, ns=(before.st_atime_ns, before.st_mtime_ns))  # for a damaged one, that is its age
    lock, loser = take_session_lock(paths, steal=steal, way=way)
    with lock:
        with suppress(OSError):  # a full disk is a reason to clean up
            lock.write(owner_record("csa", 0, errand=CHANGE))
        try:
            yield loser
        finally:
            with suppress(OSError):
                lock.write(b"")


def retire(store: Store, paths: SessionPaths, now: datetime) -> SessionPaths:
    """Move a session that is held to retired/, and note the time in its record if that is readable.

    The move is not synced: after a power cut the session may still be in its place, and is deleted next time.

    Raises:
        BusyError: a session with that id already exists there.
        OSError: it cannot be moved.
    """
    target = store.retired_paths(paths.root.name)
    while True:
        make_directory(target.root.parent)
        try:
            move(paths.root, target.root)
            break
        except FileNotFoundError:  # another clean-up has just found retired/ empty, and removed it
            if not paths.root.exists():
                raise
    with suppress(StateError, OSError):  # then the time of the move counts
        state = load_state(target.state)
        save_state(target.state, replace(state, phase="retired", retired_at=now, retired_phase=state.phase))
    return target


def bring_back(store: Store, paths: SessionPaths, now: datetime) -> tuple[SessionPaths, SessionState]:
    """Move a deleted session that is held back to its place; it counts as used now, and no longer expires.

    A name that another session has by now stays with that one.

    Raises:
        StateError: its record cannot be read.
        BusyError: a session with that id already exists there.
    """
    state = load_state(paths.state)
    target = store.paths(state.session_id)
    with store_lock(store):
        make_directory(store.sessions_dir)
        taken = state.name is not None and store.find_name(state.name) is not None
        restored = replace(
            state,
            phase=state.retired_phase or "active",
            retired_at=None,
            retired_phase=None,
            last_accessed=now,
            expires_at=None,
            name=None if taken else state.name,
            worktree=state.worktree and replace(state.worktree, dropped_at=None),  # it is not given up any more
        )
        move_with(paths.root, target.root, draft_state(paths.state, restored))
    return target, restored


def move_with(source: Path, target: Path, draft: Draft) -> None:
    """Move a session that is held, durably, and put the new record in place; both or neither.

    Raises as `move`.
    """
    try:
        move(source, target)
        draft.follow(target)
    except BaseException:
        draft.discard()
        raise
    try:
        draft.commit()
    except BaseException:
        if draft.is_pending:
            with suppress(OSError, BusyError):  # the first failure is the one that matters
                move(target, source)
        raise
    sync_directory(source.parent)
    sync_directory(target.parent)


def purge(paths: SessionPaths) -> int:
    """Purge a session that is held; return the bytes that became free."""
    aside = paths.root.with_name(GONE_PREFIX + paths.root.name.removeprefix(NEW_PREFIX))
    remove_tree(aside)
    try:
        os.rename(paths.root, aside)
    except OSError as error:
        if error.errno != errno.EXDEV:  # another layer of an overlay, where it can only be removed in its place
            raise
        aside = paths.root
    return remove_tree(aside)


def remove_remains(path: Path) -> int:
    """Remove the remains of an interrupted start or deletion; return the bytes that became free.

    Raises:
        BlockingIOError: somebody is working on it after all.
    """
    paths = SessionPaths(path)
    if path.name.startswith(GONE_PREFIX) or not is_directory(path):
        return remove_tree(path)
    with hold(paths):
        return purge(paths)


def remove_empty_directories(store: Store) -> None:
    """Remove the empty directories of a store, up to the state root."""
    if not store.path.is_dir():
        return
    with suppress(BusyError), store_lock(store):  # a process that creates a session there holds it
        for name in (store.sessions_dir, store.retired_dir, store.path / WORKTREES):
            with suppress(OSError):
                os.rmdir(name)
        if set(os.listdir(store.path)) <= _LOCKS:
            for name in _LOCKS:  # one is held; the other is only taken by the owner of a session here
                (store.path / name).unlink(missing_ok=True)  # a process that waits for it sees that it is gone
    directory = store.path
    while directory != store.root and directory.is_relative_to(store.root):
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent


def move(source: Path, target: Path) -> None:
    """Move a session's directory; BusyError if the name is taken, OSError if it cannot be moved."""
    try:
        if move_directory(source, target, aside=GONE_PREFIX + source.name):
            write_private(SessionPaths(target).session_lock, b"")  # nobody holds the copy, although it names us
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        raise BusyError(f"There is another session {target.name} in {target.parent}.") from error


def remove_tree(path: Path) -> int:
    """Remove a tree, or a link or file in its place, even while another process does the same; return its size.

    Raises:
        OSError: it cannot be removed.
    """
    if not is_directory(path):
        path.unlink(missing_ok=True)
        return 0
    size, _ = measure(path, limit_s=_MEASURE_LIMIT_S)
    try:
        _remove_tree(path)
    except PermissionError:
        _open_directories(path)
        _remove_tree(path)
    return size


def _open_directories(path: Path) -> None:
    """Make directories writable: agents leave others, such as go's modules. Links are not followed."""
    os.chmod(path, 0o700)
    for directory, names, _ in os.walk(path):
        for name in names:
            if is_directory(below := os.path.join(directory, name)):
                with suppress(FileNotFoundError):
                    os.chmod(below, 0o700)


def _remove_tree(path: Path) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _function, _path, error: _pass_over_missing(error))
    else:
        shutil.rmtree(path, onerror=lambda _function, _path, failure: _pass_over_missing(failure[1]))


def _pass_over_missing(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
