"""Deaths of csa, its guardian and its tool: nothing is left running, and the records tell what happened."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from csa.store.locks import is_locked
from tests.support import CSA, Json, Place, Running, children_of, is_running, read_transcript, wait_for

GONE_WITHIN_S = 2.0
KILLS = int(os.environ.get("CSA_TORTURE", "40"))
BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])


def start_tree(place: Place, *, tool: str = "codex", extra: list[list[object]] | None = None) -> Running:
    """Start a turn whose tool has grandchildren of several kinds, and wait until they are there."""
    stay = f"echo $$ > {place.tmp}/pid-$1; exec -a {place.mark} sleep 600"
    spawns = " ".join(
        f"setsid {env} /bin/bash -c '{stay}' - {number} &"
        for number, env in enumerate(["", "env -i", "nohup", "env -u HOME"])
    )
    place.play(
        *(extra or []),
        ["spawn-grandchild", f"exec setsid bash -c 'exec -a {place.mark} sleep 600'", {"hold_stdout": True}],
        ["run", f"{spawns} while [ $(ls {place.tmp}/pid-* | wc -l) -lt 4 ]; do sleep 0.01; done"],
        ["touch", str(place.ready)],
        ["sleep", 60],
    )
    running = place.start("run", "--tool", tool, "go")
    place.wait_ready()
    return running


def guardian_of(running: Running) -> int:
    """Return the guardian's pid: the one child of a supervisor."""
    (pid,) = children_of(running.pid)
    return pid


@BOTH
def test_killed_supervisor(place: Place, tool: str) -> None:
    """SIGKILL of csa: within two seconds nothing of the turn runs, and readers call it lost."""
    running = start_tree(place, tool=tool)
    session_id = running.session_id
    running.kill()
    place.wait_until_empty(within_s=GONE_WITHIN_S)
    assert place.status(session_id) == "lost"
    assert place.run("session", "is-alive", "-s", session_id).code == 1


@pytest.mark.thorough
def test_lock_is_held_until_the_tree_is_dead(place: Place) -> None:
    """After SIGKILL of csa the session's lock comes free only when no process of the tree is left."""
    running = start_tree(place, extra=[["ignore-term"]])
    lock = place.session(running.session_id) / "locks" / "session.lock"
    assert is_locked(lock)
    running.kill()
    wait_for(lambda: not is_locked(lock), "the lock comes free", within_s=GONE_WITHIN_S)
    assert not place.processes()


@pytest.mark.thorough
def test_killed_guardian(place: Place) -> None:
    """SIGKILL of the guardian: the tool dies, csa sweeps what is left and ends the turn as killed."""
    running = start_tree(place)
    os.kill(guardian_of(running), signal.SIGKILL)
    done = running.wait()
    assert not place.processes()
    assert done.code == 1
    assert place.last_event(done.session_id)["status"] == "killed"


@pytest.mark.thorough
def test_killed_tool(place: Place) -> None:
    """SIGKILL of the tool alone: csa sweeps its tree and ends the turn as killed."""
    running = start_tree(place)
    (tool,) = [
        pid for pid in children_of(guardian_of(running)) if b"codex" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(tool, signal.SIGKILL)
    done = running.wait()
    assert not place.processes()
    assert (done.code, place.last_event(done.session_id)["status"]) == (1, "killed")


def test_leftovers_are_reported(place: Place) -> None:
    """Processes a successful tool leaves behind, one of them holding its stdout, delay nothing and become a warning."""
    place.play(["spawn-grandchild", "exec setsid sleep 600", {"hold_stdout": True}], ["say", "done"])
    done = place.codex("go")
    assert done.out == "done\n"
    assert not place.processes()
    assert "leftovers" in [event["data"].get("kind") for event in place.events(done.session_id)]


LOCKER = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.unlink(sys.argv[1])))
open(sys.argv[1], "w").close()
while True:
    signal.pause()
"""


def locker(lock: Path) -> str:
    """Return a command that takes a lock file and removes it when told to end, as git does."""
    return shlex.join([sys.executable, "-I", "-S", "-c", LOCKER, str(lock)])


@pytest.mark.thorough
def test_leftovers_are_asked_first(place: Place) -> None:
    """What a tool leaves behind gets TERM and a moment, so that it removes its lock files."""
    lock = place.project / "gc.log.lock"
    place.play(["run", f"setsid {locker(lock)} > /dev/null 2>&1 &"], ["wait-file", str(lock), 60], ["say", "done"])
    done = place.codex("go")
    assert done.out == "done\n"
    assert not place.processes()
    assert not lock.exists()


@pytest.mark.thorough
def test_what_does_not_hear_is_killed(place: Place) -> None:
    """What ignores TERM is killed after the grace, and the turn's answer is not lost by that."""
    deaf = "trap '' TERM; touch deaf; while :; do sleep 0.01; done"
    place.play(
        ["run", f"setsid sh -c {shlex.quote(deaf)} > /dev/null 2>&1 &"],
        ["wait-file", str(place.project / "deaf"), 60],
        ["say", "done"],
    )
    assert place.codex("go").out == "done\n"
    assert not place.processes()


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_commands_end_before_their_tool(place: Place, tool: str, number: int) -> None:
    """A command that runs when a turn is ended has had its moment before its tool can kill it."""
    lock = place.project / "index.lock"
    place.play(["run", f"setsid -w {locker(lock)}"], ["say", "the command has ended"])
    running = place.start("run", "--tool", tool, "go")
    wait_for(lambda: lock.exists() and running.err, "the command has its lock, and its session a name")
    running.signal(number)
    running.process.wait(20)
    place.wait_until_empty(within_s=2)
    assert not lock.exists()
    assert place.status(running.session_id) == ("lost" if number == signal.SIGKILL else "cancelled")


@BOTH
@pytest.mark.parametrize(
    ("number", "hearing"),
    [(signal.SIGTERM, []), (signal.SIGKILL, []), (signal.SIGKILL, [["ignore-term"]])],
    ids=["TERM", "KILL", "KILL, and a tool that does not hear"],
)
def test_nested_supervisor_ends_cancelled(place: Place, tool: str, number: int, hearing: list[list[str]]) -> None:
    """When the outer csa ends, however it does, the inner one gets its second, and a second TERM in it.

    Its turn ends cancelled, not lost, though its tool does not hear.
    """
    place.script(
        {"match": "inner", "do": [*hearing, *place.hold()]},
        {"match": "outer", "do": [["run", f"{CSA} run --tool codex inner; true"]]},
    )
    running = place.start("run", "--tool", tool, "outer")
    place.wait_ready()
    outer = running.session_id
    (inner,) = set(place.ids()) - {outer}
    running.signal(number)
    running.process.wait(20)
    place.wait_until_empty(within_s=6)
    assert place.last_event(inner)["status"] == "cancelled"
    assert place.status(outer) == ("lost" if number == signal.SIGKILL else "cancelled")


def start_nested(place: Place) -> tuple[Running, str, int]:
    """Start a turn in a turn; return the outer csa, the inner session and the pid of its supervisor."""
    place.script(
        {"match": "inner", "do": place.hold()},
        {"match": "outer", "do": [["run", f"{CSA} run --tool codex inner; true"]]},
    )
    running = place.start("run", "--tool", "codex", "outer")
    place.wait_ready()
    (inner,) = set(place.ids()) - {running.session_id}
    owner = json.loads((place.session(inner) / "locks" / "session.lock").read_text())
    return running, inner, owner["pid"]


@pytest.mark.thorough
@pytest.mark.parametrize("who", ["supervisor", "guardian"])
def test_stopped_nested_turn_ends_cancelled(place: Place, who: str) -> None:
    """An inner csa that is stopped, or whose guardian is, is made to go on, so that it can write its end."""
    running, inner, supervisor = start_nested(place)
    os.kill(supervisor if who == "supervisor" else children_of(supervisor)[0], signal.SIGSTOP)
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    assert not place.processes()
    assert place.last_event(inner)["status"] == "cancelled"


@pytest.mark.thorough
def test_nested_turn_of_a_killed_guardian_ends_cancelled(place: Place) -> None:
    """SIGKILL of the outer guardian: the outer csa asks the inner one to end, as the guardian would, and sweeps."""
    running, inner, _ = start_nested(place)
    os.kill(guardian_of(running), signal.SIGKILL)
    done = running.wait()
    assert not place.processes()
    assert (done.code, place.last_event(done.session_id)["status"]) == (1, "killed")
    assert place.last_event(inner)["status"] == "cancelled"


@pytest.mark.thorough
def test_killed_nested_supervisor_leaves_its_parent_running(place: Place) -> None:
    """SIGKILL of an inner csa ends its own tree at once; the outer turn goes on and succeeds."""
    place.script(
        {"match": "inner", "do": [["spawn-grandchild", "exec setsid sleep 600"], *place.hold()]},
        {"match": "outer", "do": [["run", f"{CSA} run --tool codex inner"], ["say", "went on"]]},
    )
    running = place.start("run", "--tool", "codex", "outer")
    place.wait_ready()
    (inner,) = set(place.ids()) - {running.session_id}
    owner = json.loads((place.session(inner) / "locks" / "session.lock").read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    done = running.wait()
    assert (done.code, done.out) == (0, "went on\n")
    assert place.status(inner) == "lost"
    assert not place.processes()


@pytest.mark.thorough
def test_next_turn_records_the_lost_one(place: Place) -> None:
    """Readers leave the journal of a lost turn alone; the next turn appends its end, and resumes the conversation."""
    running = start_tree(place)
    session_id = running.session_id
    transcript = place.session(session_id) / "transcript.jsonl"
    wait_for(lambda: b"session_bound" in transcript.read_bytes(), "it is bound")  # and state.toml said so before
    running.kill()
    place.wait_until_empty(within_s=GONE_WITHIN_S)
    before = transcript.read_bytes()
    assert place.status(session_id) == "lost"
    assert transcript.read_bytes() == before
    del place.env["FAKE_TOOL_SCRIPT"]
    done = place.run("run", "--session", session_id, "again")
    assert (done.code, done.out) == (0, "FAKE ECHO: again [turns=2]\n")
    ends = [event for event in place.events(session_id) if event["type"] == "run_finished"]
    assert [(end["turn"], end["data"]["status"]) for end in ends] == [(1, "lost"), (2, "succeeded")]


def _length_of_a_turn(place: Place) -> float:
    begin = time.monotonic()
    place.codex("first")
    return time.monotonic() - begin


def _check_wreck(place: Place, session_id: str) -> str:
    """A session that a killed supervisor left: readable, its journal whole lines in order, its status true."""
    transcript = place.session(session_id) / "transcript.jsonl"
    content = transcript.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    events: list[Json] = [json.loads(line) for line in whole.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run_started"
    has_ended = events[-1]["type"] == "run_finished"
    assert place.state(session_id)["meta_session_id"] == session_id
    return str(events[-1]["data"]["status"]) if has_ended else "lost"


@pytest.mark.thorough
@pytest.mark.timeout(max(60, KILLS * 4))
def test_kills_at_random_instants(place: Place) -> None:
    """SIGKILL of csa at any instant of a turn leaves no process, and a session that is absent or true and usable."""
    leave = ["spawn-grandchild", "exec setsid sleep 600"]
    place.play(leave, ["say", "one"], ["run", "setsid sleep 600 & echo hi"], leave, ["sleep", 0.1], ["say", "two"])
    length_s = _length_of_a_turn(place)
    instants = random.Random(4711)
    known = set(place.ids())
    outcomes: list[str] = []
    for number in range(KILLS):
        running = place.start("run", "--tool", "codex", f"kill {number}")
        time.sleep(instants.uniform(0, length_s))  # the instant itself, not a synchronisation
        running.kill()
        place.wait_until_empty(within_s=GONE_WITHIN_S)
        new = set(place.ids()) - known
        known |= new
        expected = {session_id: _check_wreck(place, session_id) for session_id in new if not session_id.startswith(".")}
        outcomes += expected.values() or ["absent"]
        if number % 10 == 9:
            listed = {item["id"]: item["status"] for item in place.run("session", "list", "--json").json}
            assert {session_id: listed[session_id] for session_id in expected} == expected
            for session_id in [name for name in sorted(known) if not name.startswith(".")][-1:]:
                assert place.run("run", "--session", session_id, "go on").code == 0
                read_transcript(place.session(session_id) / "transcript.jsonl")
    assert {"lost", "absent"} <= set(outcomes), outcomes
    assert not is_running(running.pid)
