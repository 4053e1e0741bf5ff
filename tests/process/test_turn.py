"""The library: a turn as an async context manager and an async iterator of typed events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

import csa
from tests.support import Place


def open_client(place: Place) -> csa.Csa:
    return csa.Csa(place.project, root=place.state_root, environ=place.env)


def ask(prompt: str = "hello", tool: str = "codex") -> csa.RunRequest:
    return csa.RunRequest(prompt=prompt, tool=tool)


def run_async(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(30):
            await scenario()

    anyio.run(bounded)


@pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])
def test_yields_typed_events_in_order(place: Place, tool: str) -> None:
    """The events come as they were recorded, numbered from 1, the last one being run_finished."""
    place.play(["think", "hm"], ["call", "ls", "a b"], ["say", "done"])
    seen: list[csa.Event] = []

    async def scenario() -> None:
        async with open_client(place).run(ask(tool=tool)) as turn:
            seen.extend([event async for event in turn])
        assert (turn.result.status, turn.result.text, turn.losses) == ("succeeded", "done", [])
        assert [event.to_dict() for event in seen] == place.events(turn.session_id)

    run_async(scenario)
    assert all(isinstance(event, csa.Event) for event in seen)
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    kinds = [event.type for event in seen if event.type not in {"usage", "other"}]
    assert kinds == [
        "run_started",
        "session_bound",
        "agent_thought",
        "tool_call",
        "tool_call_update",
        "agent_message",
        "run_finished",
    ]


def test_session_resolves_inside_the_block(place: Place) -> None:
    """As soon as the block is entered the session is on disk: another reader finds it, running."""
    place.play(*place.hold())

    async def scenario() -> None:
        client = open_client(place)
        async with client.run(ask()) as turn:
            assert client.resolve(turn.session_id[:20].lower()) == turn.session_id
            assert client.liveness(turn.session_id).state == "alive"
            assert [info.status for info in client.sessions()] == ["running"]
            place.release()
            async for _ in turn:
                pass
        assert client.liveness(turn.session_id).state == "not_alive"
        assert client.result(turn.session_id).status == "succeeded"

    run_async(scenario)


def test_leaving_the_loop_cancels(place: Place) -> None:
    """Breaking out of the loop ends the tool and all it started, and the outcome is on disk when the block is left."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["say", "first"], ["sleep", 60])

    async def scenario() -> None:
        async with open_client(place).run(ask()) as turn:
            async for event in turn:
                if event.type == "agent_message":
                    break
        assert turn.result.status == "cancelled"
        assert place.last_event(turn.session_id)["status"] == "cancelled"
        assert not place.processes()

    run_async(scenario)


def test_block_that_never_iterates(place: Place) -> None:
    """A caller that takes no event at all, of many, is not waited for, and the turn is ended in order."""
    place.play(["emit-many", 20000], ["sleep", 60])

    async def scenario() -> None:
        async with open_client(place).run(ask()) as turn:
            pass
        assert turn.result.status == "cancelled"
        assert place.last_event(turn.session_id)["status"] == "cancelled"

    run_async(scenario)


@pytest.mark.thorough
def test_what_nobody_has_read_yet_is_no_silence(place: Place) -> None:
    """A tool that cannot go on since nobody takes its output has said something: it is not ended as silent."""
    place.play(["emit-many", 200_000])

    async def scenario() -> None:
        request = csa.RunRequest(prompt="hello", tool="codex", idle_timeout_s=0.5)
        async with open_client(place).run(request) as turn:
            await stops_growing(turn.paths.transcript, for_s=1.5)
            assert turn.paths.transcript.read_bytes().count(b"\n") < 200_000
        assert turn.result.status == "cancelled"

    run_async(scenario)


async def stops_growing(path: Path, *, for_s: float) -> None:
    """Wait until a file has been of one size for so long."""
    seen, since = 0, anyio.current_time()
    while anyio.current_time() - since < for_s:
        if (size := os.stat(path).st_size) != seen:
            seen, since = size, anyio.current_time()
        await anyio.sleep(0.05)


@pytest.mark.thorough
def test_cancelled_scope_finalises(place: Place) -> None:
    """Cancellation of the surrounding scope ends the tool; status and journal are written, the lock is free."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["ignore-term"], ["say", "first"], ["sleep", 60])

    async def scenario() -> None:
        client = open_client(place)
        with anyio.CancelScope() as scope:
            async with client.run(ask()) as turn:
                async for event in turn:
                    if event.type == "agent_message":
                        scope.cancel()
        assert scope.cancelled_caught
        assert turn.result.status == "cancelled"
        assert place.last_event(turn.session_id)["status"] == "cancelled"
        assert client.liveness(turn.session_id).state == "not_alive"
        assert not place.processes()

    run_async(scenario)


def test_own_error_in_the_block(place: Place) -> None:
    """An exception of the caller's own comes out as itself, after the turn has been ended and recorded."""
    place.play(["say", "first"], ["sleep", 60])
    ids: list[str] = []

    async def scenario() -> None:
        async with open_client(place).run(ask()) as turn:
            ids.append(turn.session_id)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_async(scenario)
    assert place.last_event(ids[0])["status"] == "cancelled"


def test_cancel_from_outside(place: Place) -> None:
    """`cancel` ends the turn; the loop still yields its run_finished."""
    place.play(["say", "first"], ["sleep", 60])

    async def scenario() -> None:
        kinds = []
        async with open_client(place).run(ask()) as turn:
            async for event in turn:
                kinds.append(event.type)
                if event.type == "agent_message":
                    turn.cancel(detail="enough")
        assert kinds[-1] == "run_finished"
        assert (turn.result.status, turn.result.error_message) == ("cancelled", "enough")

    run_async(scenario)


@pytest.mark.thorough
def test_turns_side_by_side(place: Place) -> None:
    """Two turns in one process see their own events, and the end of one does not disturb the other."""
    place.script(
        {"match": "slow", "do": [*place.hold(), ["say", "slow answer"]]},
        {"match": "quick", "do": [["wait-file", str(place.ready)], ["say", "quick answer"]]},
    )
    answers: dict[str, str] = {}

    async def one(client: csa.Csa, prompt: str, tool: str) -> None:
        async with client.run(ask(prompt, tool)) as turn:
            async for event in turn:
                if event.type == "agent_message":
                    answers[prompt] = str(event.data["text"])
        assert turn.result.status == "succeeded"
        place.release()

    async def scenario() -> None:
        client = open_client(place)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, client, "slow", "codex")
            tasks.start_soon(one, client, "quick", "claude-code")

    run_async(scenario)
    assert answers == {"slow": "slow answer", "quick": "quick answer"}


def test_second_turn_of_a_running_session_is_refused(place: Place) -> None:
    """A session runs one turn at a time: the second is refused as busy, the first goes on."""
    place.play(*place.hold())

    async def scenario() -> None:
        client = open_client(place)
        async with client.run(ask()) as turn:
            with pytest.raises(csa.BusyError, match=f"PID {os.getpid()} "):
                async with client.run(csa.RunRequest(prompt="more", session=turn.session_id)):
                    pass
            place.release()
            async for _ in turn:
                pass
        assert turn.result.status == "succeeded"

    run_async(scenario)


def test_missing_tool_is_refused_before_anything_is_written(place: Place) -> None:
    """What can be refused is refused by `run` itself; the state root is not even made."""
    client = csa.Csa(place.project, root=place.state_root, environ={"PATH": "/nowhere"})
    with pytest.raises(csa.ToolUnavailableError):
        client.run(ask())
    assert not place.state_root.exists()


def test_store_that_cannot_be_written(place: Place) -> None:
    """A state root that is a file is a CsaError with a hint, and nothing is started."""
    place.state_root.parent.mkdir(parents=True)
    place.state_root.write_text("in the way")
    place.play(["touch", str(place.ready)])

    async def scenario() -> None:
        with pytest.raises(csa.CsaError) as caught:
            async with open_client(place).run(ask()):
                pass
        assert caught.value.hint

    run_async(scenario)
    assert not place.ready.exists()


def test_library_has_no_environment_of_its_own(place: Place) -> None:
    """A client opened explicitly gives its tools what it was given, not what the process has."""
    seen = place.tmp / "env.json"
    place.play(["write-env", str(seen)])
    os.environ["LEAKED_BY_THE_PROCESS"] = "1"  # the fixture restores the environment

    async def scenario() -> None:
        async with open_client(place).run(ask()) as turn:
            async for _ in turn:
                pass

    run_async(scenario)
    assert "LEAKED_BY_THE_PROCESS" not in json.loads(seen.read_text())


SPY = """
import collections, os, sys

class Spy(collections.UserDict):
    def __getitem__(self, name):
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__", "") in {"collections", "collections.abc", "_collections_abc", "os"}:
            frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in {"csa", "csa_adapters"}:
            raise SystemExit(f"{module} reads {name}")
        return super().__getitem__(name)

os.environ = Spy(os.environ)
import csa
lazy = set(sys.modules) & {"anyio", "asyncio", "rich", "tomlkit", "ulid"}
assert not lazy, lazy
for name in csa.__all__:
    getattr(csa, name)
csa.Csa(sys.argv[1], root=csa.Csa.__module__ and __import__("pathlib").Path(sys.argv[2]))
"""


def test_import_is_silent_and_reads_nothing(place: Place) -> None:
    """Importing csa, touching every public name and opening a store prints nothing and reads no variable."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SPY, str(place.project), str(place.state_root)],
        capture_output=True,
        text=True,
        check=False,
        env=place.env,
        cwd=Path("/"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not place.state_root.exists()


def test_a_tool_that_tells_its_retries_on_stderr(place: Place) -> None:
    """They are events like any others; the files the tool was given for the turn are there, private, and go."""
    seen = place.project / "seen"
    look = f'for f in "$CSA_SESSION_DIR"/runtime/*; do stat -c "%a %n" "$f"; done > {seen}'
    place.play(["retry", "500", 1], ["run", look], ["say", "done"])

    async def scenario() -> None:
        async with open_client(place).run(ask(tool="gemini-cli")) as turn:
            events = [event async for event in turn]
        assert (turn.result.status, turn.result.text) == ("succeeded", "done")
        retries = [event.data for event in events if event.type == "retry"]
        assert [(data["kind"], data["attempt"]) for data in retries] == [("server", 1)]
        assert not list(place.state_root.rglob("runtime"))

    run_async(scenario)
    modes = {Path(name).name: mode for mode, _, name in (line.partition(" ") for line in seen.read_text().splitlines())}
    assert modes == {"csa-note.md": "600", "home": "700", "policy.toml": "600"}


@pytest.mark.thorough
def test_a_tool_in_a_home_made_for_the_turn(place: Place) -> None:
    """What it keeps stands in the user's own home, which has no trace of the turn's: a conversation goes on."""
    own = place.home / ".gemini"
    own.mkdir()
    (own / "settings.json").write_text("{}")
    session_id = place.run("run", "--tool", "gemini-cli", "hello").session_id
    assert "[turns=2]" in place.run("run", "--session", session_id, "and again").out
    assert (own / "settings.json").read_text() == "{}"
    assert (own / "tmp").is_dir()
    assert [path for path in own.rglob("*") if path.is_symlink()] == []
    assert not list(place.state_root.rglob("runtime"))
