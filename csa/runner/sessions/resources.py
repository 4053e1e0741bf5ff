"""What the process tree of a running turn uses. Known only for turns in our own pid namespace and boot."""

from __future__ import annotations

import os
from collections.abc import Sequence

from csa.process.guardian import descendants_of
from csa.procfs import ProcessId, cpu_ticks, identify, resident_bytes
from csa.structs import Struct


class Resources(Struct):
    """Processes, their CPU time (including that of reaped children), and their memory."""

    processes: int
    cpu_s: float
    resident_bytes: int


def measure_trees(roots: Sequence[ProcessId]) -> Resources | None:
    """Add up some processes and all their descendants; None if none of them exists any more."""
    living = [root.pid for root in roots if identify(root.pid) == root]
    pids = {pid for root in living for pid in (root, *descendants_of(root))}
    if not pids:
        return None
    ticks = sum(map(cpu_ticks, pids))
    return Resources(len(pids), ticks / os.sysconf("SC_CLK_TCK"), sum(map(resident_bytes, pids)))
