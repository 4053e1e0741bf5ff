"""What runs when a turn has ended: kept on purpose, or left by a death that nothing could catch."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.procfs import identify
from csa.runner.turns.leftovers import find_leftovers, reap
from csa.store.heartbeat import journalled_processes
from csa.store.locks import is_locked
from tests.support import CSA, Place, Running, children_of, is_running, wait_for


def start_with_survivor(place: Place, command: str) -> tuple[Running, int]:
    """Start a turn that has a process in a session of its own; return its pid too."""
    pid_file = place.tmp / "survivor"
    place.play(["spawn-grandchild", f"setsid {command} & echo $! > {pid_file}"], *place.hold())
    running = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), "it is there")
    return running, int(pid_file.read_text())


def kill_both(place: Place, running: Running) -> str:
    """SIGKILL supervisor and guardian in one instant, which leaves what is in sessions of its own."""
    session_id = running.session_id
    (guardian,) = children_of(running.pid)
    for pid in (running.pid, guardian):  # neither may act when the other dies
        os.kill(pid, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    running.kill()
    wait_for(lambda: not is_locked(place.session(session_id) / "locks" / "session.lock"), "the lock is free")
    return session_id


def doctor_says(place: Place) -> str:
    found = json.loads(place.run("doctor", "--json").out)
    return str(next(check["detail"] for check in found["checks"] if check["name"] == "leftovers"))


def test_next_turn_ends_what_a_lost_one_left(place: Place) -> None:
    """Supervisor and guardian killed at once: doctor names what is left, and the next turn of the session ends it."""
    running, survivor = start_with_survivor(place, "sleep 600")
    session_id = kill_both(place, running)
    assert is_running(survivor)
    assert str(survivor) in doctor_says(place)
    assert place.status(session_id) == "lost"
    del place.env["FAKE_TOOL_SCRIPT"]
    place.codex("again", "--session", session_id)
    assert not is_running(survivor)
    warnings = [event["data"]["message"] for event in place.events(session_id) if event["type"] == "warning"]
    assert any(f"{survivor} sleep 600" in message for message in warnings)


@pytest.mark.thorough
def test_the_journal_names_what_has_no_environment(place: Place) -> None:
    """A process that cleared its environment is known from the heartbeat, by pid and start time."""
    running, survivor = start_with_survivor(place, f"env -i bash -c 'exec -a {place.mark} sleep 600'")
    paths = SessionPaths(place.session(running.session_id))
    wait_for(lambda: survivor in {process.pid for process in journalled_processes(paths)}, "the next beat")
    session_id = kill_both(place, running)
    assert is_running(survivor)
    del place.env["FAKE_TOOL_SCRIPT"]
    place.codex("again", "--session", session_id)
    assert not is_running(survivor)


@pytest.mark.thorough
def test_a_reused_pid_is_no_leftover(place: Place) -> None:
    """A journalled pid that now belongs to another process, told by its start time, is not touched."""
    session_id = place.codex("go").session_id
    stranger = place.popen(["/bin/sleep", "600"])
    try:
        found = identify(stranger.pid)
        assert found is not None
        paths = SessionPaths(place.session(session_id))
        head = paths.heartbeat.read_text().split("\n")[:2]
        paths.heartbeat.write_text("\n".join([*head, f"{found.pid} {found.start_time - 1}", ""]))
        assert find_leftovers(place.state_root, [paths]) == []
        paths.heartbeat.write_text("\n".join([*head, f"{found.pid} {found.start_time}", ""]))
        left = find_leftovers(place.state_root, [paths])
        assert [item.pid for item in left] == [stranger.pid]
        paths.heartbeat.write_text("\n".join([head[0], "other-boot 1", f"{found.pid} {found.start_time}", ""]))
        assert find_leftovers(place.state_root, [paths]) == []
    finally:
        stranger.kill()
        stranger.wait()
    assert reap(left) == []


@pytest.mark.parametrize("content", ["", "host", "host\n", "host\nboot 1\n12", "host\nboot 1\nx y\n1 2 3\n\xff 1\n"])
def test_any_heartbeat_is_readable(tmp_path: Path, content: str) -> None:
    """A heartbeat that is missing, partly written or nonsense names no process."""
    paths = SessionPaths(tmp_path)
    assert journalled_processes(paths) == []
    paths.heartbeat.write_text(content, encoding="latin-1")
    assert journalled_processes(paths) == []


@pytest.mark.thorough
def test_a_running_session_has_no_leftovers(place: Place) -> None:
    """While a turn runs, its processes are its own, whatever marks they carry."""
    running, survivor = start_with_survivor(place, "sleep 600")
    paths = SessionPaths(place.session(running.session_id))
    assert find_leftovers(place.state_root, [paths]) == []
    assert is_running(survivor)
    place.release()
    running.wait()
    assert not is_running(survivor)


@pytest.mark.thorough
def test_keep_background(place: Place) -> None:
    """With --keep-background a server lives on after the turn, is named in a warning, and is no leftover for anyone."""
    pid_file = place.tmp / "server"
    waiting = f"while [ ! -s {pid_file} ]; do sleep 0.01; done"
    place.play(["spawn-grandchild", f"setsid sleep 600 & echo $! > {pid_file}; wait"], ["run", waiting], ["say", "up"])
    done = place.codex("start the server", "--keep-background")
    server = int(pid_file.read_text())
    try:
        assert is_running(server)
        warnings = [event["data"] for event in place.events(done.session_id) if event["type"] == "warning"]
        assert [warning["kind"] for warning in warnings] == ["background"]
        assert f"{server} " in warnings[0]["message"]
        assert "no processes" in doctor_says(place)
        assert place.run("session", "is-alive", "-s", done.session_id).code == 1
        place.play(["say", "again"])
        place.codex("go on", "--session", done.session_id)
        assert is_running(server)
    finally:
        for pid in place.processes():
            os.kill(pid, signal.SIGKILL)
    place.wait_until_empty(within_s=2)


@pytest.mark.thorough
def test_a_turn_that_is_cancelled_keeps_nothing(place: Place) -> None:
    """--keep-background is for turns that end by themselves: a cancelled one is swept like any other."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], *place.hold())
    running = place.start("run", "--tool", "codex", "--keep-background", "go")
    place.wait_ready()
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    assert place.processes() == {}


@pytest.mark.thorough
def test_what_a_supervisor_does_after_its_turn_is_none(place: Place) -> None:
    """The command of --on-finish runs when the session is free, and neither clean-up nor the next turn ends it."""
    place.play(["say", "done"])
    begun, ended = place.tmp / "begun", place.tmp / "ended"
    follow_up = f"touch {begun}; while ! test -e {place.go}; do sleep 0.05; done; touch {ended}"
    done = place.run("run", "--detach", "--quiet", "--tool", "codex", "--on-finish", follow_up, "go")
    wait_for(begun.exists, "the command has begun")
    assert place.run("gc", "--days", "30").out == ""
    assert doctor_says(place).startswith("no processes")
    place.codex("again", "--session", done.out.strip())
    place.release()
    wait_for(ended.exists, "the command has ended by itself")


@pytest.mark.thorough
def test_what_an_agents_detached_turn_does_then_is_none(place: Place) -> None:
    """The same where an agent has started it, whose own session has ended by then."""
    begun, ended = place.tmp / "begun", place.tmp / "ended"
    follow_up = f"touch {begun}; while ! test -e {place.go}; do sleep 0.05; done; touch {ended}"
    place.script(
        {"match": "inner", "do": [["say", "done"]]},
        {"match": "outer", "do": [["run", f"{CSA} run --detach --tool codex --on-finish '{follow_up}' inner"]]},
    )
    place.codex("outer", "--permission", "full")
    wait_for(begun.exists, "the command has begun")
    assert place.run("gc", "--days", "30").out == ""
    place.release()
    wait_for(ended.exists, "the command has ended by itself")
