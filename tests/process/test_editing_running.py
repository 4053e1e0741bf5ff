"""A session's name, description and pin while its turn runs: the turn's process applies the change."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from csa.errors import BusyError, UsageError
from csa.runner.client import Csa
from tests.serving import serving
from tests.support import Place, allowing, wait_for


def running(place: Place, *words: str) -> str:
    """Begin a turn in the background that waits; return its session."""
    place.play(*place.hold(), ["say", "done"])
    session_id = place.run("run", "--detach", "--quiet", "--tool", "codex", *words, "wait").out.strip()
    place.wait_ready()
    return session_id


def client_of(place: Place) -> Csa:
    """Open the project as a user's program does."""
    return Csa.from_environment(place.project, environ=place.environment(None))


def test_while_it_runs(place: Place) -> None:
    """All three are applied within a second, recorded once, and still there after the turn has ended."""
    session_id = running(place, "--name", "old")
    began = time.monotonic()
    renamed = place.run("rename", session_id, "new", "--json").json
    assert time.monotonic() - began < allowing(1.5)
    assert (renamed["name"], renamed["before"]) == ("new", "old")
    client = client_of(place)
    assert client.describe("new", "what it is about").after.description == "what it is about"
    assert client.pin("new").is_change
    assert not client.pin("new").is_change
    place.release()
    assert place.run("wait", "new").code == 0
    state = place.state(session_id)
    assert (state["name"], state["description"], state["pinned"]) == ("new", "what it is about", True)
    updates = [event["data"]["what"] for event in place.events(session_id) if event["type"] == "session_updated"]
    assert updates == ["renamed", "described", "pinned"]
    assert place.run("result", "new", "--json").json["name"] == "new"
    assert not (place.session(session_id) / "edits").exists()
    audited = (place.store / "audit.jsonl").read_text()
    assert audited.count('"session rename"') == audited.count('"session pin"') == 1


@pytest.mark.thorough
def test_many_at_once(place: Place) -> None:
    """Each of many changes is applied, one after the other, while the turn ends, too: nothing is lost."""
    session_id = running(place)
    client = client_of(place)

    def describe(number: int) -> str:
        if number == 6:
            place.release()
        return client.describe(session_id, f"text {number}").after.description

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(describe, range(12))) == [f"text {number}" for number in range(12)]
    place.run("wait", session_id)
    events = [event["data"] for event in place.events(session_id) if event["type"] == "session_updated"]
    assert sorted(data["description"] for data in events) == sorted(f"text {number}" for number in range(12))
    assert all(after["before"] == before["description"] for before, after in pairwise(events))
    assert place.state(session_id)["description"] == events[-1]["description"]


@pytest.mark.thorough
def test_a_name_that_is_taken(place: Place) -> None:
    """Names stay unique: of two sessions that both run and want the same name, one gets it."""
    first = running(place)
    second = place.run("run", "--detach", "--quiet", "--tool", "codex", "wait").out.strip()

    def rename(session_id: str) -> bool:
        try:
            return client_of(place).rename(session_id, "same").is_change
        except UsageError:
            return False

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(rename, [first, second])) == [False, True]
    place.release()
    place.run("wait", first, second)


@pytest.mark.thorough
def test_a_process_that_does_not_respond(place: Place) -> None:
    """The old refusal, after a moment; and what was given up is not applied when it wakes."""
    session_id = running(place)
    client = client_of(place)
    before = place.state(session_id)["description"]
    pid = int(client.info(session_id).pid or 0)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(BusyError, match="is locked by PID"):
        client.describe(session_id, "too late")
    assert time.monotonic() - began < allowing(4)
    os.kill(pid, signal.SIGCONT)
    assert client.pin(session_id).is_change
    place.release()
    place.run("wait", session_id)
    assert place.state(session_id)["description"] == before


@pytest.mark.thorough
def test_a_turn_that_was_planned_before(place: Place) -> None:
    """A new name is not undone by a prompt that was queued before, nor by a fallback."""
    session_id = running(place, "--name", "old")
    assert place.run("run", "--queue", "-s", session_id, "next").code == 0
    client_of(place).rename(session_id, "new")
    place.release()
    wait_for(lambda: place.state(session_id)["turns"] == 2, "the queued turn begins")
    place.run("wait", session_id)
    assert place.state(session_id)["name"] == "new"


@pytest.mark.thorough
def test_over_http(place: Place) -> None:
    """PATCH answers 200 with the new values, while it runs."""
    session_id = running(place)
    with serving(place) as server:
        body = {"name": "new", "description": "described", "pinned": True}
        answer = server.ask("PATCH", f"/sessions/{session_id}", body)
        assert answer.status == 200, answer
        assert {key: answer.json[key] for key in body} == body
    place.release()
    place.run("wait", session_id)
