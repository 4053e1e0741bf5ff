"""Files that are replaced whole or not at all, and read only where they are files.

An agent may have put anything in a file's place: a pipe would keep whoever opens it waiting, some devices have no end.
"""

from __future__ import annotations

import errno
import os
import stat

from csa.ownership import make_directory, open_private

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path


_REPLACING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that needs to be neither durable nor whole after a crash."""
    fd = open_private(path, _REPLACING)
    with open(fd, "wb") as file:
        file.write(content)


def append_private(path: Path, content: bytes) -> None:
    """Add to a file of mode 0600, at its end whoever else writes, making it when it is missing."""
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK)
    with open(fd, "wb") as file:
        file.write(content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by way of a temporary file beside it: fsync, rename, fsync of the directory. Mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = open_private(temporary, _REPLACING)
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private_directory(path: Path) -> None:
    """Make a directory and its missing parents, all mode 0700."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_private_directory(path.parent)
        make_directory(path)


def open_regular(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open a file that is there, and return the descriptor; OSError where it is no regular one. Never waits."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        require_regular(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_regular(fd: int) -> os.stat_result:
    """Return what the system says of an open file; an OSError says what it is instead of a regular one."""
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return found
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "is no regular file")


def read_regular(path: Path | str) -> bytes:
    """Return a file's content; OSError as of `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read()
