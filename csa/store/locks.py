"""Open-file-description write locks: the evidence that a supervisor lives.

A lock is held by a file *description*: it lasts until the last descriptor of that description closes, in any
process, and any kind of crash releases it. Lock files are never unlinked. A probe opens the file again and asks
(F_OFD_GETLK), so it takes nothing; through a descriptor of the holder's own description the lock looks free.

csa only waits for locks that are held for moments. F_OFD_SETLKW would wait for ever for a stopped holder, and keep
python from handling signals, so csa polls.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from csa.errors import BusyError, Obstacle, StateError
from csa.ownership import open_private

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from csa.store.flocks import Flocks

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux; l_pid must be 0 for OFD requests
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
MAX_OWNER_BYTES = 4096
LOOK_S = 5.0  # a process that holds a short lock at two looks that far apart has been stopped
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.002, 0.1
_checks: list[Callable[[], None]] = []


class Lock:
    """A held lock. Closing releases it, unless another process shares `fd`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.flocks: Flocks | None = None  # of a session's lock: on the neighbouring lock files
        self._content = b""

    def write(self, content: bytes) -> None:
        """Replace the file's content, which tells readers who holds the lock."""
        os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))
        self._content = content

    def read(self) -> bytes:
        """Return the file's content; before the first `write`, an earlier holder's."""
        return os.pread(self.fd, MAX_OWNER_BYTES, 0)

    def is_intact(self, path: Path) -> bool:
        """Say whether `path` is still this lock's file, with our last content: if not, another process has it."""
        return self.is_named(path) and self.read() == self._content

    def is_named(self, path: Path) -> bool:
        """Say whether `path` is still this lock's file."""
        return _names(path, self.fd)

    def touch(self) -> None:
        """Write to the disk through the lock's own descriptor: a file server that has lost the lock refuses that.

        It writes one byte, the same as before: if another process has taken the file a moment ago, its record,
        which begins with the same byte, stays intact.
        """
        os.pwrite(self.fd, self._content[:1], 0)
        os.fdatasync(self.fd)

    def close(self) -> None:
        """Release; harmless when repeated."""
        if self.flocks:  # first: a flock without this lock would look like another program's
            self.flocks.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def acquire_lock(path: Path, *, wait: bool = False, flock: bool = False) -> Lock:
    """Take the lock at `path`, creating the file if necessary.

    With `flock`, a flock(2) is placed too, if supported, so that programs that use that family see it;
    it is not evidence here.

    Raises:
        BlockingIOError: someone holds it and `wait` is false.
        BusyError: the same process has held it at two looks.
    """
    while True:
        fd = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(path, fd, wait=wait)
            if flock:
                place_flock(fd)
            if _names(path, fd):  # otherwise it was renamed away while we waited
                return Lock(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def place_flock(fd: int) -> int:
    """Place a flock(2); return the error of a file system without flocks, 0 on success.

    Raises:
        BlockingIOError: another program holds one.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        return error.errno or errno.ENOTSUP
    return 0


class Heeding:
    """In this block, `check` is called while waiting for a lock; an exception from it ends the wait."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __enter__(self) -> None:
        _checks.append(self._check)

    def __exit__(self, *_: object) -> None:
        _checks.remove(self._check)


def _lock(path: Path, fd: int, *, wait: bool) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except BlockingIOError:
        if not wait:
            raise
        _wait_for(path, fd)


def _wait_for(path: Path, fd: int) -> None:
    """Try until the lock is ours, checking who holds it every few seconds."""
    import time  # noqa: PLC0415  # few ever wait

    from csa.store.lockholders import lock_holders  # noqa: PLC0415  # as above

    pause_s, look_at, seen = _FIRST_PAUSE_S, time.monotonic() + LOOK_S, None
    while True:
        for check in _checks:
            check()
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _MAX_PAUSE_S)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except BlockingIOError:
            if time.monotonic() < look_at:
                continue
        else:
            return
        holders = lock_holders(path)
        if holders == seen:
            raise _stuck(path, [each.in_words for each in holders])
        seen, look_at = holders, time.monotonic() + LOOK_S


def _stuck(path: Path, holders: list[str]) -> BusyError:
    by = ", ".join(holders) or "a process that csa cannot inspect"
    words = f"{path} is held by {by}"
    return BusyError(
        f"{words}, for longer than csa ever needs it.",
        hint="if that process is stopped, continue it (kill -CONT) or kill it",
        obstacle=Obstacle(words, lambda: not is_locked(path)),
    )


def _names(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Say whether any process holds the lock; a missing file is not locked. StateError as in `probe_lock`."""
    return probe_lock(path)[0]


def seems_locked(path: Path | str) -> bool:
    """Say whether the kernel shows a lock like ours on a file, which need not be readable; it may not show it."""
    try:
        found = os.stat(path)
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return False
    mark = f" {os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino} "
    return any(mark in line and "OFDLCK" in line for line in lines)


def probe_lock(path: Path | str) -> tuple[bool, bytes]:
    """Return whether the lock is held, and what the file says (which may be of an earlier holder).

    Raises:
        StateError: it cannot be inspected, or is not a regular file, so that it is unknown.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except FileNotFoundError:
        return False, b""
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading reports if it is a directory
            raise StateError(path, "is not a regular file")
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        held = struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK
        return held, os.pread(fd, MAX_OWNER_BYTES, 0)
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    finally:
        os.close(fd)
