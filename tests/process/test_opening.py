"""A turn begins before what attends to it is loaded: in what order, and what becomes of it if that is cut short."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

import csa
from csa.model.redaction import Redactor
from csa.paths import SessionPaths
from csa.runner.turns.recorder import read_cancellation
from csa.runner.turns.starting import StartedTurn
from csa.runner.turns.turnrecorder import begin
from csa.store.owner import parse_owner
from tests.support import Place, children_of, wait_for

# Looked at by each python that reads PYTHONPATH; guardians and tools do not.
WATCH = """
import os, signal, sys, time

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in os.environ["WATCH_NAMES"].split():
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            with open(os.environ["WATCH_FILE"], "a") as file:
                file.write(f"{name} {len(children)}\\n")
        if name == "anyio":
            deadline = time.monotonic() + 10
            while not os.path.exists(os.environ["WATCH_UNTIL"]) and time.monotonic() < deadline:
                time.sleep(0.005)
            for number in os.environ["WATCH_SIGNALS"].split():
                os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Watch)
"""

LOADED_MEANWHILE = {"anyio", "asyncio", "ssl", "logging", "csa.runner.turns.turn", "csa_adapters.codex_stream"}
LOADED_AHEAD = {"shutil", "tenacity", "tomlkit", "tomllib"}  # for the end, while the tool runs, as far as there is time
NOT_LOADED = {"email", "importlib.metadata", "rich", "ulid", "uuid"}


def watched(place: Place, *signals: int, until: Path = Path("/")) -> dict[str, str | None]:
    """Return an environment in which csa notes what it imports, waits for a file, and gets signals.

    The latter two when it has launched the tool and is about to load the event loop.
    """
    (place.tmp / "watch").mkdir()
    (place.tmp / "watch" / "sitecustomize.py").write_text(WATCH)
    return {
        "PYTHONPATH": str(place.tmp / "watch"),
        "WATCH_FILE": str(place.tmp / "watched"),
        "WATCH_NAMES": " ".join(LOADED_MEANWHILE | LOADED_AHEAD | NOT_LOADED),
        "WATCH_UNTIL": str(until),
        "WATCH_SIGNALS": " ".join(map(str, map(int, signals))),
    }


def test_the_tool_starts_before_the_event_loop_is_loaded(place: Place) -> None:
    """What attends to the tool is loaded when there is the guardian, and much is not loaded at all."""
    place.codex("hello", "-q", env=watched(place))
    lines = (place.tmp / "watched").read_text().splitlines()
    ahead = {f"{name} 1" for name in LOADED_AHEAD}
    assert sorted({*lines} - ahead) == sorted(f"{name} 1" for name in LOADED_MEANWHILE)
    assert len(lines) == len({*lines})


@pytest.mark.thorough
def test_the_tool_gets_its_prompt_before_the_event_loop_is_loaded(place: Place) -> None:
    """It does not wait for csa: with a prompt that a pipe holds it can begin to work."""
    place.play(["touch", str(place.ready)], ["say", "done"])
    assert place.codex("hello", "-q", env=watched(place, until=place.ready)).out == "done\n"
    assert place.ready.stat().st_mtime_ns <= (place.tmp / "watched").stat().st_mtime_ns


@pytest.mark.thorough
def test_a_prompt_that_no_pipe_holds(place: Place) -> None:
    """What there was no room for is written by the event loop, and nothing twice."""
    prompt = "".join(f"{number}\n" for number in range(60_000))
    place.play(["write-stdin", str(place.tmp / "prompt")], ["say", "done"])
    done = place.run("run", "-q", "--tool", "codex", stdin=prompt.encode())
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert (place.tmp / "prompt").read_text() == prompt


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_event_loop(place: Place, number: signal.Signals) -> None:
    """It ends the turn as later ones do: the tool goes, and the end is on record."""
    place.play(*place.hold(), ["say", "never"])
    done = place.run("run", "--tool", "codex", "hello", env=watched(place, number))
    assert (done.code, done.out) == (128 + number, ""), done.err
    assert place.last_event(done.session_id)["status"] == "cancelled"
    place.wait_until_empty(within_s=2)


@pytest.mark.thorough
def test_a_signal_twice_before_the_event_loop(place: Place) -> None:
    """The second one kills the tool, and the end is on record all the same."""
    place.play(["ignore-term"], *place.hold(), ["say", "never"])
    done = place.run("run", "--tool", "codex", "hello", env=watched(place, signal.SIGINT, signal.SIGINT))
    assert done.code == 130
    assert place.last_event(place.ids()[0])["status"] == "cancelled"
    place.wait_until_empty(within_s=2)


@pytest.mark.thorough
def test_sigkill_before_the_event_loop(place: Place) -> None:
    """The tool ends with csa; the session resolves, is lost, and goes on."""
    place.play(*place.hold(), ["say", "never"])
    done = place.run("run", "--tool", "codex", "hello", env=watched(place, signal.SIGKILL))
    assert done.code == -signal.SIGKILL
    (session_id,) = place.ids()
    place.wait_until_empty(within_s=5)
    assert place.status(session_id) == "lost"
    place.play(["say", "again"])
    assert place.run("run", "--session", session_id, "go on").out == "again\n"


@pytest.mark.thorough
def test_whose_a_session_is_before_the_event_loop(place: Place) -> None:
    """What names the sessions of a tool has a running one from its beginning on, and a lost turn's tool goes on."""
    place.script({"match": "go on", "do": [["say", "again"]]}, {"match": "hello", "do": [["say", "never"]]})
    running = place.start("run", "--tool", "claude-code", "hello", env=watched(place, until=place.tmp / "never"))
    wait_for(place.published, "the session is there")
    (item,) = place.run("session", "list", "--tool", "claude-code", "--json").json
    assert (item["status"], item["tools"]) == ("running", ["claude-code"])
    assert " claude-code running " in place.run("session", "list", "--tree").out
    running.kill()
    running.wait()
    place.wait_until_empty(within_s=5)
    known = place.state(item["id"])["tools"]["claude-code"]
    assert (known["cwd"], "provider_session_id" in known) == (str(place.project), False)
    assert place.run("run", "--session", item["id"], "go on").out == "again\n"
    assert list(place.state(item["id"])["tools"]) == ["claude-code"]


def test_cancelled_before_anybody_attends(place: Place) -> None:
    """A turn that is killed before the event loop has come to its tool ends that tool, and says how it ended."""
    place.play(*place.hold(), ["say", "never"])
    client = csa.Csa(place.project, root=place.state_root, environ=place.env)
    request = csa.RunRequest(prompt="hello", tool="codex")
    before = children_of(os.getpid())

    async def scenario() -> None:
        started = client.begin(client.plan(request))
        assert len(children_of(os.getpid())) == len(before) + 1
        with anyio.fail_after(20):
            async with client.attend(started) as turn:
                turn.cancel(signal_name="SIGINT")
                turn.cancel(signal_name="SIGINT")
        assert (turn.result.status, turn.result.exit_code) == ("cancelled", 130)
        assert place.last_event(turn.session_id)["status"] == "cancelled"

    anyio.run(scenario)
    assert children_of(os.getpid()) == before


def test_a_cancel_file_as_the_turn_begins(place: Place) -> None:
    """What an earlier turn has left is gone when the lock says whose it is; what comes from then on is obeyed."""
    paths = SessionPaths(place.session(place.codex().session_id))
    paths.cancel.write_text("of yesterday\n")
    client = csa.Csa(place.project, root=place.state_root, environ=place.env)
    request = csa.RunRequest(prompt="hello", session=paths.root.name)
    recorder = begin(client.plan(request))
    assert parse_owner(paths.session_lock.read_bytes()) is not None
    assert not paths.cancel.exists()
    paths.cancel.write_text("session kill by ann\n")
    StartedTurn(recorder)
    assert recorder.cancellation() == "session kill by ann"
    recorder.close()


def test_only_a_file_that_is_there_cancels(tmp_path: Path) -> None:
    """What cannot be looked at does not; what is there and cannot be read does."""
    paths, gone = SessionPaths(tmp_path / "here"), SessionPaths(tmp_path / "file")
    paths.root.mkdir()
    gone.root.touch()
    assert read_cancellation(gone, Redactor()) is None
    with no_descriptors():
        assert read_cancellation(paths, Redactor()) is None
    paths.cancel.touch()
    with no_descriptors():
        assert read_cancellation(paths, Redactor()) == ""
    paths.cancel.unlink()
    paths.cancel.mkdir()
    assert read_cancellation(paths, Redactor()) == ""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Have this process out of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_descriptor_is_left_for_the_tool(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn that has begun fails, and is on record."""
    client = csa.Csa(place.project, root=place.state_root, environ=place.env)
    request = csa.RunRequest(prompt="hello", tool="codex", retries=0)

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("csa.process.launch.os.pipe", fail)
            started = client.begin(client.plan(request))
        async with client.attend(started) as turn:
            assert [event.type async for event in turn] == ["run_started", "run_finished"]
        assert (turn.result.status, turn.result.error_kind) == ("failed", "spawn")

    anyio.run(scenario)


@pytest.mark.thorough
def test_a_tool_that_cannot_be_launched(place: Place, tmp_path: Path) -> None:
    """A turn whose guardian cannot be started has failed, and is on record."""
    place.codex("hello", "--name", "here")
    tool = tmp_path / "codex"
    tool.write_text("no program\n")
    tool.chmod(0o755)
    done = place.run("run", "--session", "here", "again", env={"PATH": f"{tmp_path}:{place.env['PATH']}"})
    assert done.code == 1
    assert place.last_event(place.ids()[0])["error"]["kind"] == "spawn"
    wait_for(lambda: not place.processes(), "nothing runs")
