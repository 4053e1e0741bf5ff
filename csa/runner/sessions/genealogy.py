"""The genealogy of sessions, with what each subtree adds up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csa.errors import StateError
from csa.model.rollup import Rollup, Span
from csa.model.tree import Node, build_forest, tell_apart, walk
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.runner.sessions.listing import Selection, SessionInfo
from csa.store.observer import Observer, Sight
from csa.store.turns import read_turns

Forest = list[Node[SessionInfo]]


def arrange_sessions(infos: Sequence[SessionInfo]) -> Forest:
    """Return the genealogy of sessions given newest first: newest roots first, children oldest first.

    A fork that has no parent stands below the session it was forked from, where that is among them.
    """
    ids = {info.session_id for info in infos}
    ordered = infos[::-1]
    keys = tell_apart([_kin(info, ids) for info in ordered])
    return build_forest([(*key, info) for key, info in zip(keys, ordered, strict=True)])[::-1]


def is_fork_edge(parent: SessionInfo | None, child: SessionInfo) -> bool:
    """Say whether a child stands where it does because it is a fork."""
    state = child.record.state
    return bool(parent and state and state.parent_session_id is None and state.fork_of == parent.session_id)


def roll_up(forest: Forest, *, now: float) -> dict[str, Rollup]:
    """Return for each node of a forest, by its id, the sum of the session and all below it."""
    observers: dict[str, Observer] = {}
    sums: dict[str, Rollup] = {}
    for node in reversed(list(walk(forest))):  # children before their parents
        found = sums[node.session_id] = Rollup()
        if node.item:
            status, spans, usage = _measure(node.item, observers, now)
            found.add(status, spans, usage)
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


def _kin(info: SessionInfo, ids: set[str]) -> tuple[str, str, str | None, str | None]:
    state, project = info.record.state, info.store.project_pathname
    if state is None:
        return info.session_id, project, None, None
    parent = state.parent_session_id or (state.fork_of if state.fork_of in ids else None)
    return info.session_id, project, parent, state.parent_project


def _measure(info: SessionInfo, observers: dict[str, Observer], now: float) -> tuple[str, list[Span], Usage]:
    """Return how a session is, when it ran, and what it has used, the running turn included."""
    state = info.record.state
    if state is None or info.record.is_retired:
        return info.status, turn_spans(info.record.paths), info.usage or Usage()
    observer = observers.setdefault(str(info.store.path), Observer(info.store, lambda _: None))
    sight = observer.sight(info.session_id)
    if sight is None:
        return info.status, [], state.usage
    spans = turn_spans(info.record.paths) if state.turns > 1 else []
    return sight.status, [*spans, *_last_span(sight, now)], sight.usage


def turn_spans(paths: SessionPaths) -> list[Span]:
    """Return when the finished turns of a session ran; nothing where its transcript cannot be read."""
    try:
        moments = [(turn.started_at, turn.finished_at) for turn in read_turns(paths.transcript)]
    except StateError:
        return []
    return [(start.timestamp(), end.timestamp()) for start, end in moments if start and end]


def _last_span(sight: Sight, now: float) -> list[Span]:
    if sight.started_at is None:
        return []
    if sight.duration_s is not None:
        return [(sight.started_at, sight.started_at + sight.duration_s)]
    return [(sight.started_at, max(now, sight.started_at))] if sight.status == "running" else []


def statuses_below(node: Node[SessionInfo], sums: Mapping[str, Rollup]) -> dict[str, int]:
    """Count the sessions below a node by status."""
    counts: dict[str, int] = {}
    for child in node.children:
        for status, count in sums[child.session_id].statuses.items():
            counts[status] = counts.get(status, 0) + count
    return counts


def keep_matching(forest: Forest, selection: Selection) -> Forest:
    """Return the forest of what a selection accepts, and of what that stands below."""
    copies: dict[str, Node[SessionInfo]] = {}
    for node in reversed(list(walk(forest))):
        children = [copies[child.session_id] for child in node.children if child.session_id in copies]
        if children or (node.item and _is_wanted(node.item, selection)):
            copies[node.session_id] = Node(node.session_id, node.item, children)
    return [copies[root.session_id] for root in forest if root.session_id in copies]


def _is_wanted(info: SessionInfo, selection: Selection) -> bool:
    return selection.accepts(info.record) and selection.accepts_status(info.record, info.status)
