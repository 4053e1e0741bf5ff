"""The ancestors' records of a session, and the descendants of sessions, in any project. Only reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from csa.errors import StateError
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.atomic import read_regular
from csa.store.sessions import Store, Target, is_directory
from csa.store.statefile import load_state
from csa.store.stores import find_stores

_MAX_ANCESTORS = 1000
_PARENT = re.compile(rb"parent_session_id\s*=\s*[\"']([0-9A-Z]{26})[\"']")
_Key = tuple[str, str]  # see `Store.key`


def find_record(root: Path, project: str, session_id: str) -> SessionPaths | None:
    """Return where a session's record is: in its place, or in the trash; None if it is gone.

    Raises:
        StateError: it cannot be inspected, so its limits and budgets are unknown.
    """
    store = Store(root, project)
    for paths in (store.paths(session_id), store.retired_paths(session_id)):
        try:
            if stat.S_ISDIR(os.lstat(paths.pathname).st_mode):
                return paths
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StateError.denied(paths.pathname, "cannot be inspected", error) from error
    return None


def ancestors(root: Path, state: SessionState) -> Iterator[SessionState]:
    """Yield the ancestors' records of `state`, nearest first, as far as they exist; StateError for a damaged one.

    Those on another host are not looked for.
    """
    seen = {state.session_id}
    while (parent := state.parent_session_id) and parent not in seen and len(seen) < _MAX_ANCESTORS:
        if state.parent_host:
            return
        seen.add(parent)
        paths = find_record(root, state.parent_project or state.project_path, parent)
        if paths is None:
            return
        state = load_state(paths.state)
        yield state


class Descendants:
    """The descendants of `founders` in a state root, as found so far.

    Parents never change, so each record is read only once.

    At each look `on_fault` gets the directories that cannot be listed: descendants may be there.
    """

    def __init__(
        self, root: Path, founders: Iterable[Target], *, on_fault: Callable[[StateError], None] | None = None
    ) -> None:
        self._root = root
        self._on_fault = on_fault
        self._known: dict[_Key, tuple[_Key | None, Store]] = {}
        self._members: dict[_Key, Store | None] = {store.key(session_id): None for store, session_id in founders}

    def look(self) -> list[Target]:
        """Return the current descendants, parents before children."""
        for store in find_stores(self._root, on_fault=self._on_fault):
            for session_id in store.ids():
                key = store.key(session_id)
                if key not in self._known:
                    self._known[key] = (_parent(store, session_id), store)
        while found := self._children():
            self._members.update(found)
        return [(store, session_id) for (_, session_id), store in self._members.items() if store]

    def _children(self) -> dict[_Key, Store]:
        """Return the children of members that are not members yet."""
        ids = {session_id for _, session_id in self._members}
        return {
            key: store
            for key, (parent, store) in self._known.items()
            if parent and parent[1] in ids and key not in self._members and self._is_member(parent)
        }

    def _is_member(self, parent: _Key) -> bool:
        """Say whether a parent is a member: with its id and the named project, or moved from there."""
        if parent in self._members:
            return True
        project, session_id = parent
        return not is_directory(Store(self._root, project).find(session_id).pathname)


def _parent(store: Store, session_id: str) -> _Key | None:
    """Return a session's parent; most are roots, which the raw bytes show without parsing TOML."""
    try:
        match = _PARENT.search(read_regular(store.paths(session_id).state))
    except OSError:
        return None
    if match is None:
        return None
    state = store.record(session_id).state
    if state is None:
        return store.key(match[1].decode())
    parent = state.parent_session_id
    return (state.parent_project or store.project_pathname, parent) if parent else None
