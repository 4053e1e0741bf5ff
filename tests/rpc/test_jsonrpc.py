"""JSON-RPC over pipes, as a client sees it: also one that breaks the rules, does not read, or goes."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from csa.errors import NotFoundError
from csa.rpc import jsonrpc
from csa.rpc.jsonrpc import Call, ClosedError, Connection, Json, Later, Lines, RpcError

WAIT_S = 10.0


class Client:
    """The other end, and the connection that serves it in a thread."""

    def __init__(self, methods: dict[str, Any], grace_s: float = 5.0) -> None:
        theirs, self.input = os.pipe()
        output, ours = os.pipe()
        self._ends = [theirs, ours]
        self.connection = Connection(theirs, ours, methods)
        self.output = os.fdopen(output, "rb")
        self.thread = threading.Thread(target=self.connection.run, args=(grace_s,), daemon=True)
        self.thread.start()

    def write(self, content: bytes) -> None:
        os.write(self.input, content)

    def send(self, *messages: object) -> None:
        self.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def read(self) -> Any:
        return json.loads(self.output.readline())

    def ask(self, method: str, params: object = None, ident: object = 1) -> Any:
        self.send({"jsonrpc": "2.0", "id": ident, "method": method, "params": params})
        return self.read()

    def leave(self) -> None:
        with suppress(OSError):
            os.close(self.input)
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.leave()
        self.output.close()
        for end in self._ends:
            os.close(end)


@contextmanager
def serving(**methods: Any) -> Iterator[Client]:
    client = Client(methods)
    try:
        yield client
    finally:
        client.close()


def echo(params: Json, _: Call) -> Json:
    return params


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":NaN}}', -32700),
        (b'{"jsonrpc":"2.0","id":1e400,"method":"echo"}', -32700),
        (b'{"jsonrpc":"2.0","id":1e400,"method":5}', -32700),
        (b"[" * 20_000, -32700),
        (b'{"x": ' + b"9" * 5_000 + b"}", -32700),
        (b"[]", -32600),
        (b"17", -32600),
        (b"null", -32600),
        (b'{"id":1,"method":"echo"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
    ],
)
def test_what_is_no_request_is_answered_and_the_next_one_served(line: bytes, code: int) -> None:
    with serving(echo=echo) as client:
        client.write(line + b"\n")
        assert client.read()["error"]["code"] == code
        assert client.ask("echo", {"x": "ä\ud800"}, "a")["result"] == {"x": "ä?"}


def test_a_batch_is_answered_as_one_when_all_is_done() -> None:
    def slow(_: Json, __: Call) -> Later:
        return Later(lambda: "slow")

    def one(name: str, ident: object = None) -> Json:
        return {"jsonrpc": "2.0", "method": name} | ({} if ident is None else {"id": ident})

    with serving(slow=slow, echo=echo) as client:
        client.send([one("slow", 1), one("echo"), 5, one("echo", 2)])
        answers = client.read()
        assert {str(each.get("result", each.get("error"))) for each in answers} >= {"slow", "{}"}
        assert sorted(each["id"] or 0 for each in answers) == [0, 1, 2]
        client.send([one("echo"), one("nothing")], one("echo", 3))
        assert client.read()["id"] == 3  # notifications alone have no answer


def test_every_failure_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: Exception) -> Any:
        def method(_: Json, __: Call) -> None:
            raise error

        return method

    missing = NotFoundError("No session x.", hint="csa ls")
    known = fail(RpcError(-1, "mine", {"a": 1}))
    with serving(
        known=known, csa=fail(missing), bug=fail(KeyError("x")), unsendable=lambda _, __: {"x": object()}
    ) as c:
        assert c.ask("known")["error"] == {"code": -1, "message": "mine", "data": {"a": 1}}
        found = c.ask("csa")["error"]
        assert (found["code"], found["message"], found["data"]["hint"]) == (-32002, "No session x.", "csa ls")
        assert c.ask("bug")["error"] == {"code": -32603, "message": "Internal error: KeyError: 'x'"}
        assert c.ask("unsendable")["error"]["code"] == -32603
        c.send({"jsonrpc": "2.0", "method": "bug"})
        assert c.ask("known", ident=2)["id"] == 2
    assert "KeyError" in capsys.readouterr().err


def test_messages_are_read_while_a_request_is_worked_on_which_can_be_cancelled() -> None:
    def wait(_: Json, call: Call) -> Later:
        return Later(lambda: call.cancelled.wait(WAIT_S))

    def cancel(params: Json, _: Call) -> None:
        client.connection.cancel(params["id"])

    with serving(wait=wait, cancel=cancel, echo=echo) as client:
        client.send({"jsonrpc": "2.0", "id": "w", "method": "wait"})
        assert client.ask("echo", {"x": 1})["result"] == {"x": 1}
        assert "in use" in client.ask("wait", ident="w")["error"]["message"]
        client.send({"jsonrpc": "2.0", "method": "cancel", "params": {"id": "w"}})
        assert client.read() == {"jsonrpc": "2.0", "id": "w", "result": True}


def test_the_client_is_asked_and_answers() -> None:
    def ask(_: Json, __: Call) -> Later:
        return Later(lambda: client.connection.request("may_i", {"what": "x"}).result(WAIT_S))

    with serving(ask=ask) as client:
        cases: tuple[Json, ...] = ({"result": [1]}, {"error": {"code": 5, "message": "no"}})
        for outcome in cases:
            asked = client.ask("ask", ident="q")
            assert (asked["method"], asked["params"]) == ("may_i", {"what": "x"})
            client.send({"jsonrpc": "2.0", "id": 999, "result": 0}, {"jsonrpc": "2.0", "id": asked["id"], **outcome})
            assert client.read() == {"jsonrpc": "2.0", "id": "q", **outcome}


def test_when_the_client_goes_its_requests_are_cancelled_and_nobody_waits_for_its_answers() -> None:
    ends: list[str] = []

    def wait(_: Json, call: Call) -> Later:
        return Later(lambda: ends.append("cancelled" if call.cancelled.wait(WAIT_S) else "late"))

    def ask(_: Json, __: Call) -> Later:
        def work() -> None:
            try:
                client.connection.request("may_i", {}).result(WAIT_S)
            except ClosedError:
                ends.append("closed")

        return Later(work)

    with serving(wait=wait, ask=ask) as client:
        client.send({"jsonrpc": "2.0", "id": 1, "method": "wait"}, {"jsonrpc": "2.0", "id": 2, "method": "ask"})
        assert client.read()["method"] == "may_i"
        client.leave()
        assert sorted(ends) == ["cancelled", "closed"]
        with pytest.raises(ClosedError):
            client.connection.request("may_i", {}).result(WAIT_S)


def test_a_client_that_does_not_read_does_not_hang_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonrpc, "_LAST_WRITE_S", 0.05)
    with serving(flood=lambda _, __: {"text": "x" * (1 << 20)}) as client:
        client.send({"jsonrpc": "2.0", "id": 1, "method": "flood"})
        assert client.output.read(1) == b"{"
        before = time.monotonic()
        client.leave()
        assert time.monotonic() - before < WAIT_S / 2


def test_what_a_client_has_asked_that_does_not_read_is_left_undone_when_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that was read in one piece, before the client was found not to read: it may be thousands of requests."""
    monkeypatch.setattr(jsonrpc, "_LAST_WRITE_S", 0.05)
    done: list[int] = []

    def much(_: Json, __: Call) -> str:
        done.append(1)
        return "x" * 70_000

    with serving(much=much) as client:
        client.send(*({"jsonrpc": "2.0", "id": number, "method": "much"} for number in range(200)))
        client.leave()
    assert len(done) < 5


def test_a_client_on_one_socket_that_leaves_answers_unread_has_gone() -> None:
    """Some start servers on one socket for both ways; reading then fails with ECONNRESET."""
    theirs, ours = socket.socketpair()
    with theirs, ours, ours.dup() as again:
        connection = Connection(ours.fileno(), again.fileno(), {"echo": echo})
        theirs.send(b'{"jsonrpc":"2.0","id":1,"method":"echo"}\n')
        with ThreadPoolExecutor() as pool:
            ended = pool.submit(connection.run)
            assert select.select([theirs], [], [], WAIT_S)[0]
            theirs.close()
            ended.result(WAIT_S)


def test_what_waits_to_be_written_is_written_after_the_client_has_closed_its_side() -> None:
    with serving(flood=lambda _, __: {"text": "x" * (1 << 20)}) as client:
        client.write(b'{"jsonrpc":"2.0","id":1,"method":"flood"}')  # without a line end
        os.close(client.input)
        assert len(client.read()["result"]["text"]) == 1 << 20


def test_a_line_that_is_too_long_is_refused_and_skipped_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonrpc, "LONGEST_LINE", 100)
    found: list[bytes] = []
    lines = Lines(found.append, lambda: found.append(b"refused"))
    for piece in (b"one\ntw", b"o\r\n\n", b"x" * 90, b"x" * 90, b"x" * 200, b"x\nthree\nfo", b"ur"):
        lines.feed(piece)
    lines.end()
    assert found == [b"one", b"two", b"refused", b"three", b"four"]
