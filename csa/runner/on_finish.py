"""The command of `--on-finish`: run when a turn has ended, its records are written and its session is free again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from csa.model.result import RunResult

LIMIT_S = 60.0
_SHOWN = 200


def run_on_finish(
    command: str, result: RunResult, *, environ: Mapping[str, str], directory: str, output: int = 2
) -> str | None:
    """Run a shell command line, with the result as JSON on its stdin; return what went wrong, None when it succeeded.

    It runs as whoever asked for the turn, and not inside the session that has ended: `CSA_FINISHED_SESSION`, `_TURN`,
    `_TOOL`, `_STATUS` and `_EXIT_CODE` name that. What it prints goes to the descriptor `output`. After 60 s it is
    killed.
    """
    facts = {
        "SESSION": result.session_id,
        "TURN": str(result.turn),
        "TOOL": result.tool,
        "STATUS": result.status,
        "EXIT_CODE": str(result.exit_code),
    }
    variables = {**environ, **{f"CSA_FINISHED_{name}": value for name, value in facts.items()}}
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
    try:
        process.communicate(json.dumps(result.to_json()).encode() + b"\n", timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"--on-finish: {command[:_SHOWN]}: it took longer than {LIMIT_S:g} s, and was killed"
    if process.returncode:
        return f"--on-finish: {command[:_SHOWN]}: it exited with code {process.returncode}"
    return None
