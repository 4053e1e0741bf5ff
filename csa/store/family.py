"""Some sessions and all that descend from them, in whichever project. Reads only.

Who is whose parent never changes, so each record is read once, however often one looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from csa.errors import StateError
from csa.store.atomic import read_regular
from csa.store.sessions import Store, Target, is_directory
from csa.store.stores import find_stores

_PARENT = re.compile(rb"parent_session_id\s*=\s*[\"']([0-9A-Z]{26})[\"']")


_Key = tuple[str, str]  # see `Store.key`


class Family:
    """The descendants of `founders` below a state root, as far as they have been looked for.

    `on_fault` is told, at each look, of what cannot be listed: some may be there.
    """

    def __init__(
        self, root: Path, founders: Iterable[Target], *, on_fault: Callable[[StateError], None] | None = None
    ) -> None:
        self._root = root
        self._on_fault = on_fault
        self._known: dict[_Key, tuple[_Key | None, Store]] = {}
        self._members: dict[_Key, Store | None] = {store.key(session_id): None for store, session_id in founders}

    def look(self) -> list[Target]:
        """Return the descendants there are now, parents before children."""
        for store in find_stores(self._root, on_fault=self._on_fault):
            for session_id in store.ids():
                key = store.key(session_id)
                if key not in self._known:
                    self._known[key] = (_parent(store, session_id), store)
        while found := self._children():
            self._members.update(found)
        return [(store, session_id) for (_, session_id), store in self._members.items() if store]

    def _children(self) -> dict[_Key, Store]:
        """Return the children of members that are no members yet."""
        ids = {session_id for _, session_id in self._members}
        return {
            key: store
            for key, (parent, store) in self._known.items()
            if parent and parent[1] in ids and key not in self._members and self._is_member(parent)
        }

    def _is_member(self, parent: _Key) -> bool:
        """Say whether a parent is a member: the one of its id where it says, or one that has moved from there."""
        if parent in self._members:
            return True
        project, session_id = parent
        return not is_directory(Store(self._root, project).find(session_id).pathname)


def _parent(store: Store, session_id: str) -> _Key | None:
    """Return a session's parent; most are roots, which a look at the bytes shows without reading TOML."""
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
