"""Writing the index of a mirror: by who keeps the mirror, or by a reader who has found none that knows enough.

What is believed of it, and why, is in `idindex`. The file of ids is replaced first, then that of places, which names
it.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from binascii import crc32
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from csa.errors import StateError
from csa.ids import is_session_id
from csa.ownership import open_private
from csa.paths import OWN
from csa.store.atomic import stamp_of
from csa.store.idindex import (
    IDS_FILE,
    PLACES_FILE,
    WORTH,
    IdsFile,
    Index,
    IndexedIds,
    Place,
    load_index,
    made_under,
    stamp_at,
)
from csa.store.listed import Listed, list_directory, walk, written_at
from csa.store.locks import is_locked
from csa.store.mirrors import HOST_FILE, LOCK_FILE
from csa.structs import asdict

_MOST_NOTED = 64  # sessions; of more the ids are written again
_ABANDONED_S = 3600
_LONG_AGO_NS = 10_000_000_000


class Keeper:
    """Keeps the index of a mirror for who holds its lock. Without an index nothing is wrong, so no error is raised."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._index = load_index(root)
        self._is_saved = bool(self._index and self._index.has_times)
        self._is_due = not self._is_saved  # to be written from scratch
        self._is_changed = False
        places = self._index.places if self._index else {}
        self._noted = {(at, each) for at, place in places.items() for each in (*place.noted, *place.added)}
        for left in Path(root, OWN).glob(".ids*.tmp"):  # of one that was killed
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()

    def begin(self) -> None:
        """Note that from now on it is this process that writes records: `host.json` was replaced."""
        if self._index and self._is_saved:
            self._index.host = stamp_at(f"{self._root}/{HOST_FILE}")
            self._save()

    def note(self, session: str) -> None:
        """Note that the record in a session's directory is about to be written."""
        at, _, session_id = session[len(self._root) :].rpartition("/")
        place = self._index.places.get(at) if self._index else None
        is_listed = is_session_id(session_id)  # or it is being built
        if place and is_listed and (at, session_id) not in self._noted:
            self._noted.add((at, session_id))
            place.noted.append(session_id)
            self._save()

    @contextmanager
    def changing(self, directory: str, *, new: str | None = None) -> Iterator[None]:
        """Change a directory in a block: something that is no session comes, or the session `new`."""
        place = self._index.place(directory) if self._index else None
        yield
        self._is_changed = True
        if self._index is None or place is None:
            self._is_due = True
            return
        place.has_session = True
        ids = self._index.listed(place).ids
        if new is None or not ids or new > ids[-1]:
            place.stamp = _set_back(directory)
            if new:
                place.added.append(new)
                self._noted.add((directory[len(self._root) :], new))
        else:
            place.stamp, self._is_due = "", True

    def lose(self) -> None:
        """Note that a session is about to leave its directory, or to return to it."""
        self._is_due = True

    def settle(self) -> None:
        """Write what has changed; call it when nothing more is expected for a moment."""
        if self._is_due:
            with suppress(OSError, StateError):
                self._index = _write(self._root, self._index, stamp_at(f"{self._root}/{HOST_FILE}"))
                self._is_saved, self._is_due, self._noted = self._index is not None, False, set()
        elif self._is_changed:
            self._save()
        self._is_changed = False

    def _save(self) -> None:
        """Write what has changed, unless that is much: then there is no index until `settle`."""
        if not self._is_saved or self._index is None:
            return
        try:
            if len(self._noted) <= _MOST_NOTED:
                _save(self._index)
                return
        except OSError:  # the disk is full: what is there must not be believed any more
            pass
        _remove(self._root)
        self._is_saved, self._is_due = False, True


def write_unless_kept(root: str, before: Index | None) -> None:
    """Write an index, unless somebody keeps the mirror. Without one nothing is wrong, so no error is raised."""
    host = stamp_at(f"{root}/{HOST_FILE}")  # before the look at the lock: whoever takes that replaces it
    with suppress(OSError, StateError):
        if not is_locked(Path(f"{root}/{LOCK_FILE}")):
            _write(root, before, host)


def _write(root: str, before: Index | None, host: str) -> Index | None:
    """Write an index, with what another one has of what it still knows; None if it is not worth it.

    Nobody else may write records meanwhile, or `host`, the stamp of `host.json`, must have been taken before.
    """
    found: dict[str, tuple[str, Listed]] = {}

    def look(directory: str) -> Listed:
        known = before.place(directory) if before else None
        if before and known:
            stamp, listed = known.stamp, before.listed(known)
        else:
            stamp = _set_back(directory)
            listed = list_directory(directory)
            if stamp_at(directory) != stamp:  # it is being changed by somebody else
                stamp = ""
        found[directory] = stamp, listed
        return listed

    for _ in walk(root, look):
        pass
    if sum(len(listed.ids) for _, listed in found.values()) < WORTH:
        _remove(root)
        return None
    places, parts, first = {}, [], 0
    for directory, (stamp, listed) in found.items():
        part = _part(directory, listed.ids)
        places[directory[len(root) :]] = Place(stamp, listed.has_session, listed.below, first, len(listed.ids))
        parts.append(part)
        first += len(part)
    fd = _replace(f"{root}/{IDS_FILE}", parts)
    index = Index(root, places, IdsFile(fd, stamp_of(os.fstat(fd))), host)
    _save(index)
    return index


def _part(directory: str, ids: Sequence[str]) -> bytes:
    """Return what there is of a directory in the file of ids."""
    known = ids.times() if isinstance(ids, IndexedIds) else {}
    names = list(ids)
    times = [known[each] if each in known else written_at(f"{directory}/{each}") for each in names]
    order = sorted(range(len(names)), key=times.__getitem__)
    sorted_times = array("d", [times[each] for each in order])
    return "".join(names).encode() + sorted_times.tobytes() + array("I", order).tobytes()


def _remove(root: str) -> None:
    for name in (PLACES_FILE, IDS_FILE):  # in this order
        Path(f"{root}/{name}").unlink(missing_ok=True)


def _save(index: Index) -> None:
    """Write what is known of the directories."""
    places = {at: asdict(place) for at, place in index.places.items()}
    said = {"made": made_under(), "ids": index.ids.stamp, "host": index.host, "places": places}
    text = json.dumps(said).encode()
    os.close(_replace(f"{index.root}/{PLACES_FILE}", [b"%08x\n" % crc32(text), text]))


def _replace(pathname: str, content: Iterable[bytes]) -> int:
    """Replace a file, by whichever thread; return its descriptor. Its time is one that no later change gives it."""
    place, _, name = pathname.rpartition("/")
    temporary = Path(f"{place}/.{name}.{os.getpid()}-{get_ident()}.tmp")
    fd = open_private(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.writelines(content)
        _set_back(fd)
        os.replace(temporary, pathname)
    except BaseException:
        os.close(fd)
        temporary.unlink(missing_ok=True)
        raise
    return fd


def _set_back(what: str | int) -> str:
    """Give a file or directory a time that no later change gives it; return its stamp."""
    then = time.time_ns() - _LONG_AGO_NS
    os.utime(what, ns=(then, then))
    return stamp_of(os.stat(what))
