"""Which projects have a store below a state root."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from csa.errors import StateError
from csa.ids import is_session_id
from csa.store.held import GONE_PREFIX
from csa.store.sessions import NEW_PREFIX, Store

_SESSIONS = "sessions"
_RETIRED = "retired"
_HOLDS_SESSIONS = {_SESSIONS, _RETIRED}


def find_stores(
    root: Path, *, with_retired: bool = False, on_fault: Callable[[StateError], None] | None = None
) -> Iterator[Store]:
    """Yield every store below `root` that holds a session or the remains of one, in no order.

    With `with_retired`, also those that hold only retired ones.

    Only directory names are read. Symbolic links are not followed, sessions are not entered, and what cannot be listed
    is passed over, once `on_fault` has been told of it. A project may lie below another, and below a directory that is
    itself called `sessions`.
    """
    seen = set[str]()
    stack = [(str(root), "")]
    while stack:
        place, name = stack.pop()
        try:
            has_session, below = _look(place)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError as error:
            if on_fault:
                on_fault(StateError.unreadable(place, error))
            continue
        store = os.path.dirname(place)
        if has_session and (name == _SESSIONS or (with_retired and name == _RETIRED)) and store not in seen:
            seen.add(store)
            yield Store(root, Path("/", os.path.relpath(store, root)))
        if name in _HOLDS_SESSIONS:  # hidden there: sessions that are being built, or removed
            below = [child for child in below if not child.startswith(".")]
        stack += [(os.path.join(place, child), child) for child in below]


def is_of_session(name: str) -> bool:
    """Say whether a directory's name is a session's, or that of one being built or removed."""
    return is_session_id(name.removeprefix(NEW_PREFIX).removeprefix(GONE_PREFIX))


def _look(place: str) -> tuple[bool, list[str]]:
    """Return whether a directory holds a session, and its other directories, without git's."""
    has_session, below = False, []
    with os.scandir(place) as entries:
        for entry in entries:
            if is_of_session(entry.name):
                has_session = has_session or entry.name.startswith(".") or entry.is_dir(follow_symlinks=False)
            elif not entry.name.endswith(".git") and entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
    return has_session, below
