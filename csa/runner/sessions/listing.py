"""Which sessions there are, for `session list` and whoever asks the library: newest first, filtered, as values.

Of each session is read only what the question needs: a list of the newest reads no others, and a status, which costs a
look at the lock and the journal, is asked for when it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache

from csa.errors import StateError
from csa.ids import unique_prefix_length
from csa.paths import RETIRED
from csa.store.sessions import Record, Store, may_hold, read_state_text
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    from csa.model.state import SessionState
    from csa.model.usage import Usage

_OF_TURNS = ("succeeded", "failed", "cancelled", "timed_out", "killed", "lost")
STATUSES = ("running", "open", "idle", "unknown", *_OF_TURNS, "damaged")
SHOWN_LENGTH = 10
PHASES = ("active", "available", RETIRED)

_Children = Callable[[], dict[str, int]]


class SessionInfo(Struct):
    """A session as `list` shows it."""

    record: Record
    store: Store
    status: str
    _ids: list[str]  # of all sessions beside it, sorted
    _children: _Children

    @property
    def session_id(self) -> str:
        return self.record.session_id

    @property
    def unique_length(self) -> int:
        """How many characters of the id tell it from all others."""
        return unique_prefix_length(self.session_id, self._ids, minimum=1)

    @property
    def prefix(self) -> str:
        """The shortest unique prefix, at least 10 characters."""
        return self.session_id[: max(SHOWN_LENGTH, self.unique_length)]

    @property
    def phase(self) -> str:
        """`active`, `available` (compressed) or `retired` (collected)."""
        state = self.record.state
        return RETIRED if self.record.is_retired or not state else state.phase

    @property
    def children(self) -> int:
        """How many sessions of the project have it as their parent; counted when first asked for."""
        return self._children().get(self.session_id, 0)

    @property
    def usage(self) -> Usage | None:
        """What it has used, with what has no end as yet; None where its record cannot be read."""
        from csa.store.unfinished import usage_of  # noqa: PLC0415  # ids and filters need none of it

        if (state := self.record.state) is None:
            return None
        try:
            return usage_of(self.record.paths, state, self.status)
        except StateError:  # it has gone in this moment, or `status` says so next time
            return state.usage

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session list --json` prints; a damaged session has `error` and few other keys."""
        from csa.model.state import format_time  # noqa: PLC0415  # loaded with the state

        state, usage = self.record.state, self.usage
        if state is None or usage is None:
            error = str(self.record.fault)
            return {"id": self.session_id, "prefix": self.prefix, "status": self.status, "error": error}
        return {
            "id": self.session_id,
            "prefix": self.prefix,
            "name": state.name,
            "description": state.description,
            "status": self.status,
            "phase": self.phase,
            "tools": list(state.tools),
            "depth": state.depth,
            "parent_session_id": state.parent_session_id,
            "root_session_id": state.root_session_id,
            "children": self.children,
            "turns": state.turns,
            "branch": state.branch,
            "created_at": format_time(state.created_at),
            "last_accessed": format_time(state.last_accessed),
            "usage": usage.to_sum(),
        }


class Selection(Struct, kw_only=True):
    """Which sessions are wanted: those that fit everything that is given.

    `statuses` holds statuses and phases, of which one must fit; without `retired` among them collected sessions are
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
        """Return what says of a record's text whether it may fit: reading it as TOML costs ten times as much."""
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
        """Say whether a session's record fits, its status apart."""
        state = record.state
        if state is None:
            return not (self.tools or self.branch or self.owner or self.since)
        return (
            (not self.tools or not self.tools.isdisjoint(state.tools))
            and (self.branch is None or state.branch == self.branch)
            and (self.owner is None or self.owner in _names_of(state))
            and (self.since is None or state.last_accessed >= self.since)
        )

    def accepts_status(self, record: Record, status: str) -> bool:
        if not self.statuses:
            return True
        if record.is_retired:
            return self.wants_retired
        return status in self.statuses or bool(record.state and record.state.phase in self.statuses)


def _names_of(state: SessionState) -> tuple[str, ...]:
    return (state.owner, state.owner.partition("@")[0]) if state.owner else ()


class Listing(Struct):
    """The sessions that fit, and how many more do beyond the limit."""

    infos: list[SessionInfo]
    more: int = 0


EVERYTHING = Selection()


def select_sessions(stores: Iterable[Store], selection: Selection = EVERYTHING, *, limit: int | None = None) -> Listing:
    """Return the sessions of some stores, newest first; one that is removed meanwhile is passed over."""
    infos: list[SessionInfo] = []
    more = 0
    found = sorted((entry for store in stores for entry in _entries(store, selection)), key=_id_of, reverse=True)
    may_fit = selection.sieve()
    for position, (session_id, directory, store, ids, children) in enumerate(found):
        is_full = limit is not None and len(infos) >= limit
        if is_full and selection.is_everything:
            more = len(found) - position
            break
        content = read_state_text(f"{directory}/{session_id}")
        if not may_fit(content):
            continue
        record = store.record_in(directory, session_id, content)
        if not selection.accepts(record) or (record.fault and record.is_gone):
            continue
        if is_full and not selection.statuses:
            more += 1
            continue
        record, status = record.examine()
        if not selection.accepts_status(record, status):
            continue
        if is_full:
            more += 1
        else:
            infos.append(SessionInfo(record, store, status, ids, children))
    return Listing(infos, more)


def infos_of(store: Store, ids: Iterable[str]) -> Iterator[SessionInfo]:
    """Yield certain sessions of a store, as far as they are in their places."""
    known, children = store.ids(), cache(lambda: _count_children(store))
    for session_id in {*ids}.intersection(known):
        record, status = store.record(session_id).examine()
        if not (record.fault and record.is_gone):
            yield SessionInfo(record, store, status, known, children)


def once_each(infos: Iterable[SessionInfo]) -> list[SessionInfo]:
    """Return the sessions, of each id the one that has gone furthest: sums count no session twice."""
    best: dict[str, SessionInfo] = {}
    for info in infos:
        known = best.get(info.session_id)
        if known is None or _turns(info) > _turns(known):
            best[info.session_id] = info
    return list(best.values())


def _turns(info: SessionInfo) -> int:
    return info.record.state.turns if info.record.state else -1


_Entry = tuple[str, str, Store, list[str], _Children]


def _id_of(entry: _Entry) -> str:
    return entry[0]


def _entries(store: Store, selection: Selection) -> Iterator[_Entry]:
    live = store.ids() if selection.wants_live else []
    retired = store.retired_ids() if selection.wants_retired else []
    known = sorted({*live, *retired}) if retired else live
    children = cache(lambda: _count_children(store))
    live_dir, retired_dir = store.sessions_dir, store.retired_dir
    yield from ((session_id, live_dir, store, known, children) for session_id in live)
    if retired:
        only = set(retired).difference(live)
        yield from ((session_id, retired_dir, store, known, children) for session_id in only)


def _count_children(store: Store) -> dict[str, int]:
    counts: dict[str, int] = {}
    directory = store.sessions_dir
    for session_id in store.ids():
        if may_hold(read_state_text(f"{directory}/{session_id}"), b"parent_session_id"):
            state = store.record(session_id).state
            if state and (parent := state.parent_session_id):
                counts[parent] = counts.get(parent, 0) + 1
    return counts
