"""Who holds a session's lock: the record a supervisor writes into the lock file, and this machine's own identity."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The content of a held lock file. `start_time` is in clock ticks since boot, as in /proc/<pid>/stat."""

    pid: int
    start_time: int
    boot_id: str
    machine_id: str
    pid_namespace: int
    host: str
    tool: str
    turn: int
    since: str  # RFC 3339

    def to_bytes(self) -> bytes:
        """Render as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @property
    def since_clock(self) -> str:
        """The local time of day at which the turn began, as `HH:MM`."""
        return datetime.fromisoformat(self.since).astimezone().strftime("%H:%M")


def parse_owner(content: bytes) -> Owner | None:
    """Read a lock file's content; None when it is empty, half-written, or another program's."""
    try:
        record = json.loads(content)
        owner = Owner(**{field.name: record[field.name] for field in fields(Owner)})
        datetime.fromisoformat(owner.since)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    kinds = {"int": int, "str": str}
    return owner if all(isinstance(getattr(owner, f.name), kinds[str(f.type)]) for f in fields(Owner)) else None


def current_owner(*, tool: str, turn: int, since: str) -> Owner:
    """Describe this process as the owner of a turn."""
    return Owner(
        pid=os.getpid(),
        start_time=process_start_time(os.getpid()) or 0,
        boot_id=boot_id(),
        machine_id=machine_id(),
        pid_namespace=_pid_namespace(),
        host=os.uname().nodename,
        tool=tool,
        turn=turn,
        since=since,
    )


def process_start_time(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def may_be_running(owner: Owner) -> bool:
    """Say whether the owner's process exists, or is one that cannot be looked at from here."""
    if owner.boot_id != boot_id() or owner.pid_namespace != _pid_namespace():
        return True
    return process_start_time(owner.pid) == owner.start_time


def boot_id() -> str:
    """Return the kernel's id of this boot; containers on one kernel share it. Empty where /proc is hidden."""
    return _read("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Return the machine's id; empty where there is none."""
    return _read("/etc/machine-id")


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
