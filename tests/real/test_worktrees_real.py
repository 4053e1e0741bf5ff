"""The real CLIs in git worktrees that csa has made: what they leave there is committed, and they go on there."""

import subprocess
from pathlib import Path

import pytest

from csa.ids import new_session_id
from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def git(place: Workplace, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=place.project, env=place.env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(place: Workplace) -> Workplace:
    git(place, "config", "user.name", "User")
    git(place, "config", "user.email", "user@example.org")
    for name in ("CLAUDE.md", "AGENTS.md", "GEMINI.md"):
        (place.project / name).write_text("Mind the worktree rule.\n")
    git(place, "add", ".")
    git(place, "commit", "-qm", "first")
    return place


@pytest.mark.parametrize("permission", ["edit", pytest.param("full", marks=pytest.mark.slow)])
def test_what_a_tool_leaves_in_a_worktree_is_committed(repository: Workplace, tool: RealTool, permission: str) -> None:
    """It works there at each level, reads the project's instructions there, and resumes there; csa commits."""
    place = repository
    session_id = new_session_id(1_700_000_000_000, b"0123456789")
    tree = Path(place.session_dir(session_id)).parents[1] / "worktrees" / session_id
    place.provider.on("work", *tool.writes(f"{tree}/made"), text("done"))
    place.provider.on("go on", *tool.writes(f"{tree}/more"), text("done again"))
    words = ("--worktree=fix", "--permission", permission)
    result = place.run(tool, "work", "--session-id", session_id, *words)
    assert (result["denied"] == []) or (tree / "made").exists(), result["denied"]
    assert git(place, "show", "--name-only", "--format=%(trailers:key=Csa-Turn,valueonly)", "csa/fix").split() == [
        "1",
        "made",
    ]
    assert result["commit"] == git(place, "rev-parse", "csa/fix").strip()
    resumed = place.resume(session_id, "go on")
    assert resumed["provider_session_id"] == result["provider_session_id"]
    assert git(place, "show", "--name-only", "--format=", "csa/fix").split() == ["more"]
    (request,) = place.asked("go on")[:1]
    assert "work" in request.user_texts[0]
    assert "csa commits them on that branch" in str(place.asked("work")[0].body)
    assert git(place, "status", "--porcelain") == ""


@pytest.mark.parametrize("tool", [CODEX, CLAUDE_CODE], ids=lambda tool: tool.name)
def test_an_agent_gives_its_sub_agent_a_worktree(repository: Workplace, tool: RealTool) -> None:
    """At the permission `full`, `csa run --worktree` in the agent's shell makes one from the agent's own worktree."""
    place = repository
    inner = f'{CSA} run --permission full --tool {tool.name} --worktree=inner --with-changes "INNER please"'
    patient = {"yield_time_ms": 30_000} if tool is CODEX else None
    place.provider.on(
        "OUTER", tool_call("echo outer > outer"), tool_call(inner, arguments=patient), text("outer is done")
    )
    place.provider.on("INNER", tool_call("cat outer && echo inner > inner"), text("inner is done"))
    result = place.run(tool, "OUTER please", "--worktree=outer", "--permission", "full")
    assert "inner is done" in place.shown(result["session_id"]), place.shown(result["session_id"])
    assert git(place, "show", "--name-only", "--format=", "csa/inner").split() == ["inner"]
    assert git(place, "show", "--name-only", "--format=", "csa/outer").split() == ["outer"]


def test_a_sandboxed_agent_is_told_why_it_cannot(repository: Workplace) -> None:
    """codex's sandbox keeps `.git` from being written: nothing is made, and the agent learns why."""
    place = repository
    inner = f'{CSA} run --tool codex --worktree=inner "INNER please" 2>&1'
    place.provider.on("OUTER", tool_call(inner, arguments={"yield_time_ms": 30_000}), text("outer is done"))
    result = place.run(CODEX, "OUTER please", "--worktree=outer")
    shown = place.shown(result["session_id"])
    assert "cannot be made" in shown, shown
    assert git(place, "branch", "--list", "csa/inner") == ""
    assert place.only_session()["id"] == result["session_id"]
