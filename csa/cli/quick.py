"""`csa session is-alive`, answered without argparse, pathlib and dataclasses, whose import takes four times as long.

Scripts and agents ask this again and again. Only the plain question is answered here, about a session that is in its
place: one id or prefix of one, with no other option, in the project around the current directory. To anything else the
answer is None, and the command goes its usual way; where there is an answer, it is the same (a test compares them).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

TYPE_CHECKING = False  # importing typing would cost as much as all of this
if TYPE_CHECKING:
    from collections.abc import Mapping

_ULID = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
_ULID_LENGTH = 26
_FLOCK = "hhqqi4x"  # as in csa/store/locks.py
_START_TIME = 19  # field of /proc/<pid>/stat behind the command's name
_MAX_OWNER_BYTES = 4096


def is_alive(words: list[str], environ: Mapping[str, str]) -> int | None:
    """Print the answer and return the exit code; None, with nothing printed, where the usual way has to be gone."""
    selector = _selector(words)
    if selector is None:
        return None
    try:
        root = _state_root(environ)
        session = _find(f"{root}{_project()}/sessions", selector) if root else None
        held, content = _probe(f"{session}/locks/session.lock") if session else (False, b"")
        line = _describe(content) if held else "not alive"
    except (OSError, ValueError, KeyError, TypeError):  # not the plain case: the usual way says what is the matter
        return None
    if not session or line is None or (content and not held):  # an owner that has gone may be of another machine
        return None
    print(line)
    return 0 if held else 1


def _selector(words: list[str]) -> str | None:
    if len(words) == 2 and words[0] in {"-s", "--session"}:  # noqa: PLR2004  # the option and its value
        words = words[1:]
    if len(words) != 1 or not words[0][:1].isdigit():
        return None
    selector = words[0].upper()
    return selector if _ULID.issuperset(selector) else None


def _state_root(environ: Mapping[str, str]) -> str | None:
    """Return the resolved state root, as csa.paths.state_root; None where an ancestor's variables may name another."""
    chosen, base, home = (environ.get(name) for name in ("CSA_STATE_DIR", "XDG_STATE_HOME", "HOME"))
    if not chosen and ("CSA_SESSION_ID" not in environ and _is_below_a_session()):
        return None
    root = chosen or (f"{base}/csa" if base else f"{home}/.local/state/csa" if home else None)
    return root and os.path.realpath(root)


def _is_below_a_session() -> bool:
    """Say whether an ancestor was started with csa's variables (see csa/runner/ancestry.py)."""
    pid = os.getppid()
    while pid:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if b"CSA_SESSION_DIR=" in file.read():
                    return True
        except PermissionError:  # another user's
            pass
        pid = int(_stat(pid)[1])
    return False


def _project() -> str:
    """Return the project around the current directory, as csa.store.project.find_project."""
    start = place = os.path.realpath(".")
    while not any(os.path.exists(f"{place}/{marker}") for marker in (".csa", ".git")):
        if place == "/":
            return start
        place = os.path.dirname(place)
    return place


def _find(directory: str, prefix: str) -> str | None:
    """Return the directory of the one session whose id begins so."""
    if len(prefix) == _ULID_LENGTH:
        found = [prefix] if os.path.isdir(f"{directory}/{prefix}") else []
    else:
        names = os.listdir(directory)
        found = [n for n in names if n.startswith(prefix) and len(n) == _ULID_LENGTH and _ULID.issuperset(n)]
    return f"{directory}/{found[0]}" if len(found) == 1 else None


def _probe(path: str) -> tuple[bool, bytes]:
    """Return whether the lock is held, and what its file says, as csa.store.locks.probe_lock."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(path)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK, os.pread(fd, _MAX_OWNER_BYTES, 0)
    finally:
        os.close(fd)


def _describe(content: bytes) -> str | None:
    """Return the line about an owner whose process is there; None for one that has not yet said, or is elsewhere."""
    import json  # noqa: PLC0415  # only for a session that runs
    from datetime import datetime  # noqa: PLC0415  # as above

    owner = json.loads(content)
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        is_of_this_boot = owner["boot_id"] == file.read().strip()
    is_local = is_of_this_boot and owner["pid_namespace"] == os.stat("/proc/self/ns/pid").st_ino
    if not is_local or int(_stat(owner["pid"])[_START_TIME]) != owner["start_time"]:
        return None
    since = datetime.fromisoformat(owner["since"]).astimezone()
    return f"alive: {owner['tool']}, turn {owner['turn']}, PID {owner['pid']}, since {since:%H:%M}"


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2].split()
