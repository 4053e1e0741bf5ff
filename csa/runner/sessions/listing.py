"""Which sessions there are, for `csa ls` and whoever asks the library: newest first, filtered, as values.

Only what the question needs is read: a list of the newest reads no others, and the status, which costs a
look at the lock and the journal, is only determined on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from csa.paths import RETIRED
from csa.store.listed import by_use, written_at
from csa.store.sessions import Record, Store, may_hold, read_state_text
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.state import SessionState
    from csa.store.shown import SessionInfo, Siblings

_OF_TURNS = ("succeeded", "failed", "cancelled", "timed_out", "killed", "lost")
STATUSES = ("running", "open", "idle", "unknown", "away", *_OF_TURNS, "damaged")
PHASES = ("active", "available", "closed", RETIRED)


class Selection(Struct, kw_only=True):
    """Which sessions are wanted: those that match every given field.

    `statuses` has statuses and phases, of which one must match; without `retired` among them deleted sessions are
    left out. `owner` is `user` or `user@host`. Of a damaged session only the status is known.
    """

    tools: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    branch: str | None = None
    owner: str | None = None
    since: datetime | None = None  # of the last use

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    @property
    def wants_retired(self) -> bool:
        return RETIRED in self.statuses

    @property
    def wants_live(self) -> bool:
        return self.statuses != {RETIRED}

    def sieve(self) -> Callable[[bytes | None], bool]:
        """Return a test of a record's raw text that rules it out or not: parsing TOML costs ten times as much."""
        groups = [self.tools, *({word} for word in (self.branch, self.owner) if word is not None)]
        marks = [[word.encode("utf-8", "replace") for word in group] for group in groups if group]

        def may_fit(content: bytes | None) -> bool:
            for group in marks:  # loops, not any(): this runs for every session
                for mark in group:
                    if may_hold(content, mark):
                        break
                else:
                    return False
            return True

        return may_fit

    def accepts(self, record: Record) -> bool:
        """Say whether a session's record matches, apart from its status."""
        state = record.state
        if state is None:
            return not (self.tools or self.branch or self.owner or self.since)
        return (
            (not self.tools or not self.tools.isdisjoint(state.tools))
            and (self.branch is None or state.branch == self.branch)
            and (self.owner is None or self.owner in _names_of(state))
            and (self.since is None or state.last_accessed >= self.since)
        )

    def accepts_status(self, info: SessionInfo) -> bool:
        if not self.statuses:
            return True
        if info.record.is_retired:
            return self.wants_retired
        return info.status in self.statuses or bool(info.state and info.phase in self.statuses)


def _names_of(state: SessionState) -> tuple[str, ...]:
    return (state.owner, state.owner.partition("@")[0]) if state.owner else ()


class Listing(Struct):
    """The sessions that match, and how many more there are beyond the limit."""

    infos: list[SessionInfo]
    more: int = 0


EVERYTHING = Selection()


def select_sessions(
    stores: Iterable[Store],
    selection: Selection = EVERYTHING,
    *,
    limit: int | None = None,
    by_use: bool = False,
    with_status: bool = True,
) -> Listing:
    """Return the sessions of some stores, those created last first, or with `by_use` those used last.

    One that is deleted meanwhile is skipped. Without `with_status`, which costs a look at the lock and the journal,
    a status is only looked at where the selection asks for it.
    """
    from heapq import heappush, heappushpop  # noqa: PLC0415  # finding a session needs none of it

    infos: list[SessionInfo] = []
    uses: list[float] = []  # a heap of the last uses of the `limit` used last
    more = 0
    places = [place for store in stores for place in _places(store, selection)]
    may_fit = selection.sieve()
    for position, (written, session_id, place) in enumerate(_in_order(places, by_use=by_use and limit is not None)):
        is_full = limit is not None and len(infos) >= limit and (not by_use or uses[0] >= written)
        if is_full and selection.is_everything:
            more = sum(len(each.ids) for each in places) - position
            break
        content = read_state_text(f"{place.directory}/{session_id}")
        if not may_fit(content):
            continue
        siblings = place.siblings
        record = siblings.store.record_in(place.directory, session_id, content)
        siblings.note(record)
        if not selection.accepts(record) or (record.fault and record.is_gone):
            continue
        info = unexamined(record, siblings)
        if selection.statuses and not selection.accepts_status(info := info.examined()):
            continue
        if is_full:
            more += 1
            continue
        infos.append(info)
        if by_use and limit is not None:
            (heappush if len(uses) < limit else heappushpop)(uses, last_use(info))
    if by_use:
        infos.sort(key=lambda info: (last_use(info), info.session_id), reverse=True)
    more += len(infos[limit or len(infos) :])
    infos = infos[:limit]
    if with_status and not selection.statuses:  # of these alone, and afterwards: the same work is done in a row
        infos = [info.examined() for info in infos]
    return Listing(infos, more)


def unexamined(record: Record, siblings: Siblings) -> SessionInfo:
    """Return what is known of a session without looking whether it runs."""
    from csa.store.shown import SessionInfo  # noqa: PLC0415  # as below

    return SessionInfo(record=record, status="", _beside=siblings)


def last_use(info: SessionInfo) -> float:
    """Return when a session was used last, in Unix seconds; when it was written, if its record cannot be read."""
    return info.state.last_accessed.timestamp() if info.state else written_at(info.record.paths.pathname)


class _Place(Struct):
    """A directory with sessions that are asked for."""

    directory: str
    ids: Sequence[str]  # oldest first
    siblings: Siblings

    def by_id(self) -> Iterator[_Entry]:
        return ((0.0, session_id, self) for session_id in reversed(self.ids))

    def by_use(self) -> Iterator[_Entry]:
        found = by_use(self.ids, lambda session_id: written_at(f"{self.directory}/{session_id}"))
        return ((written, session_id, self) for written, session_id in found)


_Entry = tuple[float, str, _Place]


def _in_order(places: Iterable[_Place], *, by_use: bool) -> Iterator[_Entry]:
    """Yield the sessions in the order in which they are looked at, each with the moment before which it was used.

    A record is written when its session is used, or later: those used last are found without reading the others.
    """
    from heapq import merge  # noqa: PLC0415  # as above

    found = [place.by_use() if by_use else place.by_id() for place in places]
    return merge(*found, key=lambda entry: entry[:2], reverse=True)


def infos_of(store: Store, ids: Iterable[str]) -> Iterator[SessionInfo]:
    """Yield certain sessions of a store, if they are in their places."""
    from csa.store.shown import Siblings  # noqa: PLC0415  # resolving an id needs none of it

    siblings = Siblings(store, store.ids())
    for session_id in {*ids}.intersection(siblings.ids):
        info = store.record(session_id).examine(siblings)
        if not (info.record.fault and info.record.is_gone):
            yield info


def once_each(infos: Iterable[SessionInfo]) -> list[SessionInfo]:
    """Return the sessions, for each id the most advanced one: sums count no session twice."""
    best: dict[str, SessionInfo] = {}
    for info in infos:
        known = best.get(info.session_id)
        if known is None or _turns(info) > _turns(known):
            best[info.session_id] = info
    return list(best.values())


def _turns(info: SessionInfo) -> int:
    return info.state.turns if info.state else -1


def _places(store: Store, selection: Selection) -> Iterator[_Place]:
    from csa.store.shown import Siblings  # noqa: PLC0415  # as above

    live = store.ids() if selection.wants_live else []
    retired = store.retired_ids() if selection.wants_retired else []
    siblings = Siblings(store, sorted({*live, *retired}) if retired else live)
    yield _Place(store.sessions_dir, live, siblings)
    if retired:
        yield _Place(store.retired_dir, sorted(set(retired).difference(live)), siblings)
