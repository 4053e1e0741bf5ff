"""`csa mcp` as its clients see it: the official SDK's, and one that breaks the rules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest

from csa.model.schemas.mcp import BY_NAME, VERSIONS
from csa.rpc.mcp_tools import MOST_BYTES
from csa.store.locks import is_locked
from tests.support import CSA, PATIENCE_S, Json, Place, allowing, wait_for

_AGENTS_CLIENT = """
import json, os, subprocess, sys
given = json.load(open(sys.argv[1]))
environ = {name: os.environ[name] for name in given["kept"]} if given["kept"] else None
pipe = subprocess.PIPE
argv, out = [given["csa"], "mcp"], open(given["out"], "wb", buffering=0)
with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=environ) as server:
    for arguments in given["calls"]:
        params = {"name": "run", "arguments": arguments}
        said = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        server.stdin.write(json.dumps(said).encode() + b"\\n")
        server.stdin.flush()
        out.write(server.stdout.readline())
    server.stdin.close()
"""


_BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""


class Client:
    """A client that has started `csa mcp`, and writes what it likes."""

    def __init__(self, place: Place, *words: str, env: dict[str, str | None] | None = None) -> None:
        self.process = subprocess.Popen(
            [CSA, "mcp", *words],
            env=place.environment(env),
            cwd=place.project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._ids = 0

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def send(self, method: str, params: Json | None = None) -> int:
        """Send a request; return its id."""
        self._ids += 1
        said = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params or {}}
        self.write(json.dumps(said).encode())
        return self._ids

    def notify(self, method: str, params: Json | None = None) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}}).encode())

    def ask(self, method: str, params: Json | None = None) -> Any:
        """Send a request, and return its result; notifications before it are dropped."""
        ident = self.send(method, params)
        while (answer := self.read()).get("id") != ident:
            pass
        assert "result" in answer, answer
        return answer["result"]

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call a tool that must succeed; return its structured content, which is what its text says, too."""
        result = self.ask("tools/call", {"name": name, "arguments": arguments})
        assert not result["isError"], result
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        return result["structuredContent"]

    def fail(self, name: str, /, **arguments: Any) -> Any:
        """Call a tool that must fail; return csa's error object."""
        result = self.ask("tools/call", {"name": name, "arguments": arguments})
        assert result["isError"], result
        sentence, said = (each["text"] for each in result["content"])
        error = json.loads(said)["error"]
        assert sentence.startswith(f"Error: {error['message']}")
        return error

    def leave(self) -> int:
        """Close stdin; return the exit code."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@contextmanager
def connected(place: Place, *words: str, env: dict[str, str | None] | None = None) -> Iterator[Client]:
    client = Client(place, *words, env=env)
    try:
        yield client
        assert client.leave() == 0
    finally:
        client.process.kill()
        client.process.wait()
        assert client.process.stdout is not None
        client.process.stdout.close()
        assert client.process.stdin is not None
        with suppress(BrokenPipeError):
            client.process.stdin.close()


def wait_for_end(place: Place, session_id: str) -> str:
    lock = place.session(session_id) / "locks" / "session.lock"
    wait_for(lambda: not is_locked(lock), "the turn ends")
    return place.status(session_id)


def test_a_sub_agent_is_run_shown_and_listed(place: Place) -> None:
    """`run` returns the answer, `show`, `list` and `wait` know the session, and a second `run` continues it."""
    place.play(["say", "the answer"])
    with connected(place) as client:
        known = client.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})
        assert (known["protocolVersion"], known["serverInfo"]["name"]) == ("2025-06-18", "csa")
        client.notify("notifications/initialized")
        first = client.call("run", prompt="go", tool="codex", name="job")
        assert (first["status"], first["text"], first["turn"]) == ("succeeded", "the answer", 1)
        assert client.call("run", prompt="more", session="job")["turn"] == 2
        assert client.call("show", session="job")["text"] == "the answer"
        assert "## Turn 1, user\n\ngo\n" in client.call("show", session="job", what="conversation")["text"]
        (listed,) = client.call("list")["sessions"]
        assert (listed["session_id"], listed["status"]) == (first["session_id"], "succeeded")
        (waited,) = client.call("wait", sessions=["job"])["sessions"]
        assert waited["turn"] == 2


@pytest.mark.thorough
def test_the_official_client(place: Place) -> None:
    """The SDK's client initializes, lists, calls with progress, validates what comes, and reads resources."""
    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415  # takes a second to load
    from mcp.client.stdio import stdio_client  # noqa: PLC0415  # as above

    place.play(["run", "echo found > $CSA_OUTPUT_DIR/note.txt"], ["say", "the answer"])
    parameters = StdioServerParameters(command=CSA, args=["mcp"], env=place.environment(None), cwd=place.project)

    async def talk() -> None:
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()
            assert {tool.name for tool in (await session.list_tools()).tools} == set(BY_NAME)
            done = await session.call_tool("run", {"prompt": "go", "tool": "codex"})
            assert done.structured_content is not None
            found = done.structured_content
            assert found["text"] == "the answer"
            for name, arguments in (("wait", {"sessions": [found["session_id"]]}), ("list", {}), ("kill", None)):
                given = {"session": found["session_id"]} if arguments is None else arguments
                assert not (await session.call_tool(name, given)).is_error, name
            failed = await session.call_tool("show", {"session": "nosuch"})
            assert failed.is_error
            uris = [str(each.uri) for each in (await session.list_resources()).resources]
            assert f"csa://sessions/{found['session_id']}/answer" in uris
            assert len((await session.list_resource_templates()).resource_templates) == 3
            for uri in uris:
                assert (await session.read_resource(uri)).contents

    anyio.run(talk)


@pytest.mark.thorough
@pytest.mark.parametrize("asked", [*VERSIONS, "1999-01-01", None, 7])
def test_versions(place: Place, asked: object) -> None:
    """A known version is taken, for another the newest is offered."""
    with connected(place) as client:
        known = client.ask("initialize", {"protocolVersion": asked})
        assert known["protocolVersion"] == (asked if asked in VERSIONS else VERSIONS[-1])


@pytest.mark.thorough
def test_a_client_that_breaks_the_rules(place: Place) -> None:
    """Whatever comes is answered, and what comes after it is served."""
    cases: list[tuple[bytes, int]] = [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nosuch"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nosuch"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run","arguments":[]}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":7}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///etc/passwd"}}', -32002),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"' + b"x" * (65 << 20) + b'"}', -32600),
    ]
    with connected(place) as client:
        for line, code in cases:
            client.write(line)
            assert client.read()["error"]["code"] == code, line[:80]
        client.write(b"")
        client.write(b'[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"}]')
        assert client.read() == [{"jsonrpc": "2.0", "id": "a", "result": {}}]
        client.notify("notifications/cancelled", {"requestId": 99})
        assert client.ask("ping") == {}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("run", {}, "usage"),
        ("run", {"prompt": " "}, "usage"),
        ("run", {"prompt": 7}, "usage"),
        ("run", {"prompt": "go", "nosuch": 1}, "usage"),
        ("run", {"prompt": "go", "tool": "nosuch"}, "usage"),
        ("run", {"prompt": "go", "session": "nosuch"}, "not_found"),
        ("run", {"prompt": "go", "permission": "more"}, "usage"),
        ("run", {"prompt": "go", "directory": "relative"}, "usage"),
        ("run", {"prompt": "go\0", "tool": "codex"}, "usage"),
        ("wait", {"sessions": []}, "usage"),
        ("wait", {"sessions": ["nosuch"]}, "not_found"),
        ("list", {"status": "nosuch"}, "usage"),
        ("list", {"limit": 0}, "usage"),
        ("list", {"parent": "@self"}, "not_found"),
        ("show", {"session": ""}, "usage"),
        ("show", {"session": "nosuch"}, "not_found"),
        ("show", {"session": "nosuch", "offset": -1}, "usage"),
        ("kill", {"session": "nosuch"}, "not_found"),
    ],
)
def test_refusals_are_results(place: Place, name: str, arguments: Json, kind: str) -> None:
    """What csa refuses is a result with csa's error object, which the model reads."""
    with connected(place) as client:
        error = client.fail(name, **arguments)
        assert error["kind"] == kind, error
    assert place.ids() == []


@pytest.mark.thorough
def test_a_busy_session_comes_with_a_hint(place: Place) -> None:
    """The error of a second prompt for a running session says what to do."""
    place.play(*place.hold(), ["say", "done"])
    with connected(place) as client:
        started = client.call("run", prompt="go", tool="codex", wait_s=0)
        assert started["status"] == "running"
        assert f'["{started["session_id"]}"]' in started["hint"]
        error = client.fail("run", prompt="more", session=started["session_id"])
        assert (error["kind"], bool(error["hint"])) == ("busy", True)
        place.release()
        (ended,) = client.call("wait", sessions=[started["session_id"]])["sessions"]
        assert (ended["status"], ended["text"]) == ("succeeded", "done")


@pytest.mark.thorough
@pytest.mark.parametrize("detach", [False, True])
def test_run_returns_the_answer_to_its_own_prompt(place: Place, *, detach: bool) -> None:
    """Also if a queued prompt's turn follows at once; it is not waited for."""
    last = place.tmp / "last"
    place.script(
        {"match": "first", "do": [*place.hold(), ["say", "one"]]},
        {"match": "second", "do": [["wait-file", str(last), 60], ["say", "two"]]},
    )
    with connected(place) as client:
        arguments = {"prompt": "first", "tool": "codex", "name": "job", "detach": detach}
        ident = client.send("tools/call", {"name": "run", "arguments": arguments})
        place.wait_ready()
        assert place.run("run", "--queue", "--session", "job", "second").code == 0
        place.release()
        said = client.read()
        assert said["id"] == ident
        found = said["result"]["structuredContent"]
        assert (found["turn"], found["status"], found["text"], found["name"]) == (1, "succeeded", "one", "job")
        last.touch()
        (waited,) = client.call("wait", sessions=["job"])["sessions"]
        assert (waited["turn"], waited["text"]) == (2, "two")


@pytest.mark.thorough
def test_wait_for_any(place: Place) -> None:
    """With `any` the first that ends is enough; the others are still running."""
    place.script(
        {"match": "slow", "do": [*place.hold(), ["say", "slow"]]}, {"match": "quick", "do": [["say", "quick"]]}
    )
    with connected(place) as client:
        ids = [client.call("run", prompt=prompt, tool="codex", wait_s=0)["session_id"] for prompt in ("slow", "quick")]
        slow, quick = client.call("wait", sessions=ids, any=True)["sessions"]
        assert (slow["status"], quick["status"], quick["text"]) == ("running", "succeeded", "quick")
        place.release()
        assert [each["text"] for each in client.call("wait", sessions=ids)["sessions"]] == ["slow", "quick"]


@pytest.mark.thorough
def test_a_cancelled_call_is_not_answered_and_the_agent_goes_on(place: Place) -> None:
    """`notifications/cancelled` ends the waiting alone."""
    place.play(*place.hold(), ["say", "done"])
    with connected(place) as client:
        ident = client.send("tools/call", {"name": "run", "arguments": {"prompt": "go", "tool": "codex"}})
        place.wait_ready()
        client.notify("notifications/cancelled", {"requestId": ident, "reason": "user"})
        assert client.ask("ping") == {}
        (running,) = client.call("list", status="running")["sessions"]
        place.release()
        (ended,) = client.call("wait", sessions=[running["session_id"]])["sessions"]
        assert ended["text"] == "done"


@pytest.mark.thorough
def test_progress_is_reported(place: Place) -> None:
    """With a progress token the client hears every ten seconds what the agent does."""
    place.play(["say", "thinking about it"], *place.hold(), ["say", "done"])
    with connected(place) as client:
        params = {"name": "run", "arguments": {"prompt": "go", "tool": "codex"}, "_meta": {"progressToken": "t"}}
        began = time.monotonic()
        ident = client.send("tools/call", params)
        said = client.read()
        assert said["method"] == "notifications/progress"
        assert said["params"]["progressToken"] == "t"
        assert 9.5 < said["params"]["progress"] <= time.monotonic() - began
        assert "thinking about it" in said["params"]["message"]
        place.release()
        assert client.read()["id"] == ident


@pytest.mark.thorough
def test_a_long_answer_comes_in_parts(place: Place) -> None:
    """A result has at most 25,000 tokens, and `show` returns the rest."""
    answer = "".join(f"line {n} wörds “”\n" for n in range(12_000)).strip()
    place.play(["say", answer])
    with connected(place) as client:
        result = client.ask("tools/call", {"name": "run", "arguments": {"prompt": "go", "tool": "codex"}})
        assert len(result["content"][0]["text"].encode()) <= MOST_BYTES
        found = result["structuredContent"]
        parts, following = [found["text"]], found.get("next")
        while following is not None:
            shown = client.call("show", session=found["session_id"], offset=following)
            parts.append(shown["text"])
            following = shown["next"]
        assert len(parts) > 3
        assert "".join(parts) == answer


@pytest.mark.thorough
def test_of_very_many_files_some_are_named(place: Place) -> None:
    """The result still fits, and says how to see all; resources can be read that are not listed."""
    make = 'for i in $(seq 1500); do : > "$CSA_OUTPUT_DIR/a-rather-long-name-of-a-file-$i"; done'
    place.play(["run", make], ["say", "x" * 100_000])
    with connected(place) as client:
        result = client.ask("tools/call", {"name": "run", "arguments": {"prompt": "go", "tool": "codex"}})
        assert len(result["content"][0]["text"].encode()) <= MOST_BYTES
        found = result["structuredContent"]
        assert 50 < len(found["artifacts"]) < 1500
        assert found["next"]
        place.play(["run", make], ["say", "done"])
        assert "1500 files" in client.call("run", prompt="go", session=found["session_id"])["hint"]
        listed = client.ask("resources/list")["resources"]
        assert len([each for each in listed if "/artifacts/" in each["uri"]]) == 50
        uri = listed[2]["uri"].rpartition("-")[0] + "-1499"
        assert client.ask("resources/read", {"uri": uri})["contents"][0]["text"] == ""


@pytest.mark.thorough
@pytest.mark.parametrize(("items", "is_whole"), [(300, True), (700, True), (1500, False)])
def test_a_value_that_has_no_room_beside_its_text_gives_it_its_place(
    place: Place, items: int, *, is_whole: bool
) -> None:
    """Of a large answer that conforms to a schema, the result has the text alone, as far as that goes."""
    value = {"a": ["ü" * 40] * items}
    place.play(["answer", value])
    with connected(place) as client:
        found = client.call("run", prompt="go", tool="claude-code", schema={"type": "object"})
        assert ("output" in found) == (items == 300)
        assert ("next" not in found) == is_whole
        if is_whole:
            assert json.loads(found["text"]) == value
        else:
            assert len(json.dumps(found, ensure_ascii=False).encode()) > MOST_BYTES * 0.8


@pytest.mark.thorough
@pytest.mark.parametrize("end", ["stdin", "TERM", "KILL"])
def test_the_clients_end_is_that_of_what_it_has_started(place: Place, end: str) -> None:
    """Attached turns end as cancelled, however csa mcp ends; detached ones go on."""
    place.script(
        {"match": "attached", "do": [["spawn-grandchild", "exec setsid sleep 600"], ["sleep", 600]]},
        {"match": "detached", "do": [*place.hold(), ["say", "done"]]},
    )
    client = Client(place)
    attached = client.call("run", prompt="attached", tool="codex", wait_s=0)["session_id"]
    detached = client.call("run", prompt="detached", tool="codex", wait_s=0, detach=True)["session_id"]
    client.send("tools/call", {"name": "wait", "arguments": {"sessions": [attached]}})
    assert client.process.stdin is not None
    assert client.process.stdout is not None
    began = time.monotonic()
    if end == "stdin":
        client.process.stdin.close()
    else:
        client.process.send_signal(getattr(signal, f"SIG{end}"))
    client.process.wait(PATIENCE_S)
    assert time.monotonic() - began < allowing(5)
    client.process.stdout.close()
    with suppress(BrokenPipeError):
        client.process.stdin.close()
    assert wait_for_end(place, attached) == "cancelled"
    assert place.status(detached) == "running"
    place.release()
    assert wait_for_end(place, detached) == "succeeded"
    place.wait_until_empty(within_s=5)


@pytest.mark.thorough
def test_a_client_that_blocks_signals_can_end_it_with_one(place: Place) -> None:
    """A mask is inherited; and stdin stays open."""
    argv = [sys.executable, "-c", _BLOCKING, CSA, "mcp"]
    with subprocess.Popen(argv, env=place.environment(None), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        server.stdin.flush()
        assert server.stdout.readline()
        server.terminate()
        assert server.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.thorough
@pytest.mark.parametrize("kept", [None, ("PATH", "HOME", "FAKE_TOOL_SCRIPT")], ids=["all", "few"])
def test_in_an_agent_it_starts_children(place: Place, kept: tuple[str, ...] | None) -> None:
    """What an agent starts is its child, with no more permission, and its keys: also if its client strips variables."""
    calls = [{"prompt": "inner", "tool": "codex", "permission": "full"}, {"prompt": "inner", "tool": "codex"}]
    program = place.tmp / "client.py"
    program.write_text(_AGENTS_CLIENT)
    given = json.dumps({"csa": CSA, "kept": kept, "calls": calls, "out": str(place.tmp / "said")})
    (place.tmp / "given").write_text(given)
    place.env["MY_API_KEY"] = "the-key-of-a-tool"
    place.script(
        {"match": "outer", "do": [["run", f"{sys.executable} {program} {place.tmp}/given"], ["say", "outer done"]]},
        {"match": "inner", "do": [["write-env", str(place.tmp / "env")], ["say", "inner done"]]},
    )
    outer = place.codex("outer").session_id
    refused, inner = (json.loads(line)["result"] for line in (place.tmp / "said").read_text().splitlines())
    assert json.loads(refused["content"][1]["text"])["error"]["kind"] == "refused"
    session_id = inner["structuredContent"]["session_id"]
    assert inner["structuredContent"]["text"] == "inner done"
    assert place.state(session_id)["genealogy"]["parent_session_id"] == outer
    seen = json.loads((place.tmp / "env").read_text())
    assert (seen["MY_API_KEY"], seen["CSA_SESSION_ID"]) == ("the-key-of-a-tool", session_id)


def test_the_start_loads_little(place: Place) -> None:
    """What answers `initialize` and `tools/list` loads neither an event loop nor the library."""
    lines = place.imports("mcp")
    assert "csa.rpc.mcp" in lines
    assert not lines & {
        "anyio",
        "asyncio",
        "rich",
        "mcp",
        "pydantic",
        "tomlkit",
        "csa.runner.client",
        "csa.store.sessions",
    }


@pytest.mark.thorough
def test_install_prints_what_can_be_pasted(place: Place) -> None:
    """A command for a shell, or lines for the settings."""
    for client, begins in (("codex", "codex mcp add csa -- "), ("claude", "claude mcp add --scope user csa -- ")):
        done = place.run("mcp", "install", "--client", client)
        assert done.out.startswith(begins)
        assert done.out.rstrip().endswith("csa mcp")
    said = json.loads(place.run("mcp", "install", "--client", "opencode").out)
    assert said["mcp"]["csa"]["command"][-1] == "mcp"
    assert os.path.basename(said["mcp"]["csa"]["command"][0]) == "csa"
