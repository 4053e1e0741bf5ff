"""The command of `--on-finish`: run when a turn has ended, its records are written and its session is free again.

Nothing limits it except the time limit that was asked for. Everything it needs is loaded before the turn begins.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from csa.model.result import RunResult
from csa.process.wakeup import heeded
from csa.structs import Struct

TERM_GRACE_S = 2.0
_SHOWN = 200
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class FollowUp(Struct):
    """A shell command to run when a turn has ended, and its time limit; None: no limit."""

    command: str
    timeout_s: float | None = None


def run_on_finish(
    follow_up: FollowUp, result: RunResult, *, environ: Mapping[str, str], directory: str, output: int = 2
) -> list[str]:
    """Run the command, with the result as JSON on its stdin; return what went wrong, nothing when it succeeded.

    It runs as the user who asked for the turn, outside the session that has ended: `CSA_FINISHED_SESSION`, `_TURN`,
    `_TOOL`, `_STATUS` and `_EXIT_CODE` name that. It starts in `directory`, or if that is gone in the home
    directory. Its output goes to the descriptor `output`. After its time limit it gets TERM, and KILL two seconds
    later. Only for the main thread: a signal that would end us ends the command first.

    Raises:
        SystemExit: such a signal came; the command has ended.
    """
    facts = {
        "SESSION": result.session_id,
        "TURN": str(result.turn),
        "TOOL": result.tool,
        "STATUS": result.status,
        "EXIT_CODE": str(result.exit_code),
    }
    variables = {**environ, **{f"CSA_FINISHED_{name}": value for name, value in facts.items()}}
    place, problems = _existing(directory, environ)
    variables["PWD"] = place
    named = f"--on-finish: {follow_up.command[:_SHOWN]}"
    with _Signals() as signals:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", follow_up.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=variables,
                cwd=place,
                start_new_session=True,
            )
        except OSError as error:
            return [*problems, f"{named}: {error.strerror}"]
        signals.pass_to(process)
        said = json.dumps(result.to_json()).encode() + b"\n"
        if not _attend(process, said, follow_up.timeout_s):
            problems.append(f"{named}: it took longer than {follow_up.timeout_s:g} s and was killed")
        elif process.returncode:
            problems.append(f"{named}: it exited with code {process.returncode}")
    return problems


def _existing(directory: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return where the command can start, and a warning if that is not the requested directory."""
    places = [directory, environ.get("HOME", ""), "/"]
    found = next(place for place in places if os.path.isdir(place) and os.access(place, os.X_OK))
    return found, [] if found == directory else [f"--on-finish: {directory} is gone; running in {found}"]


def _attend(process: subprocess.Popen[bytes], said: bytes, timeout_s: float | None) -> bool:
    """Wait for the end; return whether it came in time, and otherwise enforce it."""
    try:
        process.communicate(said, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=TERM_GRACE_S)
        _signal_group(process, signal.SIGKILL)
        process.communicate()
        return False
    return True


class _Signals:
    """Makes a signal that would end us end the command, by TERM, then by KILL; then we exit with the signal's code."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in heeded(_ENDING)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._came:
            raise SystemExit(128 + self._came[0])

    def pass_to(self, process: subprocess.Popen[bytes]) -> None:
        """Set the command; signals that came before are passed on now."""
        self._process = process
        if self._came:
            _signal_group(process, signal.SIGTERM)

    def _take(self, number: int, _frame: object) -> None:
        if self._process:
            _signal_group(self._process, signal.SIGKILL if self._came else signal.SIGTERM)
        self._came.append(number)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(OSError):  # it may just have ended
        os.killpg(process.pid, number)
