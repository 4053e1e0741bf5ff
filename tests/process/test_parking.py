"""A quota that is used up: the session is parked until the stated reset, and goes on by itself."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime

import pytest

from tests.support import Place, wait_for

USED_UP = {"match": "", "tool": "codex", "times": 1, "do": [["call", "make"], ["fail", "quota", 3]]}
ANSWER = {"match": "continue where", "do": [["say", "done after all"]]}
PARKED = ("run", "--tool", "codex", "--on-quota", "wait", "--json")


def is_parked(place: Place, session_id: str) -> bool:
    return "parked until " in place.run("session", "is-alive", "--session", session_id).out


@pytest.mark.thorough
def test_it_goes_on_after_the_reset(place: Place) -> None:
    """The turn fails, and says until when; the next one goes on in the same conversation, by the same tool."""
    place.script(USED_UP, ANSWER)
    running = place.start(*PARKED, "--model", "m-1", "build it")
    session_id = running.session_id
    wait_for(lambda: is_parked(place, session_id), "the session is parked")
    (row,) = place.run("ps", "--json").json
    assert (row["status"], row["doing"].startswith("parked until ")) == ("running", True)
    assert "used up a quota of codex; the session is parked until" in place.run("session", "why", "-s", session_id).out
    done = running.wait()
    assert done.code == 0, done.err
    assert (done.json["turn"], done.json["text"], done.json["model"]) == (2, "done after all", "m-1")
    assert [link["status"] for link in done.json["chain"]] == ["failed", "succeeded"]
    events = place.events(session_id)
    first = next(event["data"] for event in events if event["type"] == "run_finished")
    (parked,) = [event["data"] for event in events if event["type"] == "parked"]
    assert parked["until"] == first["error"]["retry_at"]
    begun = [event["data"] for event in events if event["type"] == "run_started"]
    assert begun[1]["resumed"] == first["provider_session_id"]
    assert "parked until" in done.err


@pytest.mark.thorough
def test_nothing_done_is_asked_again(place: Place) -> None:
    """Where the failed turn had no effect the same prompt is given."""
    place.script({"match": "", "times": 1, "do": [["fail", "quota", 2]]}, {"match": "build it", "do": [["say", "ok"]]})
    done = place.run(*PARKED, "build it")
    assert (done.code, done.json["text"]) == (0, "ok"), done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--on-quota", "wait=1s"), "beyond the limit"),
        (("--on-quota", "fail"), ""),
        ((), ""),
    ],
)
def test_it_fails_at_once(place: Place, options: tuple[str, ...], words: str) -> None:
    """Beyond the limit, and where nobody asked for it; the reset is told all the same."""
    place.script(USED_UP, ANSWER)
    done = place.run("run", "--tool", "codex", "--json", *options, "build it")
    assert (done.code, done.json["turn"], done.json["error"]["kind"]) == (8, 1, "quota")
    assert done.json["error"]["retry_at"] > done.json["finished_at"]
    assert "can be used again at" in done.err
    warnings = [e["data"]["message"] for e in place.events(done.json["session_id"]) if e["type"] == "warning"]
    assert [words in message for message in warnings] == ([True] if words else [])


def test_no_time_is_invented(place: Place) -> None:
    """A quota whose return is not stated ends the turn, and that is said."""
    place.script({"match": "", "do": [["fail", "quota"]]})
    done = place.run(*PARKED, "build it")
    assert done.code == 8
    assert done.json["error"]["retry_at"] is None
    assert "the time is not stated" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_waiting(place: Place, number: int) -> None:
    """At once; the session's last turn is then the one that failed."""
    place.script({"match": "", "do": [["fail", "quota", 600]]})
    running = place.start(*PARKED, "build it")
    session_id = running.session_id
    wait_for(lambda: is_parked(place, session_id), "the session is parked")
    running.signal(number)
    done = running.wait()
    assert done.code == 128 + number
    assert place.status(session_id) == "failed"
    assert "waiting for the quota was ended" in done.err


@pytest.mark.thorough
def test_kill_ends_the_waiting(place: Place) -> None:
    """`session kill` asks through the `cancel` file."""
    place.script({"match": "", "do": [["fail", "quota", 600]]})
    running = place.start(*PARKED, "build it")
    session_id = running.session_id
    wait_for(lambda: is_parked(place, session_id), "the session is parked")
    assert place.run("session", "kill", "--session", session_id).code == 0
    assert running.wait().code == 8


@pytest.mark.thorough
def test_a_fallback_goes_first(place: Place) -> None:
    """Only where no other tool can go on is the quota waited for."""
    place.script(USED_UP, {"match": "", "tool": "claude-code", "do": [["say", "by claude"]]})
    done = place.run(*PARKED, "--fallback", "claude-code", "build it")
    assert (done.code, done.json["tool"], done.json["text"]) == (0, "claude-code", "by claude"), done.err


@pytest.mark.thorough
def test_a_fallback_that_was_parked_keeps_its_own(place: Place) -> None:
    """The tool that goes on after its quota has returned fails again: what was to stand in stands in."""
    claude = {"match": "", "tool": "claude-code"}
    place.script(
        {**claude, "times": 1, "do": [["fail", 529]]},
        {**USED_UP, "do": [["fail", "quota", 3]]},
        {"match": "", "tool": "codex", "do": [["fail", 503]]},
        {**claude, "do": [["say", "by claude"]]},
    )
    options = ("--tool", "claude-code", "--fallback", "codex,claude-code", "--retries", "0", "--on-quota", "wait=1h")
    done = place.run("run", *options, "--json", "build it")
    assert (done.code, done.json["turn"], done.json["text"]) == (0, 4, "by claude"), done.err


@pytest.mark.thorough
def test_the_time_limit_does_not_count_it(place: Place) -> None:
    """`--timeout` is of the turns' own time."""
    place.script(USED_UP, ANSWER)
    done = place.run(*PARKED, "--timeout", "3", "build it")
    assert done.code == 0, done.err


@pytest.mark.thorough
def test_another_model_of_the_same_tool(place: Place) -> None:
    """A fallback may be the tool itself, with another model."""
    place.script({"match": "", "times": 1, "do": [["fail", "quota"]]}, {"match": "", "do": [["say", "small"]]})
    done = place.run("run", "--tool", "codex", "--model", "big", "--fallback", "codex:little", "--json", "build it")
    assert (done.code, done.json["model"], done.json["text"]) == (0, "little", "small"), done.err


def parked_and_killed(place: Place, seconds: float, *, number: int = signal.SIGKILL) -> str:
    """Return a detached session whose supervisor was killed while it waited for its quota."""
    place.script({**USED_UP, "do": [["call", "make"], ["fail", "quota", seconds]]}, ANSWER)
    options = ("run", "--detach", "--tool", "codex", "--on-quota", "wait", "--json", "build it")
    started = place.run(*options).json
    session_id = str(started["session_id"])
    wait_for(lambda: is_parked(place, session_id), "the session is parked")
    wait_for(lambda: list(place.store.glob("parked/*.json")), "its order is kept")
    os.kill(started["pid"], number)
    wait_for(lambda: place.run("session", "is-alive", "-s", session_id).code == 1, "the supervisor is gone")
    return session_id


def answer_of(place: Place, session_id: str) -> str:
    place.run("session", "wait", "--session", session_id)
    return place.run("session", "result", "--session", session_id).out


@pytest.mark.thorough
@pytest.mark.parametrize("command", [("gc", "--days", "30"), ("run", "--tool", "codex", "another")])
def test_a_detached_turn_survives_its_supervisor(place: Place, command: tuple[str, ...]) -> None:
    """Whatever csa is called in the project next, when the time has come, lets it go on; and only once."""
    session_id = parked_and_killed(place, 3)
    assert place.status(session_id) == "failed"
    place.run("gc", "--days", "30")  # too early
    wait_for(lambda: time.time() > parked_until(place, session_id), "the quota has returned")
    assert place.run(*command).code == 0
    assert answer_of(place, session_id) == "done after all\n"
    assert list(place.store.glob("parked/*")) == []
    assert place.run("gc", "--days", "30").out == ""
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
@pytest.mark.parametrize("command", [("session", "kill", "-s"), ("run", "--tool", "codex", "continue where", "-s")])
def test_an_order_that_is_not_wanted_any_more(place: Place, command: tuple[str, ...]) -> None:
    """Who ends the session, or goes on in it, has decided what becomes of it."""
    session_id = parked_and_killed(place, 600)
    place.run(*command, session_id)
    assert list(place.store.glob("parked/*")) == []


def parked_until(place: Place, session_id: str) -> float:
    (until,) = [event["data"]["until"] for event in place.events(session_id) if event["type"] == "parked"]
    return datetime.fromisoformat(until).timestamp()


@pytest.mark.thorough
def test_a_shutdown_is_no_end(place: Place) -> None:
    """TERM ends the supervisor at once, and what it waited for goes on later all the same."""
    session_id = parked_and_killed(place, 3, number=signal.SIGTERM)
    wait_for(lambda: time.time() > parked_until(place, session_id), "the quota has returned")
    assert "continues, its quota has reset" in place.run("gc", "--days", "30").out
    assert answer_of(place, session_id) == "done after all\n"
