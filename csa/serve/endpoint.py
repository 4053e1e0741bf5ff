"""Where a state root's server is: one at a time, by a lock whose file says how it is reached."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from csa.errors import BusyError, CsaError, NotFoundError, StateError
from csa.paths import SERVE
from csa.procfs import ProcessId, process_start_time, send_signal
from csa.store.atomic import make_private_directory
from csa.store.locks import Lock, acquire_lock, probe_lock
from csa.structs import Struct, asdict, fields

STOPS_WITHIN_S = 5.0
_POLL_S = 0.02


class Endpoint(Struct, kw_only=True):
    """A server: its address as a URL, or its socket; and its process."""

    url: str
    socket: str | None
    pid: int
    start_time: int


def take(root: Path) -> Lock:
    """Become the server of a state root; BusyError if there is one."""
    make_private_directory(root / SERVE)
    try:
        lock = acquire_lock(root / SERVE / "lock")
    except BlockingIOError:
        found = find(root)
        where = f" at {found.socket or found.url}, PID {found.pid}" if found else ""
        raise BusyError(f"csa serve is running already{where}.", hint="csa serve url, or csa serve stop") from None
    lock.write(b"")  # where an earlier one was
    return lock


def announce(root: Path, lock: Lock, url: str, socket: str | None) -> None:
    """Say where we are; StateError if it cannot be written."""
    pid = os.getpid()
    known = Endpoint(url=url, socket=socket, pid=pid, start_time=process_start_time(pid) or 0)
    try:
        lock.write(json.dumps(asdict(known)).encode())
    except OSError as error:
        raise StateError.denied(root / SERVE / "lock", "cannot be written", error) from error


def find(root: Path) -> Endpoint | None:
    """Return the server that is running; None if there is none, or it has not said yet where it is."""
    is_held, content = probe_lock(root / SERVE / "lock")
    if not is_held:
        return None
    try:
        known = json.loads(content)
        return Endpoint(**{name: known[name] for name in fields(Endpoint)})
    except (ValueError, TypeError, KeyError):
        return None


def require(root: Path) -> Endpoint:
    """Return the server that is running; NotFoundError if there is none."""
    if (found := find(root)) is None:
        raise NotFoundError("csa serve is not running.", hint="csa serve")
    return found


def stop(root: Path) -> Endpoint:
    """End the server; return it when its lock is free. What it has started goes on."""
    found = require(root)
    send_signal(ProcessId(found.pid, found.start_time), signal.SIGTERM)
    deadline = time.monotonic() + STOPS_WITHIN_S
    while probe_lock(root / SERVE / "lock")[0]:
        if time.monotonic() > deadline:
            raise CsaError(f"csa serve (PID {found.pid}) does not end.", hint=f"kill -KILL {found.pid}")
        time.sleep(_POLL_S)
    return found
