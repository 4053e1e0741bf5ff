"""`csa run --wait`: for a busy session, and for a place among the turns that may run."""

from __future__ import annotations

import signal
import time

import pytest

from csa.store.locks import acquire_lock
from tests.support import Place, Running, has_open, wait_for


def busy(place: Place) -> tuple[str, Running]:
    """Return a session, and the turn of it that runs until released."""
    session_id = place.codex("first").session_id
    place.script(
        {"match": "hold", "do": [*place.hold(), ["say", "held"]]}, {"match": "argv", "do": [["say", "resumed"]]}
    )
    running = place.start("run", "--tool", "claude-code", "--session", session_id, "hold")
    place.wait_ready()
    return session_id, running


def turns(place: Place, session_id: str) -> int:
    return sum(event["type"] == "run_started" for event in place.events(session_id))


@pytest.mark.thorough
def test_without_wait_a_busy_session_is_refused_at_once(place: Place) -> None:
    """Exit 4 names who holds it and points to --wait."""
    session_id, running = busy(place)
    done = place.run("run", "--session", session_id, "more")
    assert done.code == 4
    assert f"PID {running.pid}" in done.err
    assert "; retry later, or use --wait." in done.err
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_wait_then_resume_uses_what_the_session_has_become(place: Place) -> None:
    """A waiter says once what it waits for, and continues with the tool of the turn that ended meanwhile."""
    session_id, running = busy(place)
    waiters = [place.start("run", "--session", session_id, "--wait", f"argv {n}") for n in range(3)]
    for waiter in waiters:
        wait_for(lambda: "waiting: " in waiter.err, "it waits")  # noqa: B023
    place.release()
    assert running.wait().code == 0
    ended = [waiter.wait() for waiter in waiters]
    assert [done.code for done in ended] == [0] * 3, [done.err for done in ended]
    assert {done.out for done in ended} == {"resumed\n"}
    for done in ended:
        assert f"waiting: Session {session_id} is locked by PID {running.pid}" in done.err
        assert done.err.count("waiting: ") <= 3
    started = [event["data"] for event in place.events(session_id) if event["type"] == "run_started"]
    assert [data["tool"] for data in started] == ["codex"] + ["claude-code"] * 4
    assert all(data["resumed"] == started[2]["resumed"] for data in started[2:])
    assert started[2]["resumed"] is not None


@pytest.mark.thorough
def test_wait_with_a_limit(place: Place) -> None:
    """--wait=0.5 gives up after half a second, with exit 4, and --wait=0 at once; nothing is written."""
    session_id, running = busy(place)
    begun = time.monotonic()
    done = place.run("run", "--session", session_id, "--wait=0.5", "more")
    assert done.code == 4
    assert time.monotonic() - begun >= 0.5
    assert "even after waiting 0.5 s" in done.err
    as_json = place.run("run", "--session", session_id, "--wait=0", "--json", "more")
    assert (as_json.code, as_json.json["error"]["code"]) == (4, "busy")
    assert turns(place, session_id) == 2
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_wait_takes_no_prompt_for_its_value(place: Place) -> None:
    """The word behind --wait is the prompt; a value comes only behind an equals sign; what is none is refused."""
    assert place.run("run", "--tool", "codex", "--wait", "5").out == "FAKE ECHO: 5 [turns=1]\n"
    assert place.run("run", "--wait", "--tool", "codex", "--", "--wait").out == "FAKE ECHO: --wait [turns=1]\n"
    for value in ("soon", "-1", "nan"):
        assert place.run("run", "--tool", "codex", f"--wait={value}", "x").code == 2


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", [".slots/lock", "store.lock"])
def test_a_signal_while_another_csa_holds_a_lock(place: Place, name: str, number: signal.Signals) -> None:
    """A lock that is held for moments, by one that was stopped, keeps nobody from being interrupted."""
    place.codex()
    before = place.ids()
    lock = place.state_root / name if "/" in name else place.store / name
    with acquire_lock(lock):
        running = place.start("run", "--tool", "codex", "hello")
        wait_for(lambda: has_open(running.pid, lock), "it waits")
        running.signal(number)
        done = running.wait()
    assert (done.code, done.out) == (128 + number, "")
    assert "Traceback" not in done.err
    assert place.ids() == before


@pytest.mark.thorough
def test_interrupting_a_waiter(place: Place) -> None:
    """Ctrl-C while waiting exits 130 and writes nothing."""
    session_id, running = busy(place)
    waiter = place.start("run", "--session", session_id, "--wait", "more")
    wait_for(lambda: "waiting: " in waiter.err, "it waits")
    waiter.signal(signal.SIGINT)
    done = waiter.wait()
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert turns(place, session_id) == 2
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_waiting_for_a_place(place: Place) -> None:
    """With --wait a turn begins as soon as fewer run; with a limit it exits 4, and 5 without --wait."""
    place.env["CSA_CONF_MAX_RUNNING"] = "1"
    place.script({"match": "hold", "do": [*place.hold(), ["say", "held"]]})
    running = place.start("run", "--tool", "codex", "hold")
    place.wait_ready()
    assert place.run("run", "--tool", "codex", "x").code == 5
    assert place.run("run", "--tool", "codex", "--wait=0.2", "x").code == 4
    assert len(place.ids()) == 1
    waiter = place.start("run", "--tool", "codex", "--wait", "x")
    wait_for(lambda: "waiting: max_running is 1" in waiter.err, "it waits")
    quiet = place.start("run", "--tool", "codex", "--quiet", "--wait", "y")
    place.release()
    assert [running.wait().code, waiter.wait().code] == [0, 0]
    assert quiet.wait().err == ""


@pytest.mark.thorough
def test_waiting_for_oneself_is_refused(place: Place) -> None:
    """Where only the caller and those above it run, waiting would last for ever: exit 5 says so."""
    other = place.codex("other").session_id
    for key, words in (("RUNNING", "inner"), ("TREE_RUNNING", "inner"), ("RUNNING", f"--session {other} x")):
        place.play(["run", f"csa run --tool codex --wait {words}; echo code $?"], ["say", "x"])
        session_id = place.codex("outer", env={f"CSA_CONF_MAX_{key}": "1"}).session_id
        (update,) = [event for event in place.events(session_id) if event["type"] == "tool_call_update"]
        assert "code 5" in update["data"]["content"]
        assert "do the work in this session" in update["data"]["content"]
