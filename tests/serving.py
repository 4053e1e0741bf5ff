"""A server under test, as a user starts it, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from tests.support import PATIENCE_S, Place, Running, wait_for

API = "/api/v1"


class Answer(NamedTuple):
    """A response that has ended."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def kind(self) -> str:
        """What kind of error it is."""
        return str(self.json["error"]["kind"])


class Event(NamedTuple):
    """One event of a stream."""

    id: str
    name: str
    data: Any


class Server:
    """A running `csa serve`."""

    def __init__(self, place: Place, *words: str, port: int = 0) -> None:
        self.place = place
        self.running: Running = place.start("serve", "--port", str(port), *words)
        wait_for(lambda: self.running.out.endswith("\n") or self.running.process.poll() is not None, "it serves")
        assert self.running.out, self.running.err
        self.url, _, self.token = self.running.out.strip().partition("/#token=")
        self.port = int(self.url.rpartition(":")[2])

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """Ask, and return the whole answer; a header of None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        given: dict[str, str | None] = {"Authorization": f"Bearer {self.token}"}
        content = json.dumps(body).encode() if body is not None else raw
        if content is not None:
            given["Content-Type"] = "application/json"
        merged = {name: value for name, value in {**given, **(headers or {})}.items() if value is not None}
        try:
            connection.request(method, _whole(path), content, merged)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the object of an answer that must be a success."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, body: object = None, *, status: int = 201) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status == status, answer
        return answer.json

    def start(self, prompt: str = "hello", **more: Any) -> str:
        """Start an agent; return its session."""
        known = {"prompt": prompt, "tool": "codex", "directory": str(self.place.project)}
        begun = self.post("/sessions", {**known, **more})
        return str(begun["session_id"])

    @contextmanager
    def stream(self, path: str, *, last: str | None = None) -> Iterator[Iterator[Event]]:
        """Follow a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        connection.request("GET", _whole(path), headers={**headers, **({"Last-Event-ID": last} if last else {})})
        answer = connection.getresponse()
        assert answer.status == 200
        try:
            yield read_events(answer)
        finally:
            if connection.sock:
                with suppress(OSError):  # the server has closed it
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def stop(self) -> int:
        """End it as Ctrl-C does; return its exit code."""
        if self.running.process.poll() is None:
            self.running.signal(signal.SIGINT)
        return self.running.wait().code


def _whole(path: str) -> str:
    return path if path.startswith(("/api", "/mcp")) else API + path


def read_events(answer: http.client.HTTPResponse) -> Iterator[Event]:
    """Yield events as they come, until the stream ends."""
    found: dict[str, str] = {}
    while line := answer.readline():
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            found[name] = value
            continue
        if "data" in found:
            yield Event(found["id"], found.get("event", "message"), json.loads(found["data"]))
        found = {}


@contextmanager
def serving(place: Place, *words: str, port: int = 0) -> Iterator[Server]:
    """Serve in a block."""
    server = Server(place, *words, port=port)
    try:
        yield server
    finally:
        server.stop()
