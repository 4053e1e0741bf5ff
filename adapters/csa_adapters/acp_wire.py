"""The Agent Client Protocol's wire: an agent's process, and JSON-RPC 2.0 in lines over its stdin and stdout.

It has its own loop on poll(2), without threads: an event loop library takes longer to load
than most turns of the protocol. What an agent writes besides the protocol (banners, logs, a number, an escape code in
front of a message) is passed on as stray text and never ends the turn. Only objects with `jsonrpc` are messages.

SIGTERM makes the current wait, or the next one, raise `Stopped`: once.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from csa_adapters.bridges import Json

METHOD_NOT_FOUND = -32601
CHUNK_BYTES = 1 << 16
LINE_LIMIT_BYTES = 64 << 20
DYING_WAIT_S = 0.5
LOOK_MS = 20
_ENDED = -3  # instead of a descriptor: the agent has ended, and nothing else happened
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])|\ufeff")
_BEGIN = '{"jsonrpc"'
_DECODER = json.JSONDecoder(strict=False)  # accepts a raw tab or escape in a string


class RpcError(Exception):
    """An error that the agent has answered with."""

    def __init__(self, code: Any, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class AgentGoneError(Exception):
    """The agent, or its output, has ended; `code` is its exit code, negative for a signal, None if unknown."""

    def __init__(self, how: str, code: int | None) -> None:
        super().__init__(how)
        self.code = code


class Stopped(Exception):  # noqa: N818  # it is a request and no error
    """SIGTERM was received."""


class Agent:
    """An agent's process and the messages with it.

    heed(method, params, is_request) handles what the agent sends by itself and returns the answer to a request; None to
    a request means that there is no such method. stray(text) handles output that is not a message.
    """

    def __init__(
        self, command: list[str], heed: Callable[[str, Any, bool], Json | None], stray: Callable[[str], None]
    ) -> None:
        self._heed, self._stray = heed, stray
        self._buffer, self._seen, self._skips = bytearray(), 0, False
        self._outgoing = bytearray()
        self._asked = 0
        self._answers: dict[int, Json | None] = {}  # by the number of the request; None while pending
        self._term_came = self.is_stopped = False
        self._wake = self._catch_term()
        self.exit_code: int | None = None
        self.is_open = True  # its output
        self._input, self._output, self._pid = _spawn(command)
        self._pidfd = _open_pidfd(self._pid)
        self._poll = select.poll()
        for descriptor in (self._wake, self._output, *([self._pidfd] if self._pidfd is not None else [])):
            self._poll.register(descriptor, select.POLLIN)

    # What we send

    def request(self, method: str, params: Json) -> int:
        """Send a request; return its number."""
        self._asked += 1
        self._answers[self._asked] = None
        self._send({"id": self._asked, "method": method, "params": params})
        return self._asked

    def notify(self, method: str, params: Json) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def answer(self, number: int, limit_s: float | None = None) -> Any:
        """Wait for the answer to a request.

        Raises:
            RpcError: it is an error.
            AgentGoneError: none can come any more.
            TimeoutError: none came within the limit.
            Stopped: SIGTERM came first.
        """
        limit = _after(limit_s)
        while (found := self._answers[number]) is None and self.is_open and self.exit_code is None:
            self._turn(limit)
        if found is None:
            self._read_the_rest(number)
            found = self._answers[number]
        if found is None:
            raise self._gone()
        del self._answers[number]
        if "error" in found:
            raise _error_of(found["error"])
        return found.get("result")

    def wait(self, seconds: float) -> None:
        """Read for this long, or until the agent's output ends."""
        limit = _after(seconds)
        with suppress(TimeoutError):
            while self.is_open:
                self._turn(limit)

    # The end

    def close_input(self) -> None:
        """Close the agent's input."""
        if self._outgoing:
            self._poll.unregister(self._input)
            self._outgoing.clear()
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def wait_for_exit(self, seconds: float) -> bool:
        """Read until the agent has ended, at most this long; say whether it has."""
        limit = _after(seconds)
        with suppress(TimeoutError):
            while self.exit_code is None:
                self._turn(limit)
        return self.exit_code is not None

    def kill(self, number: int) -> None:
        """Send the agent a signal; it is our child, so its pid is not reused until we have waited for it."""
        if self.exit_code is None:
            os.kill(self._pid, number)

    # The loop

    def _catch_term(self) -> int:
        """Catch SIGTERM from now on; return a descriptor that becomes readable when it comes."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._note_term)
        return reading

    @property
    def is_told_to_stop(self) -> bool:
        """Whether SIGTERM has come, perhaps not yet noticed by a wait."""
        return self._term_came

    def _note_term(self, _number: int, _frame: object) -> None:
        self._term_came = True

    def _turn(self, limit: float | None) -> None:
        """Wait for the next event, and handle it."""
        left_ms = None if limit is None else max(0.0, limit - time.monotonic()) * 1000
        found = self._poll.poll(left_ms) if self._pidfd is not None else self._look(left_ms)
        if not found:
            raise TimeoutError
        ready = {descriptor for descriptor, _ in found}
        if self._wake in ready:
            os.read(self._wake, CHUNK_BYTES)
        if self._term_came and not self.is_stopped:
            self.is_stopped = True
            raise Stopped
        if self._input in ready:
            self._write()
        if self._output in ready:
            self._read()
        if self._pidfd in ready and self._pidfd is not None:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self._pidfd = -2

    def _look(self, left_ms: float | None) -> list[tuple[int, int]]:
        """Poll without pidfds: check now and then whether the process has ended."""
        limit = math.inf if left_ms is None else time.monotonic() + left_ms / 1000
        while self.exit_code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
                self._pidfd = -2
                return [(_ENDED, 0)]
            left = min(LOOK_MS, max(0.0, (limit - time.monotonic()) * 1000))
            if (found := self._poll.poll(left)) or time.monotonic() >= limit:
                return found
        return []

    def _read_the_rest(self, number: int) -> None:
        """Read the remaining output of an agent that ended; another holder of its output does not block us."""
        limit = _after(DYING_WAIT_S)
        with suppress(TimeoutError):
            while self._answers[number] is None and (self.is_open or self.exit_code is None):
                self._turn(limit)

    def _gone(self) -> AgentGoneError:
        code = self.exit_code
        if code is None:
            return AgentGoneError("closed its output", None)
        return AgentGoneError(f"exited with {code}" if code >= 0 else f"died of signal {-code}", code)

    def _send(self, message: Json) -> None:
        if self._input < 0:
            return
        if not self._outgoing:
            self._poll.register(self._input, select.POLLOUT)
        self._outgoing += json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"

    def _write(self) -> None:
        """Write as much as fits. An agent that has stopped reading may still be writing."""
        try:
            del self._outgoing[: os.write(self._input, self._outgoing[:CHUNK_BYTES])]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()
        if not self._outgoing:
            self._poll.unregister(self._input)

    def _read(self) -> None:
        piece = os.read(self._output, CHUNK_BYTES)
        if not piece:
            self._poll.unregister(self._output)
            self.is_open = False
            piece = b"\n"
        self._buffer += piece
        while (end := self._buffer.find(b"\n", self._seen)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._seen = 0
            if not self._skips:
                self._take(line)
            self._skips = False
        self._seen = len(self._buffer)
        if self._seen > LINE_LIMIT_BYTES:
            self._stray(f"a line of more than {LINE_LIMIT_BYTES >> 20} MiB was dropped")
            self._skips = True
            self._buffer.clear()
            self._seen = 0

    def _take(self, line: bytes) -> None:
        message, text = read_message(line)
        if message is None:
            if text.strip():
                self._stray(text)
        elif type(message.get("method")) is str:
            self._serve(message)
        else:
            number = message.get("id")
            if type(number) is int and number in self._answers:
                self._answers[number] = message
            else:
                self._stray(text)

    def _serve(self, message: Json) -> None:
        method = message["method"]
        answer = self._heed(method, message.get("params"), "id" in message)
        if "id" not in message:
            return
        refusal = {"code": METHOD_NOT_FOUND, "message": "Method not found", "data": {"method": method}}
        outcome = {"error": refusal} if answer is None else {"result": answer}
        self._send({"id": message["id"], **outcome})


def read_message(line: bytes) -> tuple[Json | None, str]:
    """Return the message in a line, or None, and the line as text.

    A byte that is not UTF-8 is treated as Latin-1. A byte order mark, escape codes and a prompt without a newline
    may precede a message.
    """
    text = line.decode("utf-8", _LATIN_1)
    found = _parse(text)
    if found is None and '"jsonrpc"' in text:
        plain = _ESCAPES.sub("", text)
        begins = (plain.find("{"), plain.find(_BEGIN))
        found = next((message for at in begins if at >= 0 and (message := _parse(plain[at:]))), None)
    return found, text


def _parse(text: str) -> Json | None:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if type(value) is dict and "jsonrpc" in value else None


def _error_of(error: Any) -> RpcError:
    if type(error) is not dict:
        return RpcError(None, str(error))
    message = error.get("message")
    return RpcError(error.get("code"), message if type(message) is str else "", error.get("data"))


def _open_pidfd(pid: int) -> int | None:
    """Return a pidfd of a child; None without pidfds (gVisor, a seccomp filter)."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _after(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _spawn(command: list[str]) -> tuple[int, int, int]:
    """Start the agent; return our ends of its stdin and stdout, and its pid. It has our stderr, and no ignored signals.

    Raises OSError.
    """
    their_input, our_input = os.pipe()
    our_output, their_output = os.pipe()
    try:
        pid = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, their_input, 0), (os.POSIX_SPAWN_DUP2, their_output, 1)],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.close(their_input)
        os.close(their_output)
    os.set_blocking(our_input, False)
    return our_input, our_output, pid


def _latin_1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


_LATIN_1 = "csa-latin-1"
codecs.register_error(_LATIN_1, _latin_1)
