"""Turns that a scheduler finds a host for: over stand-ins for `hq` and for a cluster, which begin real processes."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from csa.store.placements import list_placements
from tests.support import CSA, Json, Place, Running, wait_for

REPOSITORY = Path(__file__).parents[2]


class Queue:
    """A HyperQueue that has one worker, on n1."""

    def __init__(self, place: Place, remote: Place) -> None:
        self.place, self.remote = place, remote
        self.directory = place.tmp / "hq"
        self.directory.mkdir()
        hq = place.tmp / "bin" / "hq"
        hq.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {REPOSITORY}/fixtures/fake_hq.py "$@"\n')
        hq.chmod(0o755)
        place.env["HQ_SERVER_DIR"] = str(self.directory)
        self.configure()
        self.play({"match": "", "do": [["say", "done"]]})

    def configure(self, *lines: str) -> None:
        config = self.place.tmp / "own.toml"
        mine = ["[engines.lab]", 'kind = "hyperqueue"', 'code = "none"', f'csa = ["{CSA}"]']
        config.write_text("\n".join([*mine, *lines, ""]))
        self.place.env["CSA_CONFIG"] = str(config)

    def play(self, *rules: Json) -> None:
        """Tell the tools of n1 what to do."""
        self.remote.script(*rules)
        environ = self.remote.environment(None)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()]
        (Path(environ["HOME"]) / ".profile").write_text("".join(lines))
        (self.directory / "worker").write_text(json.dumps(environ))

    def jobs(self) -> dict[str, Json]:
        return {path.stem: json.loads(path.read_text()) for path in self.directory.glob("*.json")}

    def states(self) -> list[str]:
        return [job["task"]["state"] for _, job in sorted(self.jobs().items())]

    def fill(self) -> None:
        (self.directory / "full").touch()

    def start(self, *words: str) -> Running:
        return self.place.start("run", "--on", "lab", "--tool", "codex", *words)


def waits(running: Running) -> bool:
    return "waiting in the queue" in running.err


@pytest.fixture
def queue(place: Place, remote: Place) -> Queue:
    return Queue(place, remote)


def test_hyperqueue_finds_a_host(queue: Queue) -> None:
    """The turn is a task there, which is never begun again; its end is here, and nothing is held any more."""
    place, remote = queue.place, queue.remote
    done = place.run("run", "--on", "lab", "--tool", "codex", "--name", "auth", "hello")
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert "job 1 of lab has the turn" in done.err
    assert "codex on n1" in done.err
    assert len(remote.ids(remote.tmp / "home")) == 1
    assert place.run("result", "n1:auth").out == "done\n"
    wait_for(lambda: queue.states() == ["finished"], "the job has ended")
    assert "--crash-limit=never-restart" in queue.jobs()["1"]["options"]
    assert list_placements(place.state_root) == []


@pytest.mark.thorough
def test_what_waits_for_a_worker_is_taken_back(queue: Queue) -> None:
    """TERM cancels a job that waits; what was killed meanwhile does not begin, also with --detach."""
    remote = queue.remote
    queue.configure("leash_s = 5")
    queue.fill()
    first = queue.start("hello")
    wait_for(lambda: "waiting in the queue of lab (no worker is free, job 1)" in first.err, "it says what it waits for")
    first.signal(signal.SIGTERM)
    assert first.wait().code == 143
    assert queue.states() == ["canceled"]
    for words in (["hello"], ["--detach", "hello"]):
        queue.fill()
        running = queue.start(*words)
        wait_for(partial(waits, running), "it waits")
        running.kill()
        (queue.directory / "full").unlink()
        wait_for(lambda: queue.states()[-1] == "failed", "its job has ended")
    assert remote.ids(remote.tmp / "home") == []


@pytest.mark.thorough
def test_an_agent_does_not_wait_for_long(queue: Queue) -> None:
    """What an agent places, and no worker takes, runs where the agent is; the job is cancelled, and never began."""
    queue.configure("queue_s = 0.5")
    queue.fill()
    place = queue.place
    place.script(
        {"match": "parent", "do": [["run", f"{CSA} run --on lab --tool codex child"]]},
        {"match": "", "do": [["say", "x"]]},
    )
    done = place.codex("parent")
    assert done.code == 0, done.err
    assert len(place.ids()) == 2
    assert queue.states() == ["canceled"]
    assert queue.remote.ids(queue.remote.tmp / "home") == []


@pytest.mark.thorough
def test_a_server_that_is_not_there(queue: Queue) -> None:
    """Nothing has begun, and nothing is held; `csa hosts --check` says so, too."""
    place = queue.place
    place.env["HQ_SERVER_DIR"] = str(place.tmp / "none")
    done = place.run("run", "--on", "lab", "--tool", "codex", "hello")
    assert (done.code, "No access file found" in done.err) == (7, True), done.err
    assert list_placements(place.state_root) == []
    assert place.run("hosts", "--check", "lab").code == 7
    queue.configure()
    place.env["CSA_CONFIG"] = str(place.tmp / "own.toml")
    (place.tmp / "own.toml").write_text('[engines.lab]\nkind = "nomad"\n')
    unknown = place.run("run", "--on", "lab", "hello")
    assert "the kinds are ssh, hyperqueue, kubernetes, slurm" in unknown.err
