"""A plan whose tasks the four real CLIs do: each begins with the work before it, and a conflict is repaired."""

import subprocess

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, GEMINI_CLI, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

NEEDS = {"first": (), "second": ("first",), "third": ("second",), "rival": ()}
WAITS = "until git cat-file -e csa/plan-plan:first 2>/dev/null; do sleep 0.2; done"
WORK = {
    "first": "echo 1 > first; echo first > shared",
    "second": "cat first > second",
    "third": "cat first second > third",
    "rival": f"{WAITS}; echo rival > shared",  # so it is the one that has the conflict
}
REPAIR = "grep -q '<<<<<<<' shared && printf 'first\\nrival\\n' > shared"
REVIEW = """
[task.review]
tool = "claude-code"
needs = ["third", "rival"]
worktree = false
prompt = "please REVIEW it"
"""


def git(place: Workplace, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=place.project, env=place.env, capture_output=True, text=True, check=True)
    return done.stdout


def write_plan(place: Workplace, tools: tuple[RealTool, ...]) -> None:
    tables = [
        f'[task.{name}]\ntool = "{tool.name}"\nneeds = {[*needs]}\nprompt = "please do {name.upper()}"\n'
        for tool, (name, needs) in zip(tools, NEEDS.items(), strict=True)
    ]
    top = 'permission = "full"\ncheck = "test -e first"\n'
    (place.project / "plan.toml").write_text(top + "".join(tables) + REVIEW)
    git(place, "config", "user.name", "User")
    git(place, "config", "user.email", "user@example.org")
    git(place, "add", ".")
    git(place, "commit", "-qm", "start")


@pytest.mark.parametrize("tools", [(CODEX, CLAUDE_CODE, GEMINI_CLI, OPENCODE)], ids=["one task for each"])
def test_a_plan_with_the_four_tools(place: Workplace, tools: tuple[RealTool, ...]) -> None:
    """Each finds what it needs, and is told the answers; the conflict goes back to its agent; all of it lands."""
    write_plan(place, tools)
    for name, command in WORK.items():
        patient = {"yield_time_ms": 30_000} if name == "first" else None
        place.provider.on(f"do {name.upper()}", tool_call(command, arguments=patient), text(f"{name} is done"))
    place.provider.on("conflicts with what has happened", tool_call(REPAIR), text("both are there"))
    place.provider.on("REVIEW it", text("it is good"))
    done = place.csa("plan", "run", "plan.toml")
    assert done.code == 0, done
    assert dict(line.split(None, 1) for line in done.stdout.splitlines()) == {
        **dict.fromkeys(NEEDS, "merged"),
        "review": "done",
    }
    for tool, (name, needs) in zip(tools, NEEDS.items(), strict=True):
        (request, *_) = place.asked(f"do {name.upper()}")
        assert request.path.startswith(tool.request_path)
        assert all(f"{need}:\n{need} is done" in request.prompt for need in needs), request.prompt
    (repair, *_) = place.asked("conflicts with what has happened")
    assert repair.path.startswith(OPENCODE.request_path)
    assert "do RIVAL" in repair.user_texts[0]
    assert git(place, "status", "--porcelain") == ""
    landed = place.csa("land", "plan-plan")
    assert landed.code == 0, landed
    assert (place.project / "shared").read_text() == "first\nrival\n"
    assert (place.project / "third").read_text() == "1\n1\n"
    assert git(place, "status", "--porcelain") == ""
    assert place.csa("plan", "drop", "plan.toml").code == 0
    assert git(place, "branch", "--list", "csa/*") == ""
    assert place.gone_after() == {}
