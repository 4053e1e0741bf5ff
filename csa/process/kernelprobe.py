"""Whether the kernel has what csa needs: each feature is really used, in a throw-away process.

Run as `python -I -S kernelprobe.py`; prints one JSON object: feature to error name, or to null if it works.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def try_pidfd() -> None:
    """Open a descriptor of a process."""
    os.close(os.pidfd_open(os.getpid()))


def try_children() -> None:
    """Find a child in /proc/PID/task/TID/children, which not every kernel has."""
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.read(go_read, 1)
        os._exit(0)
    try:
        me = os.getpid()
        with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as file:
            if str(pid) not in file.read().split():
                raise OSError(errno.ENOENT, "the child is not listed")
    finally:
        os.close(go_write)
        os.waitpid(pid, 0)
        os.close(go_read)


def try_subreaper() -> None:
    """Adopt a grandchild whose parent has ended."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    go_read, go_write = os.pipe()
    tell_read, tell_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_write)
        grandchild = os.fork()
        if grandchild == 0:
            os.read(go_read, 1)
            os._exit(0)
        os.write(tell_write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(child, 0)
    adopted = int(os.read(tell_read, 16))
    os.close(go_write)
    os.waitpid(adopted, 0)  # ECHILD unless it has become our child


def try_user_namespace() -> None:
    """Make a user namespace that is root inside, as a sandbox does. Comes last: it changes this process."""
    user = os.getuid()
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID))
    with open("/proc/self/uid_map", "w", encoding="ascii") as file:
        file.write(f"0 {user} 1")
    # AppArmor lets an unprivileged program create the namespace, and then denies its use.
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


FEATURES: dict[str, Callable[[], None]] = {
    "pidfd": try_pidfd,
    "children": try_children,
    "subreaper": try_subreaper,
    "user_namespace": try_user_namespace,
}


def _check(answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def attempt(feature: Callable[[], None]) -> str | None:
    """Return what went wrong; None if nothing did."""
    try:
        feature()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: attempt(feature) for name, feature in FEATURES.items()}))
