"""What the kernel shows about processes and this machine. Linux only; what cannot be read is None or empty."""

from __future__ import annotations

import os

from csa.structs import Struct

_START_TIME, _STATE, _PARENT, _RESIDENT = 19, 0, 1, 21  # fields of /proc/<pid>/stat after the command's name
_TIMES = slice(11, 15)  # utime, stime, and those of reaped children


class ProcessId(Struct):
    """A process, identified even if its pid is reused: the start time is in clock ticks since boot."""

    pid: int
    start_time: int

    def __lt__(self, other: ProcessId) -> bool:
        return (self.pid, self.start_time) < (other.pid, other.start_time)


def all_pids() -> list[int]:
    """Return the pids of our namespace."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def own_ancestors() -> list[int]:
    """Return the ancestors of this process, nearest first, up to the boundary of our pid namespace."""
    return ancestors_of(os.getpid())


def ancestors_of(process: int) -> list[int]:
    """Return the ancestors of a process, nearest first, up to the boundary of our pid namespace."""
    found: list[int] = []
    pid = parent_of(process)
    while pid and pid not in found:
        found.append(pid)
        pid = parent_of(pid)
    return found


def process_start_time(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot; None if there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[_START_TIME]) if fields else None


def parent_of(pid: int) -> int | None:
    """Return the parent's pid (0 if it is outside our pid namespace); None if there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[_PARENT]) if fields else None


def is_zombie(pid: int) -> bool:
    """Say whether a process has ended; one that cannot be found has."""
    fields = _stat_fields(pid)
    return not fields or fields[_STATE] in {b"Z", b"X"}


def is_running(process: ProcessId) -> bool:
    """Say whether this process still has the pid, and has not ended."""
    return identify(process.pid) == process and not is_zombie(process.pid)


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped (SIGSTOP, Ctrl-Z), or held by a debugger."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[_STATE] in {b"T", b"t"}


def resident_bytes(pid: int) -> int:
    """Return the memory of a process, including shared memory; 0 if it is gone."""
    fields = _stat_fields(pid)
    return int(fields[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def cpu_ticks(pid: int) -> int:
    """Return the CPU time of a process and its reaped children, in clock ticks; 0 if it is gone."""
    fields = _stat_fields(pid)
    return sum(map(int, fields[_TIMES])) if fields else 0


def identify(pid: int) -> ProcessId | None:
    """Return the process that has this pid now."""
    start_time = process_start_time(pid)
    return None if start_time is None else ProcessId(pid, start_time)


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd of a process; None if there are none: gVisor, a seccomp filter, no free descriptor.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def send_signal(process: ProcessId, number: int) -> bool:
    """Signal exactly this process, through a pidfd; return whether it exists and may be signalled.

    The identity must come from this boot and this pid namespace. Without pidfds, its pid is used: then it
    could only hit another process if the pid was reused in the moment since the start time was compared.
    """
    pidfd = None
    try:
        pidfd = open_pidfd(process.pid)
        if process_start_time(process.pid) != process.start_time:  # checked with the pidfd open: no reuse in between
            return False
        if pidfd is None or not _send_through(pidfd, number):
            os.kill(process.pid, number)
    except OSError:
        return False  # it ended, or belongs to another user
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def _send_through(pidfd: int, number: int) -> bool:
    """Signal a process; return False if the kernel, or a filter, does not have the call."""
    from signal import pidfd_send_signal  # noqa: PLC0415  # readers, which inspect processes too, send none

    try:
        pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise
    except OSError:
        return False
    return True


def command_of(pid: int) -> str:
    """Return the command line a process was started with; empty if it is gone, or a kernel thread."""
    return b" ".join(_words(pid, "cmdline")).decode(errors="replace").strip()


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty if it is gone, or not readable."""
    pairs = (os.fsdecode(entry).partition("=") for entry in _words(pid, "environ"))
    return {name: value for name, found, value in pairs if found}


def boot_id() -> str:
    """Return the kernel's id of this boot; containers on one kernel share it. Empty if /proc is hidden."""
    return _first_text("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Return the machine's id; empty if there is none."""
    return _first_text("/etc/machine-id")


def random_uuid() -> str:
    """Return a fresh UUIDv4: the kernel's, if /proc shows it."""
    made = _first_text("/proc/sys/kernel/random/uuid")
    if not made:
        from uuid import uuid4  # noqa: PLC0415  # takes longer to load than this whole module

        made = str(uuid4())
    return made


def pid_namespace() -> int:
    """Return the id of our pid namespace; 0 if /proc is hidden."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _stat_fields(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except OSError:
        return []


def _words(pid: int, name: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _first_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
