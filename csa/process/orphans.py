"""What a killed guardian leaves: csa, a subreaper, adopts it, and has to tell it from strangers.

A process adopts only its own descendants, except PID 1, which adopts everybody's orphans. So a csa that had no other
child when it started the guardian, and is not PID 1, has adopted only the run's. Otherwise (`exec csa` in a shell
that has started something, say) the run's processes are those with the session's directory in their environment, and
their descendants; the rest is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from csa.process import guardian
from csa.process.launch import guardians_at_work
from csa.procfs import ProcessId, environment_of, identify


def sweep_orphans(session_dir: str | None, others: Collection[int]) -> int:
    """Kill and reap what a run has left to this process; return how many, -1 if some did not die.

    `others` are the children that this process had before the run; as it reaps none of them, their pids are theirs.
    """
    return guardian.sweep(_finder(session_dir, others))


def _finder(session_dir: str | None, others: Collection[int]) -> Callable[[], list[int]]:
    spared = {*others, *guardians_at_work}
    is_alone = not others and os.getpid() != 1
    known = set[ProcessId]()

    def find() -> list[int]:
        adopted = [pid for pid in guardian.own_children_of(os.getpid()) if pid not in spared]
        if is_alone:
            return adopted
        found = [pid for pid in adopted if identify(pid) in known or _is_tagged(pid, session_dir)]
        tree = [identify(each) for pid in found for each in (pid, *guardian.descendants_of(pid))]
        known.update(each for each in tree if each)
        return found

    return find


def _is_tagged(pid: int, session_dir: str | None) -> bool:
    return session_dir is not None and environment_of(pid).get("CSA_SESSION_DIR") == session_dir
