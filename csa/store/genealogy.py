"""The ancestors' records of a session, in any project. Only reads. Descendants: `csa.store.family`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from csa.errors import StateError
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.sessions import Store
from csa.store.statefile import load_state

_MAX_ANCESTORS = 1000


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
