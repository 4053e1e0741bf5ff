"""csa serve: what those get who have no token, or one that may only read."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from csa.errors import CsaError, StateError
from csa.model.schemas.api import ROUTES
from csa.model.schemas.chat_api import SESSION
from csa.model.schemas.route import ACT, MCP, READ, Route
from csa.serve import app, server
from csa.serve.app import Api
from csa.serve.guard import TOKEN
from csa.serve.problems import RequestError, failure_of, status_of
from csa.serve.tokens import Token, Tokens
from tests.serving import Server, serving
from tests.support import Place

HEAD = b"Host: localhost\r\n"
_READER = Token(name="phone", level=READ, digest="", created_at="")


def test_what_changes_something_is_said_in_the_table() -> None:
    """Only reading is a GET; what is to act says so, and is refused by what the table says and not by its method."""
    assert [route.name for route in ROUTES if (route.method == "GET") is not (route.access == READ)] == []

    async def ask() -> None:
        route = Route(method="GET", path="/future", name="future", about="", answer="health", access=ACT)
        request = Request({"type": "http", "csa.access": READ, TOKEN: _READER})
        await Api._answer(object(), route, request)  # type: ignore[arg-type]  # noqa: SLF001  # it gets no further

    with pytest.raises(RequestError) as refused:
        asyncio.run(ask())
    assert refused.value.status == 403


@pytest.mark.thorough
def test_a_token_for_reading_changes_nothing_on_any_route(place: Place, server: Server) -> None:
    """All routes that act refuse it, whatever else the request says, and no method gets around that."""
    reading = place.run("serve", "token", "phone", "--read").out.strip()
    _expect_refusals(server, reading)
    server.stop()
    with serving(place, "--read-only") as only_reading:
        _expect_refusals(only_reading, only_reading.token)
    assert place.published() == []


def _expect_refusals(server: Server, token: str) -> None:
    with_it = {"Authorization": f"Bearer {token}"}
    got = {}
    for route in ROUTES:
        path = route.place.replace("{id}", "x").replace("{name:path}", "x")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            got[method, path] = server.ask(method, path, {}, headers=with_it).status
    assert {place for place, status in got.items() if status != 403} == set()
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert server.ask("PUT", MCP, hello, headers=with_it).status == 405


@pytest.mark.thorough
def test_no_route_answers_for_a_project_that_is_not_served(place: Place) -> None:
    """Whatever names a session: in the path or the header, as an answer or a stream."""
    session_id = place.codex().session_id
    other = place.tmp / "other"
    other.mkdir()
    got = {}
    with serving(place, "--project", str(other)) as server:
        for route in ROUTES:
            header = {SESSION: session_id} if SESSION in route.headers else {}
            if not header and "{id}" not in route.path:
                continue
            path = route.place.replace("{id}", session_id).replace("{name:path}", "x")
            asked = "&".join(f"{name}=x" for name in route.needs & route.query.keys())
            body = (
                {name: _something(route.body["properties"][name]) for name in route.body["required"]}
                if route.body
                else None
            )
            for accepted in ("application/json", "text/event-stream"):
                headers = {**header, "Accept": accepted}
                answer = server.ask(route.method, f"{path}?{asked}", body, headers=headers)
                got[route.name, accepted] = answer.status, answer.content[:99]
        assert [each for each in got.items() if each[1][0] != 403 and each[0][0] != "threads"] == []
        assert server.ask("GET", "/api/sessions").json == []
        assert "Traceback" not in server.running.err
    assert place.state(session_id)["turns"] == 1


def _something(schema: Mapping[str, Any]) -> Any:
    return True if schema["type"] == "boolean" else "x"


@pytest.mark.thorough
def test_tokens_that_cannot_be_read_let_nobody_in(place: Place, server: Server) -> None:
    """Strangers do not learn what is wrong and where; the user does."""
    kept = place.state_root / ".serve" / "tokens.json"
    good = kept.read_bytes()
    for bad in (
        b"{",
        b"[]",
        b'{"tokens": [1]}',
        good.replace(b'"sha256": "', '"sha256": "\u00e9'.encode()),
        b"[" * 9999,
    ):
        kept.unlink()
        kept.write_bytes(bad)
        answer = server.ask("GET", "/health")
        assert (answer.status, answer.kind) == (500, "error")
        assert str(place.state_root) not in answer.content.decode()
        done = place.run("serve", "token")
        assert (done.code, str(kept) in done.err) == (6, True)
    kept.unlink()
    kept.mkdir()
    assert server.ask("GET", "/health").status == 500
    kept.rmdir()
    kept.write_bytes(good)
    assert server.get("/health") == {"ok": True}
    assert "Traceback" not in server.running.err


class Wire(NamedTuple):
    """A connection to a server in this process."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def _connected(application: Any) -> AsyncIterator[Wire]:
    config = uvicorn.Config(application, http=server.Protocol, ws="none", log_level="error", access_log=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: server.Protocol(config, state, {}), "127.0.0.1", 0)
    wire = Wire(*await asyncio.open_connection(*listening.sockets[0].getsockname()))
    try:
        yield wire
    finally:
        wire.writer.close()
        listening.close()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def _greet(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body; who has a token, is answered for longer than a stranger may be there."""
    if scope["path"] == "/known":
        scope[TOKEN] = _READER
        await asyncio.sleep(3 * server.HEAD_WITHIN_S)
    if scope["path"] != "/early":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    content = b"ok"
    await send({"type": "http.response.body", "body": content})


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\n" + HEAD,
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n" + HEAD + b"\r\nhalf",
        b"POST /early HTTP/1.1\r\nContent-Length: 9\r\n" + HEAD + b"\r\nhalf",
        b"GET / HTTP/1.1\r\n" + HEAD + b"\r\nGET / HTTP/1.1\r\n",
    ],
    ids=["nothing", "a line", "headers", "a body", "a body after the answer", "a second request"],
)
def test_who_asks_for_nothing_is_not_kept(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silent connections nor unfinished requests stay."""
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.05)
    monkeypatch.setattr(server, "TAKEN_WITHIN_S", 0.05)

    async def go() -> None:
        async with _connected(_greet) as wire:
            wire.writer.write(sent)
            try:
                while await asyncio.wait_for(wire.reader.read(1000), 10):
                    pass
            except ConnectionResetError:
                pass

    asyncio.run(go())


def test_who_has_a_token_is_answered_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for strangers only."""
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.02)

    async def go() -> bytes:
        async with _connected(_greet) as wire:
            wire.writer.write(b"GET /known HTTP/1.1\r\n" + HEAD + b"\r\n")
            return await wire.reader.readline()

    assert asyncio.run(go()).startswith(b"HTTP/1.1 200")


def test_there_are_only_so_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is closed at once."""
    monkeypatch.setattr(server, "most_connections", lambda: 0)

    async def go() -> bytes:
        async with _connected(_greet) as wire:
            try:
                return await asyncio.wait_for(wire.reader.read(1), 10)
            except ConnectionResetError:
                return b""

    assert asyncio.run(go()) == b""


@pytest.mark.parametrize("path", [b"/", b"/early"])
def test_what_is_no_http_is_no_news(path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A body that breaks off in nonsense is refused, and anybody can send one: nothing is logged."""

    async def go() -> bytes:
        async with _connected(_greet) as wire:
            wire.writer.write(
                b"POST " + path + b" HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
            )
            return await wire.reader.read()

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(go()).startswith(b"HTTP/1.1 ")
    assert caplog.text == ""


@pytest.mark.parametrize("is_ending", [False, True])
def test_mcp_ends_when_its_token_is_revoked_or_the_server_ends(
    monkeypatch: pytest.MonkeyPatch, *, is_ending: bool
) -> None:
    """As the streams of csa's own do; the answer is complete then."""
    monkeypatch.setattr(app, "PING_S", 60 if is_ending else 0.01)
    known = [True, True, is_ending]

    class Revoking:
        def still_knows(self, _: Token) -> bool:
            return known.pop(0)

    class Speaking:
        guard = Revoking()
        ending = asyncio.Event()

        async def mcp(self) -> Any:
            async def speak(_: object, __: object, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200})
                if is_ending:
                    self.ending.set()
                await asyncio.Event().wait()

            return speak

    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    speaking = app.Mcp(Speaking())({TOKEN: _READER}, None, send)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(speaking, 10))
    assert sent == ["http.response.start", "http.response.body"]


def test_a_full_disk_has_a_status_of_its_own() -> None:
    """Also where csa says in its own words what could not be written."""
    full = OSError(errno.ENOSPC, "No space left on device")
    told = CsaError("The session cannot be written.")
    told.__cause__ = full
    assert (status_of(told), status_of(failure_of(full))) == (507, 507)
    assert status_of(CsaError("Something else.")) == 500


def test_tokens_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names their place; it is not the output that failed."""
    (tmp_path / ".serve").write_text("x")
    with pytest.raises(StateError, match=r"\.serve: cannot be made"):
        Tokens(tmp_path).add("phone", READ)
