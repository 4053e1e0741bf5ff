"""Trees of agents that work for long: nothing is configured, and nothing of any tool's cuts a sub-agent short."""

import json
import subprocess
from typing import Any

import pytest

from fixtures.mock_provider import Reply, slow, text, tool_call
from tests.real.test_codex import KNOWN_MODEL, awaited
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, GEMINI_CLI, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1500)]

PIECE_S = 50  # of the work of a child: gemini-cli waits for no answer longer than 60 s
TOKENS = (1000, 10)  # in and out, of each answer
PAIRS = [(CLAUDE_CODE, CODEX), (CODEX, GEMINI_CLI), (GEMINI_CLI, OPENCODE), (OPENCODE, CLAUDE_CODE)]


def call(tool: RealTool, command: str) -> Reply:
    """Run a command, and wait for its end as the tool's model would."""
    return awaited(command) if tool is CODEX else tool_call(command)


def options(tool: RealTool) -> tuple[str, ...]:
    return ("--model", KNOWN_MODEL) if tool is CODEX else ()


def work(seconds: int, answer: str) -> tuple[Reply, ...]:
    """Work for so long, with harmless commands on the way."""
    pieces = range(seconds // PIECE_S)
    # Not the same call again and again, which gemini takes for a loop.
    calls = [slow(PIECE_S, tool_call(f"csa session list --limit {piece + 1}")) for piece in pieces]
    return (*calls, text(answer))


def priced(*replies: Reply) -> list[Reply]:
    """Have each answer use the same known number of tokens."""
    usage = type(replies[0].usage)(*TOKENS)
    return [type(reply)(**{**vars(reply), "usage": usage}) for reply in replies]


def finish(process: "subprocess.Popen[bytes]", seconds: int) -> Any:
    stdout, stderr = process.communicate(timeout=seconds + 300)
    result = json.loads(stdout)
    assert result["status"] == "succeeded", stderr
    return result


def check_usage(place: Workplace, prompts: dict[str, str]) -> None:
    """Compare each session's use with what the provider was asked, by the prompts of the sessions."""
    for session in place.sessions():
        asked = len(place.asked(prompts[session["id"]]))
        used = session["usage"]
        assert (used["input_tokens"], used["output_tokens"]) == (asked * TOKENS[0], asked * TOKENS[1]), session
    total = sum(session["usage"]["input_tokens"] for session in place.sessions())
    stats = place.csa("stats", "--json").json
    assert json.dumps(total) in json.dumps(stats)


def test_a_sub_agent_of_ten_minutes_under_each_tool(place: Workplace) -> None:
    """All at once: the child's answer is in its parent's, the usage of both what the provider counted."""
    seconds = 600
    running: dict[str, subprocess.Popen[bytes]] = {}
    for parent, child in PAIRS:
        prompt = f"CHILD-OF-{parent.name} please"
        words = " ".join(["csa", "run", "--tool", child.name, *options(child), f'"{prompt}"'])
        place.provider.on(f"CHILD-OF-{parent.name} ", *priced(*work(seconds, f"the answer for {parent.name}")))
        place.provider.on(f"PARENT-{parent.name} ", *priced(call(parent, words), text("done")))
        asked = f"PARENT-{parent.name} please"
        running[parent.name] = place.start("run", "--json", "--tool", parent.name, *options(parent), asked)
    prompts: dict[str, str] = {}
    for name, process in running.items():
        result = finish(process, seconds)
        assert result["text"] == "done"
        assert f"the answer for {name}" in place.shown(result["session_id"])
        prompts[result["session_id"]] = f"PARENT-{name} "
    for session in place.sessions():
        assert session["status"] == "succeeded", session
        if session["parent_session_id"]:
            prompts[session["id"]] = prompts[session["parent_session_id"]].replace("PARENT-", "CHILD-OF-")
    assert len(prompts) == 2 * len(PAIRS)
    check_usage(place, prompts)


def test_a_tree_of_four_tools(place: Workplace) -> None:
    """claude-code has one sub-agent of each tool work for 150 s, all at once, in a single command of its shell."""
    seconds = 150
    children = (CODEX, CLAUDE_CODE, GEMINI_CLI, OPENCODE)
    for child in children:
        place.provider.on(f"LEAF-{child.name} ", *priced(*work(seconds, f"leaf {child.name} is done")))
    runs = "".join(
        f"{CSA} run --tool {child.name} {' '.join(options(child))} 'LEAF-{child.name} please' & " for child in children
    )
    place.provider.on("ROOT ", *priced(tool_call(f"{runs}wait"), text("all done")))
    process = place.start("run", "--json", "--tool", "claude-code", "--permission", "full", "ROOT please")
    result = finish(process, seconds)
    assert result["text"] == "all done"
    said = place.shown(result["session_id"])
    assert [child.name for child in children if f"leaf {child.name} is done" not in said] == []
    sessions = place.sessions()
    assert {session["status"] for session in sessions} == {"succeeded"}
    prompts = {session["id"]: f"LEAF-{session['tools'][0]} " for session in sessions if session["parent_session_id"]}
    assert len(prompts) == len(children)
    check_usage(place, {**prompts, result["session_id"]: "ROOT "})
