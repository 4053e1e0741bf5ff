"""Encryption at rest: the keys that the configuration names, reading what is sealed, and sealing what has finished.

What is sealed is `csa.store.sealed`. To read it, a session is opened into a directory in memory, which only its user
can enter, and which goes with this process; that of a killed one goes with the next. To run in it, it is unsealed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from csa.errors import BusyError, SealedError, StateError, UsageError
from csa.model.config import Encryption
from csa.model.state import SessionState
from csa.paths import SEALED_FILE, SessionPaths
from csa.store.atomic import read_regular
from csa.store.genealogy import ancestors
from csa.store.locks import acquire_lock, is_locked
from csa.store.queue import count_queued
from csa.store.retiring import hold
from csa.store.sealed import is_bared, read_sealed, seal_session, unseal_session
from csa.store.sealing import read_key
from csa.store.searchindex import forget, index_name
from csa.store.sessions import Store
from csa.store.statefile import load_state
from csa.store.trees import read_members

SET = '[store] identity = "FILE", or identity_command, in your configuration'
_KEY_S = 300.0  # in which a person may have to be asked for something
_MOST_BYTES = 1 << 16
_PREFIX, _LOCK = "csa-open-", "lock"
_INDEX_S = 2.0  # in which somebody else who writes the search index is waited for
_NEW_S = 5.0  # in which the lock of such a directory is taken
_IN_MEMORY = {"tmpfs", "ramfs"}
_PRINTED: dict[tuple[str, ...], str] = {}  # by commands: a server does not ask a person at each request


class Keys:
    """Where the secret key of the configuration is; it is looked for when it is first needed, and then kept."""

    def __init__(self, encryption: Encryption, environ: Mapping[str, str]) -> None:
        self._encryption, self._environ = encryption, environ
        self._fault: SealedError | None = None

    @cached_property
    def found(self) -> Sequence[Any]:
        """The keys; SealedError if there are none, or none that can be used, which is tried once."""
        if self._fault:
            raise self._fault
        try:
            return self._find()
        except SealedError as fault:
            self._fault = fault
            raise

    def _find(self) -> Sequence[Any]:
        known = self._encryption
        try:
            if known.identity_command:
                return read_key(self._ask(known.identity_command), f"what {known.identity_command[0]} prints")
            if known.identity:
                content = read_regular(Path(known.identity).expanduser())[:_MOST_BYTES]
                return read_key(content.decode("utf-8", "replace"), known.identity)
        except OSError as error:
            where = error.filename or known.identity
            raise SealedError(f"Your key cannot be read: {where}: {error.strerror or error}.", hint=SET) from error
        except UsageError as error:
            raise SealedError(error.message, hint=error.hint) from error
        raise SealedError("The session is encrypted, and you have named no key that opens it.", hint=SET)

    def _ask(self, command: Sequence[str]) -> str:
        if known := _PRINTED.get(tuple(command)):
            return known
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=self._environ,
                timeout=_KEY_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SealedError(f"{command[0]} has printed no key within {_KEY_S:.0f} s.", hint=SET) from None
        if done.returncode:
            words = f"{command[0]}, which is to print your key, has failed (exit code {done.returncode})."
            raise SealedError(words, hint=f"try it: {' '.join(command)}")
        _PRINTED[tuple(command)] = text = done.stdout[:_MOST_BYTES].decode("utf-8", "replace")
        return text


class _Place:
    """A directory in memory, which goes with this object, or with the process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_memory()))
        self.close = weakref.finalize(self, _remove, self.path, os.getpid())
        _PLACES.add(self)
        self._lock = acquire_lock(self.path / _LOCK)


_PLACES = weakref.WeakSet[_Place]()


def close_opened() -> None:
    """Delete what this process has opened in memory, before an end without Python's own."""
    for place in list(_PLACES):
        place.close()


class Opened(SessionPaths, frozen=False):
    """The files of a sealed session, in memory, for as long as this object is there; `sealed` is what was opened."""

    sealed: str
    _place: _Place

    def __init__(self, paths: SessionPaths, state: SessionState, keys: Sequence[Any]) -> None:
        self._place, self.sealed = _Place(), f"{paths.pathname}/{SEALED_FILE}"
        try:
            super().__init__(read_sealed(paths, state, keys, self._place.path).pathname)
        except OSError as error:
            words = f"The session cannot be opened in memory: {self._place.path}: {error.strerror or error}."
            raise SealedError(words, hint=f"csa unseal {paths.session_id} opens it on disk") from error


def opened(paths: SessionPaths, keys: Keys) -> SessionPaths:
    """Return where the text of a session can be read, whether it is sealed or not.

    Raises:
        SealedError: there is no key that opens it.
        StateError: its record, or what is encrypted, is damaged.
    """
    while (state := load_state(paths.state)).sealed_at is not None:
        sweep_memory()
        known = keys.found  # for which a person may be asked
        try:
            found: SessionPaths | StateError = Opened(paths, state, known)
        except StateError as fault:
            found = fault
        if load_state(paths.state).sealed_at != state.sealed_at:  # it was opened, and perhaps encrypted again
            continue
        if isinstance(found, StateError):
            raise found
        return found
    return paths


def _memory() -> str:
    """Return a directory in memory; SealedError if there is none."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"]  # noqa: S108  # which is made unique
    devices = set(_devices())
    for place in filter(None, places):
        with suppress(OSError):
            found = os.stat(place).st_dev
            if f"{os.major(found)}:{os.minor(found)}" in devices and os.access(place, os.W_OK | os.X_OK):
                return place
    raise SealedError("There is no memory to open the session in: no /dev/shm.", hint="csa unseal S opens it on disk")


def _devices() -> Iterator[str]:
    """Yield what is mounted and only in memory."""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        about, _, kind = line.partition(" - ")
        if kind.partition(" ")[0] in _IN_MEMORY:
            yield about.split(" ")[2]


def _remove(place: Path, pid: int) -> None:
    if os.getpid() == pid:  # and not a process that was forked
        shutil.rmtree(place, ignore_errors=True)


def sweep_memory() -> None:
    """Delete what processes that were killed have left in memory."""
    with suppress(SealedError, OSError), os.scandir(_memory()) as entries:
        for entry in entries:
            with suppress(OSError, StateError):  # what is called so need not be csa's
                if (
                    entry.name.startswith(_PREFIX)
                    and (found := entry.stat(follow_symlinks=False)).st_uid == os.getuid()
                ):
                    is_new = time.time() - found.st_mtime < _NEW_S
                    if not (is_new or is_locked(Path(entry.path, _LOCK))):
                        shutil.rmtree(entry.path, ignore_errors=True)


def seal_tree(
    store: Store,
    state: SessionState,
    encryption: Encryption,
    *,
    is_held: bool = False,
    heed: Callable[[], None] = lambda: None,
) -> None:
    """Encrypt what has finished of the tree of a session, unless something of it runs; OSError or CsaError.

    A tree whose root is on another host is left to `csa gc`: that host may still want to read it. Where the
    configuration does not ask for it, this is the session alone. `is_held`: the caller has its lock. `heed` is called
    again and again; what it raises ends that, with the session of that moment in plain.
    """
    if not encryption.seals:
        seal_finished(store, state.session_id, encryption.recipients, is_held=is_held, heed=heed)
        return
    root, top = store.root, [state, *ancestors(store.root, state)][-1]
    if top.parent_session_id:
        return
    members = [member for member in read_members(root, top)[0] if not member.host]
    own = {state.session_id} if is_held else set()
    if not any(member.session_id not in own and member.is_running(root) for member in members):
        for member in members:
            if member.paths(root):
                is_own = member.session_id in own
                seal_finished(member.store(root), member.session_id, encryption.recipients, is_held=is_own, heed=heed)


def seal_finished(
    store: Store,
    session_id: str,
    recipients: Iterable[str],
    *,
    is_held: bool = False,
    heed: Callable[[], None] = lambda: None,
) -> bool:
    """Encrypt a session that has finished, and what a crash has left of one in plain; say whether anything was done.

    Raises:
        StateError: its record or transcript cannot be read.
        OSError: it cannot be written; it is as it was, or partly in plain.
        UsageError, ToolUnavailableError: as `csa.store.sealing.seal`.
    """
    paths = store.find(session_id)
    if not is_to_seal(paths):
        return False
    try:
        with nullcontext() if is_held else hold(paths):
            if not is_to_seal(paths):
                return False
            leave_index = partial(forget, store.root, [index_name(store, session_id)], within_s=_INDEX_S)
            seal_session(paths, list(recipients), forget=leave_index, heed=heed)
    except (BusyError, BlockingIOError, FileNotFoundError):  # in use again, or gone
        return False
    return True


def unseal(store: Store, session_id: str, keys: Keys) -> bool:
    """Open an encrypted session in its place; say whether it was one.

    Raises:
        SealedError: there is no key that opens it; nothing was changed.
        BusyError: it is in use.
        StateError: its record, or what is encrypted, is damaged.
    """
    paths = store.find(session_id)
    if load_state(paths.state).sealed_at is None:
        return False
    known = keys.found
    try:
        with hold(paths):
            state = load_state(paths.state)
            if state.sealed_at is not None:
                unseal_session(paths, state, known)
    except BlockingIOError:
        raise BusyError(f"Session {session_id} is in use.", hint="retry later") from None
    return True


def is_to_seal(paths: SessionPaths) -> bool:
    """Say whether a session has finished, is csa's own, and has text in plain."""
    state = load_state(paths.state)
    if state.sealed_at is not None:
        return not is_bared(paths)
    return state.schema is not None and state.turns > 0 and not state.ephemeral and not count_queued(paths)
