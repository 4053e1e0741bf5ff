"""The sessions of one project, or of all, as rows that are brought up to date each time they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from pathlib import Path

from csa.cli.describe import describe
from csa.cli.live import Row
from csa.cli.output import one_line
from csa.ids import unique_prefix_length
from csa.runner.sessions.relatives import find_relatives
from csa.store.observer import Observer, Sight
from csa.store.sessions import Store

_FIND_S = 1.0


class Roster:
    """Rows for the sessions of the stores that `find` yields; it is asked again now and then."""

    def __init__(self, find: Callable[[], Iterable[Store]], *, user_home: Path) -> None:
        self._find = find
        self._home = user_home
        self._found_at = float("-inf")
        self._observers: dict[Path, Observer] = {}
        self._rows: dict[tuple[str, str], tuple[Sight, list[str], Row]] = {}

    def rows(self, is_wanted: Callable[[Observer, str], bool] = lambda *_: True) -> list[Row]:
        """Return all sessions, or those whose ids are wanted: only they are read."""
        return [
            row
            for observer in self._present()
            for ids in [observer.ids()]
            for session_id in ids
            if is_wanted(observer, session_id) and (row := self._row(observer, session_id, ids))
        ]

    def running(self, *, others: int = 0) -> list[Row]:
        """Return what runs, and the newest of what does not."""
        running: list[Row] = []
        rest: list[tuple[str, Observer, list[str]]] = []
        for observer in self._present():
            ids = observer.ids()
            for session_id in ids:
                if not observer.is_running(session_id):
                    rest.append((session_id, observer, ids))
                elif row := self._row(observer, session_id, ids):
                    running.append(row)
        newest = nlargest(others, rest, key=lambda found: found[0]) if others else []
        return running + [row for session_id, observer, ids in newest if (row := self._row(observer, session_id, ids))]

    def place(self, project: str) -> str:
        """Return a project as the rows show it."""
        return shorten(Path(project), self._home)

    def _present(self) -> Iterator[Observer]:
        now = time.monotonic()
        if now - self._found_at >= _FIND_S:
            stores = {store.project: store for store in self._find()}
            kept = {project: self._observers.get(project) for project in sorted(stores)}
            self._observers = {project: kept[project] or Observer(stores[project], describe) for project in kept}
            self._found_at = now
        yield from self._observers.values()

    def _row(self, observer: Observer, session_id: str, ids: list[str]) -> Row | None:
        sight = observer.sight(session_id)
        if sight is None:
            return None
        key = observer.store.key(session_id)
        known = self._rows.get(key)
        if known is None or known[0] is not sight or known[1] is not ids:
            label = session_id[: unique_prefix_length(session_id, ids)]
            known = (sight, ids, self._make(observer.store, session_id, sight, label))
            self._rows[key] = known
        return known[2]

    def _make(self, store: Store, session_id: str, sight: Sight, label: str) -> Row:
        state = sight.record.state
        elsewhere = state.parent_project if state else None
        return Row(
            session_id=session_id,
            parent=state.parent_session_id if state else None,
            project=str(store.project),
            place=self.place(str(store.project)),
            parent_project=elsewhere,
            parent_place=self.place(elsewhere) if elsewhere else "",
            label=label,
            tool=one_line(sight.tool),
            status=sight.status,
            turn=sight.turn,
            doing=sight.doing,
            started_at=sight.started_at,
            duration_s=sight.duration_s,
            usage=sight.usage,
            owner=sight.owner,
            pid=sight.pid,
        )


class FamilyRoster(Roster):
    """Rows for the sessions of a project, and for what they have started in others."""

    def __init__(self, store: Store, *, user_home: Path) -> None:
        super().__init__(self._find_stores, user_home=user_home)
        self._store = store
        self._own = Observer(store, describe)
        self._relatives = set[tuple[str, str]]()

    def family(self) -> list[Row]:
        """Return the rows."""
        return self.rows(lambda observer, session_id: observer is self._own or self._is_relative(observer, session_id))

    def _is_relative(self, observer: Observer, session_id: str) -> bool:
        return observer.store.key(session_id) in self._relatives

    def _find_stores(self) -> list[Store]:
        sights = filter(None, map(self._own.sight, self._own.ids()))
        members = find_relatives(self._store, (sight.record.state for sight in sights if sight.record.state))
        self._relatives = {(member.project, member.session_id) for member in members}
        self._observers[self._store.project] = self._own
        return [self._store, *(Store(self._store.root, member.project) for member in members)]


def shorten(project: Path, user_home: Path) -> str:
    """Render a path as a shell prompt does, with `~` for the home directory."""
    if project.is_relative_to(user_home) and user_home != Path("/"):
        project = Path("~") / project.relative_to(user_home)
    return one_line(str(project))
