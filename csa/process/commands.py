"""Commands in an agent's shells, which are ended before the tool.

A tool that is told to end may just kill them, and a killed git leaves its lock files in the user's repository.

Shells differ from the tool's own processes by having a process session (setsid) of their own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from csa.process import guardian
from csa.procfs import ProcessId, identify, is_running, send_signal
from csa.structs import Struct

GRACE_S = 0.3  # a git that is asked to end removes its lock files in a few milliseconds
POLL_S = 0.005


class CommandsEnding(Struct):
    """Commands that were asked to end, and the tool's own processes, which may be stopped meanwhile."""

    commands: list[ProcessId]
    own: list[ProcessId]

    def is_pending(self) -> bool:
        """Say whether any of the commands is still running."""
        return any(map(is_running, self.commands))

    def end_tool(self, tool: int) -> bool:
        """Send TERM to the tool, then continue it; return whether it could be sent."""
        told = [send_signal(process, signal.SIGTERM) for process in self.own if process.pid == tool]
        _signal_all(self.own, signal.SIGCONT)
        return any(told)


def ask_to_end(guardian_pid: int, session: int, *, stop_tool: bool) -> CommandsEnding:
    """Send TERM to processes outside the tool's process session; a stopped tool does not continue its turn."""
    found: tuple[list[ProcessId], list[ProcessId]] = ([], [])
    for pid, _ in guardian.askable(guardian.own_children_of(guardian_pid)):
        its_session, process = _session_of(pid), identify(pid)
        if its_session is not None and process is not None:
            found[its_session != session].append(process)
    own, commands = found
    if commands and stop_tool:
        _signal_all(own, signal.SIGSTOP)
    _signal_all(commands, signal.SIGTERM)
    _signal_all(commands, signal.SIGCONT)  # a stopped process could not obey
    return CommandsEnding(commands, own)


def _signal_all(processes: Iterable[ProcessId], number: int) -> None:
    for process in processes:
        send_signal(process, number)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None  # it ended while we looked
