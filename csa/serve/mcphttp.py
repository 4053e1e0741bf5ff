"""MCP over HTTP, with the tools of `csa mcp`: the extra `csa[mcp]`. The only importer of the SDK, and imported late.

The SDK has the transport: its sessions, streams and versions of the protocol. The guard has let a request in before it
gets here; whoever asks acts as everywhere in csa serve, and a token for reading gets the tools that only read.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from csa import __version__
from csa.errors import CsaError
from csa.model.schemas.mcp import BY_NAME, INSTRUCTIONS, TEMPLATES, TOOLS
from csa.model.schemas.route import ACT
from csa.rpc.jsonrpc import INVALID_PARAMS, UnwantedError, explain
from csa.rpc.mcp_elsewhere import Elsewhere
from csa.rpc.mcp_resources import list_resources, read_resource
from csa.rpc.mcp_tools import Tools, Watch
from csa.runner.client import Csa
from csa.runner.context import Context as RunContext
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.serve.requests import MAX_BODY_BYTES, Asked
from csa.serve.served import ELSEWHERE, Served
from csa.store.sessions import Store

_T = TypeVar("_T")
_MOST_CALLS = 64  # at a time: they mostly wait
_IDLE_S = 30 * 60  # after which a client's session is forgotten

Context = ServerRequestContext[Any, Any]


@asynccontextmanager
async def serving_mcp(served: Served) -> AsyncIterator[Callable[..., Any]]:
    """Yield the application that answers; it ends with the block."""
    server = _Server(served)
    manager = StreamableHTTPSessionManager(
        server.make(), session_idle_timeout=_IDLE_S, max_request_body_size=MAX_BODY_BYTES, max_sessions=1000
    )
    async with manager.run():
        yield manager.handle_request


class _Server:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._elsewhere = _ServedElsewhere(served)
        self._limiter = anyio.CapacityLimiter(_MOST_CALLS)

    def make(self) -> Server[Any]:
        return Server(
            "csa",
            version=__version__,
            title="csa",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    async def _list_tools(self, context: Context, _: Any) -> types.ListToolsResult:
        shown = [tool.to_json() for tool in TOOLS if tool.only_reads or _may_act(context)]
        return types.ListToolsResult.model_validate({"tools": shown})

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = BY_NAME.get(params.name)
        if tool is None or not (tool.only_reads or _may_act(context)):
            why = "Unknown tool" if tool is None else "This token is for reading only; it cannot call"
            raise MCPError(code=INVALID_PARAMS, message=f"{why}: {params.name}")
        cancelled = threading.Event()
        tools = Tools(partial(self._client, context), self._elsewhere, attaches=False)
        watch = Watch(cancelled, self._reporter(context))
        try:
            found = await self._in_thread(partial(tools.call, params.name, params.arguments or {}, watch))
        finally:
            cancelled.set()  # if it is cancelled, waiting stops; the agent goes on
        return types.CallToolResult.model_validate(found)

    def _reporter(self, context: Context) -> Callable[[float, str], None] | None:
        if (context.meta or {}).get("progress_token") is None:
            return None

        def report(elapsed_s: float, words: str) -> None:
            anyio.from_thread.run(partial(context.session.report_progress, elapsed_s, message=words))

        return report

    async def _list_resources(self, context: Context, _: Any) -> types.ListResourcesResult:
        found = await self._in_thread(lambda: list_resources(self._client(context, None)))
        return types.ListResourcesResult.model_validate({"resources": found})

    async def _list_templates(self, _: Context, __: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": list(TEMPLATES)})

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        found = await self._in_thread(lambda: read_resource(self._client(context, None), str(params.uri)))
        return types.ReadResourceResult.model_validate(found)

    def _client(self, context: Context, directory: str | None) -> Csa:
        """Return a client of what is served, on behalf of who asks."""
        scope, served = _scope_of(context), self._served
        asked = Asked(
            path={},
            query={},
            body={},
            access=scope["csa.access"],
            client=scope.get("client"),
            server=scope.get("server"),
        )
        where = served.home() if directory is None else directory
        served.require(where)
        known = served.client(where, asked)
        client = _ServedCsa(known.store.project, root=known.store.root)
        client.context, client.refuse_others = known.context, served.refuse_others
        return client

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        try:
            return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)
        except CsaError as error:
            told = explain(error)
            raise MCPError(code=told.code, message=told.message, data=told.data) from error
        except UnwantedError:  # nobody waits for it any more
            raise MCPError(code=INVALID_PARAMS, message="It was cancelled.") from None


def _may_act(context: Context) -> bool:
    return bool(_scope_of(context)["csa.access"] == ACT)


def _scope_of(context: Context) -> Any:
    assert context.request is not None  # over HTTP there always is one
    return context.request.scope


class _ServedCsa(Csa):
    """A client that finds sessions of projects that are served."""

    refuse_others: Callable[[str], None]

    def session(self, selector: str, *, retired: bool = False, mirrored: bool = False) -> Session:
        found = super().session(selector, retired=retired, mirrored=mirrored)
        self.refuse_others(found.store.label)
        return found

    def stores(self, host: str | None = None) -> list[Store]:
        found = super().stores(host)
        for store in found:
            self.refuse_others(store.label)
        return found

    def start(self, prompt: str | RunRequest, **options: Any) -> Any:
        if isinstance(prompt, RunRequest) and prompt.session is not None:
            self.session(prompt.session)
        return super().start(prompt, **options)


class _ServedElsewhere(Elsewhere):
    """Starts turns on other hosts, if these are served."""

    def __init__(self, served: Served) -> None:
        super().__init__(served.keeping)
        self._served = served

    def start(self, context: RunContext, request: RunRequest, on: str, *, is_detached: bool) -> str:
        self._served.refuse_others(ELSEWHERE)
        return super().start(context, request, on, is_detached=is_detached)
