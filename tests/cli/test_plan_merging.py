"""What a plan merges, what its check refuses, and `csa land plan.toml`."""

from __future__ import annotations

import pytest

from tests.cli.plans import (
    BRANCH,
    agents_do,
    files_on,
    files_on_if_any,
    run_plan,
    states,
    states_now,
    until,
    write_plan,
)
from tests.cli.worktrees import make_repository, sh
from tests.support import Place, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.thorough]


@pytest.fixture
def repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("tests.support.PATIENCE_S", 60)
    return make_repository(place)


def log(place: Place) -> list[str]:
    return sh(place, "git log --format=%s main").splitlines()


def test_clean_alone_and_red_together(repository: Place) -> None:
    """Two tasks pass the check alone and not together: the second names the first, and not what is merged later."""
    place = repository
    check = "check = 'if test -e x-a; then test ! -e x-b; fi'"
    write_plan(place, {"a": [], "b": [], "c": [], "d": ["b"]}, f"repairs = 0\n{check}")
    b, c = until(place, "b-may"), until(place, "c-may")
    agents_do(place, {"a": "echo > x-a", "b": f"{b}; echo > x-b", "c": f"{c}; echo > x-c", "d": "echo > x-d"})
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: files_on_if_any(place) == ["x-a"], "a is merged")
    (place.tmp / "b-may").touch()
    wait_for(lambda: states_now(place)["b"] == "check failed together with a", "b is refused")
    (place.tmp / "c-may").touch()
    done = running.wait()
    expected = {"a": "merged", "b": "check failed together with a", "c": "merged", "d": "blocked by b"}
    assert (done.code, states(done), states_now(place)) == (1, expected, expected), done.err
    assert files_on(place) == ["x-a", "x-c"]
    agents_do(place, {"d": "echo > x-d"}, {"match": "its check failed", "do": [["run", "mv x-b x-b2"], ["say", "ok"]]})
    path = place.project / "plan.toml"
    path.write_text(path.read_text().replace("repairs = 0", "repairs = 1"))
    assert states(run_plan(place)) == dict.fromkeys("abcd", "merged")
    assert files_on(place) == ["x-a", "x-b2", "x-c", "x-d"]


def test_what_is_outside_of_touches(repository: Place) -> None:
    """A warning names the files; the work is merged nevertheless."""
    place = repository
    write_plan(place, {"a": [], "b": []}, a='touches = ["x-a*"]', b='touches = ["x-b"]')
    agents_do(place, {"a": "echo > x-a1; echo > x-other", "b": "echo > x-b"})
    done = run_plan(place)
    warned = [line for line in done.err.splitlines() if "not to touch" in line]
    assert warned == ["warning: a has changed what it was not to touch: x-other"]
    assert files_on(place) == ["x-a1", "x-b", "x-other"]


def test_a_plan_that_runs_in_the_background(repository: Place) -> None:
    """`csa wait` waits for the whole, and exits as the run would have; a second run is refused meanwhile."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"]}, "retries = 0")
    failing = {"match": "do b!", "do": [["fail", "500"]], "times": 1}
    agents_do(place, {"a": f"{until(place, 'go')}; echo > x-a", "b": "echo > x-b"}, failing)
    run_plan(place, "--detach")
    assert place.run("plan", "run", "plan.toml").code == 4
    (place.tmp / "go").touch()
    assert place.run("wait", "plan-plan").code == 1
    assert states_now(place) == {"a": "merged", "b": "failed"}
    run_plan(place, "--detach")
    assert place.run("wait", "plan-plan").code == 0
    assert files_on(place) == ["x-a", "x-b"]


def test_two_first_runs_at_once(repository: Place) -> None:
    """One begins the plan; the other says that it is running, or finds it done. With --wait it goes on with it."""
    place = repository
    write_plan(place, {"a": [], "b": []})
    agents_do(place, {"a": "echo > x-a", "b": "echo > x-b"})
    both = [place.start("plan", "run", *words, "plan.toml") for words in ([], ["--wait=60"], [])]
    done = [running.wait() for running in both]
    assert ({each.code for each in done} <= {0, 4}, done[1].code) == (True, 0), [(each.code, each.err) for each in done]
    assert (len(place.ids()), files_on(place)) == (3, ["x-a", "x-b"])


def test_a_plan_lands_by_its_file(repository: Place) -> None:
    """It is rebased onto what the branch has become; later tasks begin with that, and land as one commit."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"]})
    agents_do(place, {"a": "echo > x-a", "b": "echo > x-b", "c": "test -e x-b; echo > x-c", "d": "echo > x-d"})
    run_plan(place)
    sh(place, "echo more >> a && git commit -qam mine")
    landed = place.run("land", "plan.toml")
    assert (landed.code, "landed 2 commits" in landed.out) == (0, True), landed.err
    assert log(place) == ["do b!", "do a!", "mine", "first"]
    assert states_now(place) == dict.fromkeys("ab", "merged")
    write_plan(place, {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]})
    assert states(run_plan(place)) == dict.fromkeys("abcd", "merged")
    sh(place, "echo more >> a && git commit -qam again")
    assert place.run("land", "plan.toml", "--squash").code == 0
    assert log(place)[1:] == ["again", "do b!", "do a!", "mine", "first"]
    assert sh(place, "git diff --name-only main^ main").split() == ["x-c", "x-d"]
    assert states_now(place) == dict.fromkeys("abcd", "merged")
    assert sh(place, f"git branch --list {BRANCH}") == ""


def test_a_plan_that_conflicts_with_what_the_user_has_done(repository: Place) -> None:
    """Nothing changes in the checkout, and the file is named; the plan can land once that is out of the way."""
    place = repository
    write_plan(place, {"a": []})
    agents_do(place, {"a": "echo agent > a"})
    run_plan(place)
    sh(place, "echo mine > a && git commit -qam mine")
    refused = place.run("land", "plan.toml")
    assert (refused.code, "conflicts in a" in refused.err, log(place)) == (1, True, ["mine", "first"])
    sh(place, "git revert --no-edit HEAD")
    assert place.run("land", "plan.toml").code == 0
    assert (place.project / "a").read_text() == "agent\n"


def test_a_file_that_names_no_plan_to_land(repository: Place) -> None:
    """One that never ran, one whose name another plan's session has, and one that does not exist."""
    place = repository
    write_plan(place, {"a": []})
    never = place.run("land", "plan.toml")
    assert (never.code, "never ran" in never.err, "csa plan run plan.toml" in never.err) == (3, True, True)
    agents_do(place, {"a": "echo > x-a"})
    run_plan(place)
    other = place.project / "sub" / "plan.toml"
    other.write_text((place.project / "plan.toml").read_text())
    taken = place.run("land", "sub/plan.toml")
    assert (taken.code, "that of another plan" in taken.err) == (2, True)
    assert place.run("land", "none.toml").code == 3
    assert log(place) == ["first"]
