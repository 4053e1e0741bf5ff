"""Where answers to what a running agent asks come in: a socket in the turn's directory, served by the turn's process.

The kernel says which process has connected. An agent's is refused, and so is one below any session: an agent must not
allow itself, or another, anything. The first answer counts (`put_answer`); where none comes in time, it is a denial.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from csa.model.events import Event
from csa.model.permission import asked_for
from csa.ownership import give_to_owner, make_directory
from csa.procfs import ProcessId, is_running, process_start_time
from csa.runner.ancestry import identity_of
from csa.runner.turns.asking import MAX_BYTES, SOCKET, put_answer
from csa.runner.turns.recorder import Recorder
from csa.runner.turns.runfiles import run_directory
from csa.runner.turns.stopping import Stopping

_REQUEST_S = 2.0
_BACKLOG = 16
_TITLE = 200  # characters
_PEER = struct.Struct("3i")  # struct ucred


class AskDesk:
    """The open requests of one process of the tool."""

    def __init__(self, token: str, recorder: Recorder, stopping: Stopping, *, limit_s: float | None) -> None:
        self._token = token
        self._recorder = recorder
        self._stopping = stopping
        self._limit_s = math.inf if limit_s is None else limit_s
        self._open: dict[str, tuple[str, float]] = {}  # what is asked, and until when an answer counts
        self._changed = anyio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether the agent waits for a person."""
        return bool(self._open)

    def note(self, events: list[Event]) -> None:
        """Take notice of what was recorded."""
        for event in events:
            if event.type != "permission" or not (ask := event.data.get("ask")):
                continue
            if event.data.get("status") == "pending":
                self._open[ask] = " ".join(asked_for(event.data).split())[:_TITLE], time.monotonic() + self._limit_s
            else:
                self._open.pop(ask, None)
            self._show()

    async def serve(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Take answers until cancelled."""
        try:
            listener = self._listen()
        except OSError as error:
            self._recorder.losses.append(f"nobody can answer what the agent asks: {error.strerror}")
            listener = None
        task_status.started()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_time)
                while listener:
                    await anyio.wait_readable(listener)
                    with suppress(OSError):
                        connection, _ = listener.accept()
                        tasks.start_soon(self._attend, connection)
        finally:
            if listener:
                listener.close()
            self._open.clear()
            self._show()

    def _listen(self) -> socket.socket:
        """Listen in the turn's directory, whose path may be too long for an address."""
        directory = run_directory(self._recorder.paths)
        make_directory(directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{fd}/{SOCKET}"
            with suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
            give_to_owner(directory / SOCKET)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(fd)
        return listener

    async def _attend(self, connection: socket.socket) -> None:
        """Read one request and answer it."""
        with connection, suppress(OSError):
            connection.setblocking(False)  # the standard library's
            received = b""
            with anyio.move_on_after(_REQUEST_S):
                while not received.endswith(b"\n") and len(received) < MAX_BYTES:
                    await anyio.wait_readable(connection)
                    if not (part := connection.recv(MAX_BYTES)):
                        return
                    received += part
            said = self._refusal(connection) or self._decide(received)
            connection.send(json.dumps(said).encode() + b"\n")

    def _refusal(self, connection: socket.socket) -> dict[str, Any] | None:
        """Return why the process at the other end may not answer; None if it may, and waits for that."""
        pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        began = process_start_time(pid) if pid else None
        words = ""
        if uid != os.geteuid():
            words = "only the user whose agent it is can answer"
        elif began is None or identity_of(pid) or not is_running(ProcessId(pid, began)):
            words = "an agent cannot answer what an agent asks"
        elif not _is_open(connection):
            words = "nobody waits for this any more"
        return {"error": "refused", "message": words} if words else None

    def _decide(self, received: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(received)
            ask, allow, via = str(asked["ask"]), asked["allow"] is True, str(asked["via"])
        except (ValueError, KeyError, TypeError):
            return {"error": "refused", "message": "the request is not understood"}
        title, until = self._open.get(ask, ("", 0.0))
        in_time = self._stopping.stop is None and time.monotonic() < until
        if not (in_time and self._put(ask, allow=allow, by=f"user {via}")):
            return {"error": "settled", "message": ""}
        return {"title": title}

    def _put(self, ask: str, *, allow: bool, by: str) -> bool:
        try:
            is_first = put_answer(self._recorder.paths, self._token, ask, allow=allow, by=by)
        except OSError as error:
            self._recorder.losses.append(f"an answer to the agent could not be written: {error.strerror}")
            return False
        self._open.pop(ask, None)
        self._show()
        return is_first

    async def _keep_time(self) -> None:
        """Deny what nobody has answered in time."""
        while True:
            self._changed = anyio.Event()
            until = min((until for _, until in self._open.values()), default=math.inf)
            with anyio.move_on_after(until - time.monotonic()):
                await self._changed.wait()
            for ask in [ask for ask, (_, until) in self._open.items() if until <= time.monotonic()]:
                self._put(ask, allow=False, by="timeout")

    def _show(self) -> None:
        """Tell readers what is asked."""
        self._changed.set()
        title = next((title for title, _ in self._open.values()), "")
        with suppress(OSError):  # readers then see a running turn, which is incomplete, but true
            self._recorder.held.show_asks(title, list(self._open))


def _is_open(connection: socket.socket) -> bool:
    """Say whether the other end still waits."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
