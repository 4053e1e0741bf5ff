"""The records above a session: its parent's, that one's parent's, and so on, in whichever projects they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.sessions import Store
from csa.store.statefile import load_state

_MAX_ANCESTORS = 1000


def find_record(root: Path, project: str, session_id: str) -> SessionPaths | None:
    """Return where a session's record is: in its place, or among those that were collected; None when it is gone."""
    paths = Store(root, project).find(session_id)
    return paths if paths.root.is_dir() else None


def ancestors(root: Path, state: SessionState) -> Iterator[SessionState]:
    """Yield the records above `state`, nearest first, as far as they are there; StateError for a damaged one."""
    seen = {state.session_id}
    while state.parent_session_id is not None and state.parent_session_id not in seen and len(seen) < _MAX_ANCESTORS:
        seen.add(state.parent_session_id)
        paths = find_record(root, state.parent_project or state.project_path, state.parent_session_id)
        if paths is None:
            return
        state = load_state(paths.state)
        yield state
