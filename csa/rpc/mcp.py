"""`csa mcp`: the Model Context Protocol on stdin and stdout, for a client that has started this process.

Clients give a server a moment to start, one of them a second: so what answers `initialize` and `tools/list` is a
table, and what works is loaded with the first call. A call runs in a thread of its own; a client that cancels it gets
no answer, as the protocol says, and the agent goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from csa import __version__
from csa.errors import CsaError
from csa.model.schemas.mcp import BY_NAME, INSTRUCTIONS, TEMPLATES, TOOLS, VERSIONS
from csa.rpc.jsonrpc import INVALID_PARAMS, Call, Connection, Later, RpcError, take_stdio

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.rpc.mcp_tools import Tools
    from csa.runner.client import Csa

Json = dict[str, Any]
_GRACE_S = 1.0  # for calls, when the client has gone: they only wait


class Server:
    """What is served on a connection, for who is behind `client_for`."""

    def __init__(self, client_for: Callable[[str | None], Csa]) -> None:
        self._client_for = client_for
        self._loading = threading.Lock()
        self._tools: Tools | None = None
        reading, writing = take_stdio()
        self._connection = Connection(
            reading,
            writing,
            {
                "initialize": self._initialize,
                "ping": _nothing,
                "tools/list": _list_tools,
                "tools/call": self._call_tool,
                "resources/list": self._list_resources,
                "resources/templates/list": _list_templates,
                "resources/read": self._read_resource,
                "notifications/initialized": _nothing,
                "notifications/cancelled": self._cancel,
                "notifications/progress": _nothing,
                "notifications/roots/list_changed": _nothing,
            },
        )

    def run(self) -> int:
        """Serve until the client has gone, or a signal; return the exit code."""
        self._connection.close_on_signals()
        self._connection.run(_GRACE_S)
        number = self._connection.signal
        return 128 + number if number else 0

    def _initialize(self, params: Json, _: Call) -> Json:
        asked = params.get("protocolVersion")
        return {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
            "capabilities": {"tools": {}, "resources": {}},
            "serverInfo": {"name": "csa", "title": "csa", "version": __version__},
            "instructions": INSTRUCTIONS,
        }

    def _call_tool(self, params: Json, call: Call) -> Later:
        name, arguments = params.get("name"), params.get("arguments")
        if type(name) is not str or name not in BY_NAME:
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}")
        if not isinstance(arguments, dict | None):
            raise RpcError(INVALID_PARAMS, "arguments is not an object")
        return Later(partial(self._work, name, arguments or {}, _token_of(params), call))

    def _work(self, name: str, arguments: Json, token: str | int | None, call: Call) -> Json:
        from csa.rpc.mcp_tools import Watch  # noqa: PLC0415  # the library, which takes longer to load than to answer

        report = None if token is None else partial(self._report, token)
        return self._all_tools().call(name, arguments, Watch(call.cancelled, report))

    def _all_tools(self) -> Tools:
        from csa.rpc.mcp_elsewhere import Elsewhere  # noqa: PLC0415  # as above
        from csa.rpc.mcp_tools import Tools  # noqa: PLC0415  # as above
        from csa.runner.hosts.watching import Keeping  # noqa: PLC0415  # as above

        with self._loading:
            if self._tools is None:
                client = self._client_for(None)
                elsewhere = Elsewhere(Keeping(client.store.root_pathname))
                with suppress(CsaError):  # the calls that need what is wrong say so
                    elsewhere.take_up(client, self._client_for)
                self._tools = Tools(self._client_for, elsewhere, attaches=True)
        return self._tools

    def _report(self, token: str | int, elapsed_s: float, words: str) -> None:
        said = {"progressToken": token, "progress": elapsed_s, "message": words}
        self._connection.notify("notifications/progress", said)

    def _list_resources(self, _: Json, __: Call) -> Later:
        def work() -> Json:
            from csa.rpc.mcp_resources import list_resources  # noqa: PLC0415  # as above

            return {"resources": list_resources(self._client_for(None))}

        return Later(work)

    def _read_resource(self, params: Json, _: Call) -> Later:
        uri = params.get("uri")
        if type(uri) is not str:
            raise RpcError(INVALID_PARAMS, "uri is not a string")

        def work() -> Json:
            from csa.rpc.mcp_resources import read_resource  # noqa: PLC0415  # as above

            return read_resource(self._client_for(None), uri)

        return Later(work)

    def _cancel(self, params: Json, _: Call) -> None:
        self._connection.cancel(params.get("requestId"))


def _token_of(params: Json) -> str | int | None:
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return token if type(token) in {str, int} else None


def _nothing(_: Json, __: Call) -> None:
    """Answer with an empty object; a notification needs nothing."""


def _list_tools(_: Json, __: Call) -> Json:
    return {"tools": [tool.to_json() for tool in TOOLS]}


def _list_templates(_: Json, __: Call) -> Json:
    return {"resourceTemplates": list(TEMPLATES)}
