"""csa is killed, interrupted and terminated while the agent's shell has processes in sessions of their own."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, OPENCODE, TOOLS, RealTool, Sleepers, Workplace, executables, finish

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SHELLS = pytest.mark.parametrize(
    ("tool", "permission"),
    [pytest.param(tool, level, id=f"{tool.name}-{level}") for tool in TOOLS for level in tool.shell_permissions],
)


def _start(place: Workplace, tool: RealTool, permission: str) -> tuple[subprocess.Popen[bytes], Sleepers]:
    sleepers = Sleepers()
    place.provider.on("sleep", tool_call(sleepers.command), text("awake"))
    words = ["run", "--tool", tool.name, "--permission", permission, "sleep a little"]
    process = place.start(*words)
    sleepers.wait_until_running()
    assert place.only_session()["status"] == "running"
    return process, sleepers


@SHELLS
def test_nothing_survives_a_killed_supervisor(place: Workplace, tool: RealTool, permission: str) -> None:
    """After SIGKILL all processes are gone in two seconds, the session is lost, and it can be gone on with."""
    process, sleepers = _start(place, tool, permission)
    process.kill()
    left = place.gone_after(2)
    assert (left, sleepers.running()) == ({}, set())
    assert finish(process).code == -signal.SIGKILL
    session = place.only_session()
    assert session["status"] == "lost"
    result = place.resume(session["id"], "are you there?")
    assert result["turn"] == 2
    (request,) = place.asked("are you there?")
    assert request.user_texts == ["sleep a little", "are you there?"]
    ends = [end["status"] for end in place.events(session["id"], "run_finished")]
    assert ends == ["lost", "succeeded"]
    assert place.only_session()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("tool", "permission", "number", "code"),
    [
        pytest.param(tool, level, number, code, id=f"{tool.name}-{level}-{number.name}")
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129))
        for tool in (TOOLS if number == signal.SIGTERM else (CODEX, CLAUDE_CODE))
        for level in tool.shell_permissions
    ],
)
def test_nothing_survives_a_cancelled_turn(
    place: Workplace, tool: RealTool, permission: str, number: signal.Signals, code: int
) -> None:
    """A signal cancels the turn, csa waits until everything is gone, and the session can be gone on with."""
    process, sleepers = _start(place, tool, permission)
    process.send_signal(number)
    done = finish(process)
    assert (sleepers.running(), place.processes()) == (set(), {})
    assert (done.code, done.stdout) == (code, ""), done.stderr
    session = place.only_session()
    assert session["status"] == "cancelled"
    (end,) = place.events(session["id"], "run_finished")
    assert (end["status"], end["exit_code"]) == ("cancelled", code)
    assert place.resume(session["id"], "are you there?")["status"] == "succeeded"
    assert place.asked("are you there?")[0].user_texts == ["sleep a little", "are you there?"]


@SHELLS
def test_what_a_finished_turn_leaves_is_ended(place: Workplace, tool: RealTool, permission: str) -> None:
    """A process that the agent put aside does not outlive a turn that succeeds."""
    sleepers = Sleepers()
    aside = sleepers.command.partition(" & ")[0]
    place.provider.on("put aside", tool_call(f"{aside} > /dev/null 2>&1 & echo started"), text("done"))
    place.run(tool, "put aside", "--permission", permission)
    assert (sleepers.running(), place.processes()) == (set(), {})


@SHELLS
def test_a_killed_tool_is_told(place: Workplace, tool: RealTool, permission: str) -> None:
    """A tool that somebody kills leaves a turn that was killed, and nothing that it had started."""
    process, sleepers = _start(place, tool, permission)
    path = str(executables() / tool.executable)
    (victim,) = [pid for pid, words in place.processes().items() if path in words and _parent_is_guardian(pid)]
    os.kill(victim, signal.SIGKILL)
    done = finish(process)
    assert (sleepers.running(), place.processes()) == (set(), {})
    assert (done.code, place.only_session()["status"]) == (1, "killed"), done.stderr


CHAINS = pytest.mark.parametrize(
    "chain",
    [(CODEX, CLAUDE_CODE), (CLAUDE_CODE, CODEX), (CLAUDE_CODE, OPENCODE), (OPENCODE, CODEX)],
    ids=lambda chain: ">".join(tool.name for tool in chain),
)


def _start_tree(place: Workplace, chain: tuple[RealTool, ...]) -> tuple[subprocess.Popen[bytes], Sleepers]:
    sleepers = Sleepers()
    outer, inner = chain
    command = f'csa run --permission full --tool {inner.name} "sleep a little"'
    place.provider.on("delegate", tool_call(command), text("done"))
    place.provider.on("sleep", tool_call(sleepers.command), text("awake"))
    process = place.start("run", "--tool", outer.name, "--permission", "full", "delegate it")
    sleepers.wait_until_running()
    assert [session["status"] for session in place.sessions()] == ["running"] * 2
    return process, sleepers


@CHAINS
def test_a_cancelled_root_cancels_its_tree(place: Workplace, chain: tuple[RealTool, ...]) -> None:
    """Both sessions end as cancelled, in their records too, and no process of either is left."""
    process, sleepers = _start_tree(place, chain)
    process.terminate()
    done = finish(process)
    assert (sleepers.running(), place.processes()) == (set(), {})
    assert done.code == 143, done.stderr
    assert [session["status"] for session in place.sessions()] == ["cancelled"] * 2


@CHAINS
def test_a_killed_root_takes_its_tree_along(place: Workplace, chain: tuple[RealTool, ...]) -> None:
    """After SIGKILL of the root's supervisor nothing of the tree lives on, and the child was let finish its record."""
    process, sleepers = _start_tree(place, chain)
    process.kill()
    left = place.gone_after(3)
    assert (left, sleepers.running()) == ({}, set())
    finish(process)
    child, root = place.sessions()
    assert (root["depth"], root["status"]) == (0, "lost")
    assert (child["depth"], child["status"]) == (1, "cancelled")


def _parent_is_guardian(pid: int) -> bool:
    """Say whether the process is the tool itself: its parent runs neither the tool nor a shell."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return b"guardian" in Path(f"/proc/{parent}/cmdline").read_bytes()
