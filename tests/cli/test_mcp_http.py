"""MCP over HTTP in csa serve, with the SDK's own client."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from csa.model.schemas.mcp import TOOLS
from tests.cli.hosts import sync
from tests.serving import Server, serving
from tests.support import Json, Place

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]
mcp_client = pytest.importorskip("mcp.client.streamable_http")


@asynccontextmanager
async def _connected(server: Server, token: str = "") -> AsyncIterator[Any]:
    import httpx2  # noqa: PLC0415  # comes with the SDK
    from mcp import ClientSession  # noqa: PLC0415  # takes more than a second

    headers = {"Authorization": f"Bearer {token or server.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        mcp_client.streamable_http_client(f"{server.url}/mcp", http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        yield session


def test_the_tools_over_http(place: Place) -> None:
    """The same as on stdio; a token for reading gets those that only read; resources; a turn outlives its caller."""
    place.play(["say", "Hello yourself."])
    reader = place.run("serve", "token", "reader", "--read").out.strip()

    async def go(server: Server) -> Json:
        async with _connected(server) as session:
            listed = await session.list_tools()
            assert [tool.name for tool in listed.tools] == [tool.name for tool in TOOLS]
            done = await session.call_tool("run", {"prompt": "hello", "tool": "codex"})
            found: Json = done.structured_content
            refused = await session.call_tool("show", {"session": "nobody"})
            assert refused.is_error
            resources = await session.list_resources()
            uri = next(each.uri for each in resources.resources if str(each.uri).endswith("answer"))
            assert (await session.read_resource(uri)).contents[0].text == "Hello yourself."
        async with _connected(server, reader) as session:
            listed = await session.list_tools()
            assert [tool.name for tool in listed.tools] == [tool.name for tool in TOOLS if tool.only_reads]
            assert not (await session.call_tool("show", {"session": found["session_id"]})).is_error
            with pytest.raises(Exception, match="reading only"):
                await session.call_tool("kill", {"session": found["session_id"]})
        return found

    with serving(place) as server:
        found = anyio.run(go, server)
        assert (found["status"], found["text"]) == ("succeeded", "Hello yourself.")


def test_progress_and_cancelling(place: Place) -> None:
    """Whoever waits hears what goes on; who cancels stops waiting, and the agent goes on."""
    place.play(["say", "at it"], ["sleep", 60])
    told: list[str | None] = []

    async def go(server: Server) -> None:
        heard = anyio.Event()

        async def note(_: float, __: float | None, message: str | None) -> None:
            told.append(message)
            heard.set()

        async with _connected(server) as session, anyio.create_task_group() as tasks:
            wanted = {"prompt": "long", "tool": "codex"}
            tasks.start_soon(partial(session.call_tool, "run", wanted, progress_callback=note))
            with anyio.fail_after(60):
                await heard.wait()
            tasks.cancel_scope.cancel()

    with serving(place) as server:
        anyio.run(go, server)
        assert told
        (running,) = place.run("top", "--json").json
        assert running["status"] == "running"
        place.run("kill", running["session_id"])


def test_who_may_use_it(place: Place) -> None:
    """The guard is the same as for all routes, and a project that is not served is refused."""
    other = place.tmp / "other"
    other.mkdir()
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    with serving(place, "--project", str(place.project)) as server:
        for headers, status in (
            ({"Authorization": None}, 401),
            ({"Host": "evil.example"}, 421),
            ({"Origin": "https://evil.example"}, 403),
        ):
            assert server.ask("POST", "/mcp", hello, headers=headers).status == status

        async def go() -> Any:
            async with _connected(server) as session:
                return await session.call_tool("run", {"prompt": "x", "tool": "codex", "directory": str(other)})

        refused = anyio.run(go)
        assert refused.is_error
        assert "not served" in refused.content[0].text
    assert place.published() == []


@pytest.mark.usefixtures("remote")
def test_other_hosts_are_served_with_all_projects_only(place: Place, remote: Place) -> None:
    """With --project nothing is begun on another host, nor listed of it."""
    remote.codex("theirs")
    sync(place)

    async def go(server: Server) -> list[Any]:
        async with _connected(server) as session:
            run = {"prompt": "x", "tool": "codex", "on": "n1"}
            return [await session.call_tool("run", run), await session.call_tool("list", {"host": "n1"})]

    with serving(place, "--project", str(place.project)) as server:
        for refused in anyio.run(go, server):
            assert refused.is_error, refused
            assert "no other hosts are served" in refused.content[0].text
    assert len(remote.ids()) == 1


AGENT = """
import http.client, json, os
port, token = int(os.environ["PORT"]), os.environ["TOKEN"]
own = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
own["Accept"] = "application/json, text/event-stream"
def ask(message):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}), own)
    answer = connection.getresponse()
    own["Mcp-Session-Id"] = answer.getheader("mcp-session-id") or own.get("Mcp-Session-Id", "")
    return answer.read().decode()
known = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
ask({"id": 1, "method": "initialize", "params": known})
ask({"method": "notifications/initialized"})
given = {"prompt": "inner", "tool": "codex"}
print(ask({"id": 2, "method": "tools/call", "params": {"name": "run", "arguments": given}}))
"""


def test_an_agent_acts_as_its_own_session(place: Place) -> None:
    """What an agent asks for over this, is its child."""
    program = place.tmp / "agent.py"
    program.write_text(AGENT)
    inner = [["run", f"{sys.executable} -I -S {program}"], ["say", "done"]]
    place.script({"match": "outer", "do": inner}, {"match": "", "do": [["say", "inner"]]})
    with serving(place) as server:
        server.ask("POST", "/mcp", {})  # loads the SDK
        env = {"PORT": str(server.port), "TOKEN": server.token}
        done = place.run("run", "--tool", "codex", "--permission", "full", "outer", env=env)
        assert done.code == 0, done
        child = next(each for each in place.run("ls", "--json").json if each["parent_session_id"])
        assert child["parent_session_id"] == done.session_id, done
        place.run("wait", child["session_id"])


def test_without_the_extra(place: Place) -> None:
    """It says what to install; and the SDK is not loaded before somebody asks for it."""
    blocked = place.tmp / "blocked"
    (blocked / "mcp").mkdir(parents=True)
    (blocked / "mcp" / "__init__.py").write_text("raise ImportError('no mcp')")
    place.env["PYTHONPATH"] = str(blocked)
    with serving(place) as server:
        answer = server.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert (answer.status, answer.json["error"]["hint"]) == (501, "pip install 'csa[mcp]'")
        assert server.get("/health") == {"ok": True}
