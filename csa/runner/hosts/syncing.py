"""Bringing mirrors up to date: an outlet on the host, reached by ssh or as configured, and an intake here.

The process that reaches the host ends when its stdin does, and so does the outlet behind it, however this one ends.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from csa.errors import CsaError
from csa.model.config import Engine
from csa.runner.hosts.frames import ProtocolError, read_greeting
from csa.runner.hosts.intake import Intake, Taken, with_skew
from csa.runner.hosts.outlet import write_having
from csa.store.mirrors import mirror_for

CHECK_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
_GRACE_S = 2.0
_NOT_FOUND = 127
_LINES_KEPT = 40
_SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_SSH_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "--")
# What ssh says, and the next step; the first that is found.
_STEPS = (
    ("host key verification failed", "ssh {host}, and see whether its key is the right one"),
    ("remote host identification has changed", "ssh {host}, and see whether its key is the right one"),
    ("permission denied", "ssh {host} must work without a password: ssh-copy-id {host}, or ssh-add"),
    ("could not resolve", "is {host} in ~/.ssh/config, or its address in the configuration ([engines.{host}] reach)?"),
)


class HostError(CsaError):
    """A host cannot be reached, or csa is not there as it is needed."""

    code = "host"
    exit_code = 7


class Link:
    """A process that runs an outlet on a host."""

    def __init__(self, engine: Engine, *options: str) -> None:
        """Start it; HostError if that fails."""
        self.engine = engine
        argv = [*reach_of(engine), *engine.csa, "outlet", *options]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=1 << 16, process_group=0
            )
        except OSError as error:
            why = f"{argv[0]}: {error.strerror}"
            raise HostError(f"{engine.name} cannot be reached: {why}.", hint="csa config show") from error
        self._said: deque[bytes] = deque(maxlen=_LINES_KEPT)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout

    def greeting(self) -> dict[str, Any]:
        """Return what the outlet says first; HostError if it says nothing."""
        try:
            found = read_greeting(self.stdout)
        except ProtocolError as error:
            raise HostError(f"{self.engine.name}: {error.message}", hint=error.hint) from error
        if found is None:
            raise self.failure()
        return found

    def failure(self) -> HostError:
        """Wait for the end, and return why there is no outlet, or none any more."""
        code = self._close()
        words = b"".join(self._said).decode(errors="replace").strip()
        return explain_failure(self.engine, code, words)

    def end(self) -> None:
        """Have the outlet end, and see to it that nothing is left here; harmless when repeated, from any thread."""
        if self._process.poll() is None:
            self._process.terminate()
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


def reach_of(engine: Engine) -> tuple[str, ...]:
    """Return what runs a command on a host."""
    return engine.reach or (*_SSH, *_SSH_ALIVE, engine.name)


def explain_failure(engine: Engine, code: int, words: str) -> HostError:
    """Say why there is no outlet, from how the process has ended and what it has said on stderr."""
    host, lowered = engine.name, words.lower()
    last = words.strip().rpartition("\n")[2].strip() or f"it ended with exit code {code}"
    for mark, step in _STEPS:
        if mark in lowered:
            return HostError(f"{host} cannot be reached: {last.rstrip('.')}.", hint=step.format(host=host))
    if code == _NOT_FOUND or "not found" in lowered or "no such file" in lowered:
        name = " ".join(engine.csa)
        hint = f'install csa there, or name its place: [engines.{host}] csa = ["/path/to/csa"]'
        return HostError(f"There is no {name} on {host}: {last.rstrip('.')}.", hint=hint)
    if "outlet" in lowered and code == 2:  # noqa: PLR2004  # a wrong argument
        return HostError(f"The csa of {host} is too old: it has no outlet.", hint="install the same version there")
    hint = " ".join((*reach_of(engine), "true"))
    return HostError(f"{host} cannot be reached: {last.rstrip('.')}.", hint=f"try: {hint}")


class Sync:
    """Brings one mirror up to date; `end` ends it from another thread."""

    def __init__(self, root: str, engine: Engine, tell: Callable[[str], None] = lambda _: None) -> None:
        self.engine, self._tell = engine, tell
        self._mirror = mirror_for(root, engine.name)
        self._ended = threading.Event()
        self._link: Link | None = None
        self.failure: CsaError | None = None
        self.taken = Taken()

    def once(self, *, follow: bool = False) -> None:
        """Connect, and take what there is; with `follow`, what comes, until the connection or this ends.

        Raises:
            HostError: the host cannot be reached, or the connection ended before everything had come.
            BusyError: another process brings the mirror up to date.
            ProtocolError: what came makes no sense.
        """
        link = self._link = Link(self.engine, *(["--follow"] if follow else []))
        try:
            if self._ended.is_set():
                return
            greeting = link.greeting()
            with Intake(self._mirror) as intake:
                self.taken = intake.taken
                intake.greet(greeting)
                self._tell("connected")
                with suppress(BrokenPipeError, ValueError):  # it has ended, and says why; or we have been told to
                    write_having(link.stdin, intake.having())
                is_complete = intake.take(link.stdout)
            if not self._ended.is_set() and (follow or not is_complete):
                raise link.failure()
        finally:
            link.close()

    def watch(self) -> None:
        """Do so until `end`: after a failure again, after a pause that grows."""
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.once(follow=True)
            except CsaError as error:
                self._tell(f"{error.message} Trying again in {pause_s:.0f} s.")
                self.failure = error
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def end(self) -> None:
        """End it soon, whatever it does."""
        self._ended.set()
        if self._link:
            self._link.end()


def sync_hosts(syncs: list[Sync], *, watch: bool) -> None:
    """Run several at once, each in a thread, until all are done, or SIGINT or SIGTERM, after which nothing is left."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threads = [threading.Thread(target=_run, args=(sync,), kwargs={"watch": watch}) for sync in syncs]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for sync in syncs:
            sync.end()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _run(sync: Sync, *, watch: bool) -> None:
    try:
        sync.watch() if watch else sync.once()
    except CsaError as error:
        sync.failure = error
    except OSError as error:  # the disk is full, say
        sync.failure = CsaError(f"The mirror of {sync.engine.name}: {error.filename or ''} {error.strerror}.")


def check_host(engine: Engine) -> Mapping[str, Any]:
    """Ask a host for its greeting; also return how far its clock is ahead, in seconds. HostError if it has none."""
    link = Link(engine, "--hello")
    timer = threading.Timer(CHECK_S, link.end)
    timer.start()
    try:
        return with_skew(link.greeting())
    finally:
        timer.cancel()
        link.close()
