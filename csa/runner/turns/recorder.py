"""What both a turn and a compaction write while the tool runs: events, output logs, the heartbeat.

What cannot be written meanwhile never fails them; the losses are counted and reported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csa.model.adapter import ToolExit, Update
from csa.model.events import Event
from csa.model.limits import spent_by_turn
from csa.model.redaction import Redactor
from csa.paths import SessionPaths
from csa.process.logs import OutputLog
from csa.procfs import ProcessId
from csa.runner.turns.edits import apply_edits
from csa.runner.turns.meter import Meter
from csa.store.atomic import read_regular
from csa.store.held import HeldSession
from csa.store.unfinished import Unfinished, read_unfinished


class Recorder:
    """The writing side of work in a session that is held."""

    def __init__(self, held: HeldSession) -> None:
        self.held = held
        self.journal = held.journal
        self.meter = Meter()
        self.stdout_log: OutputLog
        self.stderr_log: OutputLog
        self._logs: tuple[OutputLog, ...] = ()

    @property
    def paths(self) -> SessionPaths:
        return self.held.paths

    @property
    def losses(self) -> list[str]:
        """What could not be written, over all turns of a run; complete when the session is closed."""
        return self.held.losses

    def append(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Record an event; return it as recorded."""
        return self.held.append(kind, data)

    def record(self, updates: list[Update]) -> list[Event]:
        """Record what the adapter made of the tool's output."""
        return self.journal.extend(
            (update.type, self.meter.note(update.data) if update.type == "usage" else update.data) for update in updates
        )

    def beat(self, processes: Sequence[ProcessId] = ()) -> None:
        """Touch the heartbeat, for readers on other machines, and note the current processes of the work."""
        self.held.beat(processes)

    def is_ours(self) -> bool:
        """Say whether the session's lock is still ours; once it is not, nothing more is written there."""
        if self.held.is_ours():
            return True
        for log in self._logs:
            log.seal()
        return False

    def cancellation(self) -> str | None:
        """Return who asks for the end (the `cancel` file's first line); None if nobody does."""
        return read_cancellation(self.paths, self.held.redactor)

    def apply_edits(self) -> list[Event]:
        """Rename, describe and pin the session as others ask; return the events, as recorded."""
        return apply_edits(self.held)

    def open_logs(self, directory: Path) -> None:
        """Begin the output logs, once the session is in its final place."""
        self.stdout_log = OutputLog(directory / "stdout.log", self.held.redactor)
        self.stderr_log = OutputLog(directory / "stderr.log", self.held.redactor)
        self._logs = (self.stdout_log, self.stderr_log)

    def end_process(self, end: ToolExit) -> dict[str, Any]:
        """Return how a process of the tool ended, and where its output ends in the logs: another one will follow."""
        return {
            "exit_code": end.code,
            "signal": end.signal,
            "stdout_bytes": self.stdout_log.flush(),
            "stderr_bytes": self.stderr_log.flush(),
        }

    def close_logs(self) -> None:
        """End them, if they have begun."""
        for log in self._logs:
            with self.held.losing("a log"):
                log.close()
            if log.fault:
                self.losses.append(f"a log is incomplete: {log.fault.strerror}")


def read_cancellation(paths: SessionPaths, redactor: Redactor) -> str | None:
    """Return the first line of the `cancel` file; None when there is none, or nobody can tell."""
    try:
        words = read_regular(paths.cancel).decode("utf-8", "replace")
    except OSError:
        if not os.path.lexists(paths.cancel):
            return None
        words = ""
    return redactor.redact(words).strip().partition("\n")[0][:200]


def end_lost_compaction(held: HeldSession) -> Unfinished:
    """Append the end of a compaction whose supervisor died before writing it; its usage counts in `held.state`.

    Return what had no end.
    """
    unfinished = read_unfinished(held.paths.transcript)
    if (lost := unfinished.compaction) is None:
        return unfinished
    data = {"status": "lost", "tool": lost.started.data.get("tool") if lost.started else None, "proof": None}
    data |= {"usage": lost.usage.to_dict() if lost.usage else None}
    data |= {"error": {"kind": "internal", "message": "the supervisor ended without writing a result"}}
    held.append("compaction", data)
    held.state = held.state.having_spent(spent_by_turn(lost.usage, 0.0))
    return unfinished
