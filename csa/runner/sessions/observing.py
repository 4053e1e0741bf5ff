"""The sessions of one project, or of all, updated each time they are asked for: what live views show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest

from csa.store.observer import Describe, Observer
from csa.store.sessions import Store
from csa.store.shown import SessionInfo
from csa.store.trees import find_relatives

_FIND_S = 1.0


class LiveSessions:
    """The sessions of the stores from `find`, which is called again now and then. `describe` renders an event."""

    def __init__(self, find: Callable[[], Iterable[Store]], describe: Describe) -> None:
        self._find = find
        self._describe = describe
        self._found_at = float("-inf")
        self._observers: dict[str, Observer] = {}  # by the project
        self._ran_at: dict[tuple[str, str], float] = {}  # by project and id

    def all(self, is_wanted: Callable[[Observer, str], bool] = lambda *_: True) -> list[SessionInfo]:
        """Return all sessions, or those whose ids are wanted: only they are read."""
        return [
            info
            for observer in self._present()
            for session_id in observer.ids()
            if is_wanted(observer, session_id) and (info := observer.look(session_id))
        ]

    def running(self, *, others: int = 0, lingering_s: float = 0.0) -> list[SessionInfo]:
        """Return running sessions, the turn that began last first, and among them the newest others.

        Sessions that were seen running count as running for `lingering_s` longer.
        """
        running: list[SessionInfo] = []
        rest: list[tuple[str, Observer]] = []
        for observer in self._present():
            for session_id in observer.ids():
                if not self._runs(observer, session_id, lingering_s):
                    rest.append((session_id, observer))
                elif info := observer.look(session_id):
                    running.append(info)
        newest = nlargest(others, rest, key=lambda found: found[0]) if others else []
        shown = running + [info for session_id, observer in newest if (info := observer.look(session_id))]
        return sorted(shown, key=lambda info: (info.started_at or 0, info.session_id), reverse=True)

    def _runs(self, observer: Observer, session_id: str, lingering_s: float) -> bool:
        key, now = (observer.store.project_pathname, session_id), time.monotonic()
        if observer.is_running(session_id):
            self._ran_at[key] = now
            return True
        return key in self._ran_at and now - self._ran_at[key] < lingering_s

    def _present(self) -> Iterator[Observer]:
        now = time.monotonic()
        if now - self._found_at >= _FIND_S:
            stores = {store.project_pathname: store for store in self._find()}
            kept = {project: self._observers.get(project) for project in sorted(stores)}
            self._observers = {at: kept[at] or Observer(stores[at], self._describe) for at in kept}
            self._found_at = now
        yield from self._observers.values()


class LiveProject(LiveSessions):
    """The sessions of a project, and those they have started in others."""

    def __init__(self, store: Store, describe: Describe) -> None:
        super().__init__(self._find_stores, describe)
        self._store = store
        self._own = Observer(store, describe)
        self._relatives = set[tuple[str, str]]()

    def family(self) -> list[SessionInfo]:
        """Return them."""
        return self.all(lambda observer, session_id: observer is self._own or self._is_relative(observer, session_id))

    def _is_relative(self, observer: Observer, session_id: str) -> bool:
        return observer.store.key(session_id) in self._relatives

    def _find_stores(self) -> list[Store]:
        infos = filter(None, map(self._own.look, self._own.ids()))
        members = find_relatives(self._store, (info.state for info in infos if info.state))
        self._relatives = {(member.project, member.session_id) for member in members}
        self._observers[self._store.project_pathname] = self._own
        return [self._store, *(Store(self._store.root, member.project) for member in members)]
