"""The command of `--on-finish`: run when a turn has ended, its records are written and its session is free again."""

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

LIMIT_S = 60.0
_SHOWN = 200
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_on_finish(
    command: str, result: RunResult, *, environ: Mapping[str, str], directory: str, output: int = 2
) -> str | None:
    """Run a shell command line, with the result as JSON on its stdin; return what went wrong, None when it succeeded.

    It runs as whoever asked for the turn, and not inside the session that has ended: `CSA_FINISHED_SESSION`, `_TURN`,
    `_TOOL`, `_STATUS` and `_EXIT_CODE` name that. What it prints goes to the descriptor `output`. After 60 s it is
    killed. Only for the main thread: a signal that would end us ends the command first.

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
    with _Signals() as signals:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=variables,
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            return f"--on-finish: {command[:_SHOWN]}: {error.strerror}"
        signals.pass_to(process)
        try:
            process.communicate(json.dumps(result.to_json()).encode() + b"\n", timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.communicate()
            return f"--on-finish: {command[:_SHOWN]}: it took longer than {LIMIT_S:g} s, and was killed"
    if process.returncode:
        return f"--on-finish: {command[:_SHOWN]}: it exited with code {process.returncode}"
    return None


class _Signals:
    """Has a signal that would end us end the command, by TERM, and by KILL the next time; then we exit as it says."""

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
        """Say which command it is; what has come before is passed on now."""
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
