"""What the sessions of a project have started in other projects, by the lists of the trees' roots. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from csa.errors import StateError
from csa.model.state import SessionState
from csa.runner.sessions.listing import SessionInfo, infos_of
from csa.store.lineage import ancestors
from csa.store.sessions import Store
from csa.store.trees import Member, read_roll

_EMPTY_ROLL = 8  # bytes: the list of a root that has started nothing


def find_relatives(store: Store, states: Iterable[SessionState]) -> list[Member]:
    """Return the members of these sessions' trees that are below them, and in other projects."""
    known, tops = set[str](), dict[str, SessionState]()
    for state in states:
        known.add(state.session_id)
        if top := _top(store, state):
            tops[top.session_id] = top
    members = list(chain.from_iterable(read_roll(store.root, top)[0] for top in tops.values()))
    found: dict[tuple[str, str], Member] = {}
    while more := [
        each
        for each in members
        if each.parent in known and each.project != store.project_pathname and each.session_id not in known
    ]:
        known.update(each.session_id for each in more)
        found |= {(each.project, each.session_id): each for each in more}
    return list(found.values())


def infos_of_relatives(store: Store, infos: Iterable[SessionInfo]) -> Iterator[SessionInfo]:
    """Yield the sessions that `find_relatives` finds, as far as they are there."""
    places: dict[str, list[str]] = {}
    for member in find_relatives(store, (info.record.state for info in infos if info.record.state)):
        places.setdefault(member.project, []).append(member.session_id)
    for project, ids in places.items():
        yield from infos_of(Store(store.root_pathname, project), ids)


def _top(store: Store, state: SessionState) -> SessionState | None:
    """Return the root of a session's tree, where that has to be looked at: it is this one, or in another project."""
    if state.parent_session_id is None:
        return state if _has_started(store, state.session_id) else None
    if state.parent_project is None:
        return None
    top = None
    with suppress(StateError):  # what is above a damaged record cannot be known
        for above in ancestors(store.root, state):
            top = above
    return top


def _has_started(store: Store, session_id: str) -> bool:
    for directory in (store.sessions_dir, store.retired_dir):
        with suppress(OSError):
            return os.stat(f"{directory}/{session_id}/locks/tree.lock").st_size > _EMPTY_ROLL
    return False
