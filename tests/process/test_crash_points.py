"""SIGKILL of csa just before each of its changes to the store: what is there afterwards is whole, true and usable."""

from __future__ import annotations

import os

import pytest

from csa.store.locks import is_locked
from csa.store.sessions import Store
from tests.process.tracing import Traced, can_trace, run_until_change
from tests.support import CSA, Json, Place, wait_for

POINTS = int(os.environ.get("CSA_TORTURE", "8"))  # as many of them, evenly spread; CSA_TORTURE=1000 takes them all
NEW = "01KZZZZZZZZZZZZZZZZZZZZZZZ"

pytestmark = pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here, or this is no x86-64")


def run_traced(place: Place, *words: str, kill_at: int | None = None) -> Traced:
    return trace(place, "run", "-q", "--tool", "codex", *words, kill_at=kill_at)


def trace(place: Place, *words: str, kill_at: int | None = None) -> Traced:
    return run_until_change(
        [CSA, *words],
        env=place.environment(None),
        cwd=place.project,
        root=place.state_root,
        kill_at=kill_at,
    )


def read_back(place: Place, session_id: str) -> tuple[str, list[Json]]:
    """Wait for the guardian to be done; return the session's status, and its events, which must be whole."""
    lock = place.session(session_id) / "locks" / "session.lock"
    wait_for(lambda: not is_locked(lock), "the lock is free", within_s=2)
    record = Store(place.state_root, place.project).record(session_id)
    assert record.state is not None, record.fault
    events = place.events(session_id) if record.paths.transcript.read_bytes().endswith(b"\n") else []
    return record.status, events


def points(count: int) -> list[int]:
    """Choose evenly from 1 to `count`, the first and the last always."""
    chosen = min(count, max(2, POINTS))
    return sorted({1 + round(index * (count - 1) / (chosen - 1)) for index in range(chosen)})


def check_status(status: str, events: list[Json]) -> None:
    ends = [event for event in events if event["type"] in {"run_started", "run_finished"}]
    assert status == (ends[-1]["data"]["status"] if ends[-1]["type"] == "run_finished" else "lost")


@pytest.mark.thorough
@pytest.mark.timeout(max(60, POINTS * 5))
@pytest.mark.long
def test_a_new_session(place: Place) -> None:
    """A new session is absent or whole at every point of its first turn, and its next turn works."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["run", "echo hi"], ["say", "done"])
    changes = run_traced(place, "count").changes
    assert len(changes) > 20, changes
    for number in points(len(changes)):
        session_id = NEW[:-3] + f"{number:03}"
        traced = run_traced(place, "--session-id", session_id, "go", kill_at=number)
        place.wait_until_empty(within_s=2)
        if (place.session(session_id) / "state.toml").exists():
            status, events = read_back(place, session_id)
            assert events, traced.changes[-1]
            check_status(status, events)
        again = place.run("run", "--tool", "codex", "--session-id", session_id, "go on")
        assert (again.code, again.out) == (0, "done\n"), (traced.changes[-1], again.err)
        place.events(session_id)  # whole, without a gap


@pytest.mark.thorough
@pytest.mark.timeout(max(60, POINTS * 5))
@pytest.mark.long
def test_a_session_that_goes_on(place: Place) -> None:
    """No point of a later turn loses anything of the turns before it, nor the conversation."""
    place.play(["say", "done"])
    session_id = place.codex("first").session_id
    before = place.events(session_id)
    provider = place.state(session_id)["tools"]["codex"]["provider_session_id"]
    changes = run_traced(place, "--session", session_id, "count").changes
    for number in points(len(changes)):
        kept = place.events(session_id)
        traced = run_traced(place, "--session", session_id, "go", kill_at=number)
        place.wait_until_empty(within_s=2)
        status, events = read_back(place, session_id)
        if events:
            check_status(status, events)
            assert events[: len(kept)] == kept, traced.changes[-1]
        assert place.state(session_id)["tools"]["codex"]["provider_session_id"] == provider, traced.changes[-1]
        assert place.run("run", "--session", session_id, "go on").code == 0
    assert place.events(session_id)[: len(before)] == before


@pytest.mark.thorough
@pytest.mark.timeout(max(60, POINTS * 5))
@pytest.mark.long
def test_a_session_without_a_turn(place: Place) -> None:
    """At every point of making one and closing it, it is absent or idle, open or closed, and never damaged."""
    making = ("new", "--tool", "codex", "--name")
    for number in points(len(trace(place, *making, "count").changes)):
        name = f"n{number}"
        traced = trace(place, *making, name, kill_at=number)
        found = [each for each in place.run("ls", "--json").json if each["name"] == name]
        assert [each["status"] for each in found] in ([], ["idle"]), traced.changes[-1]
        assert place.run(*making, name).code == (2 if found else 0), traced.changes[-1]
    changes = trace(place, "close", "n1").changes
    for number in points(len(changes)):
        place.codex("go", "--session-id", "again", "--reopen")
        trace(place, "close", "again", kill_at=number)
        (phase,) = (each["phase"] for each in place.run("ls", "--json").json if each["name"] == "again")
        assert place.run("use", "again").code == (5 if phase == "closed" else 0), changes[number - 1]
    assert place.run("validate").code == 0
