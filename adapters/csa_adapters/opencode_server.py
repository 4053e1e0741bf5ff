"""opencode's own server (seen at 1.18.33): started for one turn, called, read from, and ended.

It listens on the loopback interface with a random password, which is never on a command line.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import secrets
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote, urlsplit

from csa_adapters.bridges import Json

START_LIMIT_S = 60.0
START_PAUSES_S = (0.5, 1.5)
CALL_LIMIT_S = 30.0
STOP_LIMIT_S = 1.0
_READY = re.compile(rb"opencode server listening on (https?://\S+)")
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_PIECE_BYTES = 1 << 16


class BridgeError(Exception):
    """The turn cannot continue; `name` is the kind of error, in opencode's naming."""

    def __init__(self, name: str, message: str, **data: Any) -> None:
        super().__init__(message)
        self.error = {"name": name, "data": {"message": message, **data}}


class Server:
    """`opencode serve`, and calls to it."""

    def __init__(self, command: list[str]) -> None:
        self.directory = os.getcwd()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._headers: dict[str, str] = {}
        self._address: tuple[str, int] | None = None

    def start(self) -> None:
        """Start it, and read the address it announces.

        If several start in one home at once, some fail because of its database (1.18.33), before doing anything.
        """
        for pause_s in START_PAUSES_S:
            try:
                return self._start()
            except BridgeError:
                if self.exit_code(0) <= 0:
                    raise  # it did not give up by itself
                time.sleep(pause_s)
        return self._start()

    def _start(self) -> None:
        password = secrets.token_urlsafe(24)
        token = base64.b64encode(f"opencode:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        try:
            # An explicit host, since the user's config may name another; port 0 lets it use 4096 or any free one.
            self._process = subprocess.Popen(
                [*self._command, "serve", "--hostname", "127.0.0.1", "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,  # what is read ahead would be seen by no `select`
                env={**os.environ, "OPENCODE_SERVER_PASSWORD": password, "OPENCODE_SERVER_USERNAME": "opencode"},
            )
        except OSError as error:
            raise BridgeError("ServerStartError", f"cannot start {self._command[0]}: {error.strerror}") from error
        assert self._process.stdout
        self._wait_until_ready(self._process.stdout)

    def _wait_until_ready(self, stdout: IO[bytes]) -> None:
        """Read until the line with the address; wrappers and plugins may print lines before and after it."""
        deadline = time.monotonic() + START_LIMIT_S
        said = b""
        while self._address is None:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), _PIECE_BYTES) if ready else b""
            if not piece:
                _pass_on(said)
                raise BridgeError("ServerStartError", f"opencode's server did not start{self.ending()}")
            *lines, said = (said + piece).split(b"\n")
            for line in lines:
                found = address_in(line)
                self._address = self._address or found
                if not found:
                    _pass_on(line + b"\n")
        threading.Thread(target=_drain, args=(stdout, said), daemon=True).start()

    def call(self, method: str, path: str, body: Json | None = None, *, limit_s: float | None = CALL_LIMIT_S) -> Any:
        """Make one call; BridgeError with the server's own error if it refuses."""
        connection = self._connect(limit_s)
        try:
            content = None if body is None else json.dumps(body).encode("utf-8", "replace")
            connection.request(method, self._target(path), content, self._headers)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BridgeError("ServerError", f"opencode's server does not answer ({error}){self.ending()}") from error
        finally:
            connection.close()
        answer = _parsed(said)
        if response.status >= http.client.BAD_REQUEST:
            said_error = answer if isinstance(answer, dict) else {}
            message = (said_error.get("data") or {}).get("message") or f"{method} {path} was answered {response.status}"
            raise BridgeError(str(said_error.get("name") or "ServerError"), str(message))
        return answer

    def events(self) -> Iterator[Json]:
        """Yield the server's events; the first one confirms the subscription."""
        connection = self._connect(None)
        try:
            connection.request("GET", self._target("/event"), headers=self._headers)
            for line in connection.getresponse():
                event = _parsed(line[5:]) if line.startswith(b"data:") else None
                if isinstance(event, dict):
                    yield event
        except (OSError, http.client.HTTPException) as error:
            raise BridgeError("ServerError", f"lost the connection to opencode's server ({error})") from error
        finally:
            connection.close()

    def stop(self) -> None:
        """End the server; the guardian sweeps what it has left running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exit_code(self, default: int) -> int:
        """Return the server's own exit code, negative for a signal; else `default`."""
        code = self._process.poll() if self._process else None
        return default if code is None else code

    def _connect(self, limit_s: float | None) -> http.client.HTTPConnection:
        assert self._address
        return http.client.HTTPConnection(*self._address, timeout=limit_s)

    def _target(self, path: str) -> str:
        """Name the session's directory with every call: events of another one are silently dropped."""
        return f"{path}?directory={quote(self.directory)}"

    def ending(self) -> str:
        """Say how the server has ended, if it has."""
        assert self._process
        try:
            code = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            return ""
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def address_in(line: bytes) -> tuple[str, int] | None:
    """Return the host and port that a line of the server announces; None for any other line."""
    found = _READY.search(_ESCAPES.sub(b"", line))
    try:
        parts = urlsplit(found[1].decode("ascii") if found else "")
        host, port = parts.hostname, parts.port
    except ValueError:  # not a valid port
        return None
    return (host, port) if host and port else None


def _pass_on(said: bytes) -> None:
    sys.stderr.buffer.write(said)
    sys.stderr.flush()


def _drain(stream: IO[bytes], said: bytes) -> None:
    while said or (said := os.read(stream.fileno(), _PIECE_BYTES)):
        _pass_on(said)
        said = b""
