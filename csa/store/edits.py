"""Changes of a session that runs, as files: whoever wants one asks, and the process that holds the lock applies it.

A request is `edits/<id>.ask`. Renaming it to `.taken` decides who has it: the holder, which then applies it and writes
`<id>.done`; or who has asked, and waits no longer. So a change is applied and reported, or neither.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.ids import is_session_id
from csa.ownership import make_directory
from csa.paths import SessionPaths
from csa.store.atomic import read_regular, replace_private

_ASK, _TAKEN, _DONE = ".ask", ".taken", ".done"
_OLD_S = 60.0  # then who has asked is gone


class AskedEdit:
    """A change that is asked for: `field` of the record, and its new value. `by` is who asks."""

    def __init__(self, place: Path, data: dict[str, Any]) -> None:
        self._place = place
        self.field, self.value, self.by = str(data["field"]), data["value"], str(data["by"])

    def finish(self, **said: Any) -> None:
        """Tell who has asked what came of it. OSError."""
        replace_private(self._place.with_suffix(_DONE), json.dumps(said).encode())
        self._place.with_suffix(_TAKEN).unlink(missing_ok=True)


def ask_for_edit(paths: SessionPaths, edit_id: str, data: dict[str, Any]) -> None:
    """Ask the holder of a session's lock for a change; `edit_id` is a new ULID. OSError."""
    while True:
        make_directory(paths.edits)
        try:
            return replace_private(paths.edits / f"{edit_id}{_ASK}", json.dumps(data).encode())
        except FileNotFoundError:  # another asker was the last one, and has removed the directory
            if not paths.root.exists():
                raise


def answer_to(paths: SessionPaths, edit_id: str) -> dict[str, Any] | None:
    """Return what came of a change; None as long as that is open."""
    try:
        said = json.loads(read_regular(paths.edits / f"{edit_id}{_DONE}"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def withdraw(paths: SessionPaths, edit_id: str) -> bool:
    """Ask no longer; return whether nobody has taken it, so that it will not be applied."""
    try:
        os.rename(paths.edits / f"{edit_id}{_ASK}", paths.edits / f"{edit_id}{_TAKEN}")
    except FileNotFoundError:
        return False
    return True


def forget(paths: SessionPaths, edit_id: str) -> None:
    """Remove what is left of a change, and of those whose askers are gone."""
    with suppress(OSError):
        for name in os.listdir(paths.edits):
            place = paths.edits / name
            with suppress(OSError):  # another asker may have removed it
                if name.startswith(edit_id) or time.time() - place.stat().st_mtime > _OLD_S:
                    place.unlink()
        paths.edits.rmdir()


def take_edits(paths: SessionPaths) -> list[AskedEdit]:
    """Return the changes that are asked for, in their order; from now on they are the caller's to finish."""
    try:
        names = sorted(os.listdir(f"{paths.pathname}/edits"))
    except OSError:  # as nearly always
        return []
    found = []
    for name in names:
        edit_id, suffix = os.path.splitext(name)
        if suffix != _ASK or not is_session_id(edit_id):
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):  # it was withdrawn, or is not csa's
            place = paths.edits / name
            is_old = time.time() - place.stat().st_mtime > _OLD_S
            os.rename(place, place.with_suffix(_TAKEN))
            if not is_old:
                found.append(AskedEdit(place, json.loads(read_regular(place.with_suffix(_TAKEN)))))
    return found
