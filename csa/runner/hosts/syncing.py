"""Bringing mirrors up to date: an outlet on the host, reached by ssh or as configured, and an intake here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from csa.errors import BusyError, CsaError
from csa.model.config import Engine
from csa.runner.hosts.engines import Link
from csa.runner.hosts.intake import Intake, Taken, with_skew
from csa.runner.hosts.outlet import write_having
from csa.store.mirrors import mirror_for

CHECK_S = 20.0
_HEED_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


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
            CsaError: the mirror cannot be written: the disk is full, say.
        """
        try:
            self._once(follow=follow)
        except OSError as error:
            words = f"The mirror of {self.engine.name}: {error.filename or ''} {error.strerror}."
            raise CsaError(words.replace("  ", " ")) from error

    def _once(self, *, follow: bool) -> None:
        with ExitStack() as stack:
            # A mirror that is new is made only once its host answers; of another one the lock is taken before.
            known = stack.enter_context(Intake(self._mirror)) if self._mirror.exists() else None
            link = self._link = Link(self.engine, "outlet", *(["--follow"] if follow else []))
            stack.callback(link.close)
            if self._ended.is_set():
                return
            greeting = link.greeting()
            intake = known or stack.enter_context(Intake(self._mirror))
            self.taken = intake.taken
            intake.greet(greeting)
            self._tell("connected")
            with suppress(BrokenPipeError, ValueError):  # it has ended, and says why; or we have been told to
                write_having(link.stdin, intake.having())
            is_complete = intake.take(link.stdout)
            if not self._ended.is_set() and (follow or not is_complete):
                raise link.failure()

    def watch(self) -> None:
        """Do so until `end`: after a failure again, after a pause that grows."""
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.once(follow=True)
            except BusyError as error:  # whoever does it keeps the mirror fresh
                if not isinstance(self.failure, BusyError):
                    self._tell(error.message)
                self.failure, pause_s = error, FIRST_PAUSE_S
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
    """Run several at once, each in a thread, until all are done.

    KeyboardInterrupt after SIGINT, SIGTERM or SIGHUP: nothing is left then, for no signal breaks into what begins or
    ends a thread.
    """
    told: SimpleQueue[int] = SimpleQueue()  # signals, and 0 from each thread that is done; may be used by a handler
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: told.put(number)) for number in numbers}
    threads = [Thread(target=_run, args=(sync, told), kwargs={"watch": watch}) for sync in syncs]
    for thread in threads:
        thread.start()
    number = next((number for _ in threads if (number := _next(told))), 0)
    for sync in syncs:
        sync.end()
    for thread in threads:
        thread.join()
    for each, handler in before.items():
        signal.signal(each, handler)
    if number:
        raise KeyboardInterrupt(number)


def _next(told: SimpleQueue[int]) -> int:
    while True:  # handlers are called between two waits only, and not if the signal comes as one begins
        with suppress(Empty):
            return told.get(timeout=_HEED_S)


def _run(sync: Sync, told: SimpleQueue[int], *, watch: bool) -> None:
    try:
        sync.watch() if watch else sync.once()
    except CsaError as error:
        sync.failure = error
    except BaseException:  # a fault of csa's: nobody may take it for a success
        sync.failure = CsaError(f"The mirror of {sync.engine.name} was not brought up to date.")
        raise
    finally:
        told.put(0)


def check_host(engine: Engine) -> Mapping[str, Any]:
    """Ask a host for its greeting; also return how far its clock is ahead, in seconds. HostError if it has none."""
    link = Link(engine, "outlet", "--hello")
    try:
        with link.ended_after(CHECK_S):
            return with_skew(link.greeting())
    finally:
        link.close()
