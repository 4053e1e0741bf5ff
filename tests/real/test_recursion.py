"""Agents that start agents with csa, across tools."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from fixtures.mock_provider import slow, text, tool_call
from tests.real.test_turns import csa_variables
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, GEMINI_CLI, OF_TWO, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

CHAINS = [
    (CODEX, CLAUDE_CODE, CODEX),
    (CLAUDE_CODE, CODEX, CLAUDE_CODE),
    (CODEX, OPENCODE, CLAUDE_CODE),
    (OPENCODE, CODEX),
    (OPENCODE, OPENCODE),
    (CODEX, CODEX),
    (CLAUDE_CODE, CLAUDE_CODE),
    (CODEX, GEMINI_CLI, CLAUDE_CODE),
    (GEMINI_CLI, GEMINI_CLI),
    (CODEX, GEMINI_CLI, OPENCODE, CLAUDE_CODE),
]
WITHOUT_SANDBOX = [(CODEX, CLAUDE_CODE, CODEX), (CLAUDE_CODE, CODEX, CLAUDE_CODE), (CODEX, CODEX), (OPENCODE, CODEX)]

REPEATED = [((CODEX, GEMINI_CLI, CLAUDE_CODE), "edit"), ((CODEX, CODEX), "full")]  # of which others show as much


def _chains() -> list[object]:
    return [
        pytest.param(
            chain,
            level,
            id=f"{'>'.join(tool.name for tool in chain)}-{level}",
            marks=[pytest.mark.slow] if (chain, level) in REPEATED else [],
        )
        for level, chains in (("edit", CHAINS), ("full", WITHOUT_SANDBOX))
        for chain in chains
    ]


@pytest.mark.parametrize(("chain", "permission"), _chains())
def test_agents_start_agents(place: Workplace, chain: tuple[RealTool, ...], permission: str) -> None:
    """Each session has its depth, parent and root in its record and its agent's environment, and all are one tree."""
    flags = "" if permission == "edit" else f"--permission {permission} "
    for depth, child in enumerate(chain[1:]):
        command = CSA if depth == 0 else "csa"  # as the note says it, and by its name
        call = tool_call(
            f'{command} run {flags}--tool {child.name} "LEVEL-{depth + 1} please"',
            # After ten seconds it would tell its model that the command still runs, and ours asks no further.
            arguments={"yield_time_ms": 30_000} if chain[depth] is CODEX else None,
        )
        place.provider.on(f"LEVEL-{depth} ", call, text(f"done {depth}"))
    deepest = len(chain) - 1
    place.provider.on(f"LEVEL-{deepest} ", tool_call("env"), text(f"done {deepest}"))
    root = place.run(chain[0], "LEVEL-0 please", *flags.split())
    assert root["text"] == "done 0"
    sessions = sorted(place.sessions(), key=lambda session: int(session["depth"]))
    assert [session["tools"] for session in sessions] == [[tool.name] for tool in chain], place.shown(
        root["session_id"]
    )
    assert [session["status"] for session in sessions] == ["succeeded"] * len(chain)
    assert [session["depth"] for session in sessions] == list(range(len(chain)))
    ids = [session["id"] for session in sessions]
    assert [session["parent_session_id"] for session in sessions] == [None, *ids[:-1]]
    assert {session["root_session_id"] or session["id"] for session in sessions} == {ids[0]}
    for depth, session_id in enumerate(ids[:-1]):
        assert f"done {depth + 1}" in place.shown(session_id)
    assert csa_variables(place.shown(ids[-1])) == {
        "CSA_SESSION_ID": ids[-1],
        "CSA_DEPTH": str(deepest),
        "CSA_PARENT_SESSION": ids[-2],
        "CSA_PROJECT_ROOT": str(place.project),
        "CSA_SESSION_DIR": str(place.session_dir(ids[-1])),
        "CSA_OUTPUT_DIR": str(place.session_dir(ids[-1]) / "output" / "turn-0001"),
        "CSA_TOOL": chain[-1].name,
        "CSA_STATE_DIR": str(place.state_root),
    }
    outer = {tool.marker for tool in chain} - {chain[-1].marker}
    assert [marker for marker in outer if f"\n{marker}=" in place.shown(ids[-1])] == []
    tree = place.csa("session", "list", "--tree").stdout
    assert re.findall(r"\b[0-9A-Z]{26}\b", tree) == ids
    indents = [re.search(r"[0-9A-Z]{26}", line) for line in tree.splitlines()]
    starts = [found.start() for found in indents if found]
    assert starts == sorted(set(starts))


def test_a_child_stays_below_its_parents_permission(place: Workplace, tool: RealTool) -> None:
    """An agent at the default level that asks for more is refused with the reason, and starts nothing."""
    place.provider.on("climb", tool_call(f'csa run --permission full --tool {tool.name} "more"'), text("no"))
    session_id = place.run(tool, "climb")["session_id"]
    assert "Permission 'full' is more than the 'edit'" in place.shown(session_id)
    assert place.only_session()["id"] == session_id
    assert place.asked("more") == []


@OF_TWO
def test_an_agent_continues_its_sub_agent(place: Workplace, tool: RealTool) -> None:
    """A second command of the same agent resumes the session that its first one made."""
    place.provider.on(
        "delegate",
        tool_call(f'csa run --tool {tool.name} --name helper "begin the work"'),
        tool_call('csa run --session helper "finish the work"'),
        text("all done"),
    )
    root = place.run(tool, "delegate")
    child = next(session for session in place.sessions() if session["id"] != root["session_id"])
    assert (child["name"], child["turns"], child["parent_session_id"]) == ("helper", 2, root["session_id"])
    (request,) = place.asked("finish")
    assert request.user_texts == ["begin the work", "finish the work"]


def test_csa_in_a_place_with_spaces_and_quotes(place: Workplace, tool: RealTool) -> None:
    """An agent is told csa's path as its shell takes it, and may run that at the default level."""
    launcher = place.home / 'it\'s "mine"' / "csa"
    launcher.parent.mkdir()
    shutil.copy(CSA, launcher)
    place.env["PATH"] = place.env["PATH"].replace(f"{CSA.parent}{os.pathsep}", "")
    command = shlex.quote(str(launcher))
    place.provider.on("delegate", tool_call(f'{command} run --tool {tool.name} "the work"'), text("all done"))
    done = subprocess.run(
        [launcher, "run", "--tool", tool.name, "delegate"],
        cwd=place.project,
        env=place.environment(None),
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done
    assert len(place.asked("the work")) == 1, place.asked("delegate")
    assert json.dumps(command, ensure_ascii=False)[1:-1] in json.dumps(
        [request.body for request in place.asked("delegate")], ensure_ascii=False
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_silent_child_is_heard(place: Workplace) -> None:
    """While a sub-agent waits for its provider, its parent's shell hears of it at least every minute."""
    log = place.project / "heard.txt"
    call = tool_call(f'csa run --tool claude-code "LEVEL-1 please" 2> "{log}"')
    place.provider.on("LEVEL-0 ", call, text("done 0"))
    place.provider.on("LEVEL-1 ", slow(70, text("done 1")))
    done = place.csa("run", "--tool", "gemini-cli", "--permission", "full", "LEVEL-0 please")
    assert done.code == 0, done
    assert re.search(r"^csa: [0-9A-Z]{10} claude-code (49|5\d)s: ", log.read_text(), re.MULTILINE), log.read_text()
