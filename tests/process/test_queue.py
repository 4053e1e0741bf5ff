"""Prompts that wait for a busy session: in order, each once, whatever ends meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from csa.paths import SessionPaths
from csa.store.locks import is_locked
from csa.store.queue import count_queued
from tests.support import Json, Place, wait_for


def busy(place: Place, prompt: str = "first") -> str:
    """Start a detached turn that holds; whatever follows only answers. Return its session."""
    place.script({"match": "first", "do": [*place.hold(), ["say", "held"]]}, {"match": "", "do": [["say", "done"]]})
    done = place.run("run", "--tool", "codex", "--detach", prompt)
    assert done.code == 0, done.err
    place.wait_ready()
    return done.out.strip()


def queue(place: Place, session_id: str, *prompts: str) -> list[str]:
    """Queue prompts; return what csa says of each."""
    done = [place.run("run", "--queue", "-s", session_id, prompt) for prompt in prompts]
    assert [each.code for each in done] == [0] * len(prompts), [each.err for each in done]
    return [each.err for each in done]


def started(place: Place, session_id: str) -> list[Json]:
    return [event for event in place.events(session_id) if event["type"] == "run_started"]


def prompts_of(place: Place, session_id: str) -> list[str]:
    return [str(event["data"]["prompt"]) for event in started(place, session_id)]


def paths_of(place: Place, session_id: str) -> SessionPaths:
    return SessionPaths(place.session(session_id))


def wait_until_done(place: Place, session_id: str) -> None:
    paths = paths_of(place, session_id)
    wait_for(lambda: not is_locked(paths.session_lock) and not count_queued(paths), "the queue is empty")


def test_prompts_for_a_busy_session_follow_in_order(place: Place) -> None:
    """They begin under the same lock, one after the other, and the supervisor takes them itself."""
    session_id = busy(place)
    said = queue(place, session_id, "second", "third")
    assert "queued as 1st" in said[0]
    assert "queued as 2nd" in said[1]
    listed = place.run("queue", session_id, "--json").json
    assert [each["prompt"] for each in listed["prompts"]] == ["second", "third"]
    place.release()
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "second", "third"]
    assert len({event["data"]["pid"] for event in started(place, session_id)}) == 1
    assert place.status(session_id) == "succeeded"


def test_an_idle_session_begins_at_once(place: Place) -> None:
    """`--queue` on a session that is not running starts it in the background, and says so."""
    session_id = place.codex("first").session_id
    (said,) = queue(place, session_id, "second")
    assert "running in the background (codex, turn 2" in said
    assert place.run("wait", session_id).code == 0
    assert prompts_of(place, session_id) == ["first", "second"]


def test_a_foreground_run_prints_its_answer_and_hands_the_queue_over(place: Place) -> None:
    """It does not run what others have queued: another process goes on, and `wait` waits for that."""
    place.script({"match": "first", "do": [*place.hold(), ["say", "held"]]}, {"match": "", "do": [["say", "done"]]})
    running = place.start("run", "--tool", "codex", "first")
    place.wait_ready()
    session_id = running.session_id
    queue(place, session_id, "second", "third")
    waiting = place.start("wait", session_id, "--json")
    place.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "held\n")
    (ending,) = waiting.wait().json
    assert (ending["turn"], ending["queued"], ending["exit_code"]) == (3, 0, 0)
    assert prompts_of(place, session_id) == ["first", "second", "third"]
    pids = [event["data"]["pid"] for event in started(place, session_id)]
    assert pids[0] != pids[1] == pids[2]


def test_a_turn_that_fails_holds_the_queue(place: Place) -> None:
    """Nothing is lost: status says why nothing begins, and --resume goes on."""
    session_id = busy(place)
    queue(place, session_id, "fail", "third")
    rule = {"match": "fail", "do": [["fail", "no"]]}
    place.script(rule, {"match": "", "do": [["say", "done"]]})
    place.release()
    wait_for(lambda: not is_locked(paths_of(place, session_id).session_lock), "the turn fails")
    assert prompts_of(place, session_id) == ["first", "fail"]
    listed = place.run("queue", session_id, "--json").json
    assert (listed["held"], [each["prompt"] for each in listed["prompts"]]) == ("turn 2 failed", ["third"])
    assert "1 prompt waiting; held: turn 2 failed" in place.run("status", session_id).out
    (ending,) = place.run("wait", session_id, "--json").json
    assert (ending["status"], ending["queued"]) == ("failed", 1)
    assert place.run("queue", session_id, "--resume").code == 0
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "fail", "third"]


def test_kill_stops_the_queue_as_well(place: Place) -> None:
    """The prompts stay, and the next turn that succeeds goes on with them."""
    session_id = busy(place)
    queue(place, session_id, "second")
    killed = place.run("kill", session_id)
    assert "1 queued prompt held" in killed.out
    assert place.run("gc", "--days", "30").code == 0
    assert prompts_of(place, session_id) == ["first"]
    place.release()
    place.codex("again", "--session", session_id)
    assert place.run("wait", session_id).code == 0
    assert prompts_of(place, session_id) == ["first", "again", "second"]


@pytest.mark.parametrize("force", [False, True])
def test_what_a_killed_supervisor_leaves_waits_for_gc(place: Place, *, force: bool) -> None:
    """After SIGKILL the prompts stay and `csa gc` goes on with them, unless the kill was csa's own."""
    session_id = busy(place)
    queue(place, session_id, "second", "third")
    if force:
        assert place.run("kill", "--force", session_id).code == 0
    else:
        os.kill(started(place, session_id)[0]["data"]["pid"], signal.SIGKILL)
    wait_for(lambda: not is_locked(paths_of(place, session_id).session_lock), "the tree has ended")
    assert place.status(session_id) == "lost"
    place.release()
    woken = place.run("gc", "--days", "30", "--json").json["woken"]
    assert woken == ([] if force else [session_id])
    if not force:
        assert place.run("wait", session_id).code == 0
        assert prompts_of(place, session_id) == ["first", "second", "third"]
