"""Reading a session for a copy: its record, and what its transcript has more than the copy. Nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from csa.errors import StateError
from csa.model.redaction import Redactor
from csa.paths import RETIRED
from csa.runner.copies.rows import MessageRow, Messages, clean, fits, session_row
from csa.runner.copies.target import Change, Key, Standing
from csa.runner.hosts.frames import digest_of
from csa.store.atomic import require_regular, stamp_of
from csa.store.sessions import Store, is_directory
from csa.store.transcript import lines_backwards, parse_line
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.events import Event

MOST = 5000  # rows of a change
_MOST_BYTES = 8 << 20  # of the lines that are read for a change
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_UNSETTLED = frozenset({"running", "open", "unknown", "away"})  # may change though no file does


class Reader:
    """Reads one session, again and again as it changes; keeps no more than its last turn.

    Raises:
        StateError: its transcript cannot be read.
    """

    def __init__(self, store: Store, session_id: str, host: str, standing: Standing | None) -> None:
        self._store, self._session_id = store, session_id
        self._standing = standing or Standing()
        self._is_known = standing is not None
        self._messages: Messages | None = None
        self.key: Key = (host, store.project_pathname, session_id)
        self.status = ""

    def changes(self, redactor: Redactor, takes: str) -> Iterator[Change]:
        """Yield what a copy needs to have all there is now, in pieces, each of which is right by itself."""
        paths = self._store.find(self._session_id)
        if not is_directory(paths.pathname):  # purged meanwhile
            return
        stamp = self._stamp(paths.pathname)
        copied, _, self.status = self._standing.stamp.rpartition(" ")
        if stamp == copied and self.status not in _UNSETTLED:
            return
        info = self._store.record(self._session_id).examine()  # first: what had ended by now is in what is read
        self.status = clean(info.status)  # another implementation may write any
        if f"{stamp} {self.status}" == self._standing.stamp:
            return
        row = session_row(
            info.state,
            redactor.redact,
            host=self.key[0],
            project=self.key[1],
            id=self._session_id,
            tool=info.tool or (info.state and info.state.last_tool) or None,
            status=self.status,
            is_deleted=info.record.is_retired,
        )
        if info.state and info.state.sealed_at is not None:  # of what was said, the copy keeps what it has
            done = replace(self._standing, stamp=f"{stamp} {info.status}")
            yield Change(self.key, row, done, False, [], [])  # not anew
            self._standing, self._is_known = done, True
            return
        with _opened(f"{paths.pathname}/transcript.jsonl") as file:
            anew = self._find_place(file) or not self._is_known
            for piece in self._pieces(file, redactor, takes):
                done = replace(piece.standing, stamp=f"{stamp} {self.status}" if piece.is_last else "")
                yield Change(self.key, row, done, anew, piece.messages, piece.events)
                self._standing, self._is_known, anew = done, True, False

    def _stamp(self, place: str) -> str:
        """Return what is different when a file of the session has changed, or it was deleted or restored."""
        found = [RETIRED if place.rpartition("/")[0].endswith(f"/{RETIRED}") else ""]
        for name in ("state.toml", "transcript.jsonl"):
            try:
                found.append(stamp_of(os.stat(f"{place}/{name}", follow_symlinks=False)))
            except OSError:
                found.append("-")
        return " ".join(found)

    def _find_place(self, file: IO[bytes] | None) -> bool:
        """Go on where the copy stands; return whether its transcript is another one than the copy has begun with."""
        before, inode = self._standing, ""
        if file is not None:
            found = os.fstat(file.fileno())
            inode = str(found.st_ino)
            if inode == before.inode and _ends_with(file.fileno(), found.st_size, before):
                return False
        self._messages, self._standing = None, Standing(inode)
        return before.read_bytes > 0

    def _pieces(self, file: IO[bytes] | None, redactor: Redactor, takes: str) -> Iterator[_Piece]:
        """Yield what comes after that, up to the end there is now; at least one piece."""
        standing, last = self._standing, b""
        at = standing.read_bytes
        if self._messages is None:
            self._messages = Messages(self._session_id)
            at = standing.turn_at if takes == "messages" else at  # what comes later in a turn changes its rows
        messages = self._messages
        lines = _lines(file, at) if file is not None else iter(())
        while True:
            events: list[tuple[int, bytes]] = []
            size = 0
            is_over = True
            for at, line in lines:
                last = line.rstrip(b"\n") or last
                turn_at = standing.turn_at
                if read := _read(line, redactor):
                    event, plain = read
                    turn_at = at if event.type == "run_started" else turn_at
                    if takes == "messages":
                        messages.add(event)
                    else:
                        events.append((event.seq, plain))
                standing = Standing(standing.inode, max(standing.read_bytes, at + len(line)), standing.digest, turn_at)
                size += len(line)
                if size > _MOST_BYTES or len(messages) + len(events) >= MOST:
                    is_over = False
                    break
            if last:
                standing = replace(standing, digest=digest_of(last))
            yield _Piece(standing, messages.take(), events, is_over)
            if is_over:
                return


class _Piece(Struct):
    standing: Standing
    messages: list[MessageRow]
    events: list[tuple[int, bytes]]
    is_last: bool


def _lines(file: IO[bytes], at: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines from there up to the end there is now, with where they begin."""
    end = os.fstat(file.fileno()).st_size
    file.seek(at)
    for line in file:
        if at + len(line) > end or not line.endswith(b"\n"):
            return
        yield at, line
        at += len(line)


def _read(line: bytes, redactor: Redactor) -> tuple[Event, bytes] | None:
    """Return the event of a line, and the line, without secrets that only this environment knows.

    None if it is no event, or one with numbers that no database has.
    """
    event = parse_line(line)
    if event is None or not fits(event):
        return None
    if not redactor.may_hold_secret(line.decode("utf-8", "replace")):
        return event, line.rstrip(b"\n")
    event = replace(event, data=redactor.redact_data(event.data))
    plain = json.dumps(event.to_dict(), ensure_ascii=False, separators=(",", ":"))
    return event, plain.encode("utf-8", "backslashreplace")


def _ends_with(fd: int, size: int, standing: Standing) -> bool:
    """Say whether what was read of a transcript is still in it."""
    end = standing.read_bytes
    if end > size:
        return False
    last = next(lines_backwards(fd, end), None) if end else None
    return standing.digest == ("" if last is None else digest_of(last))


@contextmanager
def _opened(pathname: str) -> Iterator[IO[bytes] | None]:
    """Open a transcript; None if there is none yet. StateError if it cannot be read."""
    try:
        fd = os.open(pathname, _OPEN)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise StateError.unreadable(pathname, error) from error
    with open(fd, "rb") as file:
        try:
            require_regular(fd)
        except OSError as error:
            raise StateError.unreadable(pathname, error) from error
        yield file
