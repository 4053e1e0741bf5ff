"""What only codex does."""

import json
import sys

import pytest

from fixtures import mcp_hints
from fixtures.mock_provider import Reply, text, tool_call
from tests.real.workplace import CODEX, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KNOWN_MODEL = "gpt-6-sol"  # one whose agent writes scripts, and can wait in them
NESTED_S = 620
BLOCK = json.dumps({"decision": "block", "reason": "not today"})


def awaited(command: str) -> Reply:
    """Run a command as a model does that waits for it: codex says after at most 30 s that it still runs."""
    script = f"""// @exec: {{"yield_time_ms": 3600000}}
let done = await tools.exec_command({json.dumps({"cmd": command})});
let said = done.output;
while (done.session_id) {{
  done = await tools.write_stdin({{session_id: done.session_id, chars: "", yield_time_ms: 300000}});
  said += done.output;
}}
text(said);"""
    return tool_call(name="functions.exec", arguments=script)


def set_hook(place: Workplace, event: str, script: str) -> None:
    """Have codex run a hook, which it otherwise does when a person has looked at it."""
    hook = place.home / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    hook.chmod(0o755)
    entry = {"matcher": "", "hooks": [{"type": "command", "command": str(hook)}]}
    (place.home / ".codex" / "hooks.json").write_text(json.dumps({"hooks": {event: [entry]}}))
    config = place.home / ".config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[tools.codex]\ncommand = ["codex", "--dangerously-bypass-hook-trust"]\n')


def test_a_prompt_that_a_hook_refuses_is_no_success(place: Workplace) -> None:
    """codex completes such a turn, with nothing used and nothing said."""
    set_hook(place, "UserPromptSubmit", f"echo '{BLOCK}'")
    done = place.csa("run", "--json", "--tool", "codex", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", "permission")
    assert place.provider.requests == []


def test_a_command_that_runs_on_is_told_of(place: Workplace) -> None:
    """codex ends it with the turn, without a word."""
    place.provider.on("begin", tool_call("sleep 77", arguments={"yield_time_ms": 1000}), text("it runs"))
    result = place.run(CODEX, "begin")
    assert result["text"] == "it runs"
    warnings = [warning["message"] for warning in place.events(result["session_id"], "warning")]
    assert "codex ended it with the turn, while it was running: sleep 77" in warnings
    assert place.events(result["session_id"], "tool_call_update")[-1]["status"] == "failed"


@pytest.mark.parametrize(("level", "allowed"), [("read-only", 2), ("edit", 2), ("full", 3)])
def test_mcp_tools_by_what_they_declare(place: Workplace, level: str, allowed: int) -> None:
    """Below `full`, those that say they do no harm; a refusal is in the result."""
    config = place.home / ".codex" / "config.toml"
    server = f"[mcp_servers.hints]\ncommand = '{sys.executable}'\nargs = ['{mcp_hints.__file__}']\nrequired = true\n"
    config.write_text(f"{config.read_text()}\n{server}")
    names = list(mcp_hints.HINTS)
    place.provider.on("call", *(tool_call(name=f"mcp__hints.{name}", arguments={}) for name in names), text("done"))
    result = place.run(CODEX, "call them", "--permission", level)
    assert result["denied"] == [f"hints.{name}" for name in names[allowed:]]
    shown = place.shown(result["session_id"])
    assert [name for name in names if f"{name} was called" in shown] == names[:allowed]


def test_what_a_hook_adds_belongs_to_the_usage(place: Workplace) -> None:
    """A hook that refuses the first answer makes the model give another; the usage is that of both."""
    set_hook(place, "Stop", f"[ -e $HOME/once ] || echo '{BLOCK}'\ntouch $HOME/once")
    place.provider.on("hello", text("first"))
    place.provider.on("not today", text("second"))
    result = place.run(CODEX, "hello", "--permission", "full")
    assert result["text"] == "second"
    assert len(place.provider.requests) == 2
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (200, 20)


def spawn(model: str, task: str) -> Reply:
    """Have a model begin an agent of codex's own; what the tool is called depends on the model."""
    if model == KNOWN_MODEL:
        return tool_call(name="collaboration.spawn_agent", arguments={"message": task, "task_name": "helper"})
    return tool_call(name="multi_agent_v1.spawn_agent", arguments={"message": task})


@pytest.mark.parametrize("model", ["some-model-9", KNOWN_MODEL])
def test_usage_has_the_agents_of_its_own(place: Workplace, model: str) -> None:
    """Its stream tells nothing of their tokens, for newer models not even that there are any."""
    place.provider.on("DELEGATE", spawn(model, "the inner work"), tool_call("sleep 8"), text("done"))
    place.provider.on("subagent_notification", text("done"))
    result = place.run(CODEX, "DELEGATE this", "--model", model, "--permission", "full")
    count = len(place.provider.requests)
    assert count > 3
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (100 * count, 10 * count)
    later = place.resume(result["session_id"], "go on")
    assert later["usage"]["input_tokens"] == 100 * (len(place.provider.requests) - count)


def test_a_turn_that_was_ended_has_a_usage(place: Workplace) -> None:
    """What it has used is neither lost nor counted again in the next one."""
    place.provider.on("begin", tool_call("echo one"), tool_call("sleep 60", arguments={"yield_time_ms": 30_000}))
    done = place.csa("run", "--json", "--tool", "codex", "--permission", "full", "--timeout", "5", "begin")
    assert (done.json["status"], done.json["usage"]["input_tokens"]) == ("timed_out", 200)
    later = place.resume(done.json["session_id"], "go on")
    assert later["usage"]["input_tokens"] == 100
    assert place.state(done.json["session_id"])["usage"]["input_tokens"] == 300


def test_a_resume_asks_for_model_and_effort(place: Workplace) -> None:
    """codex keeps neither in the thread."""
    session_id = place.run(CODEX, "the first", "--model", "model-a", "--effort", "low")["session_id"]
    place.resume(session_id, "the second", "--model", "model-b", "--effort", "high")
    asked = [(request.model, CODEX.effort(request.body)) for request in place.provider.requests]
    assert asked == [("model-a", "low"), ("model-b", "high")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sub_agent_of_ten_minutes(place: Workplace) -> None:
    """Nothing of codex's ends a command: it says that it still runs, and whoever waits gets all of it."""
    place.provider.on("CHILD", awaited(f"sleep {NESTED_S}; echo awake"), text("the child's answer"))
    place.provider.on("PARENT", awaited(f'csa run --tool codex --model {KNOWN_MODEL} "CHILD please"'), text("done"))
    process = place.start("run", "--json", "--tool", "codex", "--model", KNOWN_MODEL, "PARENT please")
    stdout, stderr = process.communicate(timeout=NESTED_S + 200)
    result = json.loads(stdout)
    assert (result["status"], result["text"]) == ("succeeded", "done"), stderr
    assert "the child's answer" in place.shown(result["session_id"])
    assert {session["status"] for session in place.sessions()} == {"succeeded"}
