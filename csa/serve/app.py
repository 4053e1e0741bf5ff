"""The routes as an application: reads requests, calls handlers in threads, answers. The only importer of starlette."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router

from csa.errors import CsaError
from csa.model.schemas.api import ROUTES
from csa.model.schemas.route import ACT, MCP, Route
from csa.runner.turns.ahead import load_at_once
from csa.serve.assets import find_asset, load
from csa.serve.attachments import Attachment
from csa.serve.chatapi import CHAT_HANDLERS, Updates, find_chat
from csa.serve.elsewhere import take_up_elsewhere
from csa.serve.guard import TOKEN, Application, Guard, Receive, Scope, Send, only_reads, send_error
from csa.serve.handlers import HANDLERS, transcript_of
from csa.serve.problems import RequestError, failure_of
from csa.serve.requests import MAX_BODY_BYTES, Asked, read_body, read_headers, read_query
from csa.serve.served import Served
from csa.serve.streams import PING_S, Channels, EventStream, Watch, json_of
from csa.serve.tokens import Token, Tokens

_BODY_WITHIN_S = 30.0
_AT_ONCE = {"s": 4, "e": 8, "r": 8, "w": 64}  # starts, ends, reads, and what may have to wait
_STARTING = {"create", "turn", "fork", "enqueue", "chat", "new_thread"}
_ENDING = {"cancel", "delete", "interrupt", "delete_thread"}
_LONG = {"compress", "land"}
_CALLS = {**HANDLERS, **CHAT_HANDLERS}


class Api:
    """The application's own state: what runs, and what is asked for."""

    def __init__(self, served: Served, tokens: Tokens, hosts: frozenset[str], *, read_only: bool) -> None:
        self.served = served
        self._read_only = read_only
        self.ending = asyncio.Event()  # the server is about to end: streams do
        self.watch = Watch(served.fleet, secrets.token_hex(4))
        self.channels: Channels
        self._tasks: anyio.abc.TaskGroup
        self._loading = anyio.Lock()
        self._mcp: Application | None = None
        self._limiters = {kind: anyio.CapacityLimiter(n) for kind, n in _AT_ONCE.items()}
        places: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            places.setdefault(route.place, {})[route.method] = route
        routes = [
            StarletteRoute(place, partial(self._answer_by, known), methods=list(known))
            for place, known in places.items()
        ]
        load()
        routes += [StarletteRoute(path, _asset) for path in ("/", "/page/{version}/{name}")]
        routes.append(StarletteRoute(MCP, Mcp(self), methods=["GET", "POST", "DELETE"]))
        router = Router(routes=routes, lifespan=self._lifespan, redirect_slashes=False)
        self.guard = Guard(_with_errors(router), tokens, hosts, read_only=read_only)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            self.channels = Channels(tasks)
            self._tasks = tasks
            tasks.start_soon(self.watch.run)
            tasks.start_soon(anyio.to_thread.run_sync, _load_rest)
            if not self._read_only:
                tasks.start_soon(anyio.to_thread.run_sync, take_up_elsewhere, self.served)
            yield
            tasks.cancel_scope.cancel()

    async def mcp(self) -> Application:
        """Return what speaks MCP; loaded when it is first asked for, as that takes more than a second."""
        async with self._loading:
            if self._mcp is None:
                self._mcp = await self._tasks.start(self._serve_mcp)
        return self._mcp

    async def _serve_mcp(self, *, task_status: anyio.abc.TaskStatus[Application]) -> None:
        def load_mcp() -> Any:
            from csa.serve.mcphttp import serving_mcp  # noqa: PLC0415  # the SDK: an extra, and slow

            return serving_mcp

        try:
            serving = await anyio.to_thread.run_sync(load_mcp)
        except ImportError:
            hint = "pip install 'csa[mcp]'"
            raise RequestError(
                501, "unavailable", "MCP over HTTP needs a package that is not there.", hint=hint
            ) from None
        async with serving(self.served) as application:
            task_status.started(application)
            await self.ending.wait()  # its own ending takes a second

    async def _answer_by(self, known: Mapping[str, Route], request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await self._answer(known[method], request)

    async def _answer(self, route: Route, request: Request) -> Response:
        if route.access == ACT and request.scope["csa.access"] != ACT:
            raise only_reads(request.scope[TOKEN])
        asked = Asked(
            path={name: str(value) for name, value in request.path_params.items()},
            query=read_query(route, list(request.query_params.multi_items())),
            body=read_body(route, await _read(request), request.headers.get("content-type", "")),
            access=request.scope["csa.access"],
            headers=read_headers(route, request.headers),
            client=request.scope.get("client"),
            server=request.scope.get("server"),
        )
        if route.streams and (not route.answer or "text/event-stream" in request.headers.get("accept", "")):
            return await self._stream(route, asked, request)
        if route.name == "tree":
            return _json(self.watch.state(), 200)
        found = await self._call(route, asked)
        if not route.answer:
            return _Itself(Attachment(found, asked.path.get("name", "log.txt"), asked.headers.get("range")))
        value, status = found if isinstance(found, tuple) else (found, route.status)
        if route.method != "GET":
            self.watch.look_soon()
        return _json(value, status)

    async def _call(self, route: Route, asked: Asked) -> Any:
        kind = "s" if route.name in _STARTING else "e" if route.name in _ENDING else "r"
        may_wait = asked.body.get("wait_s") or asked.body.get("tree")  # a tree may be on hosts that do not answer
        if may_wait or route.name in _LONG or await self._is_far(route, asked, kind):
            kind = "w"
        return await self._in_thread(partial(_CALLS[route.name], self.served, asked), kind)

    async def _is_far(self, route: Route, asked: Asked, kind: str) -> bool:
        """Say whether another host has to do it, which may take long."""
        if route.access != ACT or "on" in asked.body or "id" not in asked.path:
            return "on" in asked.body
        return bool(await self._in_thread(partial(self.served.is_elsewhere, asked.path["id"]), kind))

    async def _in_thread(self, call: Callable[[], Any], kind: str) -> Any:
        return await anyio.to_thread.run_sync(call, limiter=self._limiters[kind], abandon_on_cancel=True)

    async def _stream(self, route: Route, asked: Asked, request: Request) -> Response:
        token = request.scope[TOKEN]
        last = request.headers.get("last-event-id")
        go_on: dict[str, Any] = {"may_go_on": partial(self.guard.still_knows, token), "ending": self.ending}
        if route.name == "tree":
            self.watch.clients += 1
            at = self.watch.number_of(last or asked.query.get("after"))
            self.watch.look_soon()
            return _Itself(EventStream(self.watch, at, self.watch.pull, **go_on))
        if route.name == "updates":
            find_session = partial(find_chat, self.served, asked, is_read=True)
            return _Itself(Updates(self.watch, self.channels, find_session, self._limiters["r"], last, **go_on))
        find = partial(transcript_of, self.served, asked)
        session = await anyio.to_thread.run_sync(find, limiter=self._limiters["r"], abandon_on_cancel=True)
        channel = self.channels.enter(session.content.now())
        go_on["may_go_on"] = lambda: session and self.guard.still_knows(token)  # what is in memory stays with it
        try:
            after = int(last[:18]) if last is not None and last.isdecimal() else asked.query.get("after", -1)
            place = partial(channel.lines.after, after, channel.end)
            start = await anyio.to_thread.run_sync(place, limiter=self._limiters["r"])
        except BaseException:
            channel.clients -= 1
            raise
        return _Itself(EventStream(channel, start, channel.pull, **go_on))


def _load_rest() -> None:
    """Load what routes import when they are asked for, since csa may be upgraded, or moved, while it serves."""
    load_at_once(
        "csa.serve.conversation", packages=("csa.runner", "csa.runner.sessions", "csa.runner.doctor", "csa.process")
    )


async def _asset(request: Request) -> Response:
    found = find_asset(request.url.path)
    if request.headers.get("if-none-match") == found.headers["etag"]:
        return Response(status_code=304, headers=dict(found.headers))
    return Response(found.content, headers=dict(found.headers))


class Mcp:
    """What is at /mcp; like all that goes on for long, it ends when its token is revoked, and when the server does."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = await self._api.mcp()
        has_begun = is_complete = False

        async def noting(message: Any) -> None:
            nonlocal has_begun, is_complete
            has_begun = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        with anyio.CancelScope() as answering:
            watching = asyncio.create_task(self._end_in_time(scope[TOKEN], answering))
            try:
                await application(scope, receive, noting)
            finally:
                watching.cancel()
        if not has_begun:
            raise RequestError(503, "error", "csa serve has ended.", hint="ask again")
        if not is_complete:
            with anyio.move_on_after(0.1):
                await send({"type": "http.response.body", "body": b""})

    async def _end_in_time(self, token: Token, answering: anyio.CancelScope) -> None:
        while self._api.guard.still_knows(token) and not self._api.ending.is_set():
            with anyio.move_on_after(PING_S):
                await self._api.ending.wait()
        answering.cancel()


def _with_errors(app: Application) -> Application:
    """Return the application with every failure answered by an error object."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        has_begun = False

        async def noting(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            scope["app"] = app  # then the router raises what it would answer
            await app(scope, receive, noting)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server ends, and does not wait for what takes long
            if has_begun:
                raise
            await send_error(RequestError(503, "error", "csa serve has ended.", hint="ask again"), noting)
        except Exception as error:  # the last resort: csa's own mistake, which is not to be hidden from the client
            if has_begun:
                raise
            await send_error(_as_failure(error), noting)

    return answering


def _as_failure(error: Exception) -> CsaError:
    if isinstance(error, CsaError):
        return error
    if isinstance(error, OSError):
        return failure_of(error)
    if isinstance(error, HTTPException):
        kind = "not_found" if error.status_code == 404 else "usage"  # noqa: PLR2004
        return RequestError(error.status_code, kind, f"{error.detail}.", headers=dict(error.headers or {}))
    logging.getLogger(__name__).error("a request has failed", exc_info=error)
    return RequestError(500, "error", f"csa has failed: {type(error).__name__}.", hint="see what csa serve has printed")


async def _read(request: Request) -> bytes:
    """Return the body, of limited size, which has to come in limited time."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    with anyio.move_on_after(_BODY_WITHIN_S) as limit:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            parts.append(part)
    if limit.cancelled_caught:
        raise RequestError(408, "usage", "The body did not come.")
    return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(413, "usage", f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.")


def _json(value: Any, status: int) -> Response:
    return Response(json_of(value), status, media_type="application/json")


class _Itself(Response):
    """What sends itself."""

    def __init__(self, answer: Application) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)
