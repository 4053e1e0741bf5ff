"""Starting a turn in a process of its own that ends with its caller: for servers of editors and agents.

The supervisor is that of detached turns (`csa/runner/detach.py`), and a child of the caller, which has the write end of
its stdin. The kernel closes that when the caller ends, however it does, and the turn then ends as cancelled. It is
close-on-exec, so that no other child of the caller keeps the turn alive; one that is forked without exec would.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import weakref
from contextlib import suppress
from typing import Any

from csa.errors import UsageError
from csa.runner.context import Context
from csa.runner.detach import give_order, order_line, read_answer, spawn_supervisor
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest


class Attached:
    """A turn whose supervisor is a child of this process. The child is reaped, whether or not anybody waits for it.

    Attributes:
        session_id: the session's ULID.
        turn: the number of the turn.
        tool: which tool runs it.
        pid: of its supervisor.
        project: the project's directory.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: dict[str, Any], project: str) -> None:
        """Take a supervisor that has begun the turn it tells of."""
        self.session_id: str = said["session_id"]
        self.turn: int = said["turn"]
        self.tool: str = said["tool"]
        self.pid, self.project = process.pid, project
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        weakref.finalize(self, os.close, self._pidfd)
        self._reaper = threading.Thread(target=self._reap, daemon=True)  # which also keeps the caller's end open
        self._reaper.start()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the supervisor has ended: for select, or an event loop."""
        return self._pidfd

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Block until the supervisor has ended and return its exit code, that of the last turn; None: not in time."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        self._reaper.join()
        return self._process.returncode

    def end(self) -> None:
        """Have the turn end as cancelled, as if this process had ended. Returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _reap(self) -> None:
        self._process.wait()
        self.end()


def start_attached(
    context: Context, request: RunRequest, *, wait_s: float | None = None, on_finish: FollowUp | None = None
) -> Attached:
    """Start the turn and return when its session can be found by any process. It ends when this process does.

    Prompts that are queued for the session follow under the same supervisor, while this process lives; what still
    waits then is held. `wait_s` and `on_finish` are as for `start_detached`. It may be called in any thread.

    Raises as `plan_turn` and entering a turn do, and:
        UsageError: an ephemeral session would be gone before anyone could look at it.
    """
    if request.ephemeral:
        raise UsageError("An attached turn cannot be ephemeral: nobody would see the answer.")
    return give_order(context, request, _start, wait_s=wait_s, on_finish=on_finish)


def _start(order: dict[str, Any], environ: dict[str, str], project: str) -> Attached:
    process = spawn_supervisor(environ, subprocess.PIPE)
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it died, and an answer will be missing
            process.stdin.write(order_line({**order, "attached": True}))
            process.stdin.flush()
        said = read_answer(process)
    except BaseException:
        with suppress(BrokenPipeError):
            process.stdin.close()
        raise
    return Attached(process, said, project)
