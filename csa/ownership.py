"""File ownership: what root creates in another user's directory belongs to that user, and denials name the owner.

After a `sudo csa run` among a user's own runs, root's locks, records and directories would block that user.
So everything csa creates is given to the owner of the directory it is in, wherever that is. Only files owned by
root are given away, and only if the name in that directory is really that file: a link somebody has put there points
to a file that stays as it is.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path


def open_private(path: Path | str, flags: int) -> int:
    """Open a file, creating it with mode 0600 if `flags` has O_CREAT; return the descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        _give(os.fspath(path), fd)
    return fd


def make_directory(path: Path | str) -> None:
    """Create a directory of mode 0700 unless it exists; FileNotFoundError if its parent is missing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.isdir(path):
            return
        if not _may_be_made(path):
            raise
        make_directory(path)  # another process has just removed it, or that and made it again
    else:
        give_to_owner(path)


def _may_be_made(path: Path | str) -> bool:
    """Say whether nothing but a directory is there."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def give_to_owner(path: Path | str) -> None:
    """Give a file or directory that root has just created to the owner of its directory."""
    if os.geteuid() != 0:
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _give(os.fspath(path), fd)
    finally:
        os.close(fd)


def _give(path: str, fd: int) -> None:
    try:
        place = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        owner, found = os.fstat(place), os.fstat(fd)
        name = os.path.basename(path)
        if _is_to_give(found, owner) and os.path.samestat(os.lstat(name, dir_fd=place), found):
            os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:  # a file server that maps root to nobody, or a user namespace
        pass
    finally:
        os.close(place)


def _is_to_give(found: os.stat_result, owner: os.stat_result) -> bool:
    is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    is_one = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1  # otherwise it may be another's file under another name
    return owner.st_uid != 0 == found.st_uid and is_one and not is_device


def give_tree(top: Path | str) -> None:
    """Give everything of root's in a directory, as left by an agent, to the owner of the surrounding directory."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(os.path.dirname(os.path.abspath(top)))
    except OSError:
        return
    if owner.st_uid == 0:
        return
    give_to_owner(top)
    for _, directories, files, place in os.fwalk(top):
        for name in (*directories, *files):
            try:
                if _is_to_give(os.lstat(name, dir_fd=place), owner):
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=place, follow_symlinks=False)
            except OSError:
                continue


def maker_of(directory: Path | str) -> tuple[int, int] | None:
    """Return the user and group that a program creating files in a directory should run as; None for our own."""
    try:
        owner = os.stat(directory)
    except OSError:
        return None
    return (owner.st_uid, owner.st_gid) if os.geteuid() == 0 != owner.st_uid else None


def owner_above(path: Path | str) -> str | None:
    """Return the owner, other than root, of the files that we as root would create there; None for our own."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    found = maker_of(place)
    return None if found is None else user_name(found[0])


def explain_denial(path: Path | str) -> tuple[str, str] | None:
    """Explain a denial: who owns the file, and what helps; None if it is our own."""
    place = os.path.abspath(path)
    foreign = _foreign(place) or _foreign(os.path.dirname(place))
    if foreign is None or os.geteuid() == 0:
        return None
    top, uid = foreign
    while top != "/" and (above := _owner(os.path.dirname(top))) not in {os.geteuid(), None}:
        top, uid = os.path.dirname(top), above
    whose = f"{foreign[0]} belongs to {user_name(foreign[1])}"
    me = user_name(os.geteuid())
    if top != "/":
        option = "-R " if os.path.isdir(top) else ""
        return whose, f"sudo chown {option}{me}: {quoted(top)}"
    return whose, f"work as {user_name(uid)}, let {me} use it, or check HOME and CSA_STATE_DIR"


def _foreign(path: str) -> tuple[str, int] | None:
    """Return the path or its nearest inspectable ancestor, with its owner; None for our own."""
    while (uid := _owner(path)) is None and path != "/":
        path = os.path.dirname(path)
    return None if uid in {None, os.geteuid()} else (path, uid)


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def user_name(uid: int) -> str:
    """Return a user's name, or the number if there is no name."""
    import pwd  # noqa: PLC0415  # only problems need it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def quoted(path: str) -> str:
    """Return a path quoted for a shell."""
    import shlex  # noqa: PLC0415  # as above

    return shlex.quote(path)
