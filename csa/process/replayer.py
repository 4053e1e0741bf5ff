"""Stands in for a tool in a replay: it sends what was recorded, and calls csa where the recorded agent had called it.

Run as `COMMAND <script>`. The script is JSON by lines, an array for each step:

    ["sleep", seconds]
    ["out", text], ["err", text]    as recorded
    ["begin", name, {...}]          a nested run of csa: `argv`, `env` (what to set), `cwd`; it has begun after this
    ["end", name, code]             waits for it; any other exit code is a failure
    ["exit", code], ["die", signal]
    ["hang", code, signal]          the streams are closed, and the end, at csa's request, is this one

It runs nothing else: a recorded command is text. A replay that goes another way than the recording fails, with the
reason on stderr and exit code 70.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from termios import FIONREAD
from typing import IO, Any, NoReturn

COMMAND = (
    *(sys.executable, "-I", "-S", "-B", "-c"),
    "import sys; sys.path.append(sys.argv.pop(1)); import replayer; replayer.main()",
    os.path.dirname(__file__),
)
DIVERGED = 70
_LOOK_S = 0.002
_STREAMS = {"out": 1, "err": 2}


class Call:
    """A nested run of csa, once it has begun: it says so in its first line."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            argv,
            env={**os.environ, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # as the shells of agents
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._process.wait()
            _fail(f"a nested run did not begin: {self.complaint()}")
        threading.Thread(target=_drain, args=(self._process.stdout,), daemon=True).start()

    def wait(self) -> int:
        return self._process.wait()

    def complaint(self) -> str:
        """Return what it has said on stderr, on one line."""
        self._errors.seek(0)
        return " ".join(self._errors.read().decode("utf-8", "replace").split())


class Replayer:
    """Plays a script."""

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}
        self._last = 0  # the stream that was written last
        self._steps: dict[str, Callable[..., None]] = {
            "sleep": time.sleep,
            "out": lambda text: self._write("out", text),
            "err": lambda text: self._write("err", text),
            "begin": self._begin,
            "end": self._end,
            "exit": self._exit,
            "die": self._die,
            "hang": self._hang,
        }

    def play(self, step: list[Any]) -> None:
        """Carry out a step."""
        self._steps[step[0]](*step[1:])

    def _write(self, stream: str, text: str) -> None:
        fd = _STREAMS[stream]
        if self._last not in {0, fd}:
            _await_reader(self._last)  # what one stream says comes before what the other says next
        self._last = fd
        view = memoryview(text.encode("utf-8", "surrogateescape"))
        while view:
            view = view[os.write(fd, view) :]

    def _begin(self, name: str, call: dict[str, Any]) -> None:
        """Start a nested run, and wait until its session is there, so that sessions begin in the recorded order."""
        self._calls[name] = Call(call["argv"], call["env"], call["cwd"])

    def _end(self, name: str, code: int) -> None:
        call = self._calls.pop(name)
        if (found := call.wait()) != code:
            _fail(f"the nested run {name} ended with {found}, not {code}: {call.complaint()}")

    def _exit(self, code: int) -> None:
        os._exit(code)

    def _die(self, number: int) -> None:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _hang(self, code: int | None, number: int | None) -> None:
        """Say no more, and end as the tool did when csa ended it."""
        if number == signal.SIGKILL:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif code is not None:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
        for fd in _STREAMS.values():
            os.close(fd)
        while True:
            signal.pause()


def main() -> None:
    """Play the script that the command line names."""
    with open(sys.argv[1], "rb") as script:
        replayer = Replayer()
        for line in script:
            replayer.play(json.loads(line))


def _await_reader(fd: int) -> None:
    """Wait until a pipe has been read empty; csa takes note of what it reads before it reads anything else."""
    try:
        while int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), sys.byteorder):
            time.sleep(_LOOK_S)
    except OSError:
        return  # it is no pipe


def _drain(stream: IO[bytes]) -> None:
    while stream.read(1 << 16):
        pass


def _fail(reason: str) -> NoReturn:
    sys.stderr.write(f"csa: the replay goes another way than the recording: {reason}\n")
    sys.stderr.flush()
    os._exit(DIVERGED)
