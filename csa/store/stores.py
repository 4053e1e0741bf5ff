"""Which projects have a store in a state root."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from csa.errors import StateError
from csa.paths import (
    CHECKPOINTS,
    NO_PROJECTS,
    RETIRED,
    SESSION_DIRECTORIES,
    SESSIONS,
    WORKTREES,
    is_of_session,
    project_of_store,
)
from csa.store.sessions import Store


def find_stores(
    root: Path, *, with_retired: bool = False, on_fault: Callable[[StateError], None] | None = None
) -> Iterator[Store]:
    """Yield every store in `root` with a session or the remains of one, in no order.

    With `with_retired`, also those with only deleted ones, or with their worktrees.

    Only directory names are read. Symbolic links are not followed, sessions are not entered, what is about other hosts
    is left out, and what cannot be listed is skipped, after a call of `on_fault`. A project may be below another, and
    below a directory that is itself called `sessions`.
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
        if has_session and (name == SESSIONS or (with_retired and name in {RETIRED, WORKTREES})) and store not in seen:
            seen.add(store)
            yield Store(root, project_of_store(str(root), store))
        if place == str(root):
            below = [name for name in below if name not in NO_PROJECTS]
        stack += [(os.path.join(place, child), child) for child in below]


def _look(place: str) -> tuple[bool, list[str]]:
    """Return whether a directory contains a session, and its other directories, without git's."""
    has_session, below = False, []
    with os.scandir(place) as entries:
        for entry in entries:
            if is_of_session(entry.name):
                has_session = has_session or entry.name.startswith(".") or entry.is_dir(follow_symlinks=False)
            elif entry.is_dir(follow_symlinks=False) and not _is_gits(entry.path):
                below.append(entry.name)
    if os.path.basename(place) == CHECKPOINTS:  # where an older csa kept the store of a project with that name
        below = [name for name in below if name in SESSION_DIRECTORIES]
    return has_session, below


def _is_gits(place: str) -> bool:
    """Say whether a directory is a repository of checkpoints, perhaps still being created, and not also a store."""
    name = os.path.basename(place)
    return name.endswith(".git") and os.path.exists(f"{place}/HEAD") and not os.path.isdir(f"{place}/{SESSIONS}")
