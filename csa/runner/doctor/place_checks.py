"""What `csa doctor` says about files a run touches besides its session: are they usable, or whose are they?"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from csa.errors import DeniedError, StateError
from csa.model.check import Check
from csa.ownership import owner_above
from csa.store.sessions import Store
from csa.structs import Struct

EXIT_STATE = 6
_SHOWN = 5
_DIRECTORIES = (".slots", "sessions", "retired", "parked", "audit.git", "current.d")
_NEEDED = ("sessions", "store.lock")
_USEFUL = (
    "retired",
    "parked",
    "audit.git",
    "current",
    "current.d",
    "audit.jsonl",
    "usage_stats.toml",
    "usage_stats.lock",
)


class Place(Struct):
    """A file or directory that is checked if it exists. Without those that are `is_needed`, no run can work."""

    path: str
    is_directory: bool = False
    is_needed: bool = False


def check_places(store: Store) -> Check:
    """Check what a run of this project opens: the path to its store, its locks, and the slots of this host."""
    found = [(place, fault) for place in places_of(store) if (fault := _place_fault(place))]
    root = store.root_pathname
    if owner := owner_above(root):
        detail = f"csa runs as root in the state root of {owner}; what it creates there will belong to {owner}"
        return Check("state", "files", "warn", detail, f"sudo -u {owner} csa ..., so that agents are not root either")
    if not found:
        return Check("state", "files", "ok", "every file that a run here needs is usable")
    blocking = [fault for place, fault in found if place.is_needed]
    ordered = [*blocking, *(fault for place, fault in found if not place.is_needed)]
    words = [fault.message.rstrip(".") for fault in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        words.append(f"and {len(ordered) - _SHOWN} more")
    steps = dict.fromkeys(fault.hint or f"chmod u+rwX {shlex.quote(str(fault.path))}" for fault in ordered[:_SHOWN])
    text, step = "\n".join(words), "; ".join(steps)
    if blocking:
        return Check("state", "files", "fail", text, step, EXIT_STATE)
    return Check("state", "files", "warn", text, step)


def places_of(store: Store) -> Iterator[Place]:
    """Yield what to check, the state root first."""
    root = store.root_pathname
    way = [Path(store.pathname), *Path(store.pathname).parents]
    yield from (Place(str(each), True, True) for each in reversed(way) if each.is_relative_to(root))
    yield Place(f"{root}/.slots", True, True)
    yield Place(f"{root}/.slots/lock", is_needed=True)
    yield from (Place(f"{root}/.slots/{name}") for name in _entry_names(f"{root}/.slots") if name != "lock")
    for name in (*_NEEDED, *_USEFUL):
        yield Place(f"{store.pathname}/{name}", name in _DIRECTORIES, name in _NEEDED)
    yield from (Place(f"{store.pathname}/parked/{name}") for name in _entry_names(f"{store.pathname}/parked"))


def _place_fault(place: Place) -> StateError | None:
    try:
        found = os.stat(place.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return StateError.denied(place.path, "cannot be used", error)
    if place.is_directory != stat.S_ISDIR(found.st_mode) or not (place.is_directory or stat.S_ISREG(found.st_mode)):
        problem = "is not a directory" if place.is_directory else "is not a regular file"
        return StateError(place.path, problem, hint=f"check it, then: rm -r {shlex.quote(place.path)}")
    if os.access(place.path, os.R_OK | os.W_OK | (os.X_OK if place.is_directory else 0)):
        return None
    denied = StateError.denied(place.path, "cannot be used", PermissionError(13, os.strerror(13)))
    is_passed_over = not place.is_needed and isinstance(denied, DeniedError) and "/.slots/" in place.path
    return _with(denied, "; runs skip it") if is_passed_over else denied


def _with(fault: StateError, more: str) -> StateError:
    return type(fault)(fault.path, fault.problem + more, hint=fault.hint)


def _entry_names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
