"""A real agent over ACP asks for what its permission denies, and is answered from the command line and over HTTP."""

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.test_acp import AGENTS, Agent, place
from tests.real.workplace import Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
__all__ = ["place"]  # a fixture

ASKERS = pytest.mark.parametrize(
    "agent", [agent for agent in AGENTS if agent.tool in {"codex-acp", "gemini-cli"}], ids=lambda agent: agent.tool
)
CODEX = AGENTS[0]  # whose model has to ask to leave the sandbox
PATIENCE_S = 60.0


def until(look: Callable[[], Any], what: str) -> Any:
    """Look again and again, and return what is found."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def begin(place: Workplace, agent: Agent, command: str) -> tuple[str, dict[str, Any]]:
    """Have the agent ask for a command; return its session and what it asks."""
    asks = {"sandbox_permissions": "require_escalated", "justification": "please"} if agent == CODEX else {}
    place.provider.on("write it", tool_call(command, arguments=asks), text("tried"))
    words = ["run", "--detach", "--quiet", "--tool", agent.tool, *agent.options, "--ask"]
    session_id = place.csa(*words, "write it").stdout.strip()
    (ask,) = until(lambda: place.csa("answer", "--json").json, "it asks")
    return session_id, ask


@ASKERS
def test_answered_from_the_command_line(place: Workplace, agent: Agent) -> None:
    """What is allowed happens, though the level denies it."""
    target = place.home / "outside"
    session_id, ask = begin(place, agent, f"touch '{target}'")
    assert f"touch '{target}'" in (ask["command"] or ask["title"])
    assert not target.exists()
    assert place.csa("answer", ask["ask"], "--allow").code == 0
    assert place.csa("wait", session_id).code == 0
    assert target.exists()
    decided = place.events(session_id, "permission")[-1]
    assert (decided["status"], decided["by"], decided["via"]) == ("allowed", "user", "answer")


def test_answered_over_http(place: Workplace) -> None:
    """What is denied does not happen."""
    target = place.home / "outside"
    session_id, ask = begin(place, CODEX, f"touch '{target}'")
    server = place.start("serve", "--port", "0")
    try:
        assert server.stdout is not None
        url, _, token = server.stdout.readline().decode().strip().partition("/#token=")
        connection = HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps({"ask": ask["ask"], "allow": False})
        connection.request("POST", f"/api/v1/sessions/{session_id}/answer", body, headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["allowed"]) == (200, False)
        connection.close()
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
    place.csa("wait", session_id)
    assert not target.exists()
    decided = place.events(session_id, "permission")[-1]
    assert (decided["status"], decided["via"]) == ("denied", "http")
