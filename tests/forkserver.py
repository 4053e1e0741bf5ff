"""Runs csa in processes that are forked from one that has loaded it: a command costs its own work, not python's start.

A process of its own each time, with its own environment, directory and standard streams; what it shares with a csa that
was started from the shell is all but the imports. `make check` starts each from scratch instead (CSA_TEST_APART).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from csa import structs
from csa.structs import Struct

_PACKAGES = ("csa", "csa_adapters")
_PROGRAMS = ("guardian", "kernelprobe", "_bridge", "acp_opencode", "acp_wire", "opencode_server")
_SERVER = "csa.serve."  # which is never run to its end, and heavy
_ALSO = ("anyio._backends._asyncio", "argparse", "rich.console", "rich.live", "tomlkit", "tomllib", "tenacity", "ulid")
_LARGEST = 1 << 20


class ForkServer:
    """The process that forks, and this side of it."""

    def __init__(self, directory: Path) -> None:
        self._address = str(directory / "forkserver")
        alive, self._alive = os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self._address)
            listening.listen()
            fds = listening.fileno(), alive
            code = f"from tests.forkserver import serve; serve{fds}"
            subprocess.run([sys.executable, "-c", code], pass_fds=fds, cwd=Path(__file__).parents[1], check=True)
        os.close(alive)

    def run(
        self, argv: list[str], env: dict[str, str], cwd: Path, streams: tuple[int, int, int], limit_s: float
    ) -> int:
        """Run a command to its end; return what it left with, as subprocess does."""
        order = json.dumps({"argv": argv, "env": env, "cwd": str(cwd)}).encode("utf-8", "surrogateescape")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.settimeout(limit_s)
            asking.connect(self._address)
            socket.send_fds(asking, [order], list(streams))
            pid = int(asking.recv(64))
            try:
                return os.waitstatus_to_exitcode(int(asking.recv(64)))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(argv, limit_s) from None

    def close(self) -> None:
        """End it."""
        os.close(self._alive)


def serve(listening_fd: int, alive: int) -> None:
    """Load csa, then fork for each order until `alive` ends. No child of the tests, which must have none left."""
    if os.fork():
        os._exit(0)
    _load()
    listening = socket.socket(fileno=listening_fd)
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    with selectors.DefaultSelector() as selector:
        for fd in (listening_fd, alive):
            selector.register(fd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == alive:
                    return
                if key.fd == listening_fd:
                    pid, asking = _fork(listening)
                    running[pidfd := os.pidfd_open(pid)] = pid, asking
                    selector.register(pidfd, selectors.EVENT_READ)
                else:
                    selector.unregister(key.fd)
                    _report(key.fd, *running.pop(key.fd))


def _fork(listening: socket.socket) -> tuple[int, socket.socket]:
    asking, _ = listening.accept()
    order, streams, *_ = socket.recv_fds(asking, _LARGEST, 3)
    pid = os.fork()
    if pid == 0:
        _become(json.loads(order), streams)
    for stream in streams:
        os.close(stream)
    asking.send(str(pid).encode())
    return pid, asking


def _report(pidfd: int, pid: int, asking: socket.socket) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):  # it has been given up
        asking.send(str(status).encode())
    asking.close()


def _load() -> None:
    for package in map(import_module, _PACKAGES):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(_PROGRAMS) and not module.name.startswith(_SERVER):
                import_module(module.name)
    for name in _ALSO:
        import_module(name)
    for cls in Struct.__subclasses__():
        if cls.__init__ is structs._init_at_first:  # noqa: SLF001  # else each process compiles it once more
            cls.__init__ = structs._make_init(cls.__fields__)  # type: ignore[method-assign]  # noqa: SLF001
    gc.collect()
    gc.freeze()


def _become(order: dict[str, Any], streams: list[int]) -> None:
    """Go on as what the console script starts."""
    from csa.cli.main import main  # noqa: PLC0415  # the tests' own process does without

    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    sys.argv[:] = order["argv"]
    sys.stdin = open(0, closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    try:
        code = main()
    except SystemExit as leaving:  # argparse's
        code = int(leaving.code or 0)
    except BaseException:  # noqa: BLE001  # as python would: nothing above catches it
        traceback.print_exc()
        code = 1
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    atexit._run_exitfuncs()  # noqa: SLF001  # as python would
    os._exit(code)  # python would take down all that was loaded, page by page
