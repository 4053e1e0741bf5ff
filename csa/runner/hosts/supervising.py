"""The host's side of `csa run --on`: takes an order on stdin, has a supervisor carry it out, and says how that ends.

Each side says one line of JSON at a time:

    {"csa": "supervise", "protocol": 1, "version", "time", "feeds": true}   we greet
    {"code": {"key"} | null}                                 what is to travel along; then we say {"have": [commits]}
    {"order": {...}, "leash_s": S, "code": {...} | null, ...}    what is to be done; its code follows
    {"csa": "intake", ...}                                   and, if it likes, what its mirror has: see `frames.py`
    {"session_id", "turn", "tool", "project"}                we have begun, or {"error": {...}}
    {"beat": true}, {"cancel": "SIGINT"}                     as often as the leash needs; or the turn is to end
    {"feed": false}                                          the mirror has another connection
    {"csa": "outlet", ...}                                   what comes into that mirror, in frames
    {"ended": CODE, "turn": N, "spent": {...}, ...}          the turn has ended, and so do we

The supervisor's lifeline is a pipe that this process alone has: should it be killed, the turn ends as cancelled. It
survives the loss of its connection, for as long as the leash is: then, unless somebody has called `csa supervise
--hold ID` and beats there, the turn ends as cancelled.

A scheduler's job is `csa supervise --job`: it hears an order that was written down, and nobody hears what it says. So
the turn begins only once somebody holds it: who has placed it may be gone after a long time in a queue (`held_s`). And
the job stays after its end, as long as somebody holds it who fetches what came of it; and, where nothing is left of it
afterwards, for `linger_s` if nobody does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import IO, Any, cast

from csa.errors import CsaError, NotFoundError, StateError
from csa.ids import is_session_id
from csa.model.events import Event
from csa.runner.context import Context
from csa.runner.detach import error_to_json, order_line, spawn_supervisor, supervisors_environment
from csa.runner.hosts.frames import SILENCE_S, ProtocolError, object_in, require_protocol
from csa.store.orders import Order
from csa.store.project import find_project
from csa.store.sessions import Store
from csa.store.transcript import last_turn_event
from csa.structs import Struct

PLACED_ALREADY, NOT_PLACED = "placed_already", "not_placed"
_LOOK_S = 1.0
_LOOK_AT_HELD_S = 0.1
_BLOCK = 1 << 16
_MOST_LINE = 1 << 28  # with the contents of images and files
_HEEDED_WITHIN_S = 5.0  # of those who hold a turn that has ended
_FED_LOOK_S = 0.5
_LOST = 1  # the exit code for a turn whose supervisor was killed


class Incoming:
    """What the other side says: lines, and bytes that follow one. Its end and its faults are the same."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_over = False
        self.heed: Callable[[], None] = lambda: None  # called every second while something is awaited
        self._heeded_at = time.monotonic()
        self._buffer = bytearray()

    def fill(self) -> None:
        """Read what there is; blocks if there is nothing."""
        try:
            block = os.read(self.fd, _BLOCK)
        except OSError:
            block = b""
        self._buffer += block
        self.is_over = not block or len(self._buffer) > _MOST_LINE

    def line(self) -> Mapping[str, Any] | None:
        """Return the next whole line; None if there is none yet. ProtocolError for what is no object."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if (said := object_in(line)) is None:
            raise ProtocolError(f"This is no line of an order: {line[:60]!r}.")
        return said

    def await_line(self) -> Mapping[str, Any] | None:
        """Wait for a line; None if the other side has ended, or is silent."""
        while (said := self.line()) is None and self._await():
            pass
        return said

    def read(self, length: int) -> bytes:
        """Wait for so many bytes; fewer at the end."""
        while len(self._buffer) < length and self._await():
            pass
        block = bytes(self._buffer[:length])
        del self._buffer[:length]
        return block

    def _await(self) -> bool:
        silent_from = time.monotonic()
        while not self.is_over:
            if (now := time.monotonic()) - self._heeded_at > _LOOK_S:
                self._heeded_at = now
                self.heed()
            if can_read(self.fd, _LOOK_S):
                self.fill()
                return not self.is_over
            if now - silent_from > SILENCE_S:
                return False
        return False


def can_read(fd: int, limit_s: float) -> bool:
    """Wait until something can be read, or the end; say whether it can."""
    found = select.poll()
    found.register(fd, select.POLLIN)
    return bool(found.poll(limit_s * 1000))


def say(**said: Any) -> None:
    """Say a line on stdout; when nobody hears any more, nothing."""
    line = json.dumps(said, separators=(",", ":")).encode() + b"\n"
    with suppress(OSError):
        while line:
            line = line[os.write(1, line) :]


def supervise(context: Context, *, is_job: bool = False) -> int:
    """Take an order, after the greeting, and see it through; return the exit code of its turn.

    `is_job`: as a scheduler's job.
    """
    outlive_connection()
    if is_job:
        for number in (signal.SIGTERM, signal.SIGINT):  # as a container's first process it would not heed them
            signal.signal(number, _end_unbegun)
    incoming = Incoming(0)
    try:
        given = _hear_order(incoming, context)
        if given is None:  # cut off before it was whole: nothing begins
            return CsaError.exit_code
        return _carry_out({**given, "is_job": is_job}, incoming, context)
    except CsaError as error:
        failure = error
    except OSError as error:  # the disk is full, say
        failure = CsaError(f"{os.uname().nodename}: {error.filename or 'a file'}: {error.strerror}.")
    say(error=error_to_json(failure))
    return failure.exit_code


def outlive_connection() -> None:
    """Stay when ssh goes: without a terminal it hangs up on nobody, but other ways to reach a host do."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with suppress(PermissionError):  # we lead a process session already
        os.setsid()


def _end_unbegun(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _hear_order(incoming: Incoming, context: Context) -> Mapping[str, Any] | None:
    asked = incoming.await_line()
    if asked is None:
        return None
    require_protocol(dict(asked))
    if code := asked.get("code"):
        from csa.runner.hosts.code import haves  # noqa: PLC0415  # a turn waits until this is loaded, and few need it

        say(have=haves(context, code))
    return incoming.await_line()


def _carry_out(given: Mapping[str, Any], incoming: Incoming, context: Context) -> int:
    asked = given["order"]
    if not is_session_id(str(asked["id"])) or not is_session_id(str(asked["session_id"])):
        raise ProtocolError(f"An order is called {asked['id']!r}.")
    order, is_job = Order(context.store.root, asked["id"]), bool(given["is_job"])
    if not order.take(session_id=asked["session_id"], job=is_job):
        _refuse_cancelled(order)
        error = CsaError(f"{os.uname().nodename} has had order {asked['id']} already.")
        error.code = PLACED_ALREADY
        raise error
    leash_s = float(given["leash_s"])
    try:
        if is_job and (held_s := float(given.get("held_s", leash_s))):
            _await_holder(order, held_s)
        incoming.heed = lambda: _refuse_cancelled(order)
        placed = _with_code(asked, given.get("code"), incoming, context)
        _refuse_cancelled(order)
        started = _start(placed, given, context)
        keeper = _Keeper(order, given, incoming, context)
        code = keeper.keep(started)
        if is_job:
            _await_no_holder(order, leash_s, float(given.get("linger_s", 0)) if keeper.is_alone else 0)
    except CsaError as error:
        order.note(error=error_to_json(error))
        raise
    else:
        return code
    finally:
        order.close()


def _refuse_cancelled(order: Order) -> None:
    """Raise CsaError for an order that whoever placed it wants no more, or could not find here any more."""
    known = order.known()
    if known.get("refused") or known.get("cancel") or order.is_lost():
        error = CsaError(f"Order {order.order_id} was cancelled before its turn had begun.")
        error.code = NOT_PLACED
        raise error


def _await_holder(order: Order, limit_s: float) -> None:
    """Wait until somebody holds the order; CsaError if nobody does."""
    noted, deadline = order.touched_at(), time.monotonic() + limit_s
    while order.touched_at() == noted:
        if time.monotonic() > deadline:
            error = CsaError(f"Nobody was there any more for order {order.order_id}.")
            error.code = NOT_PLACED
            raise error
        time.sleep(_LOOK_AT_HELD_S)
        _refuse_cancelled(order)


def _await_no_holder(order: Order, limit_s: float, linger_s: float) -> None:
    """Wait until nobody holds the order any more, but not for longer than `limit_s`; or `linger_s`, for one to come."""
    heard, touched, patience_s = time.monotonic(), order.touched_at(), linger_s or min(limit_s, _HEEDED_WITHIN_S)
    deadline = heard + max(limit_s, linger_s)
    while time.monotonic() < min(deadline, heard + patience_s):
        time.sleep(_LOOK_AT_HELD_S)
        if (again := order.touched_at()) != touched:
            heard, touched, patience_s = time.monotonic(), again, _HEEDED_WITHIN_S


def _with_code(
    asked: Mapping[str, Any], said: Mapping[str, Any] | None, incoming: Incoming, context: Context
) -> Mapping[str, Any]:
    """Return the order for the place where the code that comes with it is, in a worktree of its own."""
    if said is None:
        return asked
    from csa.runner.hosts.code import receive, receive_for  # noqa: PLC0415  # as above

    stream, request = cast("IO[bytes]", incoming), asked["request"]
    if request.get("session"):  # for a repair
        receive_for(context, said, stream, request["session"])
        return asked
    place = receive(context, said, stream)
    tree = {"worktree": request.get("worktree") or "", "with_changes": False}
    based = {"directory": place.directory, "worktree_base": place.base, "worktree_target": place.target}
    return {**asked, "directory": place.directory, "request": {**request, **tree, **based}}


class _Started(Struct):
    """A supervisor that has its order, and where its session is, or will be."""

    process: subprocess.Popen[bytes]
    store: Store
    session_id: str


def _start(asked: Mapping[str, Any], given: Mapping[str, Any], context: Context) -> _Started:
    environ = context.environ
    directory = os.path.realpath(os.path.expanduser(asked["directory"] or environ["HOME"]))
    if not os.path.isdir(directory):
        node = os.uname().nodename
        raise NotFoundError(f"There is no directory {directory} on {node}.", hint="csa run --cd DIR --on ... names one")
    store = Store(context.store.root, find_project(directory))
    process = spawn_supervisor(supervisors_environment(environ, store, asked["session_id"]), subprocess.PIPE)
    told = {
        **asked,
        "directory": directory,
        "command": context.command,
        "placed": {"by": given.get("by"), "passport": given.get("passport")},
    }
    leash_s = float(given["leash_s"])
    if is_attached := bool(leash_s or given["is_job"]):
        told["attached"] = True
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died, and its answer will be missing
        process.stdin.write(order_line(told))
        process.stdin.flush()
    if not is_attached:
        process.stdin.close()
    return _Started(process, store, asked["session_id"])


def _let_go(process: subprocess.Popen[bytes], words: str) -> None:
    """Have the turn end as cancelled: by its lifeline, as a second signal would kill the tool at once."""
    assert process.stdin
    with suppress(OSError, ValueError), process.stdin as lifeline:  # it has just ended
        lifeline.write(words.encode())


class _Keeper:
    """Attends to a supervisor: hears beats and its answer, and holds its lifeline until the leash has run out."""

    def __init__(self, order: Order, given: Mapping[str, Any], incoming: Incoming, context: Context) -> None:
        from csa.runner.hosts.feeding import Feed  # noqa: PLC0415  # loaded while the supervisor is

        self._order, self._incoming, self._feed = order, incoming, Feed(context)
        self._leash_s, self._is_job = float(given["leash_s"]), bool(given["is_job"])
        self._by = given.get("by") or "the host that placed it"
        self._heard, self._touched = time.monotonic(), order.touched_at()
        self._answer: Mapping[str, Any] | None = None

    @property
    def is_alone(self) -> bool:
        """Whether nobody attends to the turn, or nobody does any more."""
        return self._leash_s in {0, float("inf")}

    def keep(self, started: _Started) -> int:
        """Return the exit code of the turn; at once, if it is detached, and no job ends with us."""
        process = started.process
        if self._is_job:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: _let_go(process, "the scheduler ended its job"))
        assert process.stdin
        assert process.stdout
        answer = Incoming(process.stdout.fileno())
        pidfd = os.pidfd_open(process.pid)
        try:
            while True:
                ready = self._await(answer, pidfd)
                self._obey(process, has_more=self._incoming.fd in ready)
                if answer.fd in ready and not answer.is_over:
                    answer.fill()
                    if (said := answer.line()) is not None:
                        self._pass_on(said, started)
                if pidfd in ready:
                    return self._end(started)
                if self._answer and not self._leash_s and not self._is_job:
                    return 0
                if self._is_leash_out():
                    _let_go(process, f"{self._by} was not heard of for {self._leash_s:g} s")
                    process.stdout.close()  # what waits for a slot, or for its session, ends too
                    answer.is_over, self._leash_s = True, float("inf")
        finally:
            os.close(pidfd)

    def _await(self, answer: Incoming, pidfd: int) -> set[int]:
        found = select.poll()
        for source in (self._incoming, answer):
            if not source.is_over:
                found.register(source.fd, select.POLLIN)
        found.register(pidfd, select.POLLIN)
        return {fd for fd, _ in found.poll(_LOOK_S * 1000)}

    def _obey(self, process: subprocess.Popen[bytes], *, has_more: bool) -> None:
        if self._answer is None and self._order.known().get("cancel"):  # somebody who holds it said so
            process.terminate()
        if has_more:
            self._incoming.fill()
        while (said := self._incoming.line()) is not None:
            self._heard = time.monotonic()
            if name := said.get("cancel"):
                process.send_signal(signal_of(name) if self._answer else signal.SIGTERM)
            self._feed.hear(said)

    def _is_leash_out(self) -> bool:
        if (touched := self._order.touched_at()) != self._touched:
            self._heard, self._touched = time.monotonic(), touched
        return bool(self._leash_s) and time.monotonic() - self._heard > self._leash_s

    def _pass_on(self, said: Mapping[str, Any], started: _Started) -> None:
        if "session_id" not in said:
            self._order.note(error=said["error"])
            say(error=said["error"])
            self._answer = said
            return
        begun = {**said, "project": started.store.project_pathname, "pid": started.process.pid}
        self._order.note(begun=begun)
        say(**begun)
        self._answer = begun
        self._feed.speak(started.store.key(started.session_id))
        import_module("csa.runner.hosts.escrow")  # csa may be upgraded while the turn runs

    def _end(self, started: _Started) -> int:
        code = started.process.wait()
        if self._answer is None:
            words = "was ended before the turn had begun" if code < 0 else f"exited at once, with code {code}"
            raise CsaError(f"The supervisor {words}.", hint=None if code < 0 else "csa doctor")
        if "session_id" in self._answer:
            ended = ending_of(started.store, started.session_id, code)
            self._order.note(**ended)
            self._feed.finish()
            if self._is_fed(started.process):
                say(**ended)
        return code if code >= 0 else _LOST

    def _is_fed(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the other side has what it was to be sent; False if it is gone, or was not heard of for long."""
        while not self._feed.is_over(_FED_LOOK_S):
            wait_s = _FED_LOOK_S if self._feed.is_coming else 0
            self._obey(process, has_more=not self._incoming.is_over and can_read(self._incoming.fd, wait_s))
            if self._incoming.is_over or self.is_alone or self._is_leash_out():
                return False
        return True


def signal_of(name: object) -> signal.Signals:
    """Return the signal that ends a turn which somebody cancels; its supervisor heeds no other."""
    return signal.SIGINT if name == "SIGINT" else signal.SIGTERM


def ending_of(store: Store, session_id: str, code: int | None = None) -> dict[str, Any]:
    """Say how a turn has ended: with the exit code of its supervisor, or as its transcript has it."""
    from csa.runner.hosts.escrow import spent_there  # noqa: PLC0415  # as above

    last = _last_turn(store, session_id)
    used: Mapping[str, Any] = {}
    with suppress(StateError, NotFoundError):  # then what was used is not known, and the other host goes on holding it
        used = spent_there(store.root, store.project_pathname, session_id)
    known = {"turn": last.turn if last else 0, **used}
    if last is None or last.type != "run_finished":  # the supervisor was killed
        return {"ended": _LOST, **known, "lost": True}
    found = last.data.get("exit_code")
    return {"ended": code if code is not None and code >= 0 else found if isinstance(found, int) else 1, **known}


def _last_turn(store: Store, session_id: str) -> Event | None:
    try:
        return last_turn_event(store.paths(session_id).transcript)
    except StateError:
        return None
