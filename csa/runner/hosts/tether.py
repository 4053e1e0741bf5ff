"""The connection to a turn on another host, from its order to its end.

See `supervising.py` for what is said. An order is sent once. If the connection breaks after that, it is made again with
`csa supervise --hold`, which tells what became of the order. Until the turn has ended, this side beats: however this
process ends, the turn there ends when its leash has run out.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from csa import __version__
from csa.errors import CsaError
from csa.model.config import Engine
from csa.runner.detach import Detached
from csa.runner.hosts.answers import begun_in, ended_in, error_in
from csa.runner.hosts.code import Outgoing
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.fed import Fed
from csa.runner.hosts.frames import PROTOCOL, SUPERVISE, ProtocolError, line_of, read_line, write_line
from csa.runner.hosts.supervising import NOT_PLACED
from csa.runner.hosts.watching import Watching
from csa.store.mirrors import mirror_for
from csa.store.sessions import Store, Target
from csa.structs import Struct

LEAST_LEASH_S = 5.0
_BEATS_A_LEASH, _LONGEST_BEAT_S = 3, 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_LOOK_S = 1.0
_BLOCK = 1 << 16
_LEASHES_TO_WAIT = 10  # for a host that is not reached any more


class Begun(Struct):
    """A turn that runs on another host."""

    host: str
    session_id: str
    turn: int
    tool: str
    pid: int  # of its supervisor there
    project: str  # there

    def to_json(self) -> dict[str, Any]:
        """Return the object that `run --on HOST --detach --json` prints."""
        known = {name: getattr(self, name) for name in ("session_id", "turn", "tool", "pid", "project")}
        return {**known, "mirror": self.host}

    def target(self, root: str) -> Target:
        """Return where its session is seen: in the mirror of its host in a state root."""
        return Store(mirror_for(root, self.host).pathname, self.project), self.session_id

    def as_detached(self) -> Detached:
        """Return the same as of any turn that runs in the background."""
        return Detached(self.session_id, self.turn, self.tool, self.pid, self.project, self.host)


class GoneError(HostError):
    """A host is gone for good, and what became of a turn there will not be known."""


class StoppedError(Exception):
    """A signal came before it was known that the turn had begun."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Tether:
    """The connection to a turn on another host, from its order on. `ended` is what the host has said of its end.

    Attributes:
        ended: `{"ended": exit code, "turn": number of the last}`, when it has.
        cancelled: the name of the signal that is to end the turn; empty if none is.
        is_lost: the connection is broken, and is being made again.
        failure: why the end of the turn will not be known.
        leash_s: how long the host waits for us.
    """

    hold_options: tuple[str, ...] = ()

    def __init__(
        self,
        engine: Engine,
        order_id: str,
        *,
        is_detached: bool,
        tell: Callable[[str], None],
        watching: Watching | None = None,
        link: Link | None = None,
    ) -> None:
        """Take the host, what keeps its mirror up to date, once it is reached, and how that has begun."""
        self.engine, self.order_id, self._tell = engine, order_id, tell
        self._watching = watching
        self._fed: Fed | None = None
        self.leash_s = max(LEAST_LEASH_S, engine.leash_s)
        self._is_detached = is_detached
        self._session_id = ""
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._link = link
        self.cancelled = ""
        self._threads: list[threading.Thread] = []
        self.ended: Mapping[str, Any] | None = None
        self.is_lost = False
        self.is_sent = False
        self._has_begun = False
        self.failure: CsaError | None = None

    def begin(
        self,
        order: Mapping[str, Any],
        *,
        passport: Mapping[str, Any] | None,
        code: Outgoing | None,
        before_sending: Callable[[], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Begun:
        """Send the order, and return the turn that has begun; `meanwhile` is done while the host is being reached.

        Raises:
            HostError: the host cannot be reached, or what became of the order is not known: see `is_sent`.
            CsaError: nothing has begun, as the host says: as `start_detached` does.
            StoppedError: as a handler of signals raises it; the turn was cancelled, or nothing was sent.
        """
        link = self._reach()
        meanwhile()
        self._watch(link.greeting())
        haves = self._ask_for_haves(link, code)
        before_sending()
        try:
            link.stdin.write(self._spelled(order, passport, code))
            link.stdin.flush()
        except OSError:
            raise link.failure() from None
        self.is_sent = True  # with its line's end it is whole, which may arrive or not
        try:
            with suppress(OSError):  # then there is an answer that says why, or none
                link.stdin.write(b"\n")
                if code:
                    code.write_bundle(link.stdin, haves)
                link.stdin.flush()
        except StoppedError as stopped:  # what is cut off does not begin, as the host says when it is asked
            self.cancelled = stopped.name
            link.close()
        self._start(self._beat)
        self._start(self._say_having)
        while True:
            try:
                return self._await_begun(link)
            except HostError:
                raise
            except CsaError:
                if self.cancelled:  # and so nothing has begun
                    self.is_sent = False
                    raise StoppedError(self.cancelled) from None
                raise
            except StoppedError as stopped:
                if self.cancelled:
                    raise
                self.cancel(stopped.name)

    def _reach(self) -> Link:
        """Return the connection that has begun, or a new one."""
        if self._link is None or not self._link.is_new:
            self._link = Link(self.engine, SUPERVISE)
        return self._link

    def _watch(self, greeting: Mapping[str, Any]) -> None:
        """Have the mirror kept up to date: over this connection, if the csa there can do that."""
        if self._watching and greeting.get("feeds"):
            self._fed = self._watching.feed_from(self.engine)
        elif self._watching:
            self._watching.begin(self.engine)

    def _say_having(self) -> None:
        """Say what the mirror has; what is new then comes over this connection."""
        block = bytearray()
        for said in self._fed.having() if self._fed else ():
            block += line_of(said)
            if len(block) > _BLOCK or said.get("end"):
                self._send(bytes(block))
                block.clear()
                self._await_news()

    def _spelled(self, order: Mapping[str, Any], passport: Mapping[str, Any] | None, code: Outgoing | None) -> bytes:
        """Return the line that is the order, without its end."""
        self._session_id = order["session_id"]
        leash_s = 0 if self._is_detached else self.leash_s
        said = {"order": order, "leash_s": leash_s, "by": os.uname().nodename, "passport": passport}
        return json.dumps({**said, **self._terms(), "code": code and code.said}).encode()

    def _terms(self) -> dict[str, Any]:
        """Return what else is to be said of how long the other side waits for us."""
        return {}

    def _ask_for_haves(self, link: Link, code: Outgoing | None) -> list[str]:
        """Say which code is to come, and return what the host has of it."""
        try:
            write_line(link.stdin, first_line(code))
            link.stdin.flush()
            said = read_line(link.stdout) if code else {"have": []}
        except OSError:
            said = None
        if said is None:
            raise link.failure()
        if error := error_in(self.engine.name, said):
            raise error
        have = said.get("have")
        return [each for each in have if isinstance(each, str)] if isinstance(have, list) else []

    def engine_now(self) -> Engine:
        """Return how the host is reached now."""
        return self.engine

    def attend(self) -> None:
        """Keep in touch with the turn that has begun, in threads, until it has ended, or `close`."""
        self._await_news()
        self._start(self._mind)
        self._start(self._listen)

    def cancel(self, name: str) -> None:
        """Have the turn end, by the name of a signal; if the connection is broken, as soon as it is there again."""
        if self.is_lost and not self.cancelled:
            self._tell(f"{self.engine.name} will be told to end the turn; a second signal leaves without that")
        self.cancelled = name
        self._start(lambda: self._write({"cancel": name}))  # a connection that stands still holds up nobody

    def close(self) -> None:
        """Leave; a turn that runs will end when its leash has run out."""
        self._over.set()
        if self._fed:
            self._fed.close()
        if self._link:
            self._link.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _await_begun(self, link: Link) -> Begun:
        if (said := self._read(link)) is None:  # the answer was lost, or there will be none
            if self._fed:
                self._fed.give_up()
            said = self._ask_again(_failure_of(link))
        return self._begun(said)

    def _read(self, link: Link) -> Mapping[str, Any] | None:
        """Read what the other side says to us; None at its end, or when it makes no sense any more."""
        try:
            while (said := read_line(link.stdout)) and self._fed and self._fed.take(said, link.stdout):
                pass
        except (ProtocolError, OSError, ValueError):
            return None
        return said

    def _begun(self, said: Mapping[str, Any]) -> Begun:
        host = self.engine.name
        if error := error_in(host, said):
            raise error
        begun = Begun(host, **begun_in(host, self._session_id, said))
        self._has_begun = True
        return begun

    def _ask_again(self, failure: CsaError) -> Mapping[str, Any]:
        """Reach the host again, and ask what became of the order; HostError when it was not reached for long."""
        pause_s, deadline = _FIRST_PAUSE_S, time.monotonic() + _LEASHES_TO_WAIT * self.leash_s
        while not self._over.wait(pause_s) and time.monotonic() < deadline:
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                if (said := self._ask(failure)) is not None:
                    return said
            except GoneError:
                raise
            except HostError:
                continue
        host = self.engine.name
        hint = f"csa sync {host}; csa ls --host {host}"
        raise HostError(f"What becomes of the turn on {host} is not known: {failure.message}", hint=hint)

    def _ask(self, failure: CsaError) -> Mapping[str, Any] | None:
        """Ask once, on a new connection; None if it broke, too."""
        link = Link(self.engine, SUPERVISE, "--hold", self.order_id, *self.hold_options)
        with self._writing:
            self._link = link
        try:
            link.greeting()
            said = self._read(link)
        except BaseException:
            link.close()
            raise
        if said is None:
            link.close()
            return None
        if (error := error_in(self.engine.name, said)) and error.code == NOT_PLACED:
            self.is_sent = False
            if self._has_begun:
                raise GoneError(f"{self.engine.name} has no record of it any more: was its state root deleted?")
            nothing = CsaError(f"Nothing has begun on {self.engine.name}: {failure.message}", hint="run it again")
            nothing.exit_code = HostError.exit_code
            raise nothing
        if self.cancelled:
            self._write({"cancel": self.cancelled})
        return said

    def _listen(self) -> None:
        """Hear the end of the turn, over as many connections as it takes."""
        while not self._over.is_set() and self.ended is None and self.failure is None:
            link = self._link
            assert link is not None
            said = self._read(link)
            if said is not None and "ended" in said:
                self.ended = ended_in(said)
            elif said is None and not self._over.is_set():
                self._reconnect(_failure_of(link))

    def _reconnect(self, failure: CsaError) -> None:
        if self._over.is_set():
            return
        self.is_lost = True
        if self._fed:
            self._fed.give_up()
        host, leash = self.engine.name, f"{self.leash_s:.0f} s"
        self._tell(f"the connection to {host} is lost; the turn there goes on for {leash}, and csa connects again")
        try:
            self._begun(self._ask_again(failure))
        except CsaError as error:
            self.failure = error
            return
        self.is_lost = False
        self._tell(f"connected to {host} again")

    def _beat(self) -> None:
        pause_s = min(self.leash_s / _BEATS_A_LEASH, _LONGEST_BEAT_S)
        while not self._over.wait(pause_s) and self.ended is None:
            self._write({"beat": True})

    def _await_news(self) -> None:
        if self._fed:
            self._fed.await_news()

    def _mind(self) -> None:
        """Have another connection made for the mirror if nothing comes over this one, which is told so."""
        while self._fed and not self._over.wait(_LOOK_S) and self.ended is None:
            if self._fed.is_silent:  # it may stand still
                self._fed.give_up()
            if self._fed.is_closed:
                self._write({"feed": False})
                return

    def _write(self, said: Mapping[str, Any]) -> None:
        self._send(line_of(said))

    def _send(self, lines: bytes) -> None:
        with self._writing, suppress(OSError, ValueError):  # it is lost, as its reader finds too
            if self._link is None:  # the host of a job is being reached for the first time
                return
            self._link.stdin.write(lines)
            self._link.stdin.flush()


def first_line(code: Outgoing | None) -> dict[str, Any]:
    """Return what is said before the order."""
    return {"csa": SUPERVISE, "protocol": PROTOCOL, "version": __version__, "code": code and code.first_said}


def _failure_of(link: Link) -> CsaError:
    """End a connection that broke, and say why it did."""
    failure = link.failure()
    link.close()
    return failure
