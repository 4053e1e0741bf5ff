"""Processes that runs have left: found by two marks, and ended only when it is certain whose they are.

The marks are the session's variables in a process's environment, and the journal of processes in its heartbeat. Both
count only while the session's lock is free: a live session, including a turn whose guardian is still sweeping,
is left alone. So are processes started with --keep-background, supervisors, what those have started for --on-finish,
and all ancestors of this process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from csa.ids import is_session_id
from csa.paths import SessionPaths
from csa.process.guardian import GRACE_S
from csa.process.session_processes import SessionProcess, session_processes
from csa.procfs import ProcessId, ancestors_of, command_of, is_running, own_ancestors, send_signal
from csa.store.heartbeat import journalled_processes
from csa.store.liveness import probe

REAP_LIMIT_S = 5.0


def find_leftovers(root: Path, sessions: Iterable[SessionPaths] = ()) -> list[SessionProcess]:
    """Find leftovers of any session in the state root, and of `sessions` also by their journals. Only reads."""
    spared, kept, supervisors = {os.getpid(), *own_ancestors()}, set[ProcessId](), set[int]()
    found: dict[ProcessId, SessionProcess] = {}
    for item in session_processes():
        if item.is_supervisor:
            supervisors.add(item.pid)
            kept.add(item.process)
        elif item.is_kept:
            kept.add(item.process)
        elif item.pid not in spared and _is_session_of(root, item.session_dir):
            found[item.process] = item
    for paths in sessions:
        for process in journalled_processes(paths):
            if process.pid not in spared and process not in kept:
                found.setdefault(process, SessionProcess(process, paths.root, command_of(process.pid)))
    # A turn that ends in between takes its processes with it: only those that still exist were left.
    left = (item for item in found.values() if _is_left(item) and supervisors.isdisjoint(ancestors_of(item.pid)))
    return sorted(left, key=lambda item: item.process)


def leftovers_of(held: SessionPaths) -> list[SessionProcess]:
    """Find leftovers of earlier turns of a session whose lock the caller holds, before it starts anything."""
    spared = {os.getpid(), *own_ancestors()}
    ours = [item for item in session_processes() if item.session_dir == held.root or item.is_supervisor]
    marked = {item.process: item.is_kept or item.is_supervisor for item in ours}
    wanted = [process for process, kept in marked.items() if not kept]
    wanted += [process for process in journalled_processes(held) if process not in marked]
    return [
        SessionProcess(process, held.root, command_of(process.pid))
        for process in wanted
        if process.pid not in spared and is_running(process)
    ]


def reap(leftovers: Iterable[SessionProcess], *, limit_s: float = REAP_LIMIT_S) -> list[SessionProcess]:
    """End leftovers, each by its verified identity: TERM, a second, KILL; return those that did not end."""
    waiting = _tell(list(leftovers), (signal.SIGTERM, signal.SIGCONT), GRACE_S)
    return _tell(waiting, (signal.SIGKILL,), limit_s)


def _tell(leftovers: list[SessionProcess], numbers: Iterable[int], patience_s: float) -> list[SessionProcess]:
    """Send these signals, and wait until all are gone or the time is up; return the remaining ones."""
    for number in numbers:
        for item in leftovers:
            send_signal(item.process, number)
    end = time.monotonic() + patience_s
    while (waiting := [item for item in leftovers if is_running(item.process)]) and time.monotonic() < end:
        time.sleep(0.01)
    return waiting


def describe(leftovers: Iterable[SessionProcess], *, shown: int = 5) -> str:
    """Name pids and commands, the first few of them."""
    items = list(leftovers)
    words = [f"{item.pid} {item.command[:60] or '?'}" for item in items[:shown]]
    return ", ".join([*words, *([f"and {len(items) - shown} more"] if len(items) > shown else [])])


def _is_session_of(root: Path, place: Path) -> bool:
    return is_session_id(place.name) and place.is_absolute() and place.resolve().is_relative_to(root)


def _is_left(item: SessionProcess) -> bool:
    return probe(SessionPaths(item.session_dir)).state == "not_alive" and is_running(item.process)
