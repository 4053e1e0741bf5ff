"""All sessions of many projects, kept up to date at a cost that grows with what runs, not with what there is.

Each look reads the slots (what runs, or ran since the last look), the time of each `sessions/` (what is new or gone),
what was added to each `audit.jsonl` (what was renamed, deleted ...), and a small part of all the others, so that each
is looked at once a minute: for what other programs and machines do. Nothing is written.

Of mirrors, whose only writer notes what it changes, only that is looked at, and what runs there; and of each project
in one the newest sessions, and those that change; of what a host has, or sends, never more than a limit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nlargest

from csa.errors import StateError
from csa.ids import is_session_id
from csa.model.wording import describe
from csa.paths import MIRRORS, make_path
from csa.store.audit import audit_file
from csa.store.mirrors import Mirror, find_mirrors
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
_MOST_ADDED_BYTES = 1 << 20
_MOST_MIRRORED = 1000  # of a project of another host
_MOST_OF_HOST = 10_000  # sessions, shared out among its projects
_MOST_PROJECTS = 1000  # of a host: those in which something was new last
_FIND_CHEAP_S = 0.1  # looking for projects of other hosts for longer is followed by a rest, so many times as long
_FIND_REST = 10
_UNSETTLED = {"away", "unknown"}  # which only news of their host can change

Key = tuple[str, str]  # see `Store.key`


class Fleet:
    """The sessions of the projects that are `served`, of all those with a store in a state root.

    With `mirrors` also those of other hosts; `served` is asked for their labels (`n1:/srv/app`).
    """

    def __init__(self, root: str, served: Callable[[str], bool] = lambda _: True, *, mirrors: bool = False) -> None:
        self._root = make_path(root)
        self._served = served
        self._finds_mirrors = mirrors
        self._mirrors: dict[str, _Mirrored] = {}  # by their pathnames
        self._mirrored: list[Store] = []
        self._mirrors_at, self._mirrored_at, self._mirrored_rest_s = 0, float("-inf"), 0.0
        self._unsettled = set[Key]()
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
        """Say whether the sessions of a project, by its store's label, may be seen through this."""
        return self._served(project)

    def look(self) -> dict[Key, SessionInfo | None]:
        """Look once; return what is different from before: sessions, or None for those that are gone."""
        now = time.monotonic()
        holders = recent_holders(self._root, self._slots)
        for mirror in self._mirrors.values():
            mirror.look()
        self._find_mirrored(now)
        changed = dict.fromkeys(self._find(now, holders))
        wanted = set(self._running)
        wanted |= {key for key in self._unsettled if self._is_heard(key)}
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
            is_unsettled = info and info.store.host and info.status in _UNSETTLED
            (self._unsettled.add if is_unsettled else self._unsettled.discard)(key)
        return changed

    def _is_heard(self, key: Key) -> bool:
        """Say whether a session's host was heard of since the last look."""
        project = self._projects.get(key[0])
        return project is None or project.mirror is None or project.mirror.is_heard

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
        stores = {
            store.label: store for store in (*find_stores(self._root), *self._mirrored) if self._served(store.label)
        }
        lost = [key for key in self._infos if key[0] not in stores]
        self._projects = {name: self._projects.get(name) or self._project(stores[name]) for name in stores}
        return lost

    def _find_mirrored(self, now: float) -> None:
        """Look for projects of other hosts if some are new: there may be a million sessions, which costs a second."""
        if not self._finds_mirrors or now - self._mirrored_at < self._mirrored_rest_s:
            return
        touched = {session_id for mirror in self._mirrors.values() for session_id in mirror.touched}
        listed = _written(f"{self._root}/{MIRRORS}")
        there = [project.known for project in self._projects.values() if project.mirror]
        is_known = all(any(each in known for known in there) for each in touched)
        if listed == self._mirrors_at and is_known and now - self._mirrored_at < WHOLE_S:
            return
        self._mirrors_at, self._mirrored_at, self._found_at = listed, now, float("-inf")
        found = {mirror.pathname: mirror for mirror in find_mirrors(str(self._root))}
        self._mirrors = {name: self._mirrors.get(name) or _Mirrored(found[name]) for name in found}
        self._mirrored = [store for mirror in self._mirrors.values() for store in mirror.newest_stores()]
        took_s = time.monotonic() - now
        self._mirrored_rest_s = _FIND_REST * took_s if took_s > _FIND_CHEAP_S else 0.0

    def _project(self, store: Store) -> _Project:
        return _Project(store, self._mirrors.get(store.root_pathname))

    def _next_of_round(self, now: float) -> set[Key]:
        """Return as many sessions of the round of all as the time since the last look asks for."""
        share = min(_LONGEST_PAUSE_S, now - self._looked_at) / WHOLE_S
        self._looked_at = now
        found = set[Key]()
        for _ in range(max(_LEAST, int(share * sum(len(p.known) for p in self._projects.values() if not p.mirror)))):
            each = next(self._round, None)
            if each is None:
                self._round = iter([(p, each) for p in self._projects.values() if not p.mirror for each in p.known])
                break
            found.add((each[0].name, each[1]))
        return found


class _Project:
    """The sessions of one project, and what was read of its directory and its audit.jsonl, or of its mirror."""

    def __init__(self, store: Store, mirror: _Mirrored | None) -> None:
        self.store, self.mirror = store, mirror
        self.name = store.label
        self.observer = Observer(store, describe)
        self.known = frozenset[str]()
        self._ids: object = None
        self._audit = None if mirror else _Added(str(audit_file(store)), _session_of)

    def changes(self) -> tuple[list[str], set[str]]:
        """Return the sessions that are new or were acted on, and those that are gone."""
        try:
            ids = self.observer.ids()
        except StateError:  # it cannot be listed for now
            return [], set()
        touched, gone = list[str](), set[str]()
        acted_on = self._acted_on()
        if ids is not self._ids or acted_on - self.known:
            known = self._known(ids, acted_on)
            touched, gone = sorted(known - self.known), set(self.known - known)
            self._ids, self.known = ids, known
        return [*touched, *(acted_on & self.known)], gone

    def _known(self, ids: Sequence[str], acted_on: set[str]) -> frozenset[str]:
        if self.mirror is None:
            return frozenset(ids)
        most = self.mirror.most
        changed = sorted(filter(self.store.has, self.known | acted_on))
        return frozenset(ids[-most:]).union(changed[-most:])

    def _acted_on(self) -> set[str]:
        if self._audit is not None:
            return self._audit.sessions()
        assert self.mirror is not None  # or there would be an audit.jsonl
        return {session_id for session_id in self.mirror.touched if self.store.has(session_id)}


class _Mirrored:
    """The mirror of a host, and what its intake has changed since the look before."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._added = _Added(mirror.touched_file, lambda line: line.decode("ascii", "replace"))
        self._heard_at = mirror.heard_at()
        self.touched = set[str]()
        self.is_heard = False
        self.most = _MOST_MIRRORED  # sessions of each project that are shown because they are new, or have changed

    def newest_stores(self) -> list[Store]:
        """Return the stores in it, of many those in which something was new last."""
        found = list(find_stores(make_path(self._mirror.pathname)))
        if len(found) > _MOST_PROJECTS:
            found = nlargest(_MOST_PROJECTS, found, key=lambda store: _written(store.sessions_dir))
        self.most = min(_MOST_MIRRORED, _MOST_OF_HOST // max(1, len(found)))
        return found

    def look(self) -> None:
        """Look once."""
        self.touched = {each for each in self._added.sessions() if is_session_id(each)}
        heard_at = self._mirror.heard_at()
        self.is_heard, self._heard_at = heard_at != self._heard_at, heard_at


class _Added:
    """The sessions that a file of lines names, as far as it is new."""

    def __init__(self, pathname: str, session_of: Callable[[bytes], str | None]) -> None:
        self._pathname, self._session_of = pathname, session_of
        self._end = _size(pathname)

    def sessions(self) -> set[str]:
        """Return those that were added since the call before."""
        size = _size(self._pathname)
        if size == self._end:
            return set()
        start, self._end = self._end if size > self._end else 0, size
        try:
            with open(self._pathname, "rb") as file:
                file.seek(max(start, size - _MOST_ADDED_BYTES))
                lines = file.read(size - file.tell()).splitlines()
        except OSError:
            return set()
        return {session_id for line in lines if (session_id := self._session_of(line))}


def _written(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


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
