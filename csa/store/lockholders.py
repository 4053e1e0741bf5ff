"""Which processes hold a lock: the kernel shows an open-file-description lock beside each descriptor that shares it."""

from __future__ import annotations

import os
from pathlib import Path

from csa.procfs import ProcessId, all_pids, command_of, identify
from csa.structs import Struct

_COMMAND_WIDTH = 60


class LockHolder(Struct):
    """A process that has the lock open. A lock is free when all of its holders are gone."""

    process: ProcessId
    command: str

    @property
    def in_words(self) -> str:
        """Its name: `PID 4711 (codex exec)`."""
        return f"PID {self.process.pid} ({self.command[:_COMMAND_WIDTH]})"


def lock_holders(path: Path) -> list[LockHolder]:
    """Return the processes of our pid namespace that hold the lock at `path`, if we may inspect them."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    held_by = [pid for pid in all_pids() if _holds(pid, wanted)]
    return [LockHolder(process, command_of(pid)) for pid in held_by if (process := identify(pid))]


def _holds(pid: int, wanted: os.stat_result) -> bool:
    try:
        return any(_is_locked(pid, fd) for fd in os.listdir(f"/proc/{pid}/fd") if _is_same(pid, fd, wanted))
    except OSError:
        return False


def _is_same(pid: int, fd: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), wanted)
    except OSError:
        return False


def _is_locked(pid: int, fd: str) -> bool:
    try:
        return b"OFDLCK" in Path(f"/proc/{pid}/fdinfo/{fd}").read_bytes()
    except OSError:
        return False
