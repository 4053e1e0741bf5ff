"""What is done to a session that is no turn changes nothing of what the views say about its last turn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.terminal import Terminal
from tests.support import Place

ERRANDS: Mapping[str, tuple[str, ...]] = {
    "describe": ("session", "describe", "-s", "ID", "other words"),
    "rename": ("session", "rename", "-s", "ID", "other"),
    "pin": ("session", "pin", "ID"),
    "checkpoint": ("session", "checkpoint", "ID", "--label", "mark"),
    "compress": ("session", "compress", "-s", "ID"),
    "repair": ("session", "repair", "ID"),
    "export": ("session", "export", "ID", "-o", "archive.tar.gz"),
}
_AGE = re.compile(r"\b\d+(?:s|m\d\ds|m|h\d\dm)\b")


def finished(place: Place) -> str:
    place.play(["say", "the answer"])
    return place.codex("one").session_id


def lost(place: Place) -> str:
    session_id = finished(place)
    place.play(["say", "half"], *place.hold())
    run = place.start("run", "--session", session_id, "two")
    place.wait_ready()
    run.kill()
    place.wait_until_empty(within_s=10)
    place.ready.unlink()
    place.play(["say", "the answer"])
    return session_id


@contextmanager
def opened(place: Place, session_id: str) -> Iterator[None]:
    with Terminal(place, "session", "attach", "--interactive", "-s", session_id, size=(100, 30)) as terminal:
        terminal.wait_for("resumes")
        yield
        terminal.type("exit\r")
        assert terminal.end() == 0


def _but(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def views(place: Place, session_id: str) -> dict[str, Any]:
    """Return what every view says of the last turn; of ages whether they lie before the errand."""

    def of(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return next(row for row in rows if row.get("id", row.get("session_id")) == session_id)

    info = place.run("session", "info", session_id, "--json").json
    why = place.run("session", "why", session_id, "--json").json
    row = of(place.run("ps", "--all", "--json").json)
    tree = of(place.run("session", "list", "--tree", "--json").json)
    waited = place.run("session", "wait", session_id, "--timeout", "0.1", "--json")
    return {
        "list": of(place.run("session", "list", "--json").json)["status"],
        "tree": (tree["status"], tree["subtree"]["time_s"] if tree["subtree"]["sessions"] == 1 else None),
        "info": (info["status"], info["turns"], info["last_turn"], info["last_activity"], info["running"]),
        "why": (
            why["status"],
            why["last_event"]["type"],
            why["last_event"]["seq"],
            _AGE.sub("AGE", why["why"].split(": its")[0]),
        ),
        "row": {key: row[key] for key in ("status", "turn", "tool", "doing", "elapsed_s")},
        "is-alive": place.run("session", "is-alive", session_id).out,
        "wait": (
            waited.code,
            [{k: v for k, v in each.items() if k not in {"error", "name"}} for each in json.loads(waited.out)],
        ),
        "result": place.run("session", "result", session_id).out,
    }


@pytest.mark.thorough
@pytest.mark.parametrize("make", [finished, lost])
def test_errands_leave_the_turn_as_it_was(place: Place, make: Callable[[Place], str]) -> None:
    """After each of them all views say the same, and the turn's age goes on from where it ended."""
    session_id = make(place)
    before = views(place, session_id)
    began = time.time()
    for errand, words in ERRANDS.items():
        done = place.run(*(session_id if word == "ID" else word for word in words))
        assert done.code == 0, done.err
        assert (errand, views(place, session_id)) == (errand, before)
    with opened(place, session_id):
        pass
    assert views(place, session_id) == before
    assert place.run("run", "--fork-from", session_id, "-q", "another").code == 0
    assert views(place, session_id) == {**before, "tree": (before["tree"][0], None)}
    age_s = place.run("session", "why", session_id, "--json").json["last_event"]["age_s"]
    assert age_s >= time.time() - began


@pytest.mark.thorough
def test_a_closed_session_is_opened_only_if_asked(place: Place) -> None:
    """As any turn there; from then on it is not closed any more."""
    session_id = finished(place)
    assert place.run("close", session_id).code == 0
    with Terminal(place, "open", session_id) as refused:
        assert refused.end() == 5
    assert "closed_at" in place.state(session_id)
    with Terminal(place, "open", "--reopen", session_id, size=(100, 30)) as terminal:
        terminal.wait_for("resumes")
        assert "closed_at" not in place.state(session_id)
        terminal.type("exit\r")
        assert terminal.end() == 0
    assert place.codex("more", "--session", session_id).code == 0


@pytest.mark.thorough
def test_an_open_interface_is_called_that(place: Place) -> None:
    """It is no turn, the views say since when it is open, and the last turn is what it was."""
    session_id = finished(place)
    before = views(place, session_id)
    with opened(place, session_id):
        alive = place.run("session", "is-alive", session_id)
        assert (alive.code, alive.out.startswith("alive: codex, interface open, PID ")) == (0, True), alive.out
        now = views(place, session_id)
        assert now["list"] == now["info"][0] == now["why"][0] == "open"
        assert "the interface of codex is open, since " in now["why"][3]
        assert now["why"][3].endswith("turn 1 ended AGE ago.")
        assert now["info"][1:4] == before["info"][1:4]
        assert now["info"][4]["errand"] == "interface open"
        assert now["row"] == {**before["row"], "status": "open", "doing": "interface open"}
        assert now["tree"] == ("open", before["tree"][1])
        assert "interface open" in place.run("ps").out
        assert "interface open" in place.run("session", "info", session_id).out
        busy = place.run("run", "--session", session_id, "x")
        assert (busy.code, "codex, interface open, since" in busy.err) == (4, True), busy.err
        assert place.run("session", "list", "--status", "open").out.count(session_id) == 1
        assert [row["status"] for row in place.run("session", "list", "--status", "running", "--json").json] == []
    assert views(place, session_id) == before


@pytest.mark.thorough
def test_a_lost_turn_ended_when_it_was_last_heard_of(place: Place) -> None:
    """The end that the next turn writes for it does not count the time since, nor what was done meanwhile."""
    session_id = lost(place)
    duration = views(place, session_id)["row"]["elapsed_s"]
    time.sleep(1.2)
    assert place.run("session", "describe", "-s", session_id, "later").code == 0
    assert place.run("run", "--session", session_id, "two").code == 0
    ended = next(e["data"] for e in place.events(session_id) if e["type"] == "run_finished" and e["turn"] == 2)
    assert (ended["status"], abs(ended["duration_s"] - duration) < 0.1) == ("lost", True), (ended, duration)
