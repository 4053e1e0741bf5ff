"""What only gemini-cli does, and csa keeps from its users."""

import json
import os
import sys
from pathlib import Path

import pytest

from fixtures import mcp_hints
from fixtures.mock_provider import text, tool_call
from tests.real.test_turns import csa_variables
from tests.real.workplace import GEMINI_CLI, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.fixture(params=["roots-settings", "own-home"])
def place(place: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """Make the place also as it is for users other than root, where gemini takes no system settings from csa."""
    if request.param == "roots-settings" and os.geteuid() != 0:
        pytest.skip("gemini believes root alone")
    if request.param == "own-home":
        loose = place.base / "loose"
        loose.mkdir()
        loose.chmod(0o777)
        place.state_root = loose / "csa"
        place.env["CSA_STATE_DIR"] = str(place.state_root)
    return place


def test_conversations_survive_its_clean_up(place: Workplace) -> None:
    """A conversation resumed in a later minute than it began in leaves a stub, for which gemini would delete both."""
    first = place.run(GEMINI_CLI, "the first question")
    (file,) = place.conversations(GEMINI_CLI, first["provider_session_id"])
    file.rename(file.with_name(f"session-2026-01-01T00-00-{first['provider_session_id'][:8]}.jsonl"))
    for question in ("the second question", "the third question"):
        place.resume(first["session_id"], question)
        place.run(GEMINI_CLI, "something else")  # where the clean-up would come
    assert place.asked("the third")[0].user_texts[:2] == ["the first question", "the second question"]


@pytest.mark.parametrize("surroundings", [{"GITHUB_SHA": "abc"}, {"SURFACE": "Github"}], ids=str)
def test_github_does_not_take_the_session_from_the_agent(place: Workplace, surroundings: dict[str, str]) -> None:
    """There gemini passes on but a few variables; csa's are among them."""
    place.provider.on("who", tool_call("env | grep CSA_"), text("done"))
    session_id = place.run(GEMINI_CLI, "who are you", env=surroundings)["session_id"]
    found = csa_variables(place.shown(session_id))
    assert (found["CSA_SESSION_ID"], found["CSA_SESSION_DIR"]) == (session_id, str(place.session_dir(session_id)))


@pytest.mark.parametrize("permission", ["read-only", "edit"])
def test_plan_mode_is_no_way_up(place: Workplace, permission: str) -> None:
    """Leaving it without a terminal would allow every command from then on."""
    enter = tool_call(name="enter_plan_mode", arguments={"reason": "to plan"})
    leave = tool_call(name="exit_plan_mode", arguments={"plan_filename": "plan.md"})
    touch = tool_call(name="run_shell_command", arguments={"command": "touch climbed"})
    place.provider.on("climb", enter, leave, touch, text("no"))
    result = place.run(GEMINI_CLI, "climb", "--permission", permission)
    assert result["text"] == "no"
    assert not (place.project / "climbed").exists()


def test_the_users_settings_hold_and_stay(place: Workplace) -> None:
    """Files of the user are read and not written; what he chose is in force beside what csa needs."""
    own = place.home / ".gemini" / "settings.json"
    own.parent.mkdir()
    own.write_text('{"context": {"fileName": "RULES.md"}}')
    system = place.home / "system.json"
    system.write_text('// ours\n{"tools": {"exclude": ["google_web_search"]}}')
    (place.project / "RULES.md").write_text("Rule one.")
    before = {path: path.read_bytes() for path in (own, system)}
    place.run(GEMINI_CLI, "hello", env={"GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(system)})
    (request,) = place.asked("hello")
    assert "Rule one." in json.dumps(request.body)
    assert "csa session" in request.system_text
    if os.geteuid() == 0:  # else gemini passes over a file that root does not own
        assert "google_web_search" not in request.tools
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_of_the_run_is_left(place: Workplace) -> None:
    """The settings of a run, which may hold secrets, go with it."""
    session_id = place.run(GEMINI_CLI, "hello", "--system", "Speak Latin.")["session_id"]
    assert not (place.session_dir(session_id) / "runtime").exists()
    assert [path for path in place.home.rglob("csa-note.md*") if Path(path).is_file()] == []


def test_the_users_home_is_the_agents(place: Workplace) -> None:
    """What the user tells every agent is read, and what gemini keeps is his, wherever csa's settings stand."""
    own = place.home / ".gemini"
    (own / "policies").mkdir(parents=True)
    (own / "GEMINI.md").write_text("Rule zero.")
    first = place.run(GEMINI_CLI, "the first question", "--effort", "high")
    (request,) = place.asked("the first")
    assert "Rule zero." in json.dumps(request.body)
    assert f"You run inside csa session {first['session_id']}" in request.system_text
    assert request.body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 24576  # of "high"
    assert place.conversations(GEMINI_CLI, first["provider_session_id"])
    assert place.events(first["session_id"], "warning") == []
    assert [path for path in own.rglob("*") if path.is_symlink()] == []


def test_a_project_that_sets_the_clean_up_is_warned_of(place: Workplace) -> None:
    """Its settings are above the user's, so csa cannot keep gemini from deleting there; as root it can."""
    settings = place.project / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"general": {"sessionRetention": {"enabled": true, "maxAge": "30d"}}}')
    session_id = place.run(GEMINI_CLI, "hello")["session_id"]
    told = [warning["message"] for warning in place.events(session_id, "warning")]
    assert [("sessionRetention" in message) for message in told] == ([True] if "CSA_STATE_DIR" in place.env else [])


def settle(place: Workplace, **settings: object) -> None:
    """Write the user's settings."""
    own = place.home / ".gemini" / "settings.json"
    own.parent.mkdir(exist_ok=True)
    own.write_text(json.dumps(settings))


def hook(place: Workplace, event: str, script: str) -> dict[str, object]:
    """Return the setting of a hook."""
    file = place.home / "hook.sh"
    file.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    file.chmod(0o755)
    command = {"type": "command", "command": str(file), "name": "hook"}
    return {event: [{"matcher": "*", "hooks": [command]}]}


DENY = """echo '{"decision": "deny", "reason": "not today"}'"""
STOP = """echo '{"continue": false, "stopReason": "enough"}'"""
ONCE = f"[ -e $HOME/once ] || {DENY}\ntouch $HOME/once"


@pytest.mark.parametrize(
    ("event", "script", "words"),
    [
        ("BeforeAgent", DENY, "Agent execution blocked: not today"),
        ("BeforeAgent", STOP, "without an answer from the model"),
        ("BeforeModel", DENY, "Agent execution blocked: not today"),
        ("BeforeModel", STOP, "without an answer from the model"),
        ("BeforeTool", STOP, "Agent execution stopped by hook: enough"),
    ],
)
def test_a_turn_that_a_hook_broke_off_is_no_success(place: Workplace, event: str, script: str, words: str) -> None:
    """gemini says success of each."""
    settle(place, hooks=hook(place, event, script))
    place.provider.on("hello", tool_call("echo hi"), text("an answer"))
    done = place.csa("run", "--json", "--tool", "gemini-cli", "--permission", "full", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", "permission")
    assert words in done.json["error"]["message"]


def test_the_answer_is_the_one_after_the_hook(place: Workplace) -> None:
    """A hook that refuses the first answer makes the model give another."""
    settle(place, hooks=hook(place, "AfterAgent", ONCE))
    place.provider.on("hello", text("first"))
    place.provider.on("not today", text("second"))
    result = place.run(GEMINI_CLI, "hello", "--permission", "full")
    assert result["text"] == "second"
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (200, 20)


def test_a_loop_is_no_success(place: Workplace) -> None:
    """The same call again and again is told as a warning, and the turn as a success."""
    place.provider.on("go round", tool_call("echo round"))
    place.provider.on("Potential loop", tool_call("echo round"))
    done = place.csa("run", "--json", "--tool", "gemini-cli", "--permission", "full", "go round")
    assert (done.json["status"], done.json["error"]["kind"]) == ("failed", "internal")
    assert "Loop detected" in done.json["error"]["message"]


@pytest.mark.parametrize(("level", "allowed"), [("read-only", 1), ("edit", 2), ("full", 3)])
def test_mcp_tools_by_what_they_declare(place: Workplace, level: str, allowed: int) -> None:
    """Below `full` gemini offers those alone; at `edit` also all of a server that the user trusts."""
    server = {"command": sys.executable, "args": [mcp_hints.__file__]}
    settle(place, mcpServers={"hints": server, "trusted": {**server, "trust": True}})
    names = list(mcp_hints.HINTS)
    calls = [tool_call(name=f"mcp_{where}_{name}", arguments={}) for where in ("hints", "trusted") for name in names]
    place.provider.on("call", *calls, text("done"))
    shown = place.shown(place.run(GEMINI_CLI, "call them", "--permission", level)["session_id"])
    expected = [*names[:allowed], *names[: allowed if level == "read-only" else 3]]
    assert [line.partition(" ")[0] for line in shown.splitlines() if line.endswith("was called")] == expected


def test_usage_has_the_sub_agents(place: Workplace) -> None:
    """The tokens of an agent that gemini runs itself are those the provider counted, at a resume as well."""
    agent = {"agent_name": "generalist", "prompt": "the inner work"}
    place.provider.on("delegate", tool_call(name="invoke_agent", arguments=agent), text("outer done"))
    finish = tool_call(name="complete_task", arguments={"result": "inner", "response": "inner"})
    place.provider.on("the inner work", tool_call("echo inner"), finish)
    first = place.run(GEMINI_CLI, "delegate this", "--permission", "full")
    count = len(place.provider.requests)
    assert len(place.asked("the inner work")) >= 2
    assert (first["usage"]["input_tokens"], first["usage"]["output_tokens"]) == (100 * count, 10 * count)
    later = place.resume(first["session_id"], "go on")
    assert later["usage"]["input_tokens"] == 100 * (len(place.provider.requests) - count)


def test_a_smaller_limit_of_the_users_holds(place: Workplace) -> None:
    """A silent command is cancelled after what he has set."""
    settle(place, tools={"shell": {"inactivityTimeout": 2}})
    place.provider.on("wait", tool_call("sleep 60; echo awake"), text("went on"))
    result = place.run(GEMINI_CLI, "wait", "--permission", "full")
    assert result["duration_s"] < 50
    assert "awake" not in place.shown(result["session_id"])


def test_a_resume_asks_for_model_and_effort(place: Workplace) -> None:
    """gemini keeps neither in the conversation."""
    session_id = place.run(GEMINI_CLI, "the first", "--model", "model-a", "--effort", "low")["session_id"]
    place.resume(session_id, "the second", "--model", "model-b", "--effort", "high")
    asked = [(request.model, GEMINI_CLI.effort(request.body)) for request in place.provider.requests]
    assert asked == [("model-a", "low"), ("model-b", "high")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_silent_command_is_not_cut(place: Workplace) -> None:
    """Of its own, gemini would cancel it after 300 s."""
    place.provider.on("wait", tool_call("sleep 310; echo awake"), text("went on"))
    process = place.start("run", "--json", "--tool", "gemini-cli", "--permission", "full", "wait")
    stdout, stderr = process.communicate(timeout=500)
    result = json.loads(stdout)
    assert (result["status"], result["text"]) == ("succeeded", "went on"), stderr
    assert "awake" in place.shown(result["session_id"])
