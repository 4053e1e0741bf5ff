"""Statistics over the turns of one project or of all, from their transcripts. Deleted sessions count as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from csa.errors import StateError
from csa.model.clock import local_clock
from csa.model.state import SessionState, format_time
from csa.model.statistics import Tally, TurnFacts
from csa.store.sessions import Record, Store
from csa.store.status import missing_turns
from csa.store.turns import CompactionRecord, TurnRecord, read_history
from csa.structs import Struct, field

_Done = TurnRecord | CompactionRecord
_Key = Callable[[SessionState, _Done], str]
KEYS: Mapping[str, _Key] = {
    "tool": lambda _, turn: turn.tool or "unknown",
    "day": lambda _, turn: local_clock(turn.started_at, "%Y-%m-%d", otherwise="unknown"),  # of a compaction, too
    "tree": lambda state, _: state.root_session_id or state.session_id,
    "owner": lambda state, _: state.owner or "unknown",
}


class Statistics(Struct):
    """The sums by the requested key, most turns first (days by date), and the totals."""

    rows: dict[str, Tally]
    total: Tally
    roots: dict[str, SessionState] = field(default_factory=dict)  # of trees
    left_out: list[StateError] = field(default_factory=list)  # sessions that cannot be read

    replayed: int = 0  # turns that are not counted: no tool has run, and no model was asked

    def to_json(self, *, by: str, since: datetime | None) -> dict[str, object]:
        """Return the object that `csa stats --json` prints."""
        count = self.total.turns
        return {
            "by": by,
            "since": format_time(since) if since else None,
            "rows": [{"key": key, **tally.to_json(all_turns=count)} for key, tally in self.rows.items()],
            "running": self.total.running,
            "most_active_tool": self.total.most_active_tool,
            "total": self.total.to_json(all_turns=count),
            "replayed_turns": self.replayed,
        }


def gather_statistics(stores: Iterable[Store], *, by: str, since: datetime | None = None) -> Statistics:
    """Return the sums over turns since some moment, or over all. `by` is one of KEYS.

    A turn of a session that is in several projects, after an import, counts once; a replayed one not at all.
    """
    rows: dict[str, Tally] = {}
    total, roots, key = Tally(), dict[str, SessionState](), KEYS[by]
    left_out: list[StateError] = []
    seen, replayed = set[tuple[object, ...]](), 0
    for record, state in _sessions(stores, since, left_out):
        try:
            done = _history(record, state)
        except StateError as fault:
            left_out.append(fault)
            continue
        if by == "tree" and state.parent_session_id is None:
            roots[state.session_id] = state
        for one in done:
            mark = (record.session_id, one.number, one.started_at)
            if mark not in seen and (since is None or (one.started_at and one.started_at >= since)):
                seen.add(mark)
                if isinstance(one, TurnRecord) and one.replayed_from:
                    replayed += 1
                    continue
                for tally in (rows.setdefault(key(state, one), Tally()), total):
                    _add(tally, record, one)
    return Statistics(dict(sorted(rows.items(), key=_order(by))), total, roots, left_out, replayed)


def add_turns(tally: Tally, record: Record, state: SessionState) -> None:
    """Add the turns of a session, but replayed ones; StateError if its transcript cannot be read."""
    for one in _history(record, state):
        if isinstance(one, CompactionRecord) or not one.replayed_from:
            _add(tally, record, one)


def _history(record: Record, state: SessionState) -> list[_Done]:
    done = list(read_history(record.paths.transcript))
    if not done and (missing := missing_turns(record.paths, state)):
        raise missing
    return done


def _add(tally: Tally, record: Record, one: _Done) -> None:
    if isinstance(one, TurnRecord):
        tally.add(_facts(record, one))
    else:
        tally.add_compaction(record.session_id, one.usage)


def _sessions(
    stores: Iterable[Store], since: datetime | None, left_out: list[StateError]
) -> Iterator[tuple[Record, SessionState]]:
    """Yield the sessions used since then; note the faults of those whose record cannot be read."""
    for store in stores:
        for session_id in (*store.ids(), *store.retired_ids()):
            record = store.record(session_id)
            if record.fault and record.paths.root.is_dir():  # else it was deleted meanwhile
                left_out.append(record.fault)
            if record.state and (since is None or record.state.last_accessed >= since):
                yield record, record.state


def _facts(record: Record, turn: TurnRecord) -> TurnFacts:
    usage = turn.told
    memory = turn.number_of("peak_rss_bytes")
    return TurnFacts(
        session_id=record.session_id,
        tool=turn.tool,
        status=turn.status or _status_without_end(record),
        messages=turn.messages,
        usage=turn.usage,
        context_tokens=usage.input_tokens if usage and usage.input_tokens else None,
        duration_s=turn.number_of("duration_s") or 0.0,
        peak_rss_bytes=int(memory) if memory else None,
    )


def _status_without_end(record: Record) -> str | None:
    """A turn without an end was lost, or is running."""
    return None if record.status in {"running", "unknown", "away"} else "lost"


def _order(by: str) -> Callable[[tuple[str, Tally]], tuple[float, str]]:
    return lambda row: (0 if by == "day" else -row[1].turns, row[0])
