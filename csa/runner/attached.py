"""Starting a turn in a process of its own that ends with its caller: for servers of editors and agents.

The supervisor is that of detached turns (`csa/runner/detach.py`), and a child of the caller, which has the write end of
its stdin. The kernel closes that when the caller ends, however it does, and the turn then ends as cancelled. It is
close-on-exec, so that no other child of the caller keeps the turn alive; one that is forked without exec would.

A turn on another host has its supervisor there, and here a process that stays in touch (`csa/runner/placed.py`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from csa.errors import CsaError, UsageError
from csa.model.limits import Budget
from csa.runner.context import Context
from csa.runner.detach import (
    error_from_json,
    give_order,
    order_line,
    place_of,
    read_answer,
    request_to_json,
    spawn_supervisor,
)
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.store.inherited import without_descriptors, without_repository
from csa.store.mirrors import mirror_for
from csa.store.sessions import Store, Target
from csa.structs import asdict

_PLACED = ("-P", "-m", "csa.runner.placed")


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


class Placed(Attached):
    """A turn on another host. Its process here ends when its end can be seen here, and its commits are here.

    Attributes:
        host: where it runs. `project` is the project's directory there, and `pid` that of the process here.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: dict[str, Any], tell: Callable[[str], None]) -> None:
        """Take a process that has begun the turn it tells of; what else it says is told in a thread."""
        super().__init__(process, said, said["project"])
        self.host: str = said["host"]
        self._failure: CsaError | None = None
        self._hearer = threading.Thread(target=self._hear, args=(tell,), daemon=True)
        self._hearer.start()

    def target(self, root: str) -> Target:
        """Return where its session is seen, or will be in a moment: in the mirror of its host in a state root."""
        return Store(mirror_for(root, self.host).pathname, self.project), self.session_id

    def failure(self) -> CsaError | None:
        """Return why its end was not seen, or its commits have not come; None if all is well. It must have ended."""
        self._hearer.join()
        return self._failure

    def _hear(self, tell: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as rest:
            for line in rest:
                said = json.loads(line) if line.endswith(b"\n") else {}  # it may have been killed
                if "error" in said:
                    self._failure = error_from_json(said["error"])
                elif "said" in said:
                    tell(said["said"])


def start_placed(
    context: Context,
    request: RunRequest,
    *,
    host: str | None,
    wait_s: float | None = None,
    allowance: Budget | None = None,
    parts: int = 1,
    queue_s: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Placed:
    """Start the turn on another host, and return when it has begun there. It ends when this process does.

    Args:
        context: where, and by whom, it is asked for; the code around its directory goes along with a new session.
        request: as for `csa run --on`; a session is named `HOST:SELECTOR`, or has its full id.
        host: as `--on`: a host, a scheduler, or `SCHEDULER:NODE`. None: as the session is named.
        wait_s: as for `start_detached`.
        allowance: what a session may use there.
        parts: where a budget above has a limit of which the allowance says nothing, a new session gets one of so many
            equal parts of it.
        queue_s: how long it may wait in the queue of a scheduler; None is as long as it takes.
        tell: gets what it waits for, what does not go along, and later what becomes of the connection, in a thread.

    Raises as `find_where`, `reserve` and `Tether.begin`, each as CsaError with their codes; of what another host is not
    given UsageError.
    """
    from csa.runner.hosts.placing import for_elsewhere  # noqa: PLC0415  # few turns are on other hosts

    order = {
        "request": request_to_json(for_elsewhere(context, request)),
        "host": host,
        **place_of(context),
        "wait_s": wait_s,
        "allowance": asdict(allowance or Budget()),
        "parts": parts,
        "queue_s": queue_s,
    }
    environ = without_repository(without_descriptors(context.environ))
    process = subprocess.Popen(
        [sys.executable, *_PLACED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr else subprocess.DEVNULL,
        env=environ,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died, and an answer will be missing
            process.stdin.write(order_line(order))
            process.stdin.flush()
        return Placed(process, _begun(process, tell), tell)
    except BaseException:
        with suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        threading.Thread(target=process.wait, daemon=True).start()
        raise


def _begun(process: subprocess.Popen[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what is said of the turn that has begun; raises why none has."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            process.wait()
            raise error_from_json(said["error"])
        if "session_id" in said:
            return said
        tell(said["said"])
    raise CsaError(f"The process for the turn ended at once, with code {process.wait()}.", hint="csa doctor")


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
