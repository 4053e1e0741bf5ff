"""JSON-RPC 2.0 in lines over two descriptors, for servers that a client has started: csa acp and csa mcp.

One loop reads, without threads and in order; what takes long runs in a thread of its own (`Later`); one writer at a
time. Whatever happens to a request, it is answered. A client that does not read holds up what writes, and neither the
loop's end nor csa's. There is no event loop library in it: that takes longer to load than most answers to make.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from csa.errors import CsaError, NotFoundError, UsageError

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
NOT_FOUND = -32002  # of ACP and MCP
LONGEST_LINE = 64 << 20  # bytes
MOST_CALLS = 200  # in threads, at a time

_CHUNK = 64 << 10
_PIECE = select.PIPE_BUF  # what can be written without blocking to a pipe that is writable
_LAST_WRITE_S = 2.0  # that a client that does not read has, once all is over

Json = dict[str, Any]
Method = Callable[[Json, "Call"], Any]  # the result, or a Later; or it raises


class RpcError(Exception):
    """An error to answer with, or that the client has answered with."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def to_json(self) -> Json:
        """Return the error object of an answer."""
        more = {} if self.data is None else {"data": self.data}
        return {"code": self.code, "message": self.message, **more}


class ClosedError(Exception):
    """The client has gone, or csa is to end: no answer can come any more."""


class UnwantedError(Exception):
    """Raised by a method whose request was cancelled, in a protocol in which that is then not answered."""


class Later:
    """What a method returns to go on in a thread of its own, while the next messages are read."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work


class Call:
    """A request of the client's, while it is worked on. `id` is None for a notification."""

    def __init__(self, ident: Any) -> None:
        self.id = ident
        self.cancelled = threading.Event()
        self._on_cancel: list[Callable[[], None]] = []

    def on_cancel(self, act: Callable[[], None]) -> None:
        """Have something done, quickly, when the request is cancelled; at once if it is already."""
        self._on_cancel.append(act)
        if self.cancelled.is_set():
            act()

    def cancel(self) -> None:
        """Cancel it. What works on it decides what that means, and still answers; acts may be done twice."""
        if not self.cancelled.is_set():
            self.cancelled.set()
            for act in self._on_cancel:
                act()


class Pending:
    """A request to the client, until its answer comes."""

    def __init__(self, ident: int) -> None:
        self.id = ident
        self.done = threading.Event()
        self._answer: Json = {}

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the answer; RpcError if it is an error, ClosedError, TimeoutError."""
        if not self.done.wait(timeout_s):
            raise TimeoutError
        if "error" in self._answer:
            raise _error_of(self._answer["error"])
        if "result" not in self._answer:
            raise ClosedError
        return self._answer["result"]

    def settle(self, answer: Json) -> None:
        """Take the answer; one without `result` and `error` says that none will come."""
        self._answer = answer
        self.done.set()


class Connection:
    """Messages with the client. `methods` are those that it can call, `run` reads until the end."""

    def __init__(self, reading: int, writing: int, methods: Mapping[str, Method]) -> None:
        self._reading, self._writing, self._methods = reading, writing, methods
        self._lock = threading.Lock()  # of what is written
        self._calls: dict[str, Call] = {}  # by the JSON of their ids
        self._threads: set[threading.Thread] = set()
        self._pending: dict[int, Pending] = {}
        self._asked = 0
        self._woken, self._waking = os.pipe()
        self._is_broken = False  # nothing can be written any more
        self._closed_at: float | None = None
        self.signal: int | None = None  # the one that has ended it

    # What csa sends

    def notify(self, method: str, params: Json) -> None:
        """Send a notification; it is dropped when the client has gone."""
        self._send(_encoded({"jsonrpc": "2.0", "method": method, "params": params}))

    def request(self, method: str, params: Json) -> Pending:
        """Send a request."""
        with self._lock:
            self._asked += 1
            pending = self._pending[self._asked] = Pending(self._asked)
        self._send(_encoded({"jsonrpc": "2.0", "id": pending.id, "method": method, "params": params}))
        if self.is_closed:
            self._forget_pending()
        return pending

    # Cancelling and ending

    def cancel(self, ident: Any) -> None:
        """Cancel the client's request with this id, if it is still worked on."""
        if call := self._calls.get(_key(ident)):
            call.cancel()

    @property
    def is_closed(self) -> bool:
        """Whether the client has gone, or csa is to end."""
        return self._closed_at is not None

    def close(self) -> None:
        """Have the loop end; from any thread, and from a handler of signals."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()
            os.write(self._waking, b"\0")

    def close_on_signals(self) -> None:
        """End on SIGTERM, SIGINT and SIGHUP; for the main thread."""

        def note(number: int, _frame: object) -> None:
            self.signal = self.signal or number
            self.close()

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in numbers:
            signal.signal(number, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # a client may have blocked them

    def run(self, grace_s: float = 5.0) -> None:
        """Read and answer until the client has gone or `close`; then cancel what runs, and wait so long for it."""
        try:
            self._read_all()
        finally:
            self.close()
            self._forget_pending()
            for call in list(self._calls.values()):
                call.cancel()
            limit = time.monotonic() + grace_s
            for thread in list(self._threads):
                thread.join(max(0.0, limit - time.monotonic()))

    def _forget_pending(self) -> None:
        for pending in list(self._pending.values()):
            pending.settle({})

    # Reading

    def _read_all(self) -> None:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        poll.register(self._writing, 0)  # only whether the other end is gone
        poll.register(self._woken, select.POLLIN)
        lines = Lines(self._take, self._refuse_long)
        while not self.is_closed:
            ready = dict(poll.poll())
            if self._reading in ready:
                try:
                    piece = os.read(self._reading, _CHUNK)
                except OSError:  # a socket whose client has left answers unread; a terminal that was closed
                    piece = b""
                if not piece:
                    lines.end()
                    return
                lines.feed(piece)
            elif self._writing in ready:
                self._is_broken = True
                return

    def _refuse_long(self) -> None:
        self._send(_refusal(INVALID_REQUEST, f"Invalid request: a line is longer than {LONGEST_LINE >> 20} MiB"))

    def _take(self, line: bytes) -> None:
        if self._is_broken:
            return  # nobody would read the answers to what was read before that
        try:
            message = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            self._send(_refusal(PARSE_ERROR, "Parse error: a line is not JSON"))
            return
        if type(message) is not list:
            self._serve(message, self._send)
        elif not message:
            self._send(_refusal(INVALID_REQUEST, "Invalid request: an empty batch"))
        else:
            batch = _Batch(len(message), self._send)
            for each in message:
                self._serve(each, batch.add)

    def _serve(self, message: Any, reply: Callable[[bytes], None]) -> None:
        """Do what one message wants; `reply` is called once, with an answer, which is empty if there is none."""
        if fault := _fault_of(message):
            ident = message.get("id") if type(message) is dict and _is_id(message.get("id")) else None
            reply(_refusal(INVALID_REQUEST, f"Invalid request: {fault}", ident))
        elif "method" not in message:
            self._settle(message)
            reply(b"")
        else:
            self._begin(message, reply)

    def _settle(self, message: Json) -> None:
        number = message["id"]
        with self._lock:
            pending = self._pending.pop(number, None) if type(number) is int else None
        if pending:
            pending.settle(message)

    # Working

    def _begin(self, message: Json, reply: Callable[[bytes], None]) -> None:
        call = Call(message.get("id"))
        key = _key(call.id) if "id" in message else None
        if key in self._calls:
            reply(_refusal(INVALID_REQUEST, "Invalid request: the id is in use", call.id))
            return
        if key and len(self._threads) >= MOST_CALLS:
            reply(_refusal(INTERNAL_ERROR, "Too many requests at a time", call.id))
            return

        def finish(outcome: Json) -> None:
            if key:
                self._calls.pop(key, None)
            reply(_answer(call.id, outcome) if key and outcome else b"")

        if key:
            self._calls[key] = call
        outcome = outcome_of(lambda: self._call(message, call))
        later = outcome.get("result")
        if isinstance(later, Later):
            self._go_on(later, finish)
        else:
            finish(outcome)

    def _go_on(self, later: Later, finish: Callable[[Json], None]) -> None:
        def work() -> None:
            try:
                finish(outcome_of(later.work))
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=work, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _call(self, message: Json, call: Call) -> Any:
        name = message["method"]
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {name}", {"method": name})
        params = message.get("params")
        if type(params) is list:
            raise RpcError(INVALID_PARAMS, f"{name} takes parameters by name")
        return method(params or {}, call)

    # Writing

    def _send(self, message: bytes) -> None:
        """Write a message as a line; an empty one is none."""
        if not message:
            return
        with self._lock:
            if not self._is_broken:
                try:
                    self._write(message + b"\n")
                except OSError:
                    self._is_broken = True
        if self._is_broken:
            self.close()

    def _write(self, line: bytes) -> None:
        """Write all of a line; OSError when the client has gone, or does not read while csa is to end."""
        left = memoryview(line)
        poll = select.poll()
        poll.register(self._writing, select.POLLOUT)
        poll.register(self._reading, 0)
        poll.register(self._woken, select.POLLIN)
        while left:
            if self._closed_at is not None:
                _wait_until_writable(self._writing, self._closed_at + _LAST_WRITE_S)
            else:
                ready = dict(poll.poll())
                if self._writing not in ready:
                    self.close()  # the client sends no more, and does not read
                    continue
            left = left[os.write(self._writing, left[:_PIECE]) :]


class Lines:
    """Splits what is read into lines, in bounded memory."""

    def __init__(self, take: Callable[[bytes], None], refuse: Callable[[], None]) -> None:
        self._take, self._refuse = take, refuse
        self._buffer, self._seen, self._skips = bytearray(), 0, False

    def feed(self, piece: bytes) -> None:
        """Take what was read."""
        self._buffer += piece
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._seen))) >= 0:
            if self._skips:
                self._skips = False
            elif line := bytes(self._buffer[start:end]).strip():
                self._take(line)
            start = end + 1
            self._seen = 0
        del self._buffer[:start]
        self._seen = len(self._buffer)
        if self._seen > LONGEST_LINE:
            if not self._skips:
                self._refuse()
            self._skips = True
            self._buffer.clear()
            self._seen = 0

    def end(self) -> None:
        """Take a last line that has no end."""
        if self._buffer:
            self.feed(b"\n")


class _Batch:
    """The answers to a batch, sent as one when all are there."""

    def __init__(self, count: int, send: Callable[[bytes], None]) -> None:
        self._left, self._send = count, send
        self._answers: list[bytes] = []
        self._lock = threading.Lock()

    def add(self, answer: bytes) -> None:
        """Take the answer to one of its messages; an empty one if it has none."""
        with self._lock:
            self._left -= 1
            self._answers += [answer] if answer else []
            is_whole = self._left == 0
        if is_whole and self._answers:
            self._send(b"[" + b",".join(self._answers) + b"]")


def take_stdio() -> tuple[int, int]:
    """Keep stdin and stdout for the protocol; return them as other descriptors, which no child inherits.

    What csa, a library or a child prints after that goes to stderr, and what reads stdin reads nothing.
    """
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no stderr
        os.dup2(nothing, 1)
    os.close(nothing)
    return reading, writing


def outcome_of(work: Callable[[], Any]) -> Json:
    """Do something; return its result, or the error that it has ended with, as an answer has them; empty for none."""
    try:
        result = work()
    except UnwantedError:
        return {}
    except RpcError as error:
        return {"error": error.to_json()}
    except CsaError as error:
        return {"error": explain(error).to_json()}
    except Exception as error:  # noqa: BLE001  # whoever asked gets an answer, whatever is wrong with csa
        with suppress(OSError, ValueError):  # stderr may be closed
            sys.excepthook(type(error), error, error.__traceback__)
        return {"error": RpcError(INTERNAL_ERROR, f"Internal error: {type(error).__name__}: {error}").to_json()}
    return {"result": {} if result is None else result}


def explain(error: CsaError) -> RpcError:
    """Return an error of csa's as the protocol has it: `data` is the object of every --json."""
    codes = {UsageError: INVALID_PARAMS, NotFoundError: NOT_FOUND}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), INTERNAL_ERROR)
    return RpcError(code, error.message, error.to_json())


def _encoded(message: Json) -> bytes:
    """Return a message as JSON, without what is none: half of a surrogate pair becomes `?`, NaN is a ValueError."""
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _answer(ident: Any, outcome: Json) -> bytes:
    try:
        return _encoded({"jsonrpc": "2.0", "id": ident, **outcome})
    except (TypeError, ValueError, RecursionError) as error:
        return _refusal(INTERNAL_ERROR, f"Internal error: {type(error).__name__}: {error}", ident)


def _refusal(code: int, message: str, ident: Any = None) -> bytes:
    return _answer(ident, {"error": RpcError(code, message).to_json()})


def _fault_of(message: Any) -> str | None:
    """Return why something is not a message; None if it is one."""
    if type(message) is not dict:
        return "it is not an object"
    is_answer = "id" in message and ("result" in message or "error" in message)
    faults = {
        '"jsonrpc" is not "2.0"': message.get("jsonrpc") != "2.0",
        "it has no method": type(message.get("method")) is not str and not ("method" not in message and is_answer),
        "its id is neither a string nor a number": not _is_id(message.get("id")),
        "its params are not an object": type(message.get("params")) not in {dict, list, type(None)},
    }
    return next((words for words, is_so in faults.items() if is_so), None)


def _is_id(value: Any) -> bool:
    return type(value) in {str, int, float, type(None)}


def _key(ident: Any) -> str:
    return json.dumps(ident)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(digits: str) -> float:
    """Return a number that an answer can repeat: 1e400 would be read as infinite, which JSON does not have."""
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits)


def _error_of(error: Any) -> RpcError:
    if type(error) is not dict:
        return RpcError(INTERNAL_ERROR, str(error))
    code, message = error.get("code"), error.get("message")
    return RpcError(
        code if type(code) is int else INTERNAL_ERROR, message if type(message) is str else "", error.get("data")
    )


def _wait_until_writable(descriptor: int, limit: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(max(0.0, limit - time.monotonic()) * 1000):
        raise TimeoutError
