"""A session whose lock this process holds, and whose record is readable: its locks, its journal and its state.

A new session is built in `sessions/.new-<ULID>` and renamed into place when its first event is durable, so that a
refused or crashed start leaves nothing that looks like a session, and an id that was shown always resolves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, SealedError, StateError
from csa.ids import is_session_id
from csa.model.events import Event
from csa.model.redaction import Redactor
from csa.model.state import SessionState
from csa.ownership import give_to_owner, give_tree, make_directory
from csa.paths import GONE_PREFIX, NEW_PREFIX, SessionPaths
from csa.procfs import ProcessId
from csa.store.atomic import make_private_directory, sync_directory, write_private
from csa.store.heartbeat import render_heartbeat
from csa.store.journal import Mark
from csa.store.locks import Lock, acquire_lock, is_locked
from csa.store.owner import CHANGE, Owner, parse_owner
from csa.store.recovery import caught_up
from csa.store.sessions import Store
from csa.store.statefile import create_state, draft_state, load_state, save_state
from csa.store.taking import RETRY, busy, owner_record, refuse_stranger, take_session_lock
from csa.store.writer import SessionWriter
from csa.structs import replace

_LOST = {errno.EIO, errno.ESTALE, errno.EBADF, errno.ENOLCK}  # the errors of a file server that has forgotten a lock


class HeldSession(SessionWriter):
    """The writer of a session, with its locks and its state. Release with `close`, or by leaving the `with` block.

    A lock can be lost: a file server forgets it, or its file is replaced. Once that shows (`is_ours`), nothing more is
    written here, since another process may have the session.
    """

    def __init__(
        self,
        store: Store,
        paths: SessionPaths,
        state: SessionState,
        locks: tuple[Lock, Lock],
        redactor: Redactor,
        *,
        detached: bool = False,
        stolen_from: Owner | None = None,
    ) -> None:
        super().__init__(paths, redactor)
        self._detached = detached
        self.stolen_from = stolen_from
        self.is_lost = False
        self.was_sealed = False  # it was encrypted when it was taken
        self.store = store
        self.state = state
        self.session_lock, self._tool_lock = locks
        self.slot: Lock | None = None  # its slot among the running turns of this host

    @property
    def shared_fds(self) -> tuple[int, ...]:
        """The descriptors that the guardian keeps open until the turn's processes are gone."""
        return (self.session_lock.fd, *([self.slot.fd] if self.slot else []))

    def last_turn(self) -> int:
        """Return the number of the last turn: if another program has kept no transcript, the record has it."""
        return max(super().last_turn(), self.state.turns)

    @property
    def is_published(self) -> bool:
        """Whether other processes can see the session."""
        return not self.paths.root.name.startswith(NEW_PREFIX)

    def is_ours(self) -> bool:
        """Check whether the lock is still ours, and readers of the session would see that."""
        if not self.is_lost:
            try:
                self.is_lost = not self.session_lock.is_intact(self.paths.session_lock)
            except OSError as error:  # a directory that may not be inspected proves nothing
                self.is_lost = error.errno in _LOST
        return not self.is_lost

    def beat(self, processes: Sequence[ProcessId] = ()) -> None:
        """Check the lock, then touch the heartbeat, which names the turn's processes."""
        if not self.is_ours():
            return
        try:
            self.session_lock.touch()
        except OSError as error:
            self.is_lost = error.errno in _LOST
        self.write_heartbeat(processes)

    def write_heartbeat(self, processes: Sequence[ProcessId] = ()) -> None:
        """Touch only the heartbeat, of a session whose lock has just been checked."""
        if not self.is_lost:
            with suppress(OSError):  # on this machine it is not evidence
                write_private(self.paths.heartbeat, render_heartbeat(processes))

    def save(self, state: SessionState) -> None:
        """Write the state, if the session is still ours; StateError or OSError as `statefile.save_state`."""
        self.state = state
        if self.is_ours():
            save_state(self.paths.state, state)

    def record(self, kind: str, data: Mapping[str, Any], state: SessionState | None = None) -> list[Event]:
        """Write an event, and the state it describes: as `commit`."""
        mark = self.journal.mark()
        events = self.append(kind, data)
        self.commit(state or self.state, mark)
        return events

    def commit(self, state: SessionState, mark: Mark) -> None:
        """Write what the journal has taken since `mark`, and the state: both durably, or neither.

        StateError or OSError as `statefile.save_state`, or if the journal cannot be written; BusyError if the
        lock was lost.
        """
        if not self.is_ours():
            raise BusyError(f"The lock of session {self.state.session_id} was lost; nothing was written.")
        draft = None
        try:
            draft = draft_state(self.paths.state, state)
            self.require()
            draft.commit()
        except BaseException as error:
            is_done = draft is not None and not draft.is_pending
            if not is_done:
                self.journal.return_to(mark)
            if not (is_done and isinstance(error, OSError)):  # otherwise only a power cut could still undo it
                raise
        finally:
            if draft:
                draft.discard()
        self.state = state

    def publish(self) -> None:
        """Rename a new session into place, durably.

        Raises:
            BusyError: a session with that id has appeared meanwhile.
            StateError: a file is in its place.
        """
        target = self.store.paths(self.state.session_id)
        try:
            os.rename(self.paths.root, target.root)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise StateError(target.root, "is in the place of a session's directory") from error
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise BusyError(f"Another run has just created session {self.state.session_id}.") from error
        self.paths = target
        sync_directory(target.root.parent)

    def pass_to(self, tool: str, *, turn: int) -> None:
        """Pass to the next turn, by another tool or the same: take its lock, then release the last one's.

        The session stays locked.

        Raises:
            BusyError: another program holds the tool's lock; nothing has changed.
            OSError: the lock cannot be written; only the owner record has changed.
        """
        owner = owner_record(tool, turn, detached=self._detached)
        if self._tool_lock.path.name == self.paths.tool_lock(tool).name:  # the directory was renamed since
            self._tool_lock.write(owner)
            self.session_lock.write(owner)
            return
        tool_lock = _take_tool_lock(self.paths, self.state, tool, owner, self.session_lock)
        try:
            self.session_lock.write(owner)
        except BaseException:
            tool_lock.close()
            raise
        _release(self._tool_lock)
        if self.session_lock.flocks:  # another implementation must not use it in our session meanwhile
            self.session_lock.flocks.take(self._tool_lock.path.name)
        self._tool_lock = tool_lock

    def park(self, tool: str, *, turn: int, until: str) -> None:
        """Tell readers that no tool runs until then, and that the session continues by itself."""
        self.session_lock.write(owner_record(tool, turn, detached=self._detached, parked_until=until))

    def show_asks(self, asking: str, asks: Sequence[str]) -> None:
        """Tell readers what the agent waits to be allowed; nothing if `asks` is empty."""
        if (owner := parse_owner(self.session_lock.read())) and self.is_ours():
            self.session_lock.write(replace(owner, asking=asking, asks=" ".join(asks)).to_bytes())

    def remove(self) -> None:
        """Delete the session (an ephemeral one at its end): rename aside, then remove."""
        aside = self.paths.root.with_name(GONE_PREFIX + self.state.session_id)
        try:
            os.rename(self.paths.root, aside)
        except OSError as error:
            if error.errno != errno.EXDEV:  # in another overlay layer, where it can only be removed in place
                raise
            aside = self.paths.root
        _remove_tree(aside)

    def close(self) -> None:
        """Write the rest of the transcript, and release the locks; a session that was never published is removed.

        Takes `store_lock` for that: not to be called while holding it.
        """
        super().close()
        if not self.is_published:
            self._discard()
        is_ours = self.is_ours()  # otherwise the record in the file may be another's
        for lock in (self._tool_lock, self.session_lock):
            if is_ours:
                _release(lock)
            lock.close()
        give_tree(self.paths.root)  # including what an agent run by root has left there
        if self.slot:
            self.slot.close()

    def _discard(self) -> None:
        """Remove an unpublished session, while nobody builds: a half-removed directory looks like a crashed start."""
        with suppress(OSError, BusyError), store_lock(self.store):  # clean-up removes the rest later
            _remove_tree(self.paths.root, must=False)


def refuse_when_full(store: Store, max_sessions: int) -> None:
    """Raise RefusedError if a project has as many sessions as it may have (0: no limit); ephemeral ones count."""
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
            hint="csa clean --days 30 --dry-run shows which ones could be deleted",
        )


def build_session(
    store: Store,
    state: SessionState,
    redactor: Redactor,
    *,
    tool: str,
    errand: str = "",
    detached: bool = False,
    max_sessions: int = 0,
) -> HeldSession:
    """Create a new session, locked and not yet visible; `publish` shows it. Remains of a crashed start are removed.

    With an `errand` it runs no turn. Takes `store_lock` meanwhile: not to be called while holding it.

    Raises:
        BusyError: another process is building a session with that id.
        RefusedError: the project has `max_sessions` already.
        OSError: it cannot be written; nothing is left.
    """
    paths = store.paths(NEW_PREFIX + state.session_id)
    with store_lock(store):
        refuse_when_full(store, max_sessions)
        make_private_directory(paths.root.parent)
        if paths.root.exists():
            if is_locked(paths.session_lock):
                raise BusyError(f"Another run is creating session {state.session_id}.")
            with suppress(FileNotFoundError):  # published since we looked; then ours cannot be
                _remove_tree(paths.root)
        try:
            os.mkdir(paths.root, 0o700)
            give_to_owner(paths.root)
            _make_layout(paths)
            create_state(paths.state, state)
            owner = owner_record(tool, 0 if errand else 1, detached=detached, errand=errand)
            locks, _ = _take_locks(paths, state, tool, owner)
        except BaseException:
            _remove_tree(paths.root, must=False)
            raise
    return HeldSession(store, paths, state, locks, redactor, detached=detached)


def open_session(
    store: Store,
    session_id: str,
    redactor: Redactor,
    *,
    tool: str | None = None,
    errand: str = "",
    detached: bool = False,
    advice: str = RETRY,
    steal: bool = False,
    keys: Callable[[], Sequence[Any]] | None = None,
) -> HeldSession:
    """Take the lock of an existing session for its next turn, or for an errand.

    A `cancel` file left by an earlier turn is removed; one that appears later is meant for this one.

    Args:
        store: where it is.
        session_id: which.
        redactor: everything written passes through it.
        tool: whose lock to take as well; by default the last turn's tool.
        errand: what is done, if it is not a turn.
        detached: it does not end with the process that started it.
        advice: what to do if it is busy.
        steal: take it from an owner whose lock is not visible here: `stolen_from`.
        keys: returns what unseals it, if it is encrypted; without it, that stays so, and only a CHANGE may be noted.

    Raises:
        NotFoundError: there is no such session.
        StateError: its record is damaged.
        BusyError: it is in use, or may be; the message names who, tool and time.
        SealedError: it is encrypted, and there is no key that opens it.
    """
    paths = store.paths(session_id)
    if not store.has(session_id):
        raise NotFoundError(f"No session {session_id} in {store.project}.", hint="csa ls")
    state = load_state(paths.state)
    refuse_stranger(paths, advice=advice)
    paths.session_lock.parent.mkdir(0o700, exist_ok=True)
    tool = tool or state.last_tool or "none"
    owner = owner_record(tool, state.turns + (not errand), detached=detached, errand=errand)
    locks, loser = _take_locks(paths, state, tool, owner, advice=advice, steal=steal)
    try:
        _make_layout(paths)
        # It may have changed before the lock was ours.
        state = load_state(paths.state)
        was_sealed = state.sealed_at is not None and (keys or errand != CHANGE)
        state = _unsealed(paths, state, keys) if was_sealed else state
        state = caught_up(paths, state)
    except (CsaError, OSError):
        for lock in locks:
            lock.close()
        raise
    held = HeldSession(store, paths, state, locks, redactor, detached=detached, stolen_from=loser)
    held.was_sealed = bool(was_sealed)
    return held


def _unsealed(paths: SessionPaths, state: SessionState, keys: Callable[[], Sequence[Any]] | None) -> SessionState:
    from csa.store.sealed import unseal_session  # noqa: PLC0415  # few are encrypted

    if keys is None:
        raise SealedError(f"Session {state.session_id} is encrypted.", hint=f"csa unseal {state.session_id}")
    return unseal_session(paths, state, keys())


def store_lock(store: Store) -> Lock:
    """Take the project's lock: held for moments, while a session is created or named.

    Raises:
        BusyError: its holder does not release it.
    """
    while True:
        try:
            make_private_directory(store.path)
            return acquire_lock(store.path / "store.lock", wait=True)
        except FileNotFoundError:  # a clean-up has just removed the empty store
            continue


def _remove_tree(path: Path, *, must: bool = True) -> None:
    import shutil  # noqa: PLC0415  # few turns delete anything

    shutil.rmtree(path, ignore_errors=not must)


def _make_layout(paths: SessionPaths) -> None:
    for directory in (paths.session_lock.parent, paths.output):
        make_directory(directory)


def _take_locks(
    paths: SessionPaths, state: SessionState, tool: str, owner: bytes, *, advice: str = RETRY, steal: bool = False
) -> tuple[tuple[Lock, Lock], Owner | None]:
    try:
        session_lock, loser = take_session_lock(paths, steal=steal, advice=advice)
    except BlockingIOError as error:
        raise busy(paths, advice) from error
    except FileNotFoundError as error:  # a clean-up was first
        raise NotFoundError(f"Session {state.session_id} has just been deleted.", hint="csa ls") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise StateError.denied(paths.session_lock, "cannot be locked", error) from error
    try:
        paths.cancel.unlink(missing_ok=True)  # an earlier turn's: once the owner is known, a new one is ours
        session_lock.write(owner)
        return (session_lock, _take_tool_lock(paths, state, tool, owner, session_lock)), loser
    except BaseException:
        session_lock.close()
        raise


def _take_tool_lock(paths: SessionPaths, state: SessionState, tool: str, owner: bytes, session_lock: Lock) -> Lock:
    if session_lock.flocks:
        session_lock.flocks.release(paths.tool_lock(tool).name)
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
    with suppress(OSError):  # its next holder writes its own record
        lock.write(b"")
    lock.close()
