"""The genealogy of sessions, with the sums of each subtree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csa.errors import StateError
from csa.model.genealogy import Node, Rollup, Span, build_forest, nodes_above, prune, tell_apart, walk
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.runner.session import Session
from csa.runner.sessions.listing import Selection, infos_of
from csa.store.family import find_relatives
from csa.store.observer import Observer
from csa.store.sessions import Store
from csa.store.shown import SessionInfo
from csa.store.turns import read_turns

Forest = list[Node[SessionInfo]]
_WITHOUT_TURN = {"idle", "damaged"}


def add_relatives(store: Store, infos: list[SessionInfo]) -> list[SessionInfo]:
    """Return sessions of a project, newest first, with the existing ones they have started elsewhere."""
    places: dict[str, tuple[Store, list[str]]] = {}
    for place, session_id in find_relatives(store, (info.state for info in infos if info.state)):
        places.setdefault(place.pathname, (place, []))[1].append(session_id)
    more = [info for place, ids in places.values() for info in infos_of(place, ids)]
    return sorted([*infos, *more], key=lambda info: info.session_id, reverse=True)


def arrange_sessions(infos: Sequence[SessionInfo], *, with_forks: bool = True) -> Forest:
    """Return the genealogy of sessions given newest first: newest roots first, children oldest first.

    With `with_forks`, a fork without a parent is placed below the session it was forked from, if that is among them.
    """
    ordered = infos[::-1]
    origins = {info.session_id for info in ordered} if with_forks else set[str]()
    keys = tell_apart([_kin(info, origins) for info in ordered])
    return build_forest([(*key, info) for key, info in zip(keys, ordered, strict=True)])[::-1]


def items(*roots: Node[SessionInfo]) -> list[SessionInfo]:
    """Return the sessions of some trees, parents before children."""
    return [node.item for node in walk(roots) if node.item]


def subtree(forest: Forest, top: Session) -> Forest:
    """Return the tree of one session; empty if it was deleted in this moment."""
    key = top.store.key(top.session_id)
    return [node for node in walk(forest) if node.item and node.item.store.key(node.item.session_id) == key][:1]


def is_fork_edge(parent: SessionInfo | None, child: SessionInfo) -> bool:
    """Say whether a child is in its place because it is a fork."""
    state = child.state
    return bool(parent and state and state.parent_session_id is None and state.fork_of == parent.session_id)


def roll_up(forest: Forest, *, now: float) -> dict[str, Rollup]:
    """Return for each node of a forest, by id, the sum of the session and everything below it."""
    observers: dict[str, Observer] = {}
    sums: dict[str, Rollup] = {}
    for node in reversed(list(walk(forest))):  # children before their parents
        found = sums[node.session_id] = Rollup()
        if node.item:
            info, spans = _measure(node.item, observers, now)
            found.add(info.status, spans, info.usage or Usage())
        for child in node.children:
            found.merge(sums[child.session_id])
    return sums


def rollup_to_json(rollup: Rollup) -> dict[str, object]:
    """Return the object `subtree` of `session list --tree --json`."""
    return {
        "sessions": rollup.sessions,
        "statuses": dict(sorted(rollup.statuses.items())),
        "time_s": round(rollup.time_s, 3),
        "usage": rollup.usage.to_sum(),
    }


def _kin(info: SessionInfo, origins: set[str]) -> tuple[str, str, str | None, str | None]:
    fork_of = info.state.fork_of if info.state else None
    above = info.parent or (fork_of if fork_of in origins else None)
    return info.session_id, info.store.label, above, info.parent_label


def _measure(info: SessionInfo, observers: dict[str, Observer], now: float) -> tuple[SessionInfo, list[Span]]:
    """Return a session's status, and when it ran; a turn without an end is checked now."""
    state = info.state
    if state is None or info.record.is_retired:
        return info, turn_spans(info.record.paths)
    if info.duration_s is None and info.status not in _WITHOUT_TURN:
        observer = observers.setdefault(info.store.pathname, Observer(info.store, lambda _: None))
        info = observer.look(info.session_id) or info
    spans = turn_spans(info.record.paths) if state.turns > 1 else []
    seconds = info.elapsed_s(now)
    if info.started_at is not None and seconds is not None:
        spans.append((info.started_at, info.started_at + seconds))
    return info, spans


def turn_spans(paths: SessionPaths) -> list[Span]:
    """Return when the finished turns of a session ran; empty if its transcript cannot be read."""
    try:
        moments = [(turn.started_at, turn.finished_at) for turn in read_turns(paths.transcript)]
    except StateError:
        return []
    return [(start.timestamp(), end.timestamp()) for start, end in moments if start and end]


def statuses_below(node: Node[SessionInfo], sums: Mapping[str, Rollup]) -> dict[str, int]:
    """Count the sessions below a node by status."""
    counts: dict[str, int] = {}
    for child in node.children:
        for status, count in sums[child.session_id].statuses.items():
            counts[status] = counts.get(status, 0) + count
    return counts


def keep_matching(forest: Forest, selection: Selection) -> Forest:
    """Return the forest of the sessions that a selection accepts, and of their ancestors."""
    wanted = [node for node in walk(forest) if node.item and _is_wanted(node.item, selection)]
    return prune(forest, {node.session_id for node in (*wanted, *nodes_above(forest, wanted))})


def _is_wanted(info: SessionInfo, selection: Selection) -> bool:
    return selection.accepts(info.record) and selection.accepts_status(info)
