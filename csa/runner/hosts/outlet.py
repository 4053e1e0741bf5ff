"""The outlet: what is in a state root, as frames for an intake elsewhere. It only reads.

What the intake has comes first. Then each session that is different is sent, and with `follow` again whenever it
changes. Nothing is kept but where each session stands: when the pipe is full the outlet waits, and what was not sent
meanwhile is read from the files later.

A mirror must never say `lost` of a turn that runs. So that a turn has an owner before it has a beginning, "it runs" is
sent before the lines, "nobody holds its lock" after them; and only of a moment in which that was so before and after
the end of its transcript was looked up.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from csa import __version__
from csa.errors import StateError
from csa.runner.context import Context
from csa.runner.hosts.frames import (
    GREETING,
    MOST_BYTES,
    MOST_FILE_BYTES,
    PROTOCOL,
    SMALL_FILES,
    Having,
    ProtocolError,
    digest_of,
    read_line,
    require_protocol,
    write_frame,
    write_line,
)
from csa.runner.sessions.fleet import Fleet
from csa.store.atomic import read_regular, require_regular
from csa.store.genealogy import ancestors
from csa.store.liveness import Liveness, probe
from csa.store.sessions import Store
from csa.store.slots import running_turns
from csa.store.stores import find_stores
from csa.store.transcript import end_of_last_line, lines_backwards
from csa.structs import Struct, asdict, field

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

LOOK_S = 0.05
BEAT_S = 1.0
RUNNING_S = 0.2  # between two looks at what runs, while everything is sent
_TOLD = "told"  # among the digests of a session's files
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
Key = tuple[str, str]  # project and id


class _Sent(Struct, frozen=False):
    """Where the other side stands with a session."""

    bytes: int = 0
    digest: str = ""  # of the last line before that
    files: dict[str, str] = field(default_factory=dict)
    marks: Sequence[tuple[int, str]] = ()  # where it was before


class _Moment(Struct):
    """A session at one moment: who holds it, and where the last line of its transcript ends."""

    liveness: Liveness
    end: int


class Outlet:
    """Sends the sessions of a state root, those of the projects that are `served`."""

    def __init__(
        self, root: Path, stream: IO[bytes], having: dict[Key, Having], served: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._root, self._stream, self._served = root, stream, served
        self._sent = {key: _Sent(has.bytes, has.digest, dict(has.files), has.marks) for key, has in having.items()}
        self._gone = {key for key, has in having.items() if has.is_gone}
        self._running: dict[str, Store | None] = {}  # where it is, while everything is sent
        self._again = set[Key]()  # changed while they were looked at
        self._tops: dict[Key, Key] = {}  # of what runs: the root of its tree
        self._rolls: dict[Key, int] = {}  # of these: the size of the list of members

    def send_all(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Send what is different from what the other side has, or a part, until `is_over`.

        What runs comes first, and again and again: somebody may be waiting for it. Then what is new. OSError when
        nobody reads any more.
        """
        there = set[Key]()
        faults: list[StateError] = []
        sent_at = float("-inf")
        for store in find_stores(self._root, on_fault=faults.append):
            if self._served(store.project_pathname):
                for session_id in reversed(self._ids(store)):
                    if is_over():
                        return
                    if (now := time.monotonic()) - sent_at > RUNNING_S:
                        self._send_running()
                        sent_at = now
                    there.add(store.key(session_id))
                    self._send(store, session_id)
        if there and not faults:  # an empty state root is rather one whose disk is not mounted
            for key in self._sent.keys() - there - self._gone:
                if self._served(key[0]):  # of other projects nothing was looked up
                    self._send_gone(key)
        self._beat(is_complete=not self._again)

    def _send_running(self) -> None:
        """Send what holds a slot; its project may be new."""
        running = {turn.session_id for turn in running_turns(self._root)}
        if not all(self._running.get(each) for each in running):
            stores = [store for store in find_stores(self._root) if self._served(store.project_pathname)]
            self._running = {each: next((s for s in stores if s.has(each)), None) for each in running}
        for session_id in running:
            if (store := self._running.get(session_id)) and store.has(session_id):
                self._send(store, session_id)

    def follow(self, wait: Callable[[float], bool]) -> None:
        """Send what changes from now on, until `wait`, which pauses that many seconds, says so."""
        fleet, beat_at = Fleet(str(self._root), self._served), 0.0
        while not wait(LOOK_S):
            changed = dict.fromkeys([*self._again, *fleet.look()])
            self._again.clear()
            changed |= dict.fromkeys(self._grown(fleet.running))
            for key in changed:
                self.send(key)
            if changed or time.monotonic() - beat_at > BEAT_S:
                self._beat(is_complete=not self._again)
                beat_at = time.monotonic()

    def send(self, key: Key) -> None:
        """Send what is new of a session, or that it is gone."""
        store = Store(self._root, key[0])
        if store.has(key[1]):
            self._send(store, key[1])
        elif key in self._sent and key not in self._gone and self._root.is_dir():
            self._send_gone(key)

    def _grown(self, running: list[Key]) -> list[Key]:
        """Return the roots of what runs whose list of members has grown since the last look."""
        self._tops = {key: self._tops.get(key) or self._top(key) for key in running}
        before, self._rolls = self._rolls, {top: _roll_size(self._root, top) for top in {*self._tops.values()}}
        return [top for top, size in self._rolls.items() if size != before.get(top, 0)]

    def _top(self, key: Key) -> Key:
        """Return the root of the tree that a session is in, or what there is of it here."""
        state = Store(self._root, key[0]).record(key[1]).state
        try:
            above = list(ancestors(self._root, state)) if state else []
        except StateError:  # the ancestors of a damaged record are unknown
            above = []
        return (above[-1].project_path, above[-1].session_id) if above else key

    def _ids(self, store: Store) -> Sequence[str]:
        try:
            return store.ids()
        except StateError:  # it cannot be listed; what was seen of it stays
            return [session_id for project, session_id in self._sent if project == store.project_pathname]

    def _send(self, store: Store, session_id: str) -> None:
        """Send what is new of a session; nothing if it changes hands just now, or cannot be read."""
        key = store.key(session_id)
        sent = self._sent.setdefault(key, _Sent())
        session = store.paths(session_id).pathname
        fd = _open(f"{session}/transcript.jsonl")
        try:
            moment = self._look(store, session_id, fd)
            if moment is None:
                self._again.add(key)
                return
            names: dict[str, Any] = {"p": key[0], "s": key[1]}
            self._gone.discard(key)
            told = _tell(moment.liveness)
            runs = moment.liveness.state != "not_alive"
            is_new = self._send_file(sent, _TOLD, told, names) if runs else False
            is_new |= self._send_lines(fd, moment.end, sent, names)
            if fd is not None and sent.bytes < moment.end:  # it was cut off meanwhile
                self._again.add(key)
                return
            for name in SMALL_FILES:
                content = _read_small(f"{session}/{name}")
                is_new |= self._send_file(sent, name, content, {**names, "at": _written(f"{session}/{name}")})
            is_new |= self._send_file(sent, _TOLD, told, names)
            if is_new:
                write_frame(self._stream, "whole", **names)
                self._stream.flush()
        finally:
            if fd is not None:
                os.close(fd)

    def _look(self, store: Store, session_id: str, fd: int | None) -> _Moment | None:
        """Look at a session; None if its lock was taken and released meanwhile."""
        paths = store.paths(session_id)
        lock = f"{paths.pathname}/locks/session.lock"
        stamp, before = _stamp(lock), probe(paths)
        end = end_of_last_line(fd, os.fstat(fd).st_size) if fd is not None else 0
        after = probe(paths)
        if before.state == after.state == "not_alive":
            return _Moment(after, end) if stamp == _stamp(lock) else None
        return _Moment(before if after.state == "not_alive" else after, end)

    def _send_lines(self, fd: int | None, end: int, sent: _Sent, names: dict[str, Any]) -> bool:
        if fd is None:
            return False
        if sent.bytes > end or _last_line(fd, sent.bytes) != sent.digest:
            common = (mark for mark in sent.marks if 0 < mark[0] <= end and _last_line(fd, mark[0]) == mark[1])
            sent.bytes, sent.digest = next(common, (0, ""))
            sent.marks = ()
            write_frame(self._stream, "anew", at=sent.bytes, **names)
        if sent.bytes == end:
            return False
        at = sent.bytes
        while at < end:
            block = os.pread(fd, min(MOST_BYTES, end - at), at)
            block = block[: block.rfind(b"\n") + 1] or block  # a part of a line that is longer than a block
            if not block:
                break
            write_frame(self._stream, "lines", block, at=at, **names)
            at += len(block)
            sent.bytes, sent.digest = at, _digest_of_last(block) or _last_line(fd, at)
        return True

    def _send_file(self, sent: _Sent, name: str, content: bytes | None, names: dict[str, Any]) -> bool:
        if content is None or sent.files.get(name) == (digest := digest_of(content)):
            return False
        if name == _TOLD:
            write_frame(self._stream, "told", content, **names)
        else:
            write_frame(self._stream, "file", content, name=name, **names)
        sent.files[name] = digest
        return True

    def _send_gone(self, key: Key) -> None:
        write_frame(self._stream, "gone", p=key[0], s=key[1])
        self._gone.add(key)

    def _beat(self, *, is_complete: bool = True) -> None:
        if is_complete:
            write_frame(self._stream, "beat", time=time.time())
        self._stream.flush()


def greeting(context: Context) -> dict[str, Any]:
    """Return what an outlet says first: of this host, and how csa is here."""
    from csa.runner.toolbox import startable_tools  # noqa: PLC0415  # who has no outlet needs no adapters

    root, tools = context.store.root, startable_tools(context.config, context.environ)
    known = {"csa": GREETING, "protocol": PROTOCOL, "version": __version__, "node": os.uname().nodename}
    return {**known, "time": time.time(), "tools": tools, "running": len(running_turns(root))}


def read_having(stream: IO[bytes]) -> dict[Key, Having]:
    """Read what an intake says that it has; ProtocolError if it is anything else, or ends in the middle."""
    said = read_line(stream)
    if said is None:
        raise ProtocolError("Nothing says what the other side has.", hint="csa sync HOST calls csa outlet")
    require_protocol(said)
    found: dict[Key, Having] = {}
    while said := read_line(stream):
        if said.get("end"):
            return found
        take_having(found, said)
    raise ProtocolError("What the other side has was cut off.")


def take_having(found: dict[Key, Having], said: Mapping[str, Any]) -> None:
    """Add what an intake says that it has of one session; ProtocolError if that makes no sense."""
    try:
        marks = [(int(at), str(digest)) for at, digest in said.get("marks", ())]  # an older intake has none
        has = Having(int(said["bytes"]), str(said["digest"]), dict(said["files"]), bool(said["gone"]), marks)
        found[str(said["p"]), str(said["s"])] = has
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"What the other side has of a session makes no sense: {error}.") from error


def write_having(stream: IO[bytes], having: Iterator[tuple[Key, Having]]) -> None:
    """Say what an intake has."""
    for said in having_lines(having):
        write_line(stream, said)
    stream.flush()


def having_lines(having: Iterator[tuple[Key, Having]]) -> Iterator[dict[str, Any]]:
    """Yield what is said, a line each, of what an intake has."""
    yield {"csa": "intake", "protocol": PROTOCOL, "version": __version__}
    for (project, session_id), has in having:
        said = {"bytes": has.bytes, "digest": has.digest, "files": dict(has.files), "gone": has.is_gone}
        if has.marks:
            said["marks"] = list(has.marks)
        yield {"p": project, "s": session_id, **said}
    yield {"end": True}


def wait_for_end(stdin: int) -> Callable[[float], bool]:
    """Return a pause that says whether the other side has closed our stdin."""

    def wait(seconds: float) -> bool:
        readable, _, _ = select.select([stdin], [], [], seconds)
        return bool(readable) and not os.read(stdin, MOST_BYTES)

    return wait


def _tell(liveness: Liveness) -> bytes:
    owner = liveness.owner if liveness.state != "not_alive" else None
    return json.dumps({"state": liveness.state, "owner": owner and asdict(owner)}, separators=(",", ":")).encode()


def _open(pathname: str) -> int | None:
    """Open a transcript; None if there is none, or none that is to be read."""
    try:
        fd = os.open(pathname, _OPEN)
    except OSError:
        return None
    try:
        require_regular(fd)
    except OSError:
        os.close(fd)
        return None
    return fd


def _last_line(fd: int, end: int) -> str:
    """Return the digest of the line that ends at an offset; empty if none does."""
    if not end or os.pread(fd, 1, end - 1) != b"\n":
        return ""
    return digest_of(next(lines_backwards(fd, end), b""))


def _digest_of_last(block: bytes) -> str:
    """Return the digest of the last line of a block as it was sent; empty if it does not have that whole."""
    begin = block.rfind(b"\n", 0, len(block) - 1) + 1
    return digest_of(block[begin:-1]) if begin and block.endswith(b"\n") else ""


def _read_small(pathname: str) -> bytes | None:
    """Return a small file; None if there is none, or it is a link, or large."""
    with suppress(OSError):
        if not os.path.islink(pathname) and len(content := read_regular(pathname)) <= MOST_FILE_BYTES:
            return content
    return None


def _roll_size(root: Path, key: Key) -> int:
    try:
        return os.stat(Store(root, key[0]).paths(key[1]).tree_lock).st_size
    except OSError:
        return 0


def _written(pathname: str) -> float:
    try:
        return os.stat(pathname).st_mtime
    except OSError:
        return 0.0


def _stamp(pathname: str) -> tuple[int, int] | None:
    try:
        found = os.stat(pathname)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
