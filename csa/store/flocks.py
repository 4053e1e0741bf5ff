"""flock(2) on the lock files of a session: how another implementation of the format shows that it is working there.

It holds one on `locks/<tool>.lock` for a whole turn, and knows nothing of session.lock. csa's own turns place one as
well, so it only means something if a session's session.lock is free. Taking a session takes all of them
(`Flocks`), which is decisive; readers look into /proc/locks (`find_stranger`), and take nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from csa.errors import StateError
from csa.ids import is_session_id
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterator, KeysView
    from typing import Any

    from csa.store.locks import Lock

_LOCKS = "/proc/locks"
_SUFFIX = ".lock"
_OURS = frozenset({"session.lock", "tree.lock"})  # another implementation writes no turns into these
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO: from there all locks of the kernel are visible
_FRESH_S = 0.02
_MAX_COST = 20  # reading the table takes at most a twentieth of the time, however many sessions are checked
_FEW = 16
_MAX_RECORD_BYTES = 4096


class Stranger(Struct):
    """Another program that is working in a session; None for what is unknown about it.

    Without `is_seen` its lock file names a turn without a recorded end, and the kernel does not show from here
    whether it still holds the lock.
    """

    tool: str
    pid: int | None
    is_seen: bool = True

    @property
    def in_words(self) -> str:
        """Who it is, as `another program (codex, PID 4711)`."""
        return f"another program ({self.tool}{f', PID {self.pid}' if self.pid else ''})"


class _Table:
    """The flocks that the kernel shows: for each inode number the devices, as `fe:00`, and the pids.

    Nearly all are on other files, or in a session or two. So when many sessions are checked, the holders are
    inspected: `_sessions` has the names of directories with a flock on a lock file, and `_devices` those
    for which that is unknown.
    """

    asked = 0  # how often, since the process began

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.holders: dict[int, dict[str, int]] = {}
        self._sessions: set[str] = set()
        self._devices: set[str] | None = None  # no holder was inspected
        self.is_there = self.is_whole = False
        try:
            with open(_LOCKS, "rb") as file:
                for line in file:
                    if b" FLOCK " in line and b"->" not in line:  # an arrow: that process waits
                        self._add(line.split())
                self.is_there = stat.S_ISREG(os.fstat(file.fileno()).st_mode)  # else it is masked
            self.is_whole = self.is_there and os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
        except (OSError, ValueError, IndexError):
            pass  # then it shows nothing
        self.good_until = self._end()

    def may_tell_of(self, session: str) -> bool:
        """Say whether there may be a flock in a session, before reading any of its files."""
        _Table.asked += 1
        if not self.is_whole or not self.holders or _Table.asked <= _FEW:
            return not self.is_whole or bool(self.holders)
        if self._devices is None:
            self._devices = set(self._look_at_holders())
            self.good_until = self._end()
        if session.rpartition("/")[2] in self._sessions:
            return True
        return bool(self._devices) and _device_of(session.rpartition("/")[0]) in {*self._devices, ""}

    def _add(self, words: list[bytes]) -> None:
        device, _, inode = words[5].decode().rpartition(":")
        self.holders.setdefault(int(inode), {})[device] = int(words[4])

    def _end(self) -> float:
        now = time.monotonic()
        return now + max(_FRESH_S, _MAX_COST * (now - self._began))

    def _look_at_holders(self) -> Iterator[str]:
        """Note the sessions with a flock; yield the devices of those for which it is unknown."""
        unknown: dict[int, dict[bytes, int]] = {}
        known: dict[bytes, str] = {}
        for inode, pids in self.holders.items():
            for device, pid in pids.items():
                file = f"{device}:{inode}".encode()
                if (path := _paths.get(file)) and _inode_of(path) == inode:
                    known[file] = path
                else:
                    unknown.setdefault(pid, {})[file] = inode
        for pid, files in unknown.items():
            known |= (found := _paths_of(pid, files))
            yield from (file.decode().rpartition(":")[0] for file in files.keys() - found)
        _paths.clear()
        _paths.update(known)
        for file, path in known.items():
            session = path.rpartition("/locks/")[0].rpartition("/")[2]
            if is_session_id(session):
                self._sessions.add(session)
            elif "/locks/" in path:  # in a container a session may have another name
                yield file.decode().rpartition(":")[0]


def _paths_of(pid: int, files: dict[bytes, int]) -> dict[bytes, str]:
    """Return the paths of files on which a process has a flock, as far as they are known; each has its inode number."""
    found: dict[bytes, str] = {}
    try:
        for fd, words in _flocks_of(pid, set(files.values())):
            if file := next((word for word in words if word in files), None):
                found[file] = os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:  # another user's, or it has just ended
        pass
    return found


def _inode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _flocks_of(pid: int, inodes: set[int]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield what the kernel says of the flocks of a process on files of some inode numbers, each with its descriptor.

    All are looked for at once: each descriptor of the process costs a system call.
    """
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.stat(f"/proc/{pid}/fd/{fd}").st_ino in inodes:
            with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as facts:
                found = [line.split() for line in facts if b" FLOCK " in line]
            yield from ((fd, words) for words in found)


_last: list[_Table] = []
_paths: dict[bytes, str] = {}  # of files with a flock, as `fe:00:4711`; each is checked before it counts
_devices: dict[str, str] = {}  # of directories


def _kernel_table() -> _Table:
    if not _last or time.monotonic() > _last[0].good_until:
        _last[:] = [_Table()]
    return _last[0]


def find_stranger(session: str) -> Stranger | None:
    """Return who else visibly holds a lock file in a session's directory; None if nobody does.

    It may be csa itself, if session.lock is held.
    """
    found = _find_once(session)
    if found and found.is_seen:  # then once more: the table may be a moment old
        _last.clear()
        found = _find_once(session)
    return found


def _find_once(session: str) -> Stranger | None:
    table = _kernel_table()
    if not table.may_tell_of(session):
        return None
    for name, inode in _lock_files(f"{session}/locks"):
        path = f"{session}/locks/{name}"
        holders = table.holders.get(inode) or (_named_holder(path, inode) if name not in _OURS else {})
        if holders and (pid := _holder(path, holders)) is not None:
            if pid in _pids_of_csa(session):  # one that has lost session.lock, or is just starting
                continue
            return Stranger(name.removesuffix(_SUFFIX), pid or _recorded(path).get("pid"))
        if not table.is_whole and name not in _OURS and (found := _suspect(session, name, table)):
            return found
    return None


def _named_holder(path: str, inode: int) -> dict[str, int]:
    """Return the process that a lock file names, by device, if it has a flock on it.

    The kernel hands out its table in pieces: while other locks come and go, one can be missed.
    """
    content = _read_lock_file(path)
    if b"acquired_at" not in content:  # csa's own have another form, and need no parser here
        return {}
    pid = _parse_record(content).get("pid")
    if not isinstance(pid, int):
        return {}
    try:
        return {words[6].decode().rpartition(":")[0]: pid for _, words in _flocks_of(pid, {inode})}
    except (OSError, IndexError):  # another user's, or it has just ended
        return {}


def may_be_held(session: str) -> KeysView[int]:
    """Return the inode numbers of files on which there is a flock, if one may be of a session; else none."""
    table = _kernel_table()
    return table.holders.keys() if table.may_tell_of(session) else {}.keys()


def lock_inodes(session: str) -> frozenset[int]:
    """Return the inode numbers of a session's lock files."""
    return frozenset(inode for _, inode in _lock_files(f"{session}/locks"))


def _lock_files(directory: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(directory) as entries:
            yield from [(each.name, each.inode()) for each in entries if each.name.endswith(_SUFFIX)]
    except OSError:  # there is none, or it is damaged, as session.lock has shown
        return


def _pids_of_csa(session: str) -> set[int]:
    """Return the pids of csa's own processes that name themselves as holders in a session's lock file."""
    from csa.store.owner import may_be_running, parse_owner  # noqa: PLC0415  # only if something holds a lock

    owners = (parse_owner(_read_lock_file(f"{session}/locks/{name}")) for name, _ in _lock_files(f"{session}/locks"))
    return {owner.pid for owner in owners if owner and owner.is_local and may_be_running(owner)}


def _holder(path: str, pids: dict[str, int]) -> int | None:
    """Return the pid that holds a file's lock, 0 where only another namespace knows it; None when it is another file.

    The kernel names the file system by the device of its superblock, which stat(2) does not report for all.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        plain = _plain_device(fd)
        return pids[plain] if plain in pids else pids.get(_mounted_device(fd))
    finally:
        os.close(fd)


def _device_of(directory: str) -> str:
    """Return the device of a directory; empty if unknown."""
    if directory not in _devices:
        try:
            fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            _devices[directory] = _mounted_device(fd)
        finally:
            os.close(fd)
    return _devices[directory]


def _plain_device(fd: int) -> str:
    device = os.fstat(fd).st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def _mounted_device(fd: int) -> str:
    """Return the device of the mount of a descriptor's file; empty if unknown."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            (mount,) = [line.split()[1] for line in file if line.startswith(b"mnt_id:")]
        with open("/proc/self/mountinfo", "rb") as file:
            (device,) = [words[2] for line in file if (words := line.split()) and words[0] == mount]
        major, _, minor = device.partition(b":")
        return f"{int(major):02x}:{int(minor):02x}"
    except (OSError, ValueError, IndexError):
        return ""


def _suspect(session: str, name: str, table: _Table) -> Stranger | None:
    """Say whether a lock file names a turn of which it is unknown here whether it is still running.

    Inside a pid namespace the kernel only shows the locks of processes that have a pid there.
    """
    record = _recorded(f"{session}/locks/{name}")
    if "acquired_at" not in record:  # csa empties its own, or leaves a record of another form
        return None
    from csa.model.state import parse_time  # noqa: PLC0415  # only if the kernel does not show all locks
    from csa.store.strangers import ended_at  # noqa: PLC0415  # as above

    pid = record.get("pid")
    if table.is_there and isinstance(pid, int) and pid <= _last_pid():  # of this namespace, whose locks are shown
        return None
    began, ended = parse_time(record["acquired_at"]), ended_at(session)
    if began is None or (ended is not None and ended >= began):
        return None
    return Stranger(name.removesuffix(_SUFFIX), pid if isinstance(pid, int) else None, is_seen=False)


def _last_pid() -> int:
    """Return the last pid assigned in this namespace."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return os.getpid()


def _recorded(path: str) -> dict[str, Any]:
    """Return what the other implementation writes into a lock file: pid, tool_name, acquired_at, reason."""
    return _parse_record(_read_lock_file(path))


def _parse_record(content: bytes) -> dict[str, Any]:
    import json  # noqa: PLC0415  # hardly ever needed

    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_lock_file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_RECORD_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


class Flocks:
    """The flocks on all lock files of a session whose lock was taken; `close` releases them."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._directory = f"{session}/locks"
        self._fds: dict[str, int] = {}

    def take_all(self, session_lock: Lock) -> str | None:
        """Take the existing ones; return the name of a file that another holds, and then keep none.

        Raises:
            StateError: a lock file cannot be opened, so that it is unknown.
        """
        try:
            if not _may_flock(session_lock.fd):
                return session_lock.path.name
            for name, _ in _lock_files(self._directory):
                if name not in _OURS and not self.take(name):
                    self.close()
                    return name
        except BaseException:
            self.close()
            raise
        return None

    def take(self, name: str) -> bool:
        """Take one that is not ours yet; say whether that succeeded."""
        path = f"{self._directory}/{name}"
        try:
            fd = _open_lock_file(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise StateError.unreadable(path, error) from error
        if stat.S_ISREG(os.fstat(fd).st_mode) and not _may_flock(fd):
            os.close(fd)
            return _is_of_csa(self._session, path)  # one that has lost session.lock: that decides about it
        self._fds[name] = fd
        return True

    def release(self, name: str) -> None:
        """Release one, which its taker takes in another way."""
        if name in self._fds:
            os.close(self._fds.pop(name))

    def close(self) -> None:
        """Release all; harmless when repeated."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def _is_of_csa(session: str, path: str) -> bool:
    """Say whether the holder of a flock on a lock file is a csa."""
    from csa.store.owner import parse_owner  # noqa: PLC0415  # as above

    if parse_owner(_read_lock_file(path)) is not None:  # another implementation writes a record of its own there
        return True
    holders = _Table().holders.get(os.stat(path).st_ino, {})
    return _holder(path, holders) in _pids_of_csa(session)


def _open_lock_file(path: str) -> int:
    """Open a lock file, for writing if allowed: otherwise a file server gives no exclusive lock."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)
    except FileNotFoundError:
        raise
    except OSError:  # not ours to write, on a read-only disk, or a directory
        return os.open(path, os.O_RDONLY | flags)


def _may_flock(fd: int) -> bool:
    """Place a flock; False if another has one. A file system without flocks has none of others either."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
