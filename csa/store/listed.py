"""What directories in a state root have: sessions, and what may have the stores of projects."""

from __future__ import annotations

import os

from csa.ids import is_session_id, session_ids_in
from csa.paths import CHECKPOINTS, NO_PROJECTS, SESSION_DIRECTORIES, SESSIONS, is_of_session
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Listed(Struct):
    """What is in a directory. Symbolic links are left out."""

    has_session: bool  # or the remains of one
    ids: Sequence[str]  # of the sessions, oldest first
    below: list[str]  # the names of its other directories


def list_directory(place: str) -> Listed:
    """Return what is in a directory. OSError if it cannot be listed."""
    directories: list[str] = []
    files: list[str] = []
    with os.scandir(place) as entries:  # which distinguishes directories from files without a stat for each
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    ids = sorted(session_ids_in(directories))
    others = _without(directories, ids) if len(ids) < len(directories) else []
    remains = [name for name in (*others, *files) if is_of_session(name) and not is_session_id(name)]
    return Listed(bool(remains or ids), ids, _without(others, remains) if remains else others)


def _without(names: list[str], some: Sequence[str]) -> list[str]:
    known = {*some}
    return [name for name in names if name not in known]


def walk(
    root: str, look: Callable[[str], Listed] = list_directory, on_fault: Callable[[str, OSError], None] | None = None
) -> Iterator[tuple[str, Listed]]:
    """Yield the directories of a state root that may be those of stores, or above them, with what `look` says of each.

    What cannot be listed is skipped, after a call of `on_fault`.
    """
    stack = [root]
    while stack:
        place = stack.pop()
        try:
            listed = look(place)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError as error:
            if on_fault:
                on_fault(place, error)
            continue
        yield place, listed
        stack += [f"{place.rstrip('/')}/{name}" for name in listed.below if _may_lead_on(root, place, name)]


def _may_lead_on(root: str, place: str, name: str) -> bool:
    if place == root and name in NO_PROJECTS:
        return False
    if place.endswith(f"/{CHECKPOINTS}"):  # where an older csa kept the store of a project with that name
        return name in SESSION_DIRECTORIES
    return not _is_gits(f"{place}/{name}")


def _is_gits(place: str) -> bool:
    """Say whether a directory is a repository of checkpoints, perhaps still being created, and not also a store."""
    return place.endswith(".git") and os.path.exists(f"{place}/HEAD") and not os.path.isdir(f"{place}/{SESSIONS}")


def written_at(session: str) -> float:
    """Return when the record in a session's directory was written, in Unix seconds; 0 if it has none."""
    try:
        return os.stat(f"{session}/state.toml").st_mtime
    except OSError:
        return 0.0


def by_use(ids: Sequence[str], written: Callable[[str], float]) -> Iterator[tuple[float, str]]:
    """Yield sessions with the times at which their records were written, last first; `written` looks at a record."""
    if isinstance(ids, list):
        return iter(sorted(((written(each), each) for each in ids), reverse=True))
    from csa.store.idindex import IndexedIds  # noqa: PLC0415  # few look into mirrors

    assert isinstance(ids, IndexedIds)
    return ids.by_use(written)
