"""What an agent may do at each level: one table for all tools, native and over ACP (docs/permissions.md has it).

The model asks for one act after the other in one turn. Whether an act happened is not taken from what the tool says: a
file is there, a server was asked, or what was found reaches the model.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fixtures import mcp_server
from fixtures.mock_provider import Reply, slow, text, tool_call
from tests.real.workplace import CLIS, Workplace, open_workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

Json = dict[str, Any]

ACTS = ("read", "search", "edit inside", "edit outside", "shell", "network", "mcp", "sub-agent")
LEVELS = ("read-only", "edit", "full")
PROMPT = "do all that is asked for"
SECRET = "the-contents-7731"
FOUND = "haystack-5519.txt"
INNER = "inner-part-of-the-work"
BEGINNING_S = 3.0  # codex's sub-agents begin when they can, and end with the turn


@dataclass(frozen=True)
class Agent:
    """How an agent is run, which tools its model calls, and at which levels each act happens."""

    name: str
    tool: str
    calls: Callable[["Scene"], dict[str, Reply]]
    allowed: dict[str, str]  # by act: the levels, by their first letters
    options: tuple[str, ...] = ()

    def expected(self, level: str) -> dict[str, bool]:
        return {act: level[0] in self.allowed[act] for act in ACTS}


class Scene:
    """A workplace with something to read, to find, to ask, and to write."""

    def __init__(self, place: Workplace, url: str, asked: list[str]) -> None:
        self.place = place
        self.url = url
        self._asked = asked
        self.notes = place.base / "notes"
        self.readable = place.project / "facts.txt"
        self.inside = place.project / "inside.txt"
        self.outside = place.home / "outside.txt"
        self.touched = place.project / "touched"
        self.readable.write_text(SECRET + "\n")
        (place.project / FOUND).write_text("a needle\n")
        self._configure()
        # opencode would get its ripgrep from GitHub; codex brings one with it.
        found = next(Path(CLIS).glob("node_modules/@openai/*/vendor/*/codex-path/rg"))
        place.env["PATH"] = os.pathsep.join([str(found.parent), place.env["PATH"]])

    def _configure(self) -> None:
        """Give every tool the MCP server, and opencode a user who wants to be asked about everything."""
        server: Json = {"command": sys.executable, "args": [mcp_server.__file__, str(self.notes)]}
        self._merge(".claude.json", {"mcpServers": {"probe": {"type": "stdio", **server}}})
        self._merge(".gemini/settings.json", {"mcpServers": {"probe": server}})
        local: Json = {"type": "local", "command": [server["command"], *server["args"]]}
        asks: Json = {"*": "ask", "edit": "ask"}
        untitled: Json = {"title": {"disable": True}}  # over ACP the first prompt would be asked for a title as well
        self._merge(".config/opencode/opencode.json", {"mcp": {"probe": local}, "permission": asks, "agent": untitled})
        with (self.place.home / ".codex" / "config.toml").open("a") as config:
            words = json.dumps(server["args"])
            config.write(
                f"[mcp_servers.probe]\ncommand = {json.dumps(sys.executable)}\nargs = {words}\nrequired = true\n"
            )
        csa = self.place.home / ".config" / "csa" / "config.toml"
        csa.parent.mkdir(parents=True, exist_ok=True)
        csa.write_text('[tools.codex-acp]\ntransport = "acp"\ncommand = ["codex-acp"]\n')

    def _merge(self, place: str, more: Json) -> None:
        path = self.place.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **more}))

    def perform(self, agent: Agent, level: str) -> dict[str, bool]:
        """Have the agent try all acts; return which happened. A turn that a refusal ends is followed by another."""
        calls = agent.calls(self)
        left = list(ACTS)
        while left:
            before = len(self._main_requests())
            prompt = f"{PROMPT} {len(left)}"
            self.place.provider.on(prompt, *(calls[act] for act in left), slow(BEGINNING_S, text("that is all")))
            words = ["--json", "--tool", agent.tool, *agent.options, "--permission", level]
            done = self.place.csa("run", *words, prompt)
            tried = len(self._main_requests()) - before
            assert tried, done
            left = left[tried:]
        return self._happened()

    def _main_requests(self) -> list[Any]:
        return self.place.asked(PROMPT)

    def _happened(self) -> dict[str, bool]:
        said = json.dumps([request.body for request in self._main_requests()])
        return {
            "read": SECRET in said,
            "search": FOUND in said,
            "edit inside": self.inside.exists(),
            "edit outside": self.outside.exists(),
            "shell": self.touched.exists(),
            "network": bool(self._asked),
            "mcp": self.notes.exists(),
            "sub-agent": bool(self.place.asked(INNER)),
        }


def _codex(scene: Scene) -> dict[str, Reply]:
    """Its shell is its only way to read; files are written by a tool of their own, or the shell."""
    return {
        "read": tool_call(f"cat '{scene.readable}'"),
        "search": tool_call("grep -rl needle ."),
        "edit inside": tool_call(f"echo x > '{scene.inside}'"),
        "edit outside": tool_call(f"echo x > '{scene.outside}'"),
        "shell": tool_call(f"touch '{scene.touched}'"),
        "network": tool_call(f"curl -s '{scene.url}'"),
        "mcp": tool_call(name="mcp__probe.note", arguments={"words": "x"}),
        "sub-agent": tool_call(name="multi_agent_v1.spawn_agent", arguments={"message": INNER}),
    }


def _claude(scene: Scene) -> dict[str, Reply]:
    task = {"description": "Look", "prompt": INNER, "subagent_type": "general-purpose"}
    return {
        "read": tool_call(name="Read", arguments={"file_path": str(scene.readable)}),
        "search": tool_call("grep -rl needle ."),
        "edit inside": tool_call(name="Write", arguments={"file_path": str(scene.inside), "content": "x"}),
        "edit outside": tool_call(name="Write", arguments={"file_path": str(scene.outside), "content": "x"}),
        "shell": tool_call(f'python3 -c \'open("{scene.touched.name}", "w")\''),
        "network": tool_call(f"curl -s '{scene.url}'"),
        "mcp": tool_call(name="mcp__probe__note", arguments={"words": "x"}),
        "sub-agent": tool_call(name="Agent", arguments=task),
    }


def _gemini(scene: Scene) -> dict[str, Reply]:
    return {
        "read": tool_call(name="read_file", arguments={"file_path": str(scene.readable)}),
        "search": tool_call(name="grep_search", arguments={"pattern": "needle"}),
        "edit inside": tool_call(name="write_file", arguments={"file_path": str(scene.inside), "content": "x"}),
        "edit outside": tool_call(name="write_file", arguments={"file_path": str(scene.outside), "content": "x"}),
        "shell": tool_call(f"touch '{scene.touched}'"),
        "network": tool_call(f"curl -s '{scene.url}'"),
        "mcp": tool_call(name="mcp_probe_note", arguments={"words": "x"}),
        "sub-agent": tool_call(name="invoke_agent", arguments={"agent_name": "generalist", "prompt": INNER}),
    }


def _opencode(scene: Scene) -> dict[str, Reply]:
    task = {"description": "Look", "prompt": INNER, "subagent_type": "general"}
    return {
        "read": tool_call(name="read", arguments={"filePath": str(scene.readable)}),
        "search": tool_call(name="grep", arguments={"pattern": "needle"}),
        "edit inside": tool_call(name="write", arguments={"filePath": str(scene.inside), "content": "x"}),
        "edit outside": tool_call(name="write", arguments={"filePath": str(scene.outside), "content": "x"}),
        "shell": tool_call(name="bash", arguments={"command": f"touch '{scene.touched}'"}),
        "network": tool_call(name="webfetch", arguments={"url": scene.url, "format": "text"}),
        "mcp": tool_call(name="probe_note", arguments={"words": "x"}),
        "sub-agent": tool_call(name="task", arguments=task),
    }


REF = dict.fromkeys(ACTS, "ref")
USUAL = {**REF, "edit inside": "ef", "edit outside": "f", "shell": "f", "network": "f", "mcp": "f"}
# Its sandbox is its rule, and it calls an MCP tool that says it does no harm.
CODEX = {**USUAL, "shell": "ef", "network": "ef", "mcp": "ref"}
# Its own tool writes nothing outside; under `full` its shell does.
GEMINI = {**USUAL, "edit outside": "", "mcp": "ef"}
OPENCODE = {**USUAL, "network": "ref", "mcp": "ef"}  # its own tool fetches, and only reads
ACP = ("--transport", "acp")  # what is asked for under no kind that csa knows is refused below `full`
AGENTS = (
    Agent("codex", "codex", _codex, CODEX),
    Agent("claude-code", "claude-code", _claude, USUAL),
    Agent("gemini-cli", "gemini-cli", _gemini, GEMINI),
    Agent("opencode", "opencode", _opencode, OPENCODE),
    Agent("codex-acp", "codex-acp", _codex, {**CODEX, "network": "f"}),
    Agent("gemini-cli-acp", "gemini-cli", _gemini, {**GEMINI, "sub-agent": "f"}, ACP),
    Agent("opencode-acp", "opencode", _opencode, {**OPENCODE, "mcp": "f"}, ACP),
)


class _Counter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Make a workplace, and a server that counts who asks it."""
    with open_workplace() as place, ThreadingHTTPServer(("127.0.0.1", 0), _Counter) as server:
        asked: list[str] = []
        server.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Scene(place, f"http://127.0.0.1:{server.server_address[1]}/", asked)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_an_act_happens_at_its_levels(scene: Scene, agent: Agent, level: str) -> None:
    """The row of the table; an act that is refused is no failure of the turn, or ends it."""
    assert scene.perform(agent, level) == agent.expected(level)
