"""The sessions of one project, or of all, updated each time they are asked for: what live views show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest

from csa.store.family import find_elsewhere, find_relatives
from csa.store.observer import Describe, Observer
from csa.store.sessions import Store, Target
from csa.store.shown import SessionInfo

_FIND_S = 1.0
_GOES_ON = {"running", "unknown", "away"}  # what may run on another host


class LiveSessions:
    """The sessions of the stores from `find`, which is called again now and then. `describe` renders an event."""

    def __init__(self, find: Callable[[], Iterable[Store]], describe: Describe) -> None:
        self._find = find
        self._describe = describe
        self._found_at = float("-inf")
        self._observers: dict[str, Observer] = {}  # by the stores' labels
        self._mirrored: dict[str, Observer] = {}  # of other hosts, likewise
        self._spread: list[Target] = []
        self._spread_at = float("-inf")
        self._ran_at: dict[tuple[str, str], float] = {}  # by `Store.key`

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
        running += self._elsewhere(running)
        newest = nlargest(others, rest, key=lambda found: found[0]) if others else []
        shown = running + [info for session_id, observer in newest if (info := observer.look(session_id))]
        return sorted(shown, key=lambda info: (info.started_at or 0, info.session_id), reverse=True)

    def _elsewhere(self, running: list[SessionInfo]) -> list[SessionInfo]:
        """Return what the running sessions have started on other hosts, and has not ended."""
        now = time.monotonic()
        if now - self._spread_at >= _FIND_S:
            found = find_elsewhere([(info.store, info.session_id) for info in running])
            self._spread = [target for target in found if target[0].label not in self._observers]
            self._spread_at = now
            stores = {store.label: store for store, _ in self._spread}
            kept = {label: self._mirrored.get(label) for label in stores}
            self._mirrored = {at: kept[at] or Observer(stores[at], self._describe) for at in kept}
        infos = (self._mirrored[store.label].look(session_id) for store, session_id in self._spread)
        return [info for info in infos if info and info.status in _GOES_ON]

    def _runs(self, observer: Observer, session_id: str, lingering_s: float) -> bool:
        key, now = observer.store.key(session_id), time.monotonic()
        if observer.is_running(session_id):
            self._ran_at[key] = now
            return True
        return key in self._ran_at and now - self._ran_at[key] < lingering_s

    def _present(self) -> Iterator[Observer]:
        now = time.monotonic()
        if now - self._found_at >= _FIND_S:
            stores = {store.label: store for store in self._find()}
            kept = {label: self._observers.get(label) for label in sorted(stores)}
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
        found = find_relatives(self._store, (info.state for info in infos if info.state))
        self._relatives = {store.key(session_id) for store, session_id in found}
        self._observers[self._store.label] = self._own
        return [self._store, *(store for store, _ in found)]
