"""csa is killed, interrupted and terminated while the agent's shell has processes in sessions of their own."""

import signal
import subprocess

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import TOOLS, RealTool, Sleepers, Workplace, finish

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


@SHELLS
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
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
