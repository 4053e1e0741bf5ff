"""Some sessions and all that descend from them, in whichever project. Reads only.

Who is whose parent never changes, so each record is read once, however often one looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from csa.errors import StateError
from csa.store.atomic import read_regular
from csa.store.sessions import Store
from csa.store.stores import find_stores

_PARENT = re.compile(rb"parent_session_id\s*=\s*[\"']([0-9A-Z]{26})[\"']")


class Family:
    """The descendants of `founders` below a state root, as far as they have been looked for.

    `on_fault` is told, at each look, of what cannot be listed: some may be there.
    """

    def __init__(
        self, root: Path, founders: Iterable[str], *, on_fault: Callable[[StateError], None] | None = None
    ) -> None:
        self._root = root
        self._on_fault = on_fault
        self._known: dict[str, tuple[str | None, Store]] = {}
        self._members: dict[str, Store | None] = dict.fromkeys(founders)

    def look(self) -> list[tuple[Store, str]]:
        """Return the descendants there are now, parents before children."""
        for store in find_stores(self._root, on_fault=self._on_fault):
            for session_id in store.ids():
                if session_id not in self._known:
                    self._known[session_id] = (_parent(store, session_id), store)
        while found := self._children():
            self._members.update(found)
        return [(store, session_id) for session_id, store in self._members.items() if store]

    def _children(self) -> dict[str, Store]:
        """Return the children of members that are no members yet."""
        return {
            session_id: store
            for session_id, (parent, store) in self._known.items()
            if parent in self._members and session_id not in self._members
        }


def _parent(store: Store, session_id: str) -> str | None:
    """Return a session's parent; most are roots, which a look at the bytes shows without reading TOML."""
    try:
        match = _PARENT.search(read_regular(store.paths(session_id).state))
    except OSError:
        return None
    if match is None:
        return None
    state = store.record(session_id).state
    return state.parent_session_id if state else match[1].decode()
