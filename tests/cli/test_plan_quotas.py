"""Tasks of a plan whose provider's quota is used up: what waits, who takes over, and how a run ends."""

from __future__ import annotations

import pytest

from tests.cli.plans import agents_do, files_on, prompts, run_plan, states, states_now, write_plan
from tests.cli.worktrees import make_repository
from tests.support import Json, Place, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.thorough]


@pytest.fixture
def repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("tests.support.PATIENCE_S", 60)
    return make_repository(place)


def used_up(name: str, *after_s: float, times: int = 1) -> Json:
    """Return the rule by which the agent of a task has done a half when its quota is used up."""
    return {"match": f"do {name}!", "times": times, "do": [["run", f"echo > x-{name}"], ["fail", "quota", *after_s]]}


def test_a_task_waits_for_its_quota_in_its_session(repository: Place) -> None:
    """It is shown as parked, another runs in its place, and it goes on in the same session when the quota resets."""
    place = repository
    write_plan(place, {"a": [], "b": [], "c": ["a"]}, "max_running = 1")
    resumed = f"test -e x-a; test -e {place.tmp}/b-done"
    agents_do(place, {"a": resumed, "b": f"echo > x-b; touch {place.tmp}/b-done", "c": "echo > x-c"}, used_up("a", 8))
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: states_now(place)["a"].startswith("parked until "), "a is parked")
    session_id = place.run("info", "plan.a", "--json").json["session_id"]
    done = running.wait()
    assert (done.code, states(done)) == (0, dict.fromkeys("abc", "merged")), done.err
    assert files_on(place) == ["x-a", "x-b", "x-c"]
    assert (place.run("info", "plan.a", "--json").json["session_id"], len(place.ids())) == (session_id, 4)


def test_another_tool_takes_over(repository: Place) -> None:
    """With `fallback`, the next tool goes on in the same session and worktree, and what needs it follows."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"]}, 'on_quota = "fallback"\nfallback = ["claude-code"]')
    agents_do(place, {"a": "test -e x-a; test $CSA_TOOL = claude-code", "b": "echo > x-b"}, used_up("a", 3600))
    assert states(run_plan(place)) == dict.fromkeys("ab", "merged")
    assert files_on(place) == ["x-a", "x-b"]
    info = place.run("info", "plan.a", "--json").json
    assert ([*info["tools"]], len(place.ids())) == (["codex", "claude-code"], 3)


def test_a_run_that_does_not_wait(repository: Place) -> None:
    """With `fail`, it ends with exit code 8, the task parked until the quota resets; the next run goes on."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"], "d": []}, 'on_quota = "fail"')
    agents_do(place, {"a": "test -e x-a", "b": "echo > x-b", "d": "echo > x-d"}, used_up("a", 3600))
    done = run_plan(place, code=8)
    found = states(done)
    assert (found["a"].startswith("parked until "), found["b"], found["d"]) == (True, "waiting for a", "merged")
    assert states_now(place) == found
    assert states(run_plan(place)) == dict.fromkeys("abd", "merged")
    assert prompts(place, "plan.a")[1].startswith("Your last turn ended before the task was done")


def test_a_failure_beside_a_quota(repository: Place) -> None:
    """Where more than quotas is in the way the exit code is 1; so it is when nobody says when a quota resets."""
    place = repository
    write_plan(place, {"a": [], "b": []}, 'on_quota = "fail"\nretries = 0')
    failing = {"match": "do b!", "do": [["fail", "500"]], "times": 1}
    agents_do(place, {"a": "true", "b": "true"}, used_up("a", 3600), failing)
    found = states(run_plan(place, code=1))
    assert (found["a"].startswith("parked until "), found["b"]) == (True, "failed")
    write_plan(place, {"t": []}, 'on_quota = "wait"')
    agents_do(place, {}, used_up("t", times=9))
    done = run_plan(place, code=1)
    assert states(done) == {"t": "failed"}
