"""A stand-in for the other implementation of the format: a process that works in a session as that program does.

It holds flock(2) on locks/<tool>.lock for a whole turn, says there who it is, and leaves that when it ends. Run by
itself it is that program: `ready` when it has the lock, then a line of JSON from stdin says how the turn ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Turn:
    """A turn of the other program that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, **ending: Any) -> None:
        """Have it end: `summary` (output/summary.md), `result` (keys of result.toml), `state` (text of state.toml)."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(ending) + "\n")
        self._process.stdin.close()
        assert self._process.wait(20) == 0


@contextmanager
def stranger(session: Path, tool: str = "codex") -> Iterator[Turn]:
    """Have the other program work in a session."""
    command = [sys.executable, "-I", "-S", __file__, str(session), tool]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield Turn(process)
        finally:
            if not process.stdin.closed:
                process.kill()


def result_toml(**changes: Any) -> str:
    """Return a result.toml as that program writes it."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    keys = {"status": "success", "exit_code": 0, "summary": "All done", "tool": "codex", "started_at": now}
    return _toml({**keys, "completed_at": now, **changes})


def _toml(keys: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items() if value is not None)


def main(session: Path, tool: str) -> None:
    began = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    (session / "locks").mkdir(exist_ok=True)
    fd = os.open(session / "locks" / f"{tool}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    record = {"pid": os.getpid(), "tool_name": tool, "acquired_at": began, "reason": "run"}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(record).encode(), 0)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ending = json.loads(sys.stdin.readline())
    (session / "output").mkdir(exist_ok=True)
    if "summary" in ending:
        (session / "output" / "summary.md").write_text(ending["summary"])
    if "state" in ending:
        (session / "state.toml").write_text(ending["state"])
    if "result" in ending:
        (session / "result.toml").write_text(result_toml(**{"started_at": began, "tool": tool, **ending["result"]}))
    fcntl.flock(fd, fcntl.LOCK_UN)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
