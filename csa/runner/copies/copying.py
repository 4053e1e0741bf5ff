"""Copying the sessions of a state root, and of its mirrors, into a database.

One way: nothing comes back, and the files stay the truth. What a copy lacks of a session is copied at least once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from csa.errors import CsaError, StateError
from csa.model.redaction import Redactor
from csa.paths import make_path
from csa.runner.copies.reading import MOST, Reader
from csa.runner.copies.rows import LONGEST_PROJECT, clean
from csa.runner.copies.target import Change, ContentRefusedError, Key, Target
from csa.runner.sessions.fleet import Fleet
from csa.store.mirrors import find_mirrors, mirror_for
from csa.store.sessions import Store
from csa.store.stores import find_stores
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

LOOK_S = 0.1
MIRRORS_S = 1.0  # between two looks at all sessions of other hosts, at least
_SHARE = 20  # of the time, in which it looks at these
OTHERS_S = 600.0  # after which it is looked up again what others copy
WHOLE_S = 30.0  # after which everything is looked at again: what was purged, and new mirrors


class Copied(Struct, frozen=False):
    """What was done."""

    sessions: int = 0  # with changes
    rows: int = 0  # messages, or events
    removed: int = 0  # sessions that were purged


def source_of(root: Path) -> str:
    """Return what a copy calls the sessions of a state root: the name of this host, and the path."""
    return f"{os.uname().nodename}:{root}"


class Copier:
    """Keeps a copy up to date: of the projects that are `served`, in a state root and its mirrors.

    `tell` gets what cannot be copied, when that is found. What the csa of another host copies itself is left to it.
    """

    def __init__(
        self,
        root: Path,
        redactor: Redactor,
        target: Target,
        served: Callable[[str], bool] = lambda _: True,
        tell: Callable[[CsaError], None] = lambda _: None,
    ) -> None:
        self._root, self._redactor, self._served, self._tell = root, redactor, served, tell
        self._host = os.uname().nodename
        self._target = target
        self._has = {key: has for key, has in target.standing().items() if served(key[1])}
        self._readers: dict[Key, Reader] = {}  # of what runs
        self._told = set[str]()
        self._others: dict[tuple[str, str], str] = {}  # whose csa copies a session, by project and id
        self._others_at = float("-inf")
        self.copied = Copied()
        self.faults: dict[Key, CsaError] = {}
        self.namesakes = set[str]()  # what copies the same sessions of this host: an old name of it, say

    def copy_all(self) -> None:
        """Copy what is different, and remove what was purged. DatabaseError when the database cannot be reached."""
        before, self.faults = self.faults, {}
        if time.monotonic() - self._others_at > OTHERS_S:
            self._others, self._others_at = self._target.put_by_others(), time.monotonic()
        faults: list[StateError] = []
        there = {key: store for key, store in self._find(faults.append) if not self._is_left(key)}
        roots = self._roots(faults.append)
        self.namesakes = {self._others[key[1:]] for key in there if key[1:] in self._others}
        self.faults |= {key: fault for key, fault in before.items() if key in there}
        self._copy(self._reader(store, key) for key, store in there.items())
        for fault in faults:
            self._fail((self._host, str(fault.path), ""), fault)
        if faults:  # what cannot be listed may be there
            return
        mounted = {host for host, root in roots.items() if _has_content(root)}
        gone = self._has.keys() - there.keys()
        if self._host in mounted:  # a mirror that was deleted has no directory; of one that is not mounted it is empty
            mounted |= {host for host, *_ in gone if not os.path.lexists(mirror_for(str(self._root), host).pathname)}
        if removed := [key for key in gone if key[0] in mounted]:
            self._target.forget(removed)
            self.copied.removed += len(removed)
            for key in removed:
                del self._has[key]

    def follow(self, wait: Callable[[float], bool]) -> None:
        """Copy what changes from now on, until `wait`, which pauses that many seconds, says so."""
        fleets: dict[str, Fleet] = {}
        mirrors_at = 0.0
        while True:
            roots = self._roots()
            fleets = {host: fleets.get(host) or Fleet(root, self._served) for host, root in roots.items()}
            until = time.monotonic() + WHOLE_S
            self.copy_all()
            while time.monotonic() < until:
                if wait(LOOK_S):
                    return
                found = dict(self._readers)
                for host, fleet in fleets.items():
                    for each in fleet.look():
                        project, session_id = each
                        key = (host, project, session_id)
                        found[key] = self._reader(Store(roots[host], project), key)
                self._copy(found.values())
                if (began := time.monotonic()) > mirrors_at:  # whose sessions have no slots that say what runs
                    others = (self._reader(store, key) for key, store in self._find(lambda _: None, own=False))
                    self._copy(others)
                    mirrors_at = time.monotonic() + max(MIRRORS_S, _SHARE * (time.monotonic() - began))

    def _is_left(self, key: Key) -> bool:
        """Say whether a session of another host is left to that one's own csa."""
        return key[0] != self._host and key[1:] in self._others

    def _fail(self, key: Key, fault: CsaError) -> None:
        self.faults[key] = fault
        if fault.message not in self._told:
            self._told.add(fault.message)
            self._tell(fault)

    def _roots(self, on_fault: Callable[[StateError], None] = lambda _: None) -> dict[str, str]:
        """Return the state roots there are, by their hosts."""
        mirrors = {mirror.host: mirror.pathname for mirror in find_mirrors(str(self._root), on_fault)}
        return {**mirrors, self._host: str(self._root)}

    def _find(self, on_fault: Callable[[StateError], None], *, own: bool = True) -> Iterator[tuple[Key, Store]]:
        """Yield the sessions, deleted or not, each with its store; without `own` those of other hosts."""
        for host, root in self._roots().items():
            if host == self._host and not own:
                continue
            for store in find_stores(make_path(root), with_retired=True, on_fault=on_fault):
                if not self._served(store.project_pathname):
                    continue
                if not _is_taken(store.project_pathname):
                    fault = StateError(store.pathname, "its project has a path that no database takes")
                    self._fail((host, store.project_pathname, ""), fault)
                    continue
                try:
                    ids = dict.fromkeys([*store.ids(), *store.retired_ids()])
                except StateError as fault:
                    on_fault(fault)
                    continue
                for session_id in ids:
                    yield (host, store.project_pathname, session_id), store

    def _reader(self, store: Store, key: Key) -> Reader:
        return self._readers.get(key) or Reader(store, key[2], key[0], self._has.get(key))

    def _copy(self, readers: Iterable[Reader]) -> None:
        """Put what these sessions have that is not there yet, several in one go."""
        batch: dict[Key, Change] = {}
        refused: dict[Key, CsaError] = {}
        size = 0
        try:
            for change in chain.from_iterable(map(self._changes, readers)):
                if change.key in batch or size >= MOST:
                    refused |= self._put(batch)
                    size = 0
                if change.key not in refused:  # or it would lack what came before
                    batch[change.key] = change
                    size += 1 + len(change.messages) + len(change.events)
            refused |= self._put(batch)
        except BaseException:
            self._readers.clear()  # they may have read what was not put
            raise
        for key, fault in refused.items():
            self._readers.pop(key, None)
            self._fail(key, CsaError(f"Session {key[2]} in {key[1]} on {key[0]}: {fault.message}", hint=fault.hint))

    def _changes(self, reader: Reader) -> Iterator[Change]:
        if self._is_left(reader.key):
            return
        try:
            yield from reader.changes(self._redactor, self._target.takes)
            self.faults.pop(reader.key, None)
        except StateError as fault:
            self._fail(reader.key, fault)
            self._readers.pop(reader.key, None)
            return
        if reader.status == "running":
            self._readers[reader.key] = reader
        else:
            self._readers.pop(reader.key, None)

    def _put(self, batch: dict[Key, Change]) -> dict[Key, CsaError]:
        """Put a batch; return what is refused of it, each session by itself."""
        refused: dict[Key, CsaError] = {}
        try:
            self._put_all(list(batch.values()))
        except ContentRefusedError:
            for change in batch.values():
                try:
                    self._put_all([change])
                except ContentRefusedError as fault:
                    refused[change.key] = fault
        batch.clear()
        return refused

    def _put_all(self, changes: list[Change]) -> None:
        if changes:
            self._target.put(changes)
            self._has.update({change.key: change.standing for change in changes})
            self.copied.sessions += len(changes)
            self.copied.rows += sum(len(change.messages) + len(change.events) for change in changes)


def _is_taken(project: str) -> bool:
    """Say whether a database takes a path: what it refuses would stop the copy of everything else."""
    return clean(project) == project and len(project.encode()) <= LONGEST_PROJECT


def _has_content(root: str) -> bool:
    """Say whether there is anything in a state root: an empty one is rather one whose disk is not mounted."""
    try:
        return any(not name.startswith(".") for name in os.listdir(root))
    except OSError:
        return False
