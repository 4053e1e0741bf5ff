"""`csa mcp` in the settings of each real CLI, as `csa mcp install` has it put there: its agent runs sub-agents."""

import json
import subprocess

import pytest

from fixtures.mock_provider import Reply, slow, text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, GEMINI_CLI, RealTool, Workplace

pytestmark = pytest.mark.real

# How each tool calls itself there, and names the tools of a server.
_CLIENTS = {"codex": "codex", "claude-code": "claude", "gemini-cli": "gemini", "opencode": "opencode"}
_NAMES = {"codex": "mcp__csa.{}", "claude-code": "mcp__csa__{}", "gemini-cli": "mcp_csa_{}", "opencode": "csa_{}"}
_LATE_S = 200.0


def install(place: Workplace, tool: RealTool) -> None:
    """Do what `csa mcp install` says."""
    said = place.csa("mcp", "install", "--client", _CLIENTS[tool.name]).stdout
    if tool.name == "opencode":
        path = place.home / ".config" / "opencode" / "opencode.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | json.loads(said)))
    else:
        done = subprocess.run(
            ["sh", "-c", said], cwd=place.project, env=place.env, capture_output=True, timeout=200, check=False
        )
        assert done.returncode == 0, done


def called(tool: RealTool, name: str, /, **arguments: object) -> Reply:
    """Return the answer of a model that calls a tool of csa's."""
    return tool_call(name=_NAMES[tool.name].format(name), arguments=dict(arguments))


@pytest.mark.timeout(100)
def test_an_agent_runs_a_sub_agent(place: Workplace, tool: RealTool) -> None:
    """At the default permission: a child of the right session, with its keys and at most its permission."""
    install(place, tool)
    inner = CLAUDE_CODE if tool is CODEX else CODEX
    place.provider.on(
        "delegate",
        called(tool, "run", prompt="too much", tool=inner.name, permission="full"),
        called(tool, "run", prompt="the inner work", tool=inner.name, name="helper"),
        text("all done"),
    )
    place.provider.on("the inner work", text("inner done"))
    root = place.run(tool, "delegate")
    told = json.dumps([request.body for request in place.asked("delegate")])  # to the model
    assert "Permission 'full' is more than the 'edit'" in told
    assert "inner done" in told
    assert (root["text"], root["denied"]) == ("all done", [])
    (child,) = [session for session in place.sessions() if session["session_id"] != root["session_id"]]
    assert (child["name"], child["status"], child["parent_session_id"]) == ("helper", "succeeded", root["session_id"])
    assert place.state(child["session_id"])["permission"] == "edit"
    assert place.asked("too much") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sub_agent_of_seven_minutes(place: Workplace, tool: RealTool) -> None:
    """It comes back through `run` and `wait`, whatever the client's limits of a call are."""
    install(place, tool)
    # gemini-cli, which asks for progress and so waits long, takes the fifth call in a row that is the same for a loop.
    again = [called(tool, "wait", sessions=["late"])] * (3 if tool is GEMINI_CLI else 10)
    place.provider.on(
        "delegate", called(tool, "run", prompt="take long", tool="codex", name="late"), *again, text("end")
    )
    place.provider.on("take long", slow(_LATE_S, tool_call("true")), slow(_LATE_S, text("late but done")))
    done = place.start("run", "--json", "--tool", tool.name, "delegate")
    out, err = done.communicate(timeout=800)
    assert done.returncode == 0, err
    shown = place.shown(json.loads(out)["session_id"])
    assert '"running"' in shown or '\\"running\\"' in shown
    assert "late but done" in shown
