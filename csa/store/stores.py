"""Which projects have a store in a state root."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from csa.errors import StateError
from csa.paths import MIRRORS, RETIRED, SESSIONS, WORKTREES, project_of_store
from csa.store.listed import list_directory, walk
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

    from csa.store.idindex import Reader


def find_stores(
    root: Path | str, *, with_retired: bool = False, on_fault: Callable[[StateError], None] | None = None
) -> Iterator[Store]:
    """Yield every store in `root` with a session or the remains of one, in no order.

    With `with_retired`, also those with only deleted ones, or with their worktrees.

    Only directory names are read. Symbolic links are not followed, sessions are not entered, what is about other hosts
    is left out, and what cannot be listed is skipped, after a call of `on_fault`. A project may be below another, and
    below a directory that is itself called `sessions`.
    """
    top = str(root)
    reader = _reader_of(top)
    seen = set[str]()

    def note(place: str, error: OSError) -> None:
        if on_fault:
            on_fault(StateError.unreadable(place, error))

    for place, listed in walk(top, reader.look if reader else list_directory, note):
        store, _, name = place.rpartition("/")
        is_place = name == SESSIONS or (with_retired and name in {RETIRED, WORKTREES})
        if listed.has_session and is_place and place != top and store not in seen:
            seen.add(store)
            yield Store(top, project_of_store(top, store))
    if reader:
        reader.end()


def _reader_of(root: str) -> Reader | None:
    """Return what looks into a mirror; None for any other state root."""
    if root.split("/")[-2:-1] != [MIRRORS]:
        return None
    from csa.store.idindex import Reader  # noqa: PLC0415  # few look into mirrors

    return Reader(root)
