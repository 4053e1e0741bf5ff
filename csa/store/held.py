"""A session whose lock this process holds: the only way to write one.

A new session is built in `sessions/.new-<ULID>` and renamed into place when its first event is durable, so that a
refused or crashed start leaves nothing that looks like a session, and an id that was shown always resolves.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from csa.errors import BusyError, NotFoundError, Obstacle, RefusedError, StateError
from csa.ids import is_session_id
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.atomic import sync_directory
from csa.store.liveness import probe
from csa.store.locks import Lock, acquire_lock, is_locked
from csa.store.owner import current_owner
from csa.store.sessions import NEW_PREFIX, Store
from csa.store.statefile import create_state, load_state, save_state

GONE_PREFIX = ".gone-"
RETRY, RETRY_OR_WAIT = "retry later", "retry later, or pass --wait"


class HeldSession:
    """The locks of a session, and its state. Release with `close`, or by leaving the `with` block."""

    def __init__(
        self,
        store: Store,
        paths: SessionPaths,
        state: SessionState,
        locks: tuple[Lock, Lock],
        *,
        detached: bool = False,
    ) -> None:
        self._detached = detached
        self.store = store
        self.paths = paths
        self.state = state
        self.session_lock, self._tool_lock = locks
        self.slot: Lock | None = None  # its place among the turns that run on this host

    @property
    def shared_fds(self) -> tuple[int, ...]:
        """What the guardian keeps open until the turn's processes are gone."""
        return (self.session_lock.fd, *([self.slot.fd] if self.slot else []))

    @property
    def is_published(self) -> bool:
        """Whether other processes can see the session."""
        return not self.paths.root.name.startswith(NEW_PREFIX)

    def save(self, state: SessionState) -> None:
        """Write the state; StateError or OSError as `statefile.save_state`."""
        self.state = state
        save_state(self.paths.state, state)

    def publish(self) -> None:
        """Rename a new session into place, durably.

        Raises:
            BusyError: a session of that id has appeared meanwhile.
            StateError: a file stands in its place.
        """
        target = self.store.paths(self.state.session_id)
        try:
            os.rename(self.paths.root, target.root)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise StateError(target.root, "stands where a session's directory belongs") from error
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise BusyError(f"Another run has just created session {self.state.session_id}.") from error
        self.paths = target
        sync_directory(target.root.parent)

    def pass_to(self, tool: str, *, turn: int) -> None:
        """Go on to the next turn, by another tool or the same: take its lock, then leave the last one's.

        The session stays locked.

        Raises:
            BusyError: another program holds the tool's lock; nothing has changed.
            OSError: the lock cannot be written; nothing but the owner record has changed.
        """
        owner = _owner_record(tool, turn, detached=self._detached)
        if self._tool_lock.path.name == self.paths.tool_lock(tool).name:  # the directory was renamed since
            self._tool_lock.write(owner)
            self.session_lock.write(owner)
            return
        tool_lock = _take_tool_lock(self.paths, self.state, tool, owner)
        try:
            self.session_lock.write(owner)
        except BaseException:
            tool_lock.close()
            raise
        _release(self._tool_lock)
        self._tool_lock = tool_lock

    def park(self, tool: str, *, turn: int, until: str) -> None:
        """Say to readers that no tool runs until then, and that the session goes on by itself."""
        self.session_lock.write(_owner_record(tool, turn, detached=self._detached, parked_until=until))

    def remove(self) -> None:
        """Delete the session (an ephemeral one at its end): rename aside, then remove."""
        aside = self.paths.root.with_name(GONE_PREFIX + self.state.session_id)
        os.rename(self.paths.root, aside)
        _remove_tree(aside)

    def close(self) -> None:
        """Release the locks; remains of a session that was never published go.

        Takes `store_lock` for that: not to be called while holding it.
        """
        if not self.is_published:
            self._discard()
        for lock in (self._tool_lock, self.session_lock):
            _release(lock)
        if self.slot:
            self.slot.close()

    def _discard(self) -> None:
        """Remove what was never published, while nobody builds: a half-removed directory looks like a crashed start."""
        with suppress(OSError, BusyError), store_lock(self.store):  # what stays is collected later
            _remove_tree(self.paths.root, must=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_when_full(store: Store, max_sessions: int) -> None:
    """Raise RefusedError when a project has as many sessions as it may keep (0: any number); ephemeral ones count."""
    if not max_sessions:
        return
    try:
        with os.scandir(store.sessions_dir) as entries:
            count = sum(
                is_session_id(each.name.removeprefix(NEW_PREFIX)) and each.is_dir(follow_symlinks=False)
                for each in entries
            )
    except FileNotFoundError:
        return
    if count >= max_sessions:
        raise RefusedError(
            f"max_sessions is {max_sessions}, and {store.project} has {count} session{'s' * (count != 1)}.",
            hint="csa session clean --days 30 --dry-run says which could go",
        )


def build_session(
    store: Store, state: SessionState, *, tool: str, detached: bool = False, max_sessions: int = 0
) -> HeldSession:
    """Make a new session, locked and not yet visible; `publish` shows it. Remains of a crashed start give way.

    Takes `store_lock` meanwhile: not to be called while holding it.

    Raises:
        BusyError: another process is building a session of that id.
        RefusedError: the project has `max_sessions` already.
        OSError: it cannot be written; nothing is left.
    """
    paths = SessionPaths(store.sessions_dir / (NEW_PREFIX + state.session_id))
    with store_lock(store):
        refuse_when_full(store, max_sessions)
        _make_private(store.sessions_dir)
        if paths.root.exists():
            if is_locked(paths.session_lock):
                raise BusyError(f"Another run is just creating session {state.session_id}.")
            with suppress(FileNotFoundError):  # published since we looked; then ours cannot be
                _remove_tree(paths.root)
        try:
            paths.root.mkdir(0o700)
            _make_layout(paths)
            create_state(paths.state, state)
            locks = _take_locks(paths, state, tool=tool, turn=1, detached=detached)
        except BaseException:
            _remove_tree(paths.root, must=False)
            raise
    return HeldSession(store, paths, state, locks, detached=detached)


def open_session(
    store: Store, session_id: str, *, tool: str | None = None, detached: bool = False, advice: str = RETRY
) -> HeldSession:
    """Take the lock of an existing session for its next turn, by `tool` or by the tool of its last turn.

    A `cancel` file that an earlier turn has left goes; one that appears from then on is meant for this one.

    Raises:
        NotFoundError: there is no such session.
        StateError: its record is damaged.
        BusyError: a supervisor holds it; the message names pid, tool and time, and ends with `advice`.
    """
    paths = store.paths(session_id)
    if not store.has(session_id):
        raise NotFoundError(f"No session {session_id} in {store.project}.", hint="csa session list")
    state = load_state(paths.state)
    _make_layout(paths)
    tool = tool or state.last_tool or "none"
    locks = _take_locks(paths, state, tool=tool, turn=state.turns + 1, detached=detached, advice=advice)
    try:
        state = load_state(paths.state)  # it may have changed before the lock was ours
    except StateError:
        for lock in locks:
            lock.close()
        raise
    return HeldSession(store, paths, state, locks, detached=detached)


def store_lock(store: Store) -> Lock:
    """Take the project's lock: held for moments, while a session is made or given its name.

    Raises:
        BusyError: whoever holds it does not let go of it.
    """
    while True:
        try:
            _make_private(store.path)
            return acquire_lock(store.path / "store.lock", wait=True)
        except FileNotFoundError:  # a collector has just removed the empty store
            continue


def _remove_tree(path: Path, *, must: bool = True) -> None:
    import shutil  # noqa: PLC0415  # few turns remove anything

    shutil.rmtree(path, ignore_errors=not must)


def _make_layout(paths: SessionPaths) -> None:
    for directory in (paths.session_lock.parent, paths.output):
        directory.mkdir(0o700, exist_ok=True)


def _make_private(path: Path) -> None:
    """Make a directory and its missing parents, all mode 0700."""
    if not path.is_dir():
        if not path.parent.is_dir():
            _make_private(path.parent)
        path.mkdir(0o700, exist_ok=True)


def _take_locks(
    paths: SessionPaths, state: SessionState, *, tool: str, turn: int, detached: bool, advice: str = RETRY
) -> tuple[Lock, Lock]:
    owner = _owner_record(tool, turn, detached=detached)
    try:
        session_lock = acquire_lock(paths.session_lock)
    except BlockingIOError as error:
        raise _busy(paths, state, advice) from error
    except FileNotFoundError as error:  # a collector was first
        raise NotFoundError(f"Session {state.session_id} has just been removed.", hint="csa session list") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise StateError(paths.session_lock, f"cannot be locked ({error.strerror})") from error
    try:
        paths.cancel.unlink(missing_ok=True)  # an earlier turn's: what comes once the owner is known is ours
        session_lock.write(owner)
        return session_lock, _take_tool_lock(paths, state, tool, owner)
    except BaseException:
        session_lock.close()
        raise


def _take_tool_lock(paths: SessionPaths, state: SessionState, tool: str, owner: bytes) -> Lock:
    try:
        lock = acquire_lock(paths.tool_lock(tool), flock=True)
    except BlockingIOError as error:
        raise BusyError(
            f"Session {state.session_id} is locked for {tool} by another program.", hint="retry later"
        ) from error
    try:
        lock.write(owner)
    except BaseException:
        lock.close()
        raise
    return lock


def _release(lock: Lock) -> None:
    with suppress(OSError):  # whoever holds it next says so himself
        lock.write(b"")
    lock.close()


def _owner_record(tool: str, turn: int, *, detached: bool, parked_until: str = "") -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = current_owner(tool=tool, turn=turn, since=since, detached=detached, parked_until=parked_until)
    return owner.to_bytes()


def refuse_busy(paths: SessionPaths, state: SessionState, *, advice: str = RETRY) -> None:
    """Raise BusyError when the session is held just now."""
    if is_locked(paths.session_lock):
        raise _busy(paths, state, advice)


def _busy(paths: SessionPaths, state: SessionState, advice: str) -> BusyError:
    owner = probe(paths).owner
    by = f"PID {owner.pid} ({owner.tool}, turn {owner.turn}, since {owner.since_clock})" if owner else "another process"
    words = f"Session {state.session_id} is locked by {by}"
    return BusyError(f"{words}; {advice}.", obstacle=Obstacle(words, lambda: not is_locked(paths.session_lock)))
