"""The intake: makes a mirror of what an outlet sends. The only writer of mirrors, one at a time.

Killed at any moment it leaves a mirror that can be read: a new session is built beside its place and renamed when it is
whole, small files are replaced, and to transcripts whole lines are added; a part of one, which the kill of a write can
leave, readers do not see, and the next intake drops. What was seen and its host has no more (a power cut, say, took its
last lines, and it has written others since) is kept aside: `transcript.jsonl.lost-1`. Not so what its host has
encrypted since, which is not kept here in plain either.

Transcripts are synced when the intake ends, and every few seconds; before that, a power cut here costs what is sent
again then, as the next intake says what is really there.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from csa.errors import BusyError, CsaError, StateError
from csa.ids import is_session_id
from csa.ownership import open_private
from csa.paths import NEW_PREFIX, OWN, SEALED_FILE, is_project_path
from csa.runner.hosts.frames import (
    SMALL_FILES,
    Frame,
    Having,
    ProtocolError,
    digest_of,
    read_frame,
)
from csa.store.atomic import make_private_directory, read_regular, replace_private, require_regular, sync_file
from csa.store.idkeeping import Keeper
from csa.store.locks import acquire_lock
from csa.store.mirrors import HEARD_FILE, HOST_FILE, LOCK_FILE, LOST, TOLD_FILE, TOUCHED_FILE, Mirror
from csa.store.placements import list_placements
from csa.store.searchindex import forget, index_name
from csa.store.sessions import Store, is_directory
from csa.store.statefile import load_state
from csa.store.transcript import end_of_last_line, lines_backwards
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Self

_PART = "transcript.jsonl.part"
_SYNC_S = 5.0
_INDEX_S = 2.0  # in which somebody else who writes the search index is waited for
_MOST_S = 1 << 33
_MOST_TOUCHED = 1 << 20  # bytes
_MOST_LINE = 1 << 30
_BLOCK = 1 << 12  # what a small file takes
_LOOK_BYTES = 1 << 20  # after which it is looked how full the disk is
_ROOM = 1 << 30  # of it that is left free, but no more than a twentieth
_LONG = 1 << 22  # a transcript with marks
_FIRST_MARK = 1 << 16  # bytes before its end; the others are four times as far, each
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_APPEND = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
_FILES = {"told": TOLD_FILE, **{name: name for name in SMALL_FILES}}  # by their names in digests


class Taken(Struct, frozen=False):
    """What has come so far."""

    bytes: int = 0
    lines: int = 0
    sessions: int = 0  # times that one was changed
    kept_aside: int = 0


class Intake:
    """Writes one mirror, whose lock it holds until it is closed. BusyError if another one does."""

    def __init__(self, mirror: Mirror) -> None:
        self._root = Path(mirror.pathname)
        self._dirty = set[str]()  # transcripts that are not synced
        self._left_index: list[str] = []  # names of sessions that were encrypted
        self._synced_at = time.monotonic()
        self._used = 0  # bytes since the disk was looked at
        self._line_bytes = 0  # of a line whose end has not come
        self.taken = Taken()
        make_private_directory(self._root / OWN)
        try:
            self._lock = acquire_lock(self._root / LOCK_FILE)
        except BlockingIOError:
            words = f"Another process brings the mirror of {mirror.host} up to date."
            raise BusyError(words, hint="it is read as it is: csa ls --host ...") from None
        self._ids = Keeper(mirror.pathname)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._sync()
        finally:
            self._lock.close()

    def greet(self, greeting: Mapping[str, Any]) -> None:
        """Note what the outlet says of its host, and how far apart the clocks are."""
        replace_private(self._root / HOST_FILE, json.dumps(with_skew(greeting)).encode())
        self._ids.begin()

    def having(self) -> Iterator[tuple[tuple[str, str], Having]]:
        """Yield what is in the mirror, with parts of lines dropped."""
        for store in Mirror(str(self._root)).stores():
            project = store.project_pathname
            for session_id in store.ids():
                yield (project, session_id), _having(store.paths(session_id).pathname)
            for session_id in set(store.retired_ids()).difference(store.ids()):
                yield (project, session_id), _having(store.retired_paths(session_id).pathname, is_gone=True)
            for session_id in _unfinished(store):  # their files come again, and then the word that all is there
                begun = _having(f"{store.sessions_dir}/{NEW_PREFIX}{session_id}")
                yield (project, session_id), replace(begun, files={})

    def take(self, stream: IO[bytes]) -> bool:
        """Take frames until there are no more; say whether the last one was a beat. ProtocolError for anything else."""
        is_complete = False
        while frame := read_frame(stream):
            is_complete = self.take_one(frame)
        return is_complete

    def take_one(self, frame: Frame) -> bool:
        """Take a frame; say whether it was a beat. Raises as `take`, and CsaError if the disk is full."""
        if frame.kind == "beat":
            self._beat()
            return True
        self._take(frame)
        self._use_room(len(frame.content))
        return False

    def _use_room(self, size: int) -> None:
        """Leave some of the disk to the turns that run here, whatever another host sends."""
        self._used += size + _BLOCK
        if self._used > _LOOK_BYTES:
            self._used = 0
            disk = os.statvfs(self._root)
            if disk.f_bavail < min(_ROOM // disk.f_frsize, disk.f_blocks // 20):
                left = f"{disk.f_bavail * disk.f_frsize >> 20} MiB"
                raise CsaError(f"The mirror of {self._root.name}: the disk has only {left} left.", hint="make room")
            if disk.f_favail < disk.f_files // 20:  # of none, where they are not counted
                words = f"The mirror of {self._root.name}: the disk has room for only {disk.f_favail:,} more files."
                raise CsaError(words, hint="make room")

    def _beat(self) -> None:
        """Note that everything has come. A beat is the only thing that makes a mirror fresh."""
        if time.monotonic() - self._synced_at > _SYNC_S:
            self._sync()
        self._ids.settle()
        heard = self._root / HEARD_FILE
        try:
            os.utime(heard)
        except FileNotFoundError:
            os.close(open_private(heard, os.O_WRONLY | os.O_CREAT))
        home, host = self._root.parent.parent, self._root.name
        with suppress(CsaError):  # what cannot be settled stays held, and csa hosts --placed says so
            if any(placement.host == host for placement in list_placements(home)):
                from csa.runner.hosts.escrow import settle_heard  # noqa: PLC0415  # few mirrors are of such hosts

                settle_heard(home, host)

    def _sync(self) -> None:
        for pathname in self._dirty:
            try:
                fd = os.open(pathname, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # renamed since
                continue
            try:
                sync_file(fd)
            finally:
                os.close(fd)
        self._dirty.clear()
        if self._left_index:
            forget(self._root.parent.parent, self._left_index, within_s=_INDEX_S)
            self._left_index.clear()
        self._synced_at = time.monotonic()

    def _take(self, frame: Frame) -> None:
        store, session_id = self._place(frame)
        if frame.kind == "gone":
            self._ids.lose()
            _retire(store, session_id)
            return
        session = self._directory(store, session_id)
        if frame.kind == "lines":
            self._add(session, frame)
        elif frame.kind in {"told", "file"}:
            name = _FILES.get(str(frame.said.get("name", "told")))
            if name is None:
                raise ProtocolError(f"The outlet sends a file called {frame.said.get('name')!r}.")
            if "/" in name:
                make_private_directory(Path(session, name).parent)
            if name == "state.toml":
                self._ids.note(session)
            replace_private(Path(session, name), frame.content)
            written = frame.said.get("at")
            if isinstance(written, float) and 0 < written < _MOST_S:  # by which lists find those used last
                os.utime(f"{session}/{name}", (written, written))
        elif frame.kind == "anew":
            _begin_anew(session, frame.said.get("at", 0))
        elif frame.kind == "whole":
            self._publish(store, session_id, session)
        else:
            raise ProtocolError(f"The outlet sends a frame of the kind {frame.kind!r}.")

    def _place(self, frame: Frame) -> tuple[Store, str]:
        """Return where a frame belongs; ProtocolError for a name that would lead out of the mirror."""
        project, session_id = str(frame.said.get("p")), str(frame.said.get("s"))
        if not is_session_id(session_id) or not is_project_path(project):
            raise ProtocolError(f"The outlet names a session {session_id!r} in {project!r}.")
        return Store(self._root, project), session_id

    def _directory(self, store: Store, session_id: str) -> str:
        """Return the directory in which a session is, or is built; one that had been deleted returns to its place."""
        place = store.paths(session_id).pathname
        if is_directory(place):
            return place
        if is_directory(retired := store.retired_paths(session_id).pathname):
            self._ids.lose()
            os.rename(retired, place)
            return place
        new = f"{store.sessions_dir}/{NEW_PREFIX}{session_id}"
        if not is_directory(new):
            with self._ids.changing(store.sessions_dir):
                make_private_directory(Path(new))
        return new

    def _add(self, session: str, frame: Frame) -> None:
        part = f"{session}/{_PART}"
        pathname = part if os.path.lexists(part) else f"{session}/transcript.jsonl"
        fd = open_private(pathname, _APPEND)
        try:
            at = frame.said.get("at")
            if not isinstance(at, int) or require_regular(fd).st_size != at:
                raise ProtocolError(f"The outlet goes on at {at!r}, which is not where {pathname} ends.")
            view = memoryview(frame.content)
            while view:
                written = os.pwrite(fd, view, at)
                view, at = view[written:], at + written
        finally:
            os.close(fd)
        self._dirty.add(pathname)
        self._line_bytes = 0 if b"\n" in frame.content else self._line_bytes + len(frame.content)
        if self._line_bytes > _MOST_LINE:  # which would fill the memory of whoever reads it
            raise ProtocolError(f"The outlet sends a line of more than {_MOST_LINE >> 20} MiB.")
        self.taken.bytes += len(frame.content)
        self.taken.lines += frame.content.count(b"\n")

    def _publish(self, store: Store, session_id: str, session: str) -> None:
        self.taken.sessions += 1
        was_sealed = os.path.exists(f"{session}/{SEALED_FILE}")
        is_sealed = _drop_sealed(session)
        if is_sealed and not was_sealed:
            self._left_index.append(index_name(store, session_id))
        if os.path.lexists(f"{session}/{_PART}"):
            if not (is_sealed or was_sealed):  # else it has nothing that is lost
                self.taken.kept_aside += _keep_aside(session)
            os.replace(f"{session}/{_PART}", f"{session}/transcript.jsonl")
            self._dirty.add(f"{session}/transcript.jsonl")
        if (place := store.paths(session_id).pathname) != session:
            with self._ids.changing(store.sessions_dir, new=session_id):
                os.rename(session, place)
            self._dirty.add(f"{place}/transcript.jsonl")
        self._note_touched(session_id)

    def _note_touched(self, session_id: str) -> None:
        """Tell whoever watches the mirror which session to look at."""
        fd = open_private(self._root / TOUCHED_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
        try:
            if require_regular(fd).st_size > _MOST_TOUCHED:
                os.ftruncate(fd, 0)
            os.write(fd, f"{session_id}\n".encode())
        finally:
            os.close(fd)


def with_skew(greeting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a greeting that has just come, with how far the clock of its host is ahead, in seconds.

    ProtocolError if it does not say what time it is; what else makes no sense in it is left out.
    """
    at = greeting.get("time")
    if not isinstance(at, (int, float)) or not abs(at) < _MOST_S:
        raise ProtocolError("The outlet does not say what time it is.")
    tools, running = greeting.get("tools"), greeting.get("running")
    known = {name: greeting[name] for name in ("version", "node") if isinstance(greeting.get(name), str)}
    return {
        **known,
        "tools": [each for each in tools if isinstance(each, str)] if isinstance(tools, list) else [],
        "running": running if isinstance(running, int) else 0,
        "skew_s": round(at - time.time(), 3),
    }


def _begin_anew(session: str, at: Any) -> None:
    """Begin the transcript that replaces one, with as much of that as both have."""
    with open(open_private(f"{session}/{_PART}", _APPEND | os.O_TRUNC), "wb") as part:
        if not at:
            return
        with open(os.open(f"{session}/transcript.jsonl", _READ), "rb") as file:
            if not isinstance(at, int) or not 0 < at <= require_regular(file.fileno()).st_size:
                raise ProtocolError(f"The outlet goes on at {at!r}, which is not in {file.name}.")
            while (left := at - part.tell()) and (block := file.read(min(left, 1 << 20))):
                part.write(block)


def _retire(store: Store, session_id: str) -> None:
    """Move a session that its host has deleted to the trash of the mirror."""
    place, retired = store.paths(session_id).pathname, store.retired_paths(session_id).pathname
    shutil.rmtree(f"{store.sessions_dir}/{NEW_PREFIX}{session_id}", ignore_errors=True)
    if is_directory(place):
        make_private_directory(Path(store.retired_dir))
        if is_directory(retired):  # deleted before, and restored there as another directory
            shutil.rmtree(retired)
        os.rename(place, retired)
        os.utime(retired)  # when: see `csa.runner.hosts.forgetting`


def _unfinished(store: Store) -> list[str]:
    """Return the sessions that an intake has begun to build."""
    try:
        names = os.listdir(store.sessions_dir)
    except OSError:
        return []
    return [name.removeprefix(NEW_PREFIX) for name in names if name.startswith(NEW_PREFIX)]


def _having(session: str, *, is_gone: bool = False) -> Having:
    """Return what there is of a session, after dropping what a killed intake has left."""
    Path(session, _PART).unlink(missing_ok=True)
    files = {name: digest for name, file in _FILES.items() if (digest := _digest(f"{session}/{file}"))}
    try:
        fd = os.open(f"{session}/transcript.jsonl", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Having(files=files, is_gone=is_gone)
    try:
        size = require_regular(fd).st_size
        if (end := end_of_last_line(fd, size)) < size:
            os.ftruncate(fd, end)
        last, marks = _digest_of_last(fd, end), list(_marks(fd, end))
    finally:
        os.close(fd)
    return Having(end, last, files, is_gone, marks)


def _marks(fd: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield places in a long transcript, where its host may still agree with what was seen of it."""
    before = _FIRST_MARK
    while end > _LONG and before < end:
        if at := end_of_last_line(fd, end - before):
            yield at, _digest_of_last(fd, at)
        before *= 4


def _digest_of_last(fd: int, end: int) -> str:
    last = next(lines_backwards(fd, end), None) if end else None
    return "" if last is None else digest_of(last)


def _digest(pathname: str) -> str:
    try:
        return digest_of(Path(pathname).read_bytes())
    except OSError:
        return ""


def _drop_sealed(session: str) -> bool:
    """Say whether its host has encrypted a session, which a file here notes, and delete what was seen in plain."""
    mark = Path(session, SEALED_FILE)
    try:
        is_sealed = (
            b"sealed_at" in read_regular(f"{session}/state.toml") and load_state(f"{session}/state.toml").sealed_at
        )
    except (OSError, StateError):
        is_sealed = None
    if not is_sealed:
        mark.unlink(missing_ok=True)
        return False
    mark.touch(0o600)
    for name in os.listdir(session):
        if name == "result.toml" or name.startswith(LOST):
            os.unlink(f"{session}/{name}")
    return True


def _keep_aside(session: str) -> bool:
    """Keep what was seen of a transcript that is about to be replaced; a link, so that it never lacks its name."""
    transcript = f"{session}/transcript.jsonl"
    numbers = [int(name[len(LOST) :]) for name in os.listdir(session) if name[len(LOST) :].isdigit()]
    number = max(numbers, default=0)
    if not os.path.lexists(transcript) or not os.stat(transcript).st_size:
        return False
    if number and os.path.samefile(transcript, f"{session}/{LOST}{number}"):  # of an intake that was killed here
        return True
    os.link(transcript, f"{session}/{LOST}{number + 1}")
    return True
