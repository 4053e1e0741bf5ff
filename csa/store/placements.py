"""The files of placements, `<state root>/.placed/<ULID>.json`: what this host has asked others to run.

A file is written, and synced, before its allowance is booked, and removed after that is settled: what was booked is
always listed, and can be given back. The list of a tree (`csa.store.trees`) is the truth about the money; the files
say what is on its way. `<ULID>.lock` is held by the process that places it, as long as that lives.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from csa.errors import AmbiguousError, BusyError, NotFoundError, RefusedError, StateError
from csa.ids import is_session_id
from csa.model.placement import Placement, PlacementFault, placement_from_json
from csa.paths import PLACED
from csa.store.atomic import make_private_directory, read_regular, sync_directory, write_atomically
from csa.store.locks import Lock, acquire_lock, is_locked

_SUFFIX = ".json"
_MOST_BYTES = 1 << 18
_DRAFT_KEPT_S = 3600.0


def list_placements(root: Path | str) -> list[Placement]:
    """Return all placements, oldest first; one that cannot be read raises StateError: it may be an allowance."""
    try:
        names = sorted(os.listdir(f"{root}/{PLACED}"))
    except (FileNotFoundError, NotADirectoryError):  # as for nearly everybody
        return []
    found = (_load(root, name.removesuffix(_SUFFIX)) for name in names if _is_record(name))
    return [placement for placement in found if placement]


def find_placement(root: Path | str, placement_id: str) -> Placement:
    """Return a placement by its id; NotFoundError if there is none, StateError if it cannot be read."""
    if found := _load(root, placement_id):
        return found
    raise _is_unknown(placement_id)


def choose_placement(root: Path | str, selector: str) -> Placement:
    """Return the placement that is meant by its id, its session's, or the beginning of one of them.

    NotFoundError, AmbiguousError: none, or several are.
    """
    known = list_placements(root)
    found = [each for each in known if selector in {each.id, each.session_id}]
    found = found or [each for each in known if selector and each.id.startswith(selector)]
    found = found or [each for each in known if selector and each.session_id.startswith(selector)]
    if not found:
        raise _is_unknown(selector)
    if len(found) > 1:
        raise AmbiguousError(selector, [f"{each.id} ({each.session_id} on {each.host})" for each in found], len(found))
    return found[0]


def unsettled_below(root: Path | str, session_id: str) -> list[Placement]:
    """Return what a session, or an agent of the tree that it is the root of, has on other hosts and is not settled."""
    return [
        each
        for each in list_placements(root)
        if not each.is_settled and (each.parent == session_id or (each.top and each.top[1] == session_id))
    ]


def refuse_unsettled(root: Path | str, session_id: str) -> None:
    """Raise RefusedError for a session with something on other hosts that is not settled: its tree pays for it."""
    if placed := unsettled_below(root, session_id):
        raise RefusedError(
            f"Session {session_id} is needed: {placed_in_words(placed)}.",
            hint="csa sync settles what has ended; csa hosts --placed lists it, csa hosts --release gives it back; "
            f"csa rm --force {session_id} deletes the session all the same",
        )


def placed_in_words(placed: list[Placement]) -> str:
    """Say what is not settled."""
    hosts = ", ".join(dict.fromkeys(each.host for each in placed))
    count = f"{len(placed)} sessions are" if len(placed) > 1 else f"session {placed[0].session_id} is"
    return f"{count} placed on {hosts}, and not settled"


def _is_unknown(name: str) -> NotFoundError:
    return NotFoundError(f"Nothing is placed as {name}.", hint="csa hosts --placed lists what is")


def is_placed(root: Path | str, placement_id: str) -> bool:
    """Say whether there is such a placement, readable or not."""
    return os.path.lexists(f"{root}/{PLACED}/{placement_id}{_SUFFIX}")


def save_placement(root: Path, placement: Placement) -> None:
    """Write a placement, durably; OSError if that fails, and then the one before it is there."""
    directory = root / PLACED
    if not directory.is_dir():
        make_private_directory(directory)
        sync_directory(root)
    content = json.dumps(placement.to_json(), indent=1).encode() + b"\n"
    write_atomically(directory / f"{placement.id}{_SUFFIX}", content)


def forget_placement(root: Path, placement_id: str) -> None:
    """Remove a placement: it is settled, or was never sent."""
    directory = root / PLACED
    with suppress(FileNotFoundError):
        (directory / f"{placement_id}{_SUFFIX}").unlink()
        sync_directory(directory)


def hold_placement(root: Path, placement_id: str) -> Lock:
    """Hold a placement, until the lock is closed: nobody gives it back meanwhile. BusyError if somebody holds it."""
    directory = root / PLACED
    make_private_directory(directory)
    try:
        lock = acquire_lock(directory / f"{placement_id}.lock")
    except BlockingIOError as error:
        raise BusyError(
            f"The process that has placed {placement_id} is still there.",
            hint="wait for it, or interrupt it; csa kill ends a turn on its host",
        ) from error
    lock.write(str(os.getpid()).encode())
    return lock


def is_held(root: Path, placement_id: str) -> bool:
    """Say whether the process that has placed it is still there; StateError if that cannot be found out."""
    return is_locked(root / PLACED / f"{placement_id}.lock")


def drop_hold(root: Path, lock: Lock) -> None:
    """Let go of a placement; of one that is forgotten nothing is left."""
    if not is_placed(root, lock.path.stem):
        lock.path.unlink(missing_ok=True)  # nobody else has it, and who has opened it looks again
    lock.close()


def sweep_placements(root: Path) -> None:
    """Delete what processes that were killed have left beside the records: locks without one, and drafts. OSError."""
    try:
        names = os.listdir(root / PLACED)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = root / PLACED / name
        if name.endswith(".lock"):
            with suppress(BlockingIOError):
                drop_hold(root, acquire_lock(path))
        elif name.endswith(".tmp") and path.lstat().st_mtime < time.time() - _DRAFT_KEPT_S:
            path.unlink(missing_ok=True)


def _is_record(name: str) -> bool:
    return name.endswith(_SUFFIX) and is_session_id(name.removesuffix(_SUFFIX))


def _load(root: Path | str, placement_id: str) -> Placement | None:
    pathname = f"{root}/{PLACED}/{placement_id}{_SUFFIX}"
    try:
        record = json.loads(read_regular(pathname)[:_MOST_BYTES])
        if not isinstance(record, dict):
            raise PlacementFault("it is no object")
        return placement_from_json(record)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError.unreadable(pathname, error) from error
    except (ValueError, RecursionError) as error:
        hint = "delete it, if nothing that it may be for runs on another host any more"
        raise StateError(pathname, f"is not the record of a placement ({error})", hint=hint) from error
