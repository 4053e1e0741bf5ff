"""Budgets while turns run: one that is used up ends them, wherever in the tree it was spent."""

from __future__ import annotations

import time

import pytest

from csa.model.usage import Usage
from tests.support import Json, Place, Steps, wait_for

LONG: Steps = [["sleep", 50], ["say", "too late"]]


def warnings(place: Place, session_id: str) -> list[str]:
    found = (event for event in place.events(session_id) if event["type"] == "warning")
    return [event["data"]["message"] for event in found if event["data"]["kind"] == "budget"]


def result(place: Place, session_id: str) -> Json:
    found: Json = place.run("session", "result", session_id, "--json").json
    return found


@pytest.mark.thorough
def test_a_turn_ends_when_it_has_used_its_tokens(place: Place) -> None:
    """The tool's own word during the turn counts; a warning at 80 per cent comes first; what was used is known."""
    place.play(["step", 4000, 100, 0.02], ["sleep", 1], ["step", 1000, 100], *LONG)
    done = place.run("run", "--tool", "opencode", "--budget-tokens", "5000", "--json", "x")
    assert done.code == 5
    told = done.json
    assert (told["status"], told["error"]["kind"]) == ("failed", "budget")
    assert "is used up: 5,200 of 5,000 tokens" in told["error"]["message"]
    assert told["usage"] == Usage(5000, 200, 0, 0.02).to_sum()
    assert f"csa budget {told['session_id']}" in done.err
    nearly = f"the budget of session {told['session_id']} is nearly used up: 4,100 of 5,000 tokens"
    assert warnings(place, told["session_id"]) == [nearly]
    assert f"warning: {nearly}" in done.err
    assert place.run("run", "--session", told["session_id"], "more").code == 5
    assert place.run("session", "wait", told["session_id"]).code == 5


def test_a_success_that_exceeds_a_budget_stays_one(place: Place) -> None:
    """What a tool tells with its end comes too late to end it."""
    place.play(["usage", 9000, 1000], ["say", "done"])
    done = place.run("run", "--tool", "codex", "--budget-tokens", "5000", "x")
    assert (done.code, done.out) == (0, "done\n")


@pytest.mark.thorough
def test_what_children_use_ends_the_whole_tree(place: Place) -> None:
    """A budget of the root ends its own turn and a child's, in another project, when the child has used it up."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    command = f"csa run --tool opencode -q --detach --cd {other} spend"
    place.script(
        {
            "match": "spend",
            "do": [["touch", str(place.ready)], ["step", 2000, 0], ["sleep", 2], ["step", 9000, 0], *LONG],
        },
        {"match": "", "do": [["run", command], *LONG]},
    )
    began = time.monotonic()
    running = place.start("run", "--tool", "codex", "--budget-tokens", "10000", "-q", "--json", "x")
    place.wait_ready()
    done = running.wait()
    assert time.monotonic() - began < 45
    assert (done.code, done.json["error"]["kind"]) == (5, "budget")
    root = done.json["session_id"]
    child = next(path.name for path in (place.state_root / str(other)[1:] / "sessions").iterdir())
    wait_for(lambda: place.run("session", "is-alive", child, "--cd", str(other)).code != 0, "the child ends as well")
    ended = place.run("session", "result", child, "--cd", str(other), "--json").json
    assert (ended["status"], ended["error"]["kind"]) == ("failed", "budget")
    assert root in ended["error"]["message"]


@pytest.mark.thorough
def test_a_time_budget_ends_turns_at_the_moment(place: Place) -> None:
    """The seconds of a waiting parent and of its child add up, and are up for both."""
    place.script(
        {"match": "child", "do": LONG},
        {"match": "", "do": [["run", "csa run --tool codex -q child"], *LONG]},
    )
    done = place.run("run", "--tool", "codex", "--budget-time", "6", "-q", "--json", "x")
    assert (done.code, done.json["error"]["kind"]) == (5, "budget")
    spent = place.run("session", "budget", done.json["session_id"], "--json").json["used"]["time_s"]
    assert 6 <= spent < 6 + 8  # until both have ended: TERM, a grace, the guardian's sweep


@pytest.mark.thorough
def test_no_budget_no_watching(place: Place) -> None:
    """A turn that no budget binds looks at nothing."""
    place.play(["step", 10**9, 0], ["say", "done"])
    assert place.run("run", "--tool", "opencode", "x").code == 0
