"""Waiting for sessions, following them, and asking why they are as they are. None of it writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.store.liveness import probe
from csa.store.locks import acquire_lock
from csa.store.owner import current_owner
from tests.cli.terminal import Terminal
from tests.conftest import ForeignWriter
from tests.support import Json, Place, Running, children_of, snapshot, wait_for

FOREIGN = "01JH4QWERT1234567890ABCDEF"
TURNS = int(os.environ.get("CSA_TORTURE", "0")) or 5


def held_turn(place: Place, *words: str) -> tuple[Running, str]:
    """Start a turn of codex that has called a command and waits; return it and its session, which has noted that."""
    place.play(["think", "hm"], ["call", "make"], *place.hold(), ["say", "the answer"])
    run = place.start("run", "--tool", "codex", *words, "go")
    place.wait_ready()
    place.wait_noted(run.session_id, "tool_call_update")
    return run, run.session_id


def lose_turn(place: Place) -> str:
    """Leave a session whose supervisor was killed."""
    run, session_id = held_turn(place)
    run.kill()
    place.wait_until_empty(within_s=5)
    return session_id


# wait


@pytest.mark.thorough
def test_twenty_waiters(place: Place) -> None:
    """Any number may wait for one session; all see its end, and none gets in the way of the next turn."""
    run, session_id = held_turn(place)
    waiters = [place.start("session", "wait", "-s", session_id) for _ in range(20)]
    assert all(waiter.process.poll() is None for waiter in waiters)
    place.release()
    assert run.wait().code == 0
    for waiter in waiters:
        done = waiter.wait()
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"{session_id}: succeeded (codex, turn 1, ")
    place.codex("again", "--session", session_id)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("steps", "words", "status", "code"),
    [
        ([["fail", "500"]], (), "failed", 1),
        ([["fail", "401"]], (), "failed", 7),
        ([["fail", "429"]], (), "failed", 8),
        ([["sleep", 30]], ("--timeout", "0.3"), "timed_out", 124),
        ([["signal-self", "KILL"]], (), "killed", 1),
    ],
    ids=["failed", "auth", "rate-limit", "timed-out", "killed"],
)
def test_exit_of_a_waiter(
    place: Place, steps: list[list[object]], words: tuple[str, ...], status: str, code: int
) -> None:
    """A waiter exits as `csa run` did, and says why."""
    place.play(*steps)
    place.run("run", "--tool", "codex", *words, "go")
    done = place.run("session", "wait", "@last")
    assert done.code == code, done.out
    assert f": {status} (codex, turn 1, " in done.out


@pytest.mark.thorough
def test_exit_of_a_waiter_for_a_cancelled_turn(place: Place) -> None:
    """A turn that was interrupted is 1 to a waiter, which was not interrupted itself."""
    run, session_id = held_turn(place)
    run.signal(signal.SIGINT)
    assert run.wait().code == 130
    done = place.run("session", "wait", session_id)
    assert (done.code, "cancelled (codex, turn 1" in done.out) == (1, True)


@pytest.mark.thorough
def test_wait_for_a_lost_turn(place: Place) -> None:
    """A supervisor that is killed while one waits ends the waiting: the turn is lost, exit 1."""
    run, session_id = held_turn(place)
    waiter = place.start("session", "wait", session_id)
    run.kill()
    done = waiter.wait()
    assert (done.code, done.out) == (1, f"{session_id}: lost (codex, turn 1)\n")


@pytest.mark.thorough
def test_wait_for_several(place: Place) -> None:
    """Of several sessions all are waited for, and the first failure in the order given is the exit code."""
    good = place.codex("fine").session_id
    place.play(["fail", "401"])
    bad = place.run("run", "--tool", "codex", "go").session_id
    place.play(["fail", "500"])
    worse = place.run("run", "--tool", "codex", "go").session_id
    assert place.run("session", "wait", good, worse, bad).code == 1
    assert place.run("session", "wait", "-s", good, bad, worse).code == 7
    done = place.run("session", "wait", "--json", good, bad, good)
    assert [(item["session_id"], item["status"], item["exit_code"]) for item in done.json] == [
        (good, "succeeded", 0),
        (bad, "failed", 7),
    ]
    assert done.json[1]["error"]["kind"] == "auth"
    assert done.json[0]["turn"] == 1


@pytest.mark.thorough
def test_wait_for_any(place: Place) -> None:
    """With --any the first end is enough, and its code counts."""
    place.play(["fail", "401"])
    bad = place.run("run", "--tool", "codex", "go").session_id
    run, session_id = held_turn(place)
    done = place.run("session", "wait", "--any", session_id, bad)
    assert done.code == 7
    assert len(done.out.splitlines()) == 1
    assert run.process.poll() is None
    place.release()
    run.wait()


@pytest.mark.thorough
def test_wait_has_a_limit(place: Place) -> None:
    """When --timeout is up the code is 4, and what still runs is named; with --json it is in the array."""
    run, session_id = held_turn(place)
    began = time.monotonic()
    done = place.run("session", "wait", session_id, "--timeout", "0.3")
    assert time.monotonic() - began > 0.3
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith(f"error: Timed out after 0.3 s: {session_id} is still running.\nhint: csa status")
    done = place.run("session", "wait", "--json", session_id, "--timeout", "0")
    assert (done.code, [item["status"] for item in done.json]) == (4, ["running"])
    place.release()
    run.wait()


@pytest.mark.thorough
def test_wait_for_a_tree(place: Place) -> None:
    """With --tree descendants count too, also those that begin meanwhile, in other projects, and fail."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    start = place.tmp / "start"
    place.script(
        {"match": "leaf", "do": [["wait-file", str(place.go), 60], ["fail", "500"]]},
        {"match": "middle", "do": [["run", f"csa run -q --tool codex --cd {other} leaf"], ["say", "m"]]},
        {
            "match": "top",
            "do": [*place.hold()[:1], ["wait-file", str(start)], ["run", "csa run -q middle"], ["say", "t"]],
        },
    )
    run = place.start("run", "--tool", "codex", "top")
    place.wait_ready()
    waiter = place.start("session", "wait", "--tree", "--json", run.session_id)
    start.touch()
    wait_for(lambda: place.ids(other), "the leaf runs")
    place.release()
    assert run.wait().code == 0
    done = waiter.wait()
    assert done.code == 1
    assert {item["session_id"] for item in done.json} == {*place.ids(), *place.ids(other)}
    assert {item["project"] for item in done.json} == {str(place.project), str(other)}
    assert sorted(item["status"] for item in done.json) == ["failed", "succeeded", "succeeded"]


@pytest.mark.thorough
def test_wait_for_an_ephemeral_session(place: Place) -> None:
    """A session that goes with its turn is waited for to its end."""
    run, session_id = held_turn(place, "--ephemeral")
    waiter = place.start("session", "wait", session_id)
    wait_until_watching(waiter)
    place.release()
    assert run.wait().code == 0
    done = waiter.wait()
    assert (done.code, done.err) == (0, "")
    assert ": succeeded (codex, turn 1, " in done.out


def wait_until_watching(command: Running) -> None:
    """Wait until a command has the transcript open."""
    wait_for(lambda: _holds_open(command.pid, "transcript.jsonl"), "it has begun to watch")


def _holds_open(pid: int, name: str) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}").endswith(name) for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


@pytest.mark.thorough
def test_wait_for_what_never_ran(place: Place, write_foreign: ForeignWriter) -> None:
    """There is no end to wait for in a session that has never run; one that ended elsewhere is judged by its record."""
    write_foreign(FOREIGN)
    done = place.run("session", "wait", FOREIGN)
    assert done.code == 3
    assert "has never run" in done.err
    assert f"hint: csa run --session {FOREIGN}" in done.err
    place.play(["say", "hello"])
    beside = place.codex().session_id
    for words, code in ((), 3), (("--any",), 0):
        done = place.run("session", "wait", *words, FOREIGN, beside)
        assert (done.code, done.out.startswith(f"{beside}: succeeded"), "has never run" in done.err) == (
            code,
            True,
            True,
        )
    (item,) = place.run("session", "wait", "--json", FOREIGN).json
    assert (item["status"], item["exit_code"], item["error"]["kind"]) == ("idle", 3, "not_found")
    other = FOREIGN[:-1] + "G"
    write_foreign(other, tools={"codex": {"last_exit_code": 3}})
    done = place.run("session", "wait", other)
    assert (done.code, done.out) == (1, f"{other}: failed (codex)\n")
    assert place.run("session", "wait").code == 2
    assert place.run("session", "wait", "--timeout", "-1", other).code == 2


def damage(place: Place, write_foreign: ForeignWriter) -> Path:
    """Write a session without a transcript whose record is no TOML: that file."""
    write_foreign(FOREIGN, text="x = [\n")
    return place.session(FOREIGN) / "state.toml"


@pytest.mark.thorough
def test_wait_with_a_damaged_one(place: Place, write_foreign: ForeignWriter) -> None:
    """One whose record is damaged is named on stderr, exit 6, and the others are waited for."""
    broken = damage(place, write_foreign)
    run, session_id = held_turn(place)
    waiter = place.start("session", "wait", FOREIGN, session_id)
    wait_for(lambda: waiter.err, "it is named at once")
    place.release()
    assert run.wait().code == 0
    done = waiter.wait()
    assert (done.code, done.out.startswith(f"{session_id}: succeeded (codex, turn 1")) == (6, True)
    assert len(done.out.splitlines()) == 1
    assert done.err.startswith(f"error: {broken}, line ")
    assert done.err.endswith(f"hint: csa repair --dry-run {FOREIGN}\n")


@pytest.mark.thorough
def test_wait_with_a_damaged_one_as_json(place: Place, write_foreign: ForeignWriter) -> None:
    """The array holds all; the first code that is not 0, in the order given, counts as ever."""
    broken = damage(place, write_foreign)
    place.play(["fail", "401"])
    bad = place.run("run", "--tool", "codex", "go").session_id
    done = place.run("session", "wait", "--json", bad, FOREIGN)
    assert (done.code, [item["status"] for item in done.json]) == (7, ["failed", "damaged"])
    assert (done.json[1]["exit_code"], done.json[1]["error"]["kind"]) == (6, "damaged")
    assert str(broken) in done.json[1]["error"]["message"]
    assert str(broken) in done.err
    assert place.run("session", "wait", "--json", FOREIGN, bad).code == 6
    tree = place.run("session", "wait", "--tree", "--json", FOREIGN)
    assert (tree.code, tree.json) == (6, [done.json[1]])
    attached = place.run("session", "attach", FOREIGN, "--json")
    assert (attached.code, attached.json["error"]["code"]) == (6, "damaged")


@pytest.mark.thorough
def test_wait_for_any_with_a_damaged_one(place: Place, write_foreign: ForeignWriter) -> None:
    """With --any a damaged one is no end: another's counts, and only without one the code is 6."""
    broken = damage(place, write_foreign)
    run, session_id = held_turn(place)
    waiter = place.start("session", "wait", "--any", FOREIGN, session_id)
    wait_for(lambda: waiter.err, "it is named at once")
    late = place.run("session", "wait", "--any", FOREIGN, session_id, "--timeout", "0")
    assert (late.code, str(broken) in late.err, "still running" in late.err) == (4, True, True)
    place.release()
    assert run.wait().code == 0
    done = waiter.wait()
    assert (done.code, ": succeeded" in done.out, str(broken) in done.err) == (0, True, True)
    assert place.run("session", "wait", "--any", FOREIGN).code == 6


def test_wait_for_another_machine(place: Place, write_foreign: ForeignWriter) -> None:
    """Whether a session of another machine with an old heartbeat runs is unknown: exit 4, without waiting."""
    paths = write_foreign(FOREIGN)
    on_another_machine(paths, beat_age_s=90)
    done = place.run("session", "wait", FOREIGN)
    assert (done.code, done.out) == (4, f"{FOREIGN}: unknown\n")
    other = place.codex("here").session_id
    assert place.run("session", "wait", "--any", FOREIGN, other).code == 0


def on_another_machine(paths: SessionPaths, *, beat_age_s: float) -> None:
    """Have a record say that a supervisor on another machine runs it."""
    paths.session_lock.parent.mkdir(exist_ok=True)
    owner = json.loads(current_owner(tool="codex", turn=1, since="2026-01-01T10:00:00+00:00").to_bytes())
    owner |= {"boot_id": "other", "machine_id": "other", "host": "far"}
    paths.session_lock.write_text(json.dumps(owner))
    paths.heartbeat.write_text("far\n")
    then = time.time() - beat_age_s
    os.utime(paths.heartbeat, (then, then))


# true within 100 ms, both ways


@pytest.mark.thorough
def test_liveness_is_true_at_once(place: Place) -> None:
    """During a turn is-alive says 0; its end frees the lock and the waiter, turn after turn; no answer is wrong."""
    session_id = place.codex("first").session_id
    paths = SessionPaths(place.session(session_id))
    for _ in range(TURNS):
        place.ready.unlink(missing_ok=True)
        place.go.unlink(missing_ok=True)
        run, _ = held_turn(place, "--session", session_id)
        assert place.run("session", "is-alive", session_id).code == 0
        waiter = place.start("session", "wait", session_id)
        wait_until_watching(waiter)
        place.release()
        wait_for(lambda: _finished(paths), "the end is in the transcript")
        wait_for(lambda: probe(paths).state == "not_alive", "the lock is free")
        assert waiter.wait().code == 0
        assert place.run("session", "is-alive", session_id).code == 1
        assert run.wait().code == 0


def _finished(paths: SessionPaths) -> bool:
    return b'"type":"run_finished"' in paths.transcript.read_bytes()[-2000:]


@pytest.mark.thorough
def test_touching_files_changes_nothing(place: Place) -> None:
    """A backup or an editor that touches and rewrites files makes nothing alive, and nothing dead."""
    run, session_id = held_turn(place)
    for path in place.session(session_id).rglob("*"):
        os.utime(path, (0, 0))
    assert place.run("session", "is-alive", session_id).code == 0
    place.release()
    run.wait()
    for path in place.session(session_id).rglob("*"):
        os.utime(path)
    (place.session(session_id) / "heartbeat").write_text(f"{socket.gethostname()}\n")
    (place.session(session_id) / "cancel").touch()
    assert place.run("session", "is-alive", session_id).code == 1
    assert place.status(session_id) == "succeeded"


@pytest.mark.thorough
def test_probes_never_get_in_the_way(place: Place) -> None:
    """While twenty ask whether a session lives, and wait for it, turn after turn of it begins and ends."""
    session_id = place.codex("first").session_id
    stop = place.tmp / "stop"
    loop = (
        f"while [ ! -e {stop} ]; do csa session is-alive {session_id}; csa session wait --timeout 0 {session_id}; done"
    )
    probes = [place.popen(["bash", "-c", loop]) for _ in range(20)]
    codes = [place.run("run", "--session", session_id, "again").code for _ in range(3)]
    stop.touch()
    for each in probes:
        each.wait(20)
    assert codes == [0, 0, 0]


# why


def why(place: Place, session_id: str) -> Json:
    """Return what `session why --json` says, which changes nothing in the store."""
    before = snapshot(place.state_root)
    found: Json = place.run("session", "why", "--json", session_id).json
    shown = place.run("session", "why", session_id)
    assert shown.code == 0
    assert shown.out.splitlines()[1].startswith(f"status      {found['status']}")
    assert snapshot(place.state_root) == before
    return found


@pytest.mark.thorough
def test_why_of_a_running_turn(place: Place) -> None:
    """The evidence of a turn that runs: the lock, who holds it, the last event, silence, processes."""
    run, session_id = held_turn(place)
    found = place.run("session", "why", "--json", session_id).json
    assert (found["status"], found["lock"]["held"]) == ("running", True)
    assert [each["pid"] for each in found["lock"]["holders"]] == [run.pid, *children_of(run.pid)]
    owner = found["owner"]
    assert (owner["pid"], owner["process"], owner["verified"]) == (run.pid, "running", True)
    assert (owner["tool"], owner["turn"], owner["detached"]) == ("codex", 1, False)
    assert (owner["same_boot"], owner["same_pid_namespace"]) == (True, True)
    assert found["last_event"]["type"] == "tool_call_update"
    assert 0 <= found["last_event"]["age_s"] < 20
    assert 0 <= found["silence_s"] < 20
    assert found["processes"] >= 3
    assert found["rss_bytes"] > 1 << 20
    assert found["cpu_s"] > 0
    assert found["permission"] is None
    assert found["why"].startswith("codex is running turn 1; last output ")
    shown = place.run("session", "why", session_id).out
    for word in ("lock ", "by PID", "verified by its start time", "this pid namespace", "CPU", "heartbeat"):
        assert word in shown
    place.release()
    run.wait()


@pytest.mark.thorough
def test_why_of_a_stopped_supervisor(place: Place) -> None:
    """A supervisor that was stopped is named, with what continues it."""
    run, session_id = held_turn(place)
    run.signal(signal.SIGSTOP)
    wait_for(lambda: "\nState:\tT" in Path(f"/proc/{run.pid}/status").read_text(), "it is stopped")
    found = place.run("session", "why", "--json", session_id).json
    assert found["owner"]["process"] == "stopped"
    assert f"kill -CONT {run.pid} continues it" in found["why"]
    run.signal(signal.SIGCONT)
    place.release()
    assert run.wait().code == 0


@pytest.mark.thorough
def test_why_of_a_busy_tool(place: Place) -> None:
    """A tool that says nothing and computes is told from one that does nothing."""
    loop = f"touch {place.ready}; while [ ! -e {place.go} ]; do :; done"
    place.play(["run", loop], ["say", "done"])
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    found = place.run("session", "why", "--json", run.session_id).json
    assert found["cpu_percent"] > 1
    assert found["why"].endswith("CPU busy.")
    place.release()
    run.wait()


@pytest.mark.thorough
def test_why_of_a_denied_permission(place: Place) -> None:
    """The last permission of the turn is part of the evidence."""
    place.play(["deny", "run_shell_command", "rm"], *place.hold(), ["say", "done"])
    run = place.start("run", "--tool", "gemini-cli", "go")
    place.wait_ready()
    wait_for(lambda: "permission" in {event["type"] for event in place.events(run.session_id)}, "it is recorded")
    found = place.run("session", "why", "--json", run.session_id).json
    assert (found["permission"]["status"], found["permission"]["pending"]) == ("denied", False)
    place.release()
    run.wait()


@pytest.mark.thorough
def test_why_of_what_has_ended(place: Place) -> None:
    """Ended and lost sessions say so, with the turn and the reason."""
    ended = place.codex("one").session_id
    found = why(place, ended)
    assert (found["status"], found["lock"]["held"], found["owner"]) == ("succeeded", False, None)
    assert found["why"].startswith("nobody holds the lock, and turn 1 ended ")
    lost = lose_turn(place)
    found = why(place, lost)
    assert (found["status"], found["owner"]["process"]) == ("lost", "gone")
    assert f"its supervisor (PID {found['owner']['pid']}) was killed" in found["why"]


@pytest.mark.thorough
def test_why_of_a_lost_turn_before_a_restart(place: Place) -> None:
    """A turn that a restart of the machine has ended says so."""
    session_id = lose_turn(place)
    lock = place.session(session_id) / "locks" / "session.lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "boot_id": "before"}))
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    os.utime(place.session(session_id) / "heartbeat", (before, before))
    found = why(place, session_id)
    if found["owner"]["machine_id"]:
        assert found["status"] == "lost"
        assert found["why"].endswith("the machine has been rebooted since.")


@pytest.mark.thorough
def test_why_of_records_from_elsewhere(place: Place, write_foreign: ForeignWriter) -> None:
    """Never run, damaged, on another machine, and ended in another program: each is told from the others."""
    paths = write_foreign(FOREIGN)
    found = why(place, FOREIGN)
    assert (found["status"], found["why"]) == (
        "idle",
        "it never ran: nobody holds the lock, and its record has no turn.",
    )
    on_another_machine(paths, beat_age_s=90)
    found = why(place, FOREIGN)
    assert (found["status"], found["owner"]["same_boot"]) == ("unknown", False)
    assert "another machine, or to one that has been rebooted (far), whose heartbeat is 1m30s old" in found["why"]
    on_another_machine(paths, beat_age_s=1)
    assert why(place, FOREIGN)["status"] == "running"
    other = write_foreign(FOREIGN[:-1] + "G", tools={"codex": {"last_exit_code": 0}})
    assert "written by another program" in why(place, other.root.name)["why"]
    other.state.write_text("meta_session_id = ")
    found = why(place, other.root.name)
    assert (found["status"], "its lock is free" in found["why"]) == ("damaged", True)


def test_why_of_a_lock_without_an_owner(place: Place, write_foreign: ForeignWriter) -> None:
    """A lock that another program holds, without saying who it is, is held all the same."""
    paths = write_foreign(FOREIGN)
    paths.session_lock.parent.mkdir()
    with acquire_lock(paths.session_lock):
        found = place.run("session", "why", "--json", FOREIGN).json
        assert (found["status"], found["owner"]) == ("running", None)
        assert found["lock"]["holders"][0]["pid"] == os.getpid()


# logs -f and attach


@pytest.mark.thorough
def test_logs_follow(place: Place) -> None:
    """`logs -f` prints what there was and what comes, and ends with the turn."""
    run, session_id = held_turn(place)
    logs = place.start("session", "logs", "-f", session_id)
    wait_for(lambda: "$ make" in logs.out, "what there was is shown")
    assert "the answer" not in logs.out
    place.release()
    run.wait()
    done = logs.wait()
    assert (done.code, done.err) == (0, "")
    assert done.out == place.run("session", "logs", session_id).out
    assert place.run("session", "logs", "-f", session_id).out == done.out


@pytest.mark.thorough
def test_logs_follow_with_a_tail(place: Place) -> None:
    """--tail limits what there was, not what comes; --json prints the lines of the transcript."""
    run, session_id = held_turn(place)
    logs = place.start("session", "logs", "-f", "--tail", "1", "--json", session_id)
    wait_for(lambda: logs.out, "the last event is shown")
    count = len(place.events(session_id))
    place.release()
    run.wait()
    shown = [json.loads(line) for line in logs.wait().out.splitlines()]
    assert shown == place.events(session_id)[count - 1 :]


@pytest.mark.thorough
def test_logs_follow_a_partial_line(place: Place) -> None:
    """A partial last line, that a crash left and the next turn cuts off, is never shown nor trips the reader."""
    session_id = lose_turn(place)
    transcript = place.session(session_id) / "transcript.jsonl"
    with transcript.open("ab") as file:
        file.write(b'{"v":1,"seq":9')
    done = place.run("session", "logs", "-f", session_id)
    assert (done.code, done.err) == (0, "")
    place.ready.unlink()
    run, _ = held_turn(place, "--session", session_id)
    logs = place.start("session", "logs", "-f", "--json", session_id)
    wait_for(lambda: '"turn": 2' in logs.out, "the new turn is shown")
    place.release()
    run.wait()
    assert [json.loads(line) for line in logs.wait().out.splitlines()] == place.events(session_id)


@pytest.mark.thorough
def test_logs_follow_is_interrupted(place: Place) -> None:
    """Ctrl-C ends the following with 130, and leaves the turn alone."""
    run, session_id = held_turn(place)
    logs = place.start("session", "logs", "-f", session_id)
    wait_for(lambda: "$ make" in logs.out, "what there was is shown")
    logs.signal(signal.SIGINT)
    assert logs.wait().code == 130
    assert run.process.poll() is None
    place.release()
    assert run.wait().code == 0


def test_attach(place: Place) -> None:
    """`attach` shows the progress of a running turn on stderr, and then its answer on stdout."""
    run, session_id = held_turn(place)
    attached = place.start("session", "attach", session_id)
    wait_for(lambda: "$ make" in attached.err, "what has happened is shown")
    assert attached.err.startswith(f"csa: attached to session {session_id}, turn 1, codex (since ")
    place.release()
    assert run.wait().code == 0
    done = attached.wait()
    assert (done.code, done.out) == (0, "the answer\n")
    assert "csa: succeeded in " in done.err
    again = place.run("session", "attach", "--json", session_id)
    assert (again.code, again.json["text"], again.err) == (0, "the answer", "")


@pytest.mark.thorough
def test_attach_and_detach(place: Place) -> None:
    """Ctrl-C detaches: it says so, and the turn goes on."""
    run, session_id = held_turn(place)
    attached = place.start("session", "attach", "--quiet", session_id)
    wait_until_watching(attached)
    attached.signal(signal.SIGINT)
    done = attached.wait()
    assert (done.code, done.out) == (130, "")
    assert done.err == f"csa: detached; session {session_id} continues\nhint: csa attach {session_id}\n"
    assert place.run("session", "is-alive", session_id).code == 0
    place.release()
    assert run.wait().code == 0


@pytest.mark.thorough
def test_attach_on_a_terminal(place: Place) -> None:
    """On a terminal the live tree is drawn, and what is left behind is the closing line and the answer."""
    run, session_id = held_turn(place)
    with Terminal(place, "session", "attach", session_id) as terminal:
        terminal.wait_for("● ")
        place.release()
        assert run.wait().code == 0
        assert terminal.end() == 0
        assert "csa: succeeded in " in terminal.text
        assert terminal.text.endswith("the answer\r\n")


@pytest.mark.thorough
def test_attach_to_what_ends_badly(place: Place) -> None:
    """A turn that fails, or is lost, while one is attached: the code of a waiter, and the reason on stderr."""
    run, session_id = held_turn(place)
    attached = place.start("session", "attach", session_id)
    wait_for(lambda: "$ make" in attached.err, "it has begun")
    run.kill()
    done = attached.wait()
    assert done.code == 1
    assert "error: turn 1 lost." in done.err
    place.play(["fail", "401"])
    failed = place.run("run", "--tool", "codex", "go").session_id
    done = place.run("session", "attach", failed)
    assert (done.code, done.out) == (7, "")
    assert "error: codex failed (auth)" in done.err


@pytest.mark.thorough
def test_attach_to_an_ephemeral_session(place: Place) -> None:
    """The answer of a session that goes with its turn is printed too."""
    run, session_id = held_turn(place, "--ephemeral")
    attached = place.start("session", "attach", session_id)
    wait_for(lambda: "$ make" in attached.err, "it has begun")
    place.release()
    assert run.wait().code == 0
    done = attached.wait()
    assert (done.code, done.out) == (0, "the answer\n")
