"""The `heartbeat` file: touched while a turn runs, so that other machines see it live; and a journal of its processes.

    host name
    boot id, pid namespace
    pid, start time          one line a process that the turn had at the last beat

It is written in place, so a reader may see a part: a truncated line names no existing process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from csa.paths import SessionPaths
from csa.procfs import ProcessId, boot_id, pid_namespace

_MAX_BYTES = 1 << 20


def render_heartbeat(processes: Sequence[ProcessId]) -> bytes:
    """Return the file's content."""
    lines = [os.uname().nodename, f"{boot_id()} {pid_namespace()}", *(f"{p.pid} {p.start_time}" for p in processes)]
    return "\n".join([*lines, ""]).encode()


def journalled_processes(paths: SessionPaths) -> list[ProcessId]:
    """Return the processes of the last beat; none if their pids mean nothing here (another boot or namespace)."""
    try:
        fd = os.open(f"{paths.root}/heartbeat", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # gc asks for each session
        try:
            _, place, *lines = os.read(fd, _MAX_BYTES).decode(errors="replace").split("\n")
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return []
    if place != f"{boot_id()} {pid_namespace()}":
        return []
    pairs = (line.split() for line in lines[:-1])
    return [ProcessId(int(p[0]), int(p[1])) for p in pairs if len(p) == 2 and all(map(str.isdigit, p))]  # noqa: PLR2004
