"""All sessions of many projects, kept up to date at a cost that grows with what runs, not with what there is.

Each look reads the slots (what runs, or ran since the last look), the time of each `sessions/` (what is new or gone),
what was added to each `audit.jsonl` (what was renamed, deleted ...), and a small part of all the others, so that each
is looked at once a minute: for what other programs and machines do. Nothing is written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator

from csa.errors import StateError
from csa.model.wording import describe
from csa.paths import make_path
from csa.store.audit import audit_file
from csa.store.observer import Observer
from csa.store.sessions import Store
from csa.store.shown import SessionInfo
from csa.store.slots import recent_holders
from csa.store.stores import find_stores

WHOLE_S = 60.0  # within which each session is looked at
_FIND_S = 10.0  # after which projects are looked for, if no unknown session has begun a turn before
_NEW_S = 2.0
_LONGEST_PAUSE_S = 1.0  # between two looks that the round of all makes up for
_MOST_NEW = 200  # sessions that are seen for the first time in one look
_LEAST = 8  # sessions of the round of all that are looked at each time
_MOST_AUDIT_BYTES = 1 << 20

Key = tuple[str, str]  # project and id


class Fleet:
    """The sessions of the projects that are `served`, of all those with a store in a state root."""

    def __init__(self, root: str, served: Callable[[str], bool] = lambda _: True) -> None:
        self._root = make_path(root)
        self._served = served
        self._projects: dict[str, _Project] = {}
        self._slots: dict[str, int] = {}
        self._infos: dict[Key, SessionInfo] = {}
        self._running = set[Key]()
        self._new: dict[Key, None] = {}  # those that are looked at soon, the oldest ones last
        self._unknown: dict[str, float] = {}  # sessions in slots that are in no project, and since when
        self._found_at = self._looked_at = float("-inf")
        self._round: Iterator[tuple[_Project, str]] = iter(())

    @property
    def stores(self) -> list[Store]:
        """The stores of the projects, ordered by path."""
        known = self._projects  # a look, in another thread, replaces it
        return [known[name].store for name in sorted(known)]

    @property
    def is_complete(self) -> bool:
        """Whether every session has been looked at; not yet right after the beginning."""
        return not self._new

    @property
    def infos(self) -> list[SessionInfo]:
        """The sessions as they were at the last look."""
        return list(self._infos.values())

    @property
    def running(self) -> list[Key]:
        """Those that ran at the last look."""
        return list(self._running)

    def is_served(self, project: str) -> bool:
        """Say whether the sessions of a project may be seen through this."""
        return self._served(project)

    def look(self) -> dict[Key, SessionInfo | None]:
        """Look once; return what is different from before: sessions, or None for those that are gone."""
        now = time.monotonic()
        holders = recent_holders(self._root, self._slots)
        changed = dict.fromkeys(self._find(now, holders))
        wanted = set(self._running)
        for project in self._projects.values():
            touched, gone = project.changes()
            changed |= dict.fromkeys((project.name, session_id) for session_id in gone)
            self._new |= {(project.name, session_id): None for session_id in touched}
            wanted |= {(project.name, session_id) for session_id in project.known.intersection(holders)}
        wanted |= {self._new.popitem()[0] for _ in range(min(_MOST_NEW, len(self._new)))}
        wanted |= self._next_of_round(now)
        wanted -= {key for key in self._running if holders.get(key[1]) and not self._has_changed(key)}
        changed |= {key: info for key in wanted if (info := self._see(key)) is not self._infos.get(key)}
        for key, info in changed.items():
            if info is None:
                self._infos.pop(key, None)
            else:
                self._infos[key] = info
            (self._running.add if info and info.is_running else self._running.discard)(key)
        return changed

    def _has_changed(self, key: Key) -> bool:
        return key[0] not in self._projects or self._projects[key[0]].observer.has_changed(key[1])

    def _see(self, key: Key) -> SessionInfo | None:
        project = self._projects.get(key[0])
        return project.observer.look(key[1]) if project and key[1] in project.known else None

    def _find(self, now: float, holders: Iterable[str]) -> list[Key]:
        """Look for projects when it is time; return the sessions of those that are gone."""
        unknown = {each for each in holders if not any(each in p.known for p in self._projects.values())}
        self._unknown = {each: self._unknown.get(each, now) for each in unknown}
        is_new = any(now - since < _NEW_S for since in self._unknown.values())  # it is about to be published
        if now - self._found_at < _FIND_S and not is_new:
            return []
        self._found_at = now
        stores = {s.project_pathname: s for s in find_stores(self._root) if self._served(s.project_pathname)}
        lost = [key for key in self._infos if key[0] not in stores]
        self._projects = {name: self._projects.get(name) or _Project(stores[name]) for name in stores}
        return lost

    def _next_of_round(self, now: float) -> set[Key]:
        """Return as many sessions of the round of all as the time since the last look asks for."""
        share = min(_LONGEST_PAUSE_S, now - self._looked_at) / WHOLE_S
        self._looked_at = now
        found = set[Key]()
        for _ in range(max(_LEAST, int(share * sum(len(each.known) for each in self._projects.values())))):
            each = next(self._round, None)
            if each is None:
                self._round = iter([(p, session_id) for p in self._projects.values() for session_id in p.known])
                break
            found.add((each[0].name, each[1]))
        return found


class _Project:
    """The sessions of one project, and what was read of its directory and its audit.jsonl."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.name = store.project_pathname
        self.observer = Observer(store, describe)
        self.known = frozenset[str]()
        self._ids: object = None
        self._audit = str(audit_file(store))
        self._audited = _size(self._audit)

    def changes(self) -> tuple[list[str], set[str]]:
        """Return the sessions that are new or were acted on, and those that are gone."""
        try:
            ids = self.observer.ids()
        except StateError:  # it cannot be listed for now
            return [], set()
        touched, gone = list[str](), set[str]()
        if ids is not self._ids:
            known = frozenset(ids)
            touched, gone = sorted(known - self.known), set(self.known - known)
            self._ids, self.known = ids, known
        return [*touched, *(self._acted_on() & self.known)], gone

    def _acted_on(self) -> set[str]:
        size = _size(self._audit)
        if size == self._audited:
            return set()
        start, self._audited = min(self._audited, size), size
        try:
            with open(self._audit, "rb") as file:
                file.seek(max(start, size - _MOST_AUDIT_BYTES))
                lines = file.read(size - file.tell()).splitlines()
        except OSError:
            return set()
        return {session_id for line in lines if (session_id := _session_of(line))}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _session_of(line: bytes) -> str | None:
    try:
        found = json.loads(line)["session_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if isinstance(found, str) else None
