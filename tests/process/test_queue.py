"""Prompts that wait for a busy session: in order, each once, whatever ends meanwhile."""

from __future__ import annotations

import json
import os
import signal

import pytest

from csa.paths import SessionPaths
from csa.runner.client import Csa
from csa.runner.sessions.acting import hold_session
from csa.store.locks import is_locked
from csa.store.queue import MAX_QUEUED, count_queued, enqueue
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


@pytest.mark.thorough
def test_an_idle_session_begins_at_once(place: Place) -> None:
    """`--queue` on a session that is not running starts it in the background, and says so."""
    session_id = place.codex("first").session_id
    (said,) = queue(place, session_id, "second")
    assert "running in the background (codex, turn 2" in said
    assert place.run("wait", session_id).code == 0
    assert prompts_of(place, session_id) == ["first", "second"]


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_turn_that_fails_holds_the_queue(place: Place) -> None:
    """Nothing is lost: status says why nothing begins, and --resume goes on."""
    session_id = busy(place)
    queue(place, session_id, "fail", "third")
    rule = {"match": "fail", "do": [["exit", 1]]}
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_prompts_are_moved_and_removed(place: Place) -> None:
    """By position or id; who comes too late is told so, and what was removed never runs."""
    session_id = busy(place)
    queue(place, session_id, "a", "b", "c", "d")
    listed = place.run("queue", session_id, "--json").json["prompts"]
    moved = place.run("queue", session_id, "--move", listed[3]["id"], "1", "--json").json["prompts"]
    assert [each["prompt"] for each in moved] == ["d", "a", "b", "c"]
    assert place.run("queue", session_id, "--remove", "2", "--remove", "3").out == "removed a\nremoved b\n"
    gone = place.run("queue", session_id, "--remove", listed[0]["id"])
    assert (gone.code, "No prompt" in gone.err) == (3, True)
    assert place.run("queue", session_id, "--show", "1").out == "d\n"
    assert place.run("queue", session_id, "--move", "1", "3").code == 2
    place.release()
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "d", "c"]
    assert [json.loads(line)["command"] for line in (place.store / "audit.jsonl").read_text().splitlines()] == [
        "session queue",
        "session queue",
    ]


@pytest.mark.thorough
def test_the_queue_has_a_bound(place: Place) -> None:
    """A prompt beyond it is refused, and says how to make room; --clear empties the queue."""
    session_id = busy(place)
    paths = paths_of(place, session_id)
    for _ in range(MAX_QUEUED):
        enqueue(paths, {"request": {"prompt": "p"}}, at="2026-01-01T00:00:00Z", by=None)
    full = place.run("run", "--queue", "-s", session_id, "more")
    assert (full.code, "is full: 100 prompts wait" in full.err, "--clear" in full.err) == (5, True, True)
    assert place.run("queue", session_id, "--clear").code == 0
    assert place.run("queue", session_id, "--json").json["prompts"] == []
    place.release()


@pytest.mark.thorough
def test_an_agent_queues_with_no_more_rights_than_it_had_then(place: Place) -> None:
    """The permission of the calling session when it queued is the ceiling, though the session has got more since."""
    caller, variables = place.agent("--permission", "read-only")
    session_id = busy(place)
    done = place.run("run", "--queue", "-s", session_id, "from the agent", env=variables)
    assert done.code == 0, done.err
    refused = place.run("run", "--queue", "-s", session_id, "--permission", "full", "more", env=variables)
    assert refused.code == 5
    (waits,) = place.run("queue", session_id, "--json").json["prompts"]
    assert (waits["prompt"], waits["by"]) == ("from the agent", caller)
    own = place.run("run", "--queue", "-s", caller, "myself", env=variables)
    assert (own.code, "cannot resume itself" in own.err) == (5, True)
    assert place.run("queue", caller, "--clear", env=variables).code == 5
    follow_up = place.run("run", "--queue", "-s", session_id, "--on-finish", "touch x", "more", env=variables)
    assert (follow_up.code, "--on-finish" in follow_up.err) == (5, True)
    state = place.session(caller) / "state.toml"
    state.write_text(state.read_text().replace('permission = "read-only"', 'permission = "full"'))
    queue(place, session_id, "from outside")
    place.release()
    wait_until_done(place, session_id)
    permissions = [event["data"]["permission"] for event in started(place, session_id)]
    assert permissions == ["edit", "read-only", "read-only"]  # which the session keeps, as after any turn


@pytest.mark.thorough
def test_a_follow_up_runs_between_two_turns(place: Place) -> None:
    """The command of --on-finish belongs to its own turn; another process goes on with the queue meanwhile."""
    session_id = busy(place)
    seen = place.tmp / "seen"
    done = place.run("run", "--queue", "-s", session_id, "--on-finish", f"cat >> {seen}", "second")
    assert done.code == 0
    queue(place, session_id, "third")
    place.release()
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "second", "third"]
    place.wait_until_empty(within_s=3)
    assert json.loads(seen.read_text())["turn"] == 2


@pytest.mark.thorough
def test_a_foreground_turn_that_fails_says_what_to_do(place: Place) -> None:
    """Its queue is held, and stderr names the next step; the prompts stay through a restart of everything."""
    place.script({"match": "first", "do": [*place.hold(), ["exit", 1]]}, {"match": "", "do": [["say", "done"]]})
    running = place.start("run", "--tool", "codex", "first")
    place.wait_ready()
    session_id = running.session_id
    queue(place, session_id, "second")
    place.release()
    done = running.wait()
    assert done.code == 1
    assert "the queue is held: turn 1 failed" in done.err
    assert f"csa queue {session_id} --resume" in done.err
    (said,) = queue(place, session_id, "third")
    assert "queued as 2nd" in said
    assert "the queue is held: turn 1 failed" in said
    assert "(2 queued)" in place.run("ls").out


@pytest.mark.thorough
def test_a_prompt_that_cannot_begin_holds_the_queue(place: Place) -> None:
    """It stays the first, with the reason, and goes on when that is mended."""
    caller, variables = place.agent()
    session_id = busy(place)
    assert place.run("run", "--queue", "-s", session_id, "second", env=variables).code == 0
    assert place.run("rm", caller).code == 0
    place.release()
    wait_for(lambda: not is_locked(paths_of(place, session_id).session_lock), "the first turn ends")
    listed = place.run("queue", session_id, "--json").json
    assert "could not begin: csa was called inside a session whose record it cannot find" in listed["held"]
    assert place.run("gc", "--days", "30", "--json").json["woken"] == []
    assert place.run("queue", session_id, "--resume").code == 5
    assert place.run("restore", caller).code == 0
    assert place.run("queue", session_id, "--resume").code == 0
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "second"]


@pytest.mark.thorough
def test_many_who_queue_at_once(place: Place) -> None:
    """Several processes queue for an idle session: one of them begins it, and every prompt runs once."""
    place.play(["say", "done"])
    session_id = place.codex("first").session_id
    prompts = [f"prompt {number}" for number in range(6)]
    running = [place.start("run", "--queue", "-s", session_id, prompt) for prompt in prompts]
    done = [each.wait() for each in running]
    assert [each.code for each in done] == [0] * len(prompts), [each.err for each in done]
    assert place.run("wait", session_id).code == 0
    wait_until_done(place, session_id)
    assert sorted(prompts_of(place, session_id)) == ["first", *prompts]


@pytest.mark.thorough
def test_a_queue_waits_for_a_slot(place: Place) -> None:
    """Where too many turns run when a foreground run hands its queue over, a process waits for a slot."""
    place.env["CSA_CONF_MAX_RUNNING"] = "1"
    place.script(
        {"match": "first", "do": [*place.hold(), ["say", "held"]]},
        {"match": "other", "do": [["wait-file", str(place.tmp / "over"), 60], ["say", "over"]]},
        {"match": "", "do": [["say", "done"]]},
    )
    running = place.start("run", "--tool", "codex", "first")
    place.wait_ready()
    queue(place, running.session_id, "second")
    other = place.start("run", "--tool", "codex", "--wait", "other")
    wait_for(lambda: "waiting" in other.err, "the other run waits for the slot")
    place.release()
    assert running.wait().code == 0
    (place.tmp / "over").touch()
    assert other.wait().code == 0
    wait_until_done(place, running.session_id)
    assert prompts_of(place, running.session_id) == ["first", "second"]


@pytest.mark.thorough
def test_what_cannot_be_queued(place: Place) -> None:
    """Without a session, with options that wait or show, or for one that is not there: nothing is left."""
    assert place.run("run", "--queue", "--new", "go").code == 2
    session_id = place.codex("first").session_id
    for words in (["--wait"], ["--stream-json"], ["--verbose"]):
        assert place.run("run", "--queue", "-s", session_id, *words, "go").code == 2
    assert place.run("run", "--queue", "-s", "nobody", "go").code == 3
    assert place.run("run", "--queue", "-s", session_id, "--tool", "gemini-cli", "--model", "x", "").code == 2
    assert place.run("queue", session_id, "--json").json["prompts"] == []


@pytest.mark.thorough
def test_a_prompt_that_comes_during_an_errand(place: Place) -> None:
    """Who holds the lock for something else than a turn takes nothing: a process waits for the lock in its place."""
    place.script({"match": "first", "do": [["exit", 1]]}, {"match": "", "do": [["say", "done"]]})
    session_id = place.run("run", "--tool", "codex", "first").session_id
    client = Csa.from_environment(place.project, environ=place.environment(None))
    with hold_session(client.session(session_id)):
        (said,) = queue(place, session_id, "second")
        assert "queued as 1st" in said
        assert prompts_of(place, session_id) == ["first"]
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "second"]


@pytest.mark.thorough
def test_a_damaged_queue_is_not_in_the_way(place: Place) -> None:
    """What is no prompt stays, is shown as such, and can be removed; the sound ones run."""
    session_id = busy(place)
    queue(place, session_id, "second")
    paths = paths_of(place, session_id)
    (paths.queue / f"{session_id}.json").write_text("{")
    os.mkfifo(paths.queue / "order")
    listed = place.run("queue", session_id, "--json").json["prompts"]
    assert sorted(each["fault"] is None for each in listed) == [False, True]
    place.release()
    wait_for(lambda: count_queued(paths) == 1 and not is_locked(paths.session_lock), "the sound one has run")
    assert prompts_of(place, session_id) == ["first", "second"]
    assert place.run("status", session_id).code == 0
    assert place.run("queue", session_id, "--remove", session_id).code == 0
    assert place.run("queue", session_id, "--json").json["prompts"] == []


@pytest.mark.thorough
def test_a_prompt_of_a_newer_csa(place: Place) -> None:
    """One with an option that this csa does not know is not run without it: the queue is held, and says why."""
    session_id = busy(place)
    queue(place, session_id, "second")
    (path,) = paths_of(place, session_id).queue.glob("*.json")
    record = json.loads(path.read_text())
    record["order"]["request"]["forbids_everything"] = True
    path.write_text(json.dumps(record))
    place.release()
    wait_for(lambda: not is_locked(paths_of(place, session_id).session_lock), "the first turn ends")
    assert "Another version of csa has queued it" in place.run("queue", session_id, "--json").json["held"]
    assert prompts_of(place, session_id) == ["first"]


@pytest.mark.thorough
def test_many_who_queue_for_a_session_that_is_not_there_yet(place: Place) -> None:
    """One of them makes it, and the prompts of the others wait for that."""
    place.play(["say", "done"])
    prompts = [f"prompt {number}" for number in range(3)]
    running = [place.start("run", "--queue", "--session-id", "both", prompt) for prompt in prompts]
    done = [each.wait() for each in running]
    assert [each.code for each in done] == [0] * len(prompts), [each.err for each in done]
    (session_id,) = {each.out.strip() for each in done}
    wait_until_done(place, session_id)
    assert sorted(prompts_of(place, session_id)) == prompts


@pytest.mark.thorough
def test_an_agents_prompt_gets_no_variable_that_the_agent_lacks(place: Place) -> None:
    """Whoever begins it may have more: what env_drop took from the agent, for example."""
    _, variables = place.agent()
    place.env["DEPLOY_WORD"] = "of the user's shell"
    session_id = busy(place)
    place.script(
        {"match": "by the user", "do": [["expect-env", "DEPLOY_WORD", "of the user's shell"], ["say", "has it"]]},
        {"match": "by the agent", "do": [["expect-env", "DEPLOY_WORD", None], ["say", "has it not"]]},
    )
    queue(place, session_id, "by the user")
    done = place.run("run", "--queue", "-s", session_id, "by the agent", env={**variables, "DEPLOY_WORD": None})
    assert done.code == 0, done.err
    place.release()
    wait_until_done(place, session_id)
    assert [each["data"]["status"] for each in place.events(session_id) if each["type"] == "run_finished"] == [
        "succeeded"
    ] * 3


@pytest.mark.thorough
def test_positions_that_are_none(place: Place) -> None:
    """A number of any length is looked at as one; what is named twice is removed once."""
    session_id = busy(place)
    queue(place, session_id, "second")
    for words in (("--move", "1", "9" * 5000), ("--show", "9" * 5000), ("--move", "1", "²")):
        done = place.run("queue", session_id, *words)
        assert (done.code in {2, 3}, len(done.err) < 200) == (True, True), done.err
    assert place.run("queue", session_id, "--remove", "1", "--remove", "1").out == "removed second\n"
    place.release()


@pytest.mark.thorough
def test_closing_tells_of_what_waits(place: Place) -> None:
    """A prompt of a session that was closed does not begin, so who closes it is told."""
    place.script({"match": "first", "do": [*place.hold(), ["fail", "500"]]})
    running = place.start("run", "--tool", "codex", "--retries", "0", "first")
    place.wait_ready()
    queue(place, running.session_id, "second")
    place.release()
    assert running.wait().code == 1
    done = place.run("close", running.session_id)
    assert (done.code, "1 queued prompt of it will not begin" in done.err) == (0, True)


@pytest.mark.thorough
def test_a_queue_that_cannot_be_written_is_named(place: Place) -> None:
    """Moving and removing say what is in the way, and that it is not the output."""
    session_id = busy(place)
    queue(place, session_id, "second", "third")
    (place.session(session_id) / "queue" / "order").mkdir()
    done = place.run("queue", session_id, "--move", "2", "1")
    assert (done.code, "The queue cannot be written: Is a directory" in done.err) == (1, True), done.err
    place.release()
