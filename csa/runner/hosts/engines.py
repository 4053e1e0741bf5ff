"""Hosts, and how they are reached: by ssh, or as `[engines.<name>]` says.

The process that reaches a host ends when its stdin does, and so does what it runs there, however this one ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import random
from typing import IO, Any

from csa.errors import CsaError
from csa.model.config import Engine
from csa.model.configkeys import SSH
from csa.runner.hosts.frames import ProtocolError, read_greeting
from csa.runner.hosts.schedulers import adapter_of

GREETS_WITHIN_S = 120.0  # with what a login shell does before, on a host that has much else to do
_GRACE_S = 2.0
_NOT_FOUND = 127
_NEW_S = 60.0
_LINES_KEPT = 40
_TURNED_AWAY = b"kex_exchange_identification:"  # what ssh says then
_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_SSH_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "--")
# What ssh says, and the next step; the first that is found.
_POD_IS_GONE = "a pod is gone with its turn; csa show {host}:NAME shows what was brought of it"
_STEPS = (
    ("error from server (notfound)", _POD_IS_GONE),
    ("in a completed pod", _POD_IS_GONE),
    ("container not found (", _POD_IS_GONE),
    (
        "remote host identification has changed",
        "{host} has another key than before; if that is right: ssh-keygen -R ADDRESS",
    ),
    ("host key verification failed", "ssh {host}, and see whether its key is the right one"),
    ("permission denied", "ssh {host} must work without a password: ssh-copy-id {host}, or ssh-add"),
    ("could not resolve", "is {host} in ~/.ssh/config, or its address in the configuration ([engines.{host}] reach)?"),
)


class HostError(CsaError):
    """A host cannot be reached, or csa is not there as it is needed."""

    code = "host"
    exit_code = 7


class Link:
    """A process that runs a hidden command of csa on a host: an outlet, or what supervises a turn there."""

    def __init__(self, engine: Engine, command: str, *options: str) -> None:
        """Start it; HostError if that fails."""
        self.engine, self._command = engine, command
        self._began_at = time.monotonic()
        self._words = [command, *options]
        self._is_ended = threading.Event()
        self._start()

    def _start(self) -> None:
        self._process = start_command(self.engine, self._words, stdin=subprocess.PIPE, bufsize=1 << 16)
        self._said: deque[bytes] = deque(maxlen=_LINES_KEPT)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def is_new(self) -> bool:
        """Whether the other side still waits for what is said first."""
        return time.monotonic() - self._began_at < _NEW_S

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout

    def greeting(self) -> dict[str, Any]:
        """Return what the command says first; HostError if it says nothing, or not in time.

        An sshd to which many connect at once turns some of them away (MaxStartups): then this connects again.
        """
        pauses = iter(_PAUSES_S)
        while (found := self._hear_greeting()) is None:
            failure = self.failure()
            pause_s = next(pauses, 0.0) * (0.5 + random())  # noqa: S311  # so that not all come again at once
            if not pause_s or not self._is_turned_away() or self._is_ended.wait(pause_s):
                raise failure
            self.stdout.close()
            self._start()
            if self._is_ended.is_set():  # by another thread, which has ended the one before
                self.end()
        return found

    def _hear_greeting(self) -> dict[str, Any] | None:
        host = self.engine.name
        try:
            with self.ended_after(GREETS_WITHIN_S) as is_late:
                found = read_greeting(self.stdout, self._command)
        except ProtocolError as error:
            raise HostError(f"{host}: {error.message}", hint=error.hint) from error
        if found is None and is_late():
            words = f"csa {self._command} on {host} has said nothing for {GREETS_WITHIN_S:g} s."
            raise HostError(words, hint=f"csa hosts --check {host}")
        return found

    def _is_turned_away(self) -> bool:
        return any(_TURNED_AWAY in line for line in self._said)

    def failure(self) -> HostError:
        """Wait for the end, and return why there is no such command there, or none any more."""
        code = self._close()
        words = b"".join(self._said).decode(errors="replace").strip()
        return explain_failure(self.engine, code, words, self._command)

    @contextmanager
    def ended_after(self, limit_s: float) -> Iterator[Callable[[], bool]]:
        """Have it end if the body takes longer; yield what says whether that was so."""
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self.end()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            yield is_late.is_set
        finally:
            timer.cancel()

    def end(self) -> None:
        """Have it end, and see to it that nothing is left here; harmless when repeated, from any thread."""
        self._is_ended.set()
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # one that is stopped would not end, nor read what is written
        self._close()

    def close(self) -> None:
        """End it, when nobody reads any more."""
        self.end()
        self.stdout.close()

    def _close(self) -> int:
        with suppress(OSError):  # it is gone, and so is what was not written yet
            self.stdin.close()
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._listener.join(_GRACE_S)
        return code

    def _listen(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            while line := stream.readline(4096):
                self._said.append(line)


def start_command(engine: Engine, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command of csa on a host, with its output as pipes; HostError if what reaches that cannot be started."""
    argv, pipe = [*reach_of(engine), *engine.csa, *words], subprocess.PIPE
    try:
        return subprocess.Popen(argv, stdout=pipe, stderr=pipe, process_group=0, env=environment_for(engine), **options)
    except OSError as error:
        why = f"{argv[0]}: {error.strerror}"
        raise HostError(f"{engine.name} cannot be reached: {why}.", hint="csa config show") from error


def environment_for(engine: Engine) -> dict[str, str]:
    """Return ours without what is about csa on this host, as a reach may pass on all that it has; or about our job."""
    environ = os.environ if engine.kind == SSH else adapter_of(engine).environment(os.environ)
    return {name: value for name, value in environ.items() if not name.startswith("CSA_")}


def reach_of(engine: Engine) -> tuple[str, ...]:
    """Return what runs a command on a host."""
    if engine.job:
        return adapter_of(engine).reach(engine, engine.job)
    return engine.reach or (*_SSH, *_SSH_ALIVE, engine.name)


def explain_failure(engine: Engine, code: int, words: str, command: str = "outlet") -> HostError:
    """Say why a command of csa does not run there, from how the process has ended and what it has said on stderr."""
    host, lowered = engine.name, words.lower()
    last = words.strip().rpartition("\n")[2].strip() or f"it ended with exit code {code}"
    for mark, step in _STEPS:
        if mark in lowered:
            return HostError(f"{host} cannot be reached: {last.rstrip('.')}.", hint=step.format(host=host))
    if code == _NOT_FOUND or "not found" in lowered or "no such file" in lowered:
        name = " ".join(engine.csa)
        hint = f'install csa there, or name its place: [engines.{host}] csa = ["/path/to/csa"]'
        return HostError(f"There is no {name} on {host}: {last.rstrip('.')}.", hint=hint)
    if command in lowered and code == 2:  # noqa: PLR2004  # a wrong argument
        words = f"The csa of {host} is too old: it has no csa {command}."
        return HostError(words, hint="install the same version there")
    hint = " ".join((*reach_of(engine), "true"))
    return HostError(f"{host} cannot be reached: {last.rstrip('.')}.", hint=f"try: {hint}")
