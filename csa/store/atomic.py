"""Files that are replaced completely or not at all, and read only if they are regular files.

An agent may have put anything in a file's place: opening a pipe would block, and some devices have no end.
"""

from __future__ import annotations

import errno
import os
import stat

from csa.ownership import give_tree, make_directory, open_private

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path


_HAS_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # CIFS, shared folders of virtual machines, FUSE
MAX_RECORD_BYTES = 1 << 20
_USUAL_BYTES = 1 << 14  # more than nearly all records have
_REPLACING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that need not be durable, or complete after a crash."""
    fd = open_private(path, _REPLACING)
    with open(fd, "wb") as file:
        file.write(content)


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file by way of a temporary one beside it, without waiting for the disk. Mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_private(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append_private(path: Path, content: bytes) -> None:
    """Append to a file of mode 0600, creating it if necessary; concurrent writers never mix."""
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK)
    with open(fd, "wb") as file:
        file.write(content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by way of a temporary file beside it: fsync, rename, fsync of the directory. Mode 0600."""
    Draft(path, content).commit()


class Draft:
    """The next content of a file, complete and durable beside it, so that a full disk shows before anything changes.

    Its constructor raises OSError, and then leaves nothing.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.is_pending = True
        fd = open_private(self._temporary, _REPLACING)
        try:
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                sync_file(fd)
            finally:
                os.close(fd)
        except BaseException:
            self.discard()
            raise

    def follow(self, directory: Path) -> None:
        """Note that its directory has been moved there."""
        self._path, self._temporary = directory / self._path.name, directory / self._temporary.name

    def commit(self) -> None:
        """Replace the file; OSError if that fails: `is_pending` says whether it was before the replacement."""
        try:
            os.replace(self._temporary, self._path)
        except BaseException:
            self.discard()
            raise
        self.is_pending = False
        sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        if self.is_pending:
            try:  # noqa: SIM105  # readers load this module, and contextlib takes as long as the rest of it
                self._temporary.unlink(missing_ok=True)
            except OSError:
                pass  # the earlier failure is the one that matters


def sync_file(fd: int) -> None:
    """Make an open file, or the names in an open directory, durable, if the file system can do that."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _HAS_NO_FSYNC:
            raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def move_directory(source: Path, target: Path, *, aside: str) -> bool:
    """Rename a directory; copy it if it is in another overlay layer and cannot be renamed (EXDEV).

    Return whether it was copied. The copy is made under the name `aside`, and is complete when it gets its own; nobody
    holds the locks in it.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target, target.with_name(aside))
        give_tree(target)
        return True
    return False


def _copy_over(source: Path, target: Path, aside: Path) -> None:
    import shutil  # noqa: PLC0415  # hardly ever needed

    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(source, aside, symlinks=True, ignore=_special_files)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(source)


def _special_files(directory: str, names: list[str]) -> list[str]:
    """Return what cannot be copied: pipes, sockets and devices, which an agent may have left."""
    kinds = {name: stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) for name in names}
    return [name for name, kind in kinds.items() if kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}]


def make_private_directory(path: Path) -> None:
    """Make a directory and its missing parents, all mode 0700."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_private_directory(path.parent)
        make_directory(path)


def open_regular(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open an existing file, and return the descriptor; OSError unless it is a regular file. Never blocks."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        require_regular(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_regular(fd: int) -> os.stat_result:
    """Return the status of an open file; OSError with its type unless it is a regular file."""
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return found
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "is not a regular file")


def read_regular(path: Path | str) -> bytes:
    """Return a file's content; OSError as of `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read()


def read_short(path: Path | str, *, directory: int | None = None) -> bytes:
    """Return a file's content in as few calls as possible, as lists read thousands; OSError if it cannot be read.

    Of one that is longer than `MAX_RECORD_BYTES` more than these come, and perhaps not all. Never blocks; a pipe is
    empty. `path` may be relative to the descriptor `directory`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    try:
        content = os.read(fd, _USUAL_BYTES)
        if len(content) == _USUAL_BYTES:
            while len(content) <= MAX_RECORD_BYTES and (more := os.read(fd, MAX_RECORD_BYTES)):
                content += more
    finally:
        os.close(fd)
    return content


def stamp_of(found: os.stat_result) -> str:
    """Return what is different when a file or directory has changed."""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
