"""Processes with a session's variables in their environment: those its tools have started, and their descendants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from csa.procfs import ProcessId, all_pids, command_of, environment_of, identify
from csa.structs import Struct

KEEP_VARIABLE = "CSA_KEEP_BACKGROUND"  # set for a turn whose leftovers must live on
SUPERVISOR = ("-P", "-m", "csa.runner.supervisor")  # how the process of a detached turn is started


class SessionProcess(Struct):
    """A process, and the directory of the session that it belongs to."""

    process: ProcessId
    session_dir: Path
    command: str
    is_kept: bool = False  # it was started in a turn with --keep-background
    is_supervisor: bool = False  # which may wait for its turn, or run --on-finish, while the session is free

    @property
    def pid(self) -> int:
        return self.process.pid


def session_processes() -> Iterator[SessionProcess]:
    """Yield the processes with a CSA_SESSION_DIR that may be inspected; not this one, and no zombies."""
    for pid in all_pids():
        process, variables = identify(pid), environment_of(pid)
        if process is not None and pid != os.getpid() and (directory := variables.get("CSA_SESSION_DIR")) is not None:
            command = command_of(pid)
            is_supervisor = command.endswith(" ".join(SUPERVISOR))
            yield SessionProcess(process, Path(directory), command, KEEP_VARIABLE in variables, is_supervisor)
