"""Whose files are whose: what root makes in another user's directory is that user's, and what is denied has an owner.

After a `sudo csa run` beside a user's own runs, locks, records and directories of root's would keep that user from all
he does. So whatever csa makes goes to the owner of the directory it stands in, wherever that directory is. Only what is
root's is given away, and only where the name in that directory is really it: a link that somebody has put there leads
to a file that stays as it is.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path


def open_private(path: Path | str, flags: int) -> int:
    """Open a file, which is made with mode 0600 where `flags` have O_CREAT; return the descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        _give(os.fspath(path), fd)
    return fd


def make_directory(path: Path | str) -> None:
    """Make a directory of mode 0700 unless it is there; FileNotFoundError where the one above it is missing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        give_to_owner(path)


def give_to_owner(path: Path | str) -> None:
    """Give a file or directory that root has just made to whom the directory around it belongs."""
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
    except OSError:  # a file server to which our root is nobody, or a user namespace
        pass
    finally:
        os.close(place)


def _is_to_give(found: os.stat_result, owner: os.stat_result) -> bool:
    is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    is_one = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1  # else it may be another's file by another name
    return owner.st_uid != 0 == found.st_uid and is_one and not is_device


def give_tree(top: Path | str) -> None:
    """Give all that is root's in a directory, which an agent may have made there, to whom the one around it belongs."""
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
    """Return user and group as whom a program that makes files in a directory is to run; None for our own."""
    try:
        owner = os.stat(directory)
    except OSError:
        return None
    return (owner.st_uid, owner.st_gid) if os.geteuid() == 0 != owner.st_uid else None


def owner_above(path: Path | str) -> str | None:
    """Return whose files we would make there, being root, other than root's; None for our own."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    found = maker_of(place)
    return None if found is None else user_name(found[0])


def explain_denial(path: Path | str) -> tuple[str, str] | None:
    """Say of what may not be read or written that it is another's, and what helps; None where it is our own."""
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
    """Return the nearest to a path, of it and all above, that can be looked at, with its owner; None for our own."""
    while (uid := _owner(path)) is None and path != "/":
        path = os.path.dirname(path)
    return None if uid in {None, os.geteuid()} else (path, uid)


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def user_name(uid: int) -> str:
    """Return a user's name; the number of one who has none."""
    import pwd  # noqa: PLC0415  # only what is out of order needs it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def quoted(path: str) -> str:
    """Return a path as it is written in a shell."""
    import shlex  # noqa: PLC0415  # as above

    return shlex.quote(path)
