"""Processes that runs have left: they carry a session in their environment whose lock is free."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from csa.process.tagged import look_at
from csa.procfs import ProcessId, identify, is_zombie, parent_of, process_start_time, send_signal
from csa.runner.store_checks import _leftovers

_REAP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process of a session that has ended."""

    process: ProcessId
    session_id: str
    command: str


def find_orphans(root: Path) -> list[Orphan]:
    """Find what is left of any session below the state root. Only looks; this process and those above it are spared."""
    above = _own_ancestors()
    found = []
    for tagged in _leftovers(root):
        process = identify(tagged.pid)
        # Asked again with the start time in hand: else it might be of another process that got the pid.
        if process and process.pid not in above and look_at(process.pid) == tagged:
            found.append(Orphan(process, tagged.session_dir.name, tagged.command))
    return found


def end_orphans(orphans: Iterable[Orphan]) -> list[Orphan]:
    """Kill exactly these, and wait until they are gone; return those that would not go."""
    waiting = list(orphans)
    for orphan in waiting:
        send_signal(orphan.process, signal.SIGKILL)
    end = time.monotonic() + _REAP_LIMIT_S
    while (waiting := [orphan for orphan in waiting if _is_there(orphan.process)]) and time.monotonic() < end:
        time.sleep(0.01)
    return waiting


def _is_there(process: ProcessId) -> bool:
    return process_start_time(process.pid) == process.start_time and not is_zombie(process.pid)


def _own_ancestors() -> set[int]:
    above, pid = {os.getpid()}, os.getppid()
    while pid and pid not in above:
        above.add(pid)
        pid = parent_of(pid) or 0
    return above
