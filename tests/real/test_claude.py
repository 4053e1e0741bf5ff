"""What only claude-code does: several results in a run, work in the background, and limits of its own."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from fixtures.mock_provider import Reply, text, together, tool_call
from tests.real.workplace import CLAUDE_CODE, Json, Workplace

pytestmark = pytest.mark.real

SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answers = {
        "initialize": {
            "protocolVersion": asked.get("params", {}).get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "probe", "version": "1"},
        },
        "tools/list": {
            "tools": [
                {
                    "name": "ping",
                    "description": "pings",
                    "inputSchema": {"type": "object", "properties": {}},
                    "_meta": {"anthropic/alwaysLoad": True},
                }
            ]
        },
        "tools/call": {"content": [{"type": "text", "text": "PONG"}]},
    }
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": answers.get(asked["method"], {})}
    print(json.dumps(answer), flush=True)
"""


def in_background(command: str, usage: tuple[int, int, int] | None = None) -> Reply:
    return tool_call(command, arguments={"run_in_background": True}, usage=usage)


def sub_agent(prompt: str) -> Reply:
    given = {"description": "look", "prompt": prompt, "subagent_type": "general-purpose"}
    return tool_call(name="Agent", arguments=given)


def spent(result: Json) -> tuple[int, int, int]:
    used = result["usage"]
    return used["input_tokens"], used["output_tokens"], used["cached_tokens"]


def test_a_turn_lasts_as_long_as_its_background_work(place: Workplace) -> None:
    """Two commands and a sub-agent: the answer is the last, the tokens are the provider's, and nothing is cut short."""
    commands = (in_background("sleep 7; touch one"), in_background("sleep 14; touch two"))
    begun = together(*commands, sub_agent("SUBTASK"))
    waking = [text(f"answer {count}", usage=(1000 + count, 20, 300)) for count in range(1, 9)]
    place.provider.on("WORK", together(begun, in_background("true", (1000, 50, 200))), *waking)
    place.provider.on("SUBTASK", tool_call("echo sub", usage=(500, 20, 0)), text("sub report", usage=(600, 30, 100)))
    result = place.run(CLAUDE_CODE, "WORK", "--permission", "full")
    asked = len(place.asked("WORK"))
    assert asked > 2  # the agent was woken
    assert result["text"] == f"answer {asked - 1}"
    assert (place.project / "one").exists()
    assert (place.project / "two").exists()
    answers = [(1000 + count, 20, 300) for count in range(1, asked)]
    calls = [(1000, 50, 200), (500, 20, 0), (600, 30, 100), *answers]
    assert spent(result) == tuple(map(sum, zip(*calls, strict=True)))
    assert result["usage"]["cost_usd"] > 0
    told = place.events(result["session_id"], "usage")
    assert len(told) > 3  # while it ran
    assert not [data for data in place.events(result["session_id"], "warning") if data["kind"] == "ended"]


def test_the_turn_after_a_kill_in_the_middle_does_its_work(place: Workplace) -> None:
    """The CLI first writes a result of zero turns for what was lost; that is no answer to the prompt."""
    place.provider.on("FIRST", together(in_background("sleep 600"), sub_agent("SUBTASK")), text("waiting"))
    place.provider.on("SUBTASK", tool_call("sleep 1; touch started; for i in $(seq 600); do sleep 1; done"))
    process = place.start("run", "--tool", "claude-code", "--permission", "full", "FIRST")
    while not (place.project / "started").exists():
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.wait()
    session_id = place.only_session()["id"]
    place.provider.on("SECOND", tool_call("touch second"), text("did the second", usage=(700, 7, 0)))
    result = place.resume(session_id, "SECOND", "--permission", "full", "--wait=10")  # for the guardian's sweep
    assert (result["status"], result["text"]) == ("succeeded", "did the second")
    assert (place.project / "second").exists()
    assert spent(result) == (800, 17, 0)
    assert not place.gone_after(5)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_long_command_stays_in_the_foreground(place: Workplace) -> None:
    """With nothing configured the CLI would put it to the background after two minutes, and end its turn."""
    place.provider.on("LONG", tool_call("for i in $(seq 130); do sleep 1; done; echo LASTED"), text("it lasted"))
    process = place.start("run", "--json", "--tool", "claude-code", "--permission", "full", "LONG")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, (stdout, stderr)
    session_id = place.only_session()["id"]
    assert "LASTED" in place.shown(session_id)
    assert "background" not in place.shown(session_id)
    assert len(place.asked("LONG")) == 2


def test_the_users_own_limit_wins(place: Workplace) -> None:
    """In claude's settings: csa does not set its own, and waits for what the CLI put to the background."""
    settings = place.home / ".claude" / "settings.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text('{"env": {"BASH_DEFAULT_TIMEOUT_MS": "3000", "BASH_MAX_TIMEOUT_MS": "3000"}}')
    place.provider.on("CUT", tool_call("for i in $(seq 14); do sleep 1; done; touch ended"), text("one"), text("two"))
    result = place.run(CLAUDE_CODE, "CUT", "--permission", "full")
    assert "moved to the background" in place.shown(result["session_id"])
    assert (place.project / "ended").exists()
    assert result["text"] == "two"


@pytest.mark.long
def test_a_turn_that_csa_ends_says_what_it_ended(place: Workplace) -> None:
    """A server that never ends: the wall limit ends it, and the transcript names it."""
    place.provider.on("SERVE", in_background("while true; do sleep 1; done"), text("it serves"))
    done = place.csa("run", "--json", "--tool", "claude-code", "--permission", "full", "--timeout", "25", "SERVE")
    assert done.json["status"] == "timed_out"
    (warning,) = [data for data in place.events(done.json["session_id"], "warning") if data["kind"] == "ended"]
    assert "while true; do sleep 1; done" in warning["message"]


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("UserPromptSubmit", {"decision": "block", "reason": "policy says no"}),
        ("UserPromptSubmit", {"continue": False, "stopReason": "policy says no"}),
        ("PreToolUse", {"continue": False, "stopReason": "policy says no"}),
    ],
)
def test_a_hook_that_stops_the_turn_makes_it_fail(place: Workplace, hook: str, answer: Json) -> None:
    """The CLI exits 0 and calls it a success."""
    run = {"type": "command", "command": f"echo '{json.dumps(answer)}'"}
    settings = place.home / ".claude" / "settings.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({"hooks": {hook: [{"hooks": [run]}]}}))
    place.provider.on("HOOKED", tool_call("touch done"), text("fin"))
    done = place.csa("run", "--json", "--tool", "claude-code", "--permission", "full", "HOOKED")
    assert (done.json["status"], done.json["error"]["kind"]) == ("failed", "permission")
    assert len(place.asked("HOOKED")) == (hook == "PreToolUse")  # which lets the call run that it stops after


@pytest.mark.parametrize(("level", "works"), [("full", True), ("edit", False), ("read-only", False)])
def test_mcp_tools_of_the_user(place: Workplace, level: str, *, works: bool) -> None:
    """At full they work, as root too; below only where the user's own settings allow them."""
    server = place.home / "server.py"
    server.write_text(SERVER)
    known = {"probe": {"type": "stdio", "command": sys.executable, "args": [str(server)]}}
    Path(place.home, ".claude.json").write_text(json.dumps({"mcpServers": known}))
    place.provider.on("PING", tool_call(name="mcp__probe__ping", arguments={}), text("fin"))
    place.provider.on("ALLOWED", tool_call(name="mcp__probe__ping", arguments={}), text("fin"))
    result = place.run(CLAUDE_CODE, "PING", "--permission", level)
    assert ("PONG" in place.shown(result["session_id"])) is works
    settings = place.home / ".claude" / "settings.json"
    settings.write_text(json.dumps({"permissions": {"allow": ["mcp__probe"]}}))
    result = place.run(CLAUDE_CODE, "ALLOWED", "--permission", level)
    assert "PONG" in place.shown(result["session_id"])
