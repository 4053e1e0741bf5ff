"""The index of a mirror: which sessions it has, and which were used last, without listing directories. Disposable.

Two files in `.mirror`. `ids` has a part for each directory: its ids, sorted; the times at which their records were
written, sorted; and which id each time is of. It is never changed, only replaced. `ids.json` says what belongs to each
directory, and what has come since. What they say is only believed

- of a directory that is as it was (inode and times). So that no change can leave it so, its time was set to a moment in
  the past, which no later change gives it. Any other directory is listed;
- of times, if no other intake has begun since (each replaces `host.json`), and not of sessions that this one has noted
  before it wrote their records;
- as long as `ids` itself is as it was, the sum of `ids.json` is right, and no power cut can have come between.

Records in mirrors are only written by who holds the mirror's lock; a directory may be changed by anybody.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from binascii import crc32
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from heapq import merge
from itertools import takewhile
from typing import overload

from csa.errors import StateError
from csa.ids import ID_LENGTH
from csa.paths import OWN
from csa.procfs import boot_id
from csa.store.atomic import open_regular, read_regular, stamp_of
from csa.store.listed import Listed, list_directory
from csa.store.mirrors import HOST_FILE
from csa.structs import Struct, field

IDS_FILE, PLACES_FILE = f"{OWN}/ids", f"{OWN}/ids.json"
WORTH = 100  # sessions: of fewer there is no index
_VERSION = 1
_SMALL_BYTES = 1 << 16
_MOST_OPEN = 64
_BLOCK, _FIRST_BLOCK = 256, 16  # ids, or times, that are read at once
_TIME, _NUMBER = array("d").itemsize, array("I").itemsize


class Place(Struct, frozen=False):
    """What is known of a directory: as `Listed`, with its ids in `ids` from the byte `first`, and `added` ones."""

    stamp: str
    has_session: bool
    below: list[str]
    first: int = 0
    count: int = 0
    added: list[str] = field(default_factory=list)  # later than all others, oldest first
    noted: list[str] = field(default_factory=list)  # those whose records were written since, beside the added ones


class IdsFile:
    """The file of ids, with its stamp. A small one is read at once; so is a large one if many are open."""

    open = 0

    def __init__(self, fd: int, stamp: str) -> None:
        self._fd, self.stamp = fd, stamp
        self._content: bytes | None = None
        IdsFile.open += 1
        if not self.is_as_written:
            return
        size = os.fstat(fd).st_size
        if size <= _SMALL_BYTES or IdsFile.open > _MOST_OPEN:
            self._content = os.pread(fd, size, 0)
            self._close()

    @property
    def is_as_written(self) -> bool:
        return self._content is not None or stamp_of(os.fstat(self._fd)) == self.stamp

    def read(self, size: int, at: int) -> bytes:
        """Return so many bytes from the byte `at`."""
        found = os.pread(self._fd, size, at) if self._content is None else self._content[at : at + size]
        if len(found) != size:  # a moment ago it was longer
            raise StateError(IDS_FILE, "was truncated while it was read", hint="try again")
        return found

    def _close(self, close: Callable[[int], None] = os.close) -> None:  # also when the interpreter ends
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1
            type(self).open -= 1

    __del__ = _close


class IndexedIds(Sequence[str]):
    """The ids of a directory, oldest first; read as they are needed. It stays as it is when the index changes."""

    def __init__(self, place: Place, index: Index) -> None:
        self._index, self._ids = index, index.ids
        self._first, self._count, self._added = place.first, place.count, list(place.added)
        self._noted = {*place.noted, *place.added}

    def __len__(self) -> int:
        return self._count + len(self._added)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            return self._between(start, stop)[::step] if step > 0 else [self[each] for each in range(start, stop, step)]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        return self._at(at) if at < self._count else self._added[at - self._count]

    def __iter__(self) -> Iterator[str]:
        return self._from(0)

    def __reversed__(self) -> Iterator[str]:
        for start, stop in _from_end(len(self)):
            yield from reversed(self._between(start, stop))

    def __contains__(self, session_id: object) -> bool:
        from bisect import bisect_left  # noqa: PLC0415  # as below

        return isinstance(session_id, str) and self[(at := bisect_left(self, session_id)) : at + 1] == [session_id]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def starting_with(self, prefix: str) -> list[str]:
        """Return the ids that begin so."""
        from bisect import bisect_left  # noqa: PLC0415  # lists of the newest need none

        return [*takewhile(lambda each: each.startswith(prefix), self._from(bisect_left(self, prefix)))]

    def by_use(self, written: Callable[[str], float]) -> Iterator[tuple[float, str]]:
        """Yield all with the times at which their records were written, last first; `written` looks at a record."""
        if not self._index.has_times:
            return iter(sorted(((written(each), each) for each in self), reverse=True))
        noted = sorted(((written(each), each) for each in self._noted), reverse=True)
        return merge(self._times(), noted, reverse=True)

    def times(self) -> dict[str, float]:
        """Return what is known of the times at which the records were written."""
        return {session_id: at for at, session_id in self._times()} if self._index.has_times else {}

    def _times(self) -> Iterator[tuple[float, str]]:
        """Yield the times of those that were not noted, last first."""
        times_at = self._first + self._count * ID_LENGTH
        whose_at = times_at + self._count * _TIME
        for start, stop in _from_end(self._count):
            times, whose = array("d"), array("I")
            times.frombytes(self._ids.read((stop - start) * _TIME, times_at + start * _TIME))
            whose.frombytes(self._ids.read((stop - start) * _NUMBER, whose_at + start * _NUMBER))
            for at, which in zip(reversed(times), reversed(whose), strict=True):
                if (session_id := self._at(which)) not in self._noted:
                    yield at, session_id

    def _from(self, start: int) -> Iterator[str]:
        size = _FIRST_BLOCK
        while start < len(self):
            yield from self._between(start, min(start + size, len(self)))
            start, size = start + size, _BLOCK

    def _at(self, at: int) -> str:
        return self._ids.read(ID_LENGTH, self._first + at * ID_LENGTH).decode("ascii")

    def _between(self, start: int, stop: int) -> list[str]:
        last = min(stop, self._count)
        text = self._ids.read(max(0, last - start) * ID_LENGTH, self._first + start * ID_LENGTH).decode("ascii")
        found = [text[at : at + ID_LENGTH] for at in range(0, len(text), ID_LENGTH)]
        return found + self._added[max(0, start - self._count) : max(0, stop - self._count)]


def _from_end(count: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks of so many, the last first: few are looked at where there are many hosts."""
    size, stop = _FIRST_BLOCK, count
    while stop:
        start = max(0, stop - size)
        yield start, stop
        size, stop = _BLOCK, start


class Index(Struct, frozen=False):
    """The index of a mirror: its directories, by their pathnames in it, with the file of ids."""

    root: str
    places: dict[str, Place]
    ids: IdsFile
    host: str  # the stamp of `host.json`, since when the times are right

    @property
    def has_times(self) -> bool:
        return self.host == stamp_at(f"{self.root}/{HOST_FILE}")

    def place(self, directory: str) -> Place | None:
        """Return what is known of a directory, if that is as it was."""
        place = self.places.get(directory[len(self.root) :])
        return place if place and place.stamp == stamp_at(directory) else None

    def look(self, directory: str) -> Listed | None:
        """Return what is in a directory, if that is known."""
        place = self.place(directory)
        return self.listed(place) if place else None

    def listed(self, place: Place) -> Listed:
        """Return the same for a directory that is as it was."""
        return Listed(place.has_session, IndexedIds(place, self), place.below)


_opened: dict[str, tuple[str, Index]] = {}  # by their roots, with the stamps of the files of places


def open_index(root: str) -> Index | None:
    """Return the index of a mirror; None if there is none, or none that can be believed."""
    stamp = stamp_at(f"{root}/{PLACES_FILE}")
    if known := _opened.get(root):
        if known[0] == stamp and known[1].ids.is_as_written:
            return known[1]
        _opened.pop(root, None)  # another thread may have done so
    if not stamp or (index := load_index(root)) is None:
        return None
    _opened[root] = stamp, index
    return index


def ids_in(root: str, directory: str, prefix: str) -> Sequence[str] | None:
    """Return the ids in a directory of a mirror that begin so, oldest first; None if that is not known."""
    index = open_index(root)
    listed = index.look(directory) if index else None
    if listed is None:
        return None
    if not prefix:
        return listed.ids
    return listed.ids.starting_with(prefix) if isinstance(listed.ids, IndexedIds) else None


def load_index(root: str) -> Index | None:
    """Return the index of a mirror, which nobody else has; None as of `open_index`."""
    try:
        written, _, text = read_regular(f"{root}/{PLACES_FILE}").partition(b"\n")
        if int(written, 16) != crc32(text):
            return None
        said = json.loads(text)
        ids = IdsFile(open_regular(f"{root}/{IDS_FILE}"), said["ids"])
        if said["made"] != made_under() or not ids.is_as_written:
            return None
        return Index(root, {at: Place(**each) for at, each in said["places"].items()}, ids, said["host"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):  # damaged, or of another csa
        return None


@lru_cache(1)
def made_under() -> list[object]:
    """Return what an index must have been made under: after a power cut, files may be older than others."""
    return [_VERSION, sys.byteorder, boot_id()]


def stamp_at(pathname: str) -> str:
    """Return what is different when a file or directory has changed; empty if there is none."""
    try:
        return stamp_of(os.stat(pathname))
    except OSError:
        return ""


class Reader:
    """Looks into the directories of a mirror; writes its index if that did not know enough."""

    def __init__(self, root: str) -> None:
        self._root, self._index = root, open_index(root)
        self._listed = self._seen = 0

    def look(self, directory: str) -> Listed:
        """Return what is in a directory. OSError if it cannot be listed."""
        if found := self._index.look(directory) if self._index else None:
            self._seen += len(found.ids)
            return found
        found = list_directory(directory)
        self._listed += len(found.ids)
        return found

    def end(self) -> None:
        """Have the index written if that is worth it: a reader may be killed, or may not write."""
        has_times = self._index is not None and self._index.has_times
        if self._listed >= WORTH or (self._seen >= WORTH and not has_times):
            from csa.store.idkeeping import write_unless_kept  # noqa: PLC0415  # nearly always it knows enough

            write_unless_kept(self._root, self._index)
