"""`csa plan run`: the tasks of a plan, each an agent in a worktree of its own, merged one after the other."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.plans import BRANCH, agents_do, files_on, files_on_if_any, prompts, run_plan, states, write_plan
from tests.cli.worktrees import make_repository, sh
from tests.conftest import REPOSITORY
from tests.support import CSA, Json, Place, wait_for

_DIAMOND = {"docs": ["api", "ui"], "api": ["schema"], "ui": ["schema"], "schema": []}


pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("tests.support.PATIENCE_S", 60)
    return make_repository(place)


def test_a_plan_is_merged_beside_the_checkout(repository: Place) -> None:
    """Its task works in a worktree, and is merged into the plan's branch; the checkout stays as it is."""
    place = repository
    write_plan(place, {"a": []})
    agents_do(place, {"a": "echo > x-a"})
    assert states(run_plan(place)) == {"a": "merged"}
    assert (files_on(place), (place.project / "x-a").exists()) == (["x-a"], False)


@pytest.mark.thorough
def test_a_task_starts_from_the_work_of_one_that_it_needs(repository: Place) -> None:
    """It is told the answer of that as a quotation; both are merged, and the checkout stays as it is."""
    place = repository
    before = sh(place, "git rev-parse HEAD")
    write_plan(place, {"api": ["schema"], "schema": []}, 'check = "test -e x-schema"')
    agents_do(place, {"schema": "echo > x-schema", "api": "test -e x-schema; echo > x-api"})
    done = run_plan(place)
    assert list(states(done).items()) == [("schema", "merged"), ("api", "merged")]
    assert files_on(place) == ["x-api", "x-schema"]
    assert (sh(place, "git rev-parse HEAD"), (place.project / "x-api").exists()) == (before, False)
    asked = prompts(place, "plan.api")[0]
    mark = asked.split("between the two lines ")[1].split(",")[0]
    assert asked.startswith("do api!\n\nWhat the tasks before this one have answered")
    assert asked.endswith(f"{mark}\nschema:\nschema is done\n{mark}")


@pytest.mark.thorough
def test_tasks_start_from_the_work_of_those_they_need(repository: Place) -> None:
    """A diamond of tasks is merged; run again, there is nothing to do."""
    place = repository
    write_plan(place, _DIAMOND, 'check = "test -e x-schema"')
    agents_do(
        place,
        {
            "schema": "echo > x-schema",
            "api": "test -e x-schema; test ! -e x-ui; echo > x-api",
            "ui": "test -e x-schema; echo > x-ui",
            "docs": "test -e x-api; test -e x-ui; echo > x-docs",
        },
    )
    done = run_plan(place)
    assert states(done) == dict.fromkeys(("schema", "api", "ui", "docs"), "merged")
    assert list(states(done)) == ["schema", "api", "ui", "docs"]
    assert files_on(place) == ["x-api", "x-docs", "x-schema", "x-ui"]
    asked = prompts(place, "plan.docs")[0]
    mark = asked.split("between the two lines ")[1].split(",")[0]
    assert f"{mark}\napi:\napi is done\n\nui:\nui is done\n{mark}" in asked
    again = run_plan(place, "--json")
    assert (again.json["tool"], again.json["turn"], len(place.ids())) == ("plan", 2, 5)


@pytest.mark.thorough
def test_a_plans_session_is_not_for_prompts(repository: Place) -> None:
    """It cannot be continued by hand, nor its tool be asked for; its name belongs to its file."""
    place = repository
    write_plan(place, {"a": []})
    agents_do(place, {"a": "echo > x-a"})
    run_plan(place)
    refused = place.run("run", "-s", "plan-plan", "hello")
    assert (refused.code, "csa plan run " in refused.err) == (5, True)
    unknown = place.run("run", "--tool", "plan", "hello")
    assert (unknown.code, "csa plan run FILE" in unknown.err) == (2, True)
    assert '"plan"' not in place.run("tools", "--json").out
    other = place.project / "sub" / "plan.toml"
    other.write_text((place.project / "plan.toml").read_text())
    taken = place.run("plan", "run", "sub/plan.toml")
    assert (taken.code, "that of another plan" in taken.err, "--name" in taken.err) == (2, True, True)
    assert place.run("plan", "run", "sub/plan.toml", "--name", "other").code == 0
    assert files_on(place, "csa/plan-other") == ["x-a"]


@pytest.mark.thorough
def test_what_fails_blocks_only_what_needs_it(repository: Place) -> None:
    """All others are merged; the exit code is 1, and another run goes on where the failed one stopped."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"], "c": ["b"], "d": []}, "retries = 0")
    failing = {"match": "do a!", "do": [["run", "echo > x-a"], ["fail", "500"]], "times": 1}
    agents_do(place, {"a": "test -e x-a", "b": "echo > x-b", "c": "echo > x-c", "d": "echo > x-d"}, failing)
    done = run_plan(place, code=1)
    assert states(done) == {"a": "failed", "b": "blocked by a", "c": "blocked by b", "d": "merged"}
    assert "3 of 4 tasks are not done: a (failed), b (blocked by a)" in done.err
    assert states(run_plan(place)) == dict.fromkeys("abcd", "merged")
    assert files_on(place) == ["x-a", "x-b", "x-c", "x-d"]
    assert [prompt.split(".")[0] for prompt in prompts(place, "plan.a")] == [
        *("do a!", "Your last turn ended before the task was done")
    ]


@pytest.mark.thorough
def test_a_conflict_that_is_not_repaired(repository: Place) -> None:
    """It names the task whose work is in the way, and the file; what does not need it goes on."""
    place = repository
    write_plan(place, {"a": [], "b": [], "c": ["b"], "d": []}, "repairs = 0\nmax_running = 4")
    ready = "while [ ! -e {0} ]; do sleep 0.01; done"
    agents_do(
        place,
        {
            "a": "echo a > x",
            "b": f"{ready.format(place.tmp / 'a-merged')}; echo b > x",
            "c": "echo > x-c",
            "d": "echo > x-d",
        },
    )
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: "x" in files_on_if_any(place), "a is merged")
    (place.tmp / "a-merged").touch()
    done = running.wait()
    assert done.code == 1, done.err
    found = states(done)
    assert found == {"a": "merged", "b": "conflict with a: x", "c": "blocked by b", "d": "merged"}


@pytest.mark.thorough
def test_a_conflict_and_a_failed_check_are_repaired(repository: Place) -> None:
    """Each goes back to the agent that made it, in its own session, and is merged then; the check sees the whole."""
    place = repository
    write_plan(place, {"a": [], "b": [], "c": ["b"]}, "max_running = 4\ncheck = 'test ! -e bad'")
    repairs: tuple[Json, ...] = (
        {"match": "conflicts with what has happened", "do": [["run", "echo both > x"], ["say", "resolved"]]},
        {"match": "was not accepted: its check failed", "do": [["run", "rm bad; echo > x-c"], ["say", "corrected"]]},
    )
    merged = place.tmp / "a-merged"
    scripts = {"a": "echo a > x", "b": f"while [ ! -e {merged} ]; do sleep 0.01; done; echo b > x", "c": "echo > bad"}
    agents_do(place, scripts, *repairs)
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: "x" in files_on_if_any(place), "a is merged")
    merged.touch()
    done = running.wait()
    assert (done.code, states(done)) == (0, {"a": "merged", "b": "merged", "c": "merged"}), done.out + done.err
    assert (files_on(place), sh(place, f"git show {BRANCH}:x")) == (["x", "x-c"], "both")
    assert [place.run("info", f"plan.{name}", "--json").json["turns"] for name in "abc"] == [1, 2, 2]


@pytest.mark.thorough
def test_edited_tasks(repository: Place) -> None:
    """One that is merged is run again in a new session; one that is not goes on in its own; no other is touched."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"]}, "retries = 0")
    failing = {"match": "do b!", "do": [["run", "echo > x-b"], ["fail", "500"]], "times": 1}
    agents_do(place, {"a": "echo > x-a", "A2": "test -e x-a; echo > x-a2", "B2": "test -e x-b"}, failing)
    assert states(run_plan(place, code=1)) == {"a": "merged", "b": "failed"}
    path = place.project / "plan.toml"
    path.write_text(path.read_text().replace("do a!", "do A2!").replace("do b!", "do B2!"))
    first = place.run("info", "plan.b", "--json").json["session_id"]
    assert states(run_plan(place)) == {"a": "merged", "b": "merged"}
    assert files_on(place) == ["x-a", "x-a2", "x-b"]
    assert place.run("info", "plan.b", "--json").json["session_id"] == first
    assert prompts(place, "plan.b")[1].startswith("The task has changed since your last turn")
    assert prompts(place, "plan.a") == ["do A2!"]
    assert prompts(place, "plan.a-1") == ["do a!"]
    run_plan(place, "--fresh", "b")
    assert prompts(place, "plan.b-1")[0].startswith("do b!")


@pytest.mark.thorough
def test_a_race_waits_for_a_choice(repository: Place) -> None:
    """Each tool works in a worktree of its own; nothing is merged until one is taken, then what needs it goes on."""
    place = repository
    write_plan(place, {"a": [], "b": ["a"]}, a='tools = ["codex", "claude-code"]')
    agents_do(place, {"a": "echo > x-$CSA_TOOL", "b": "test -e x-claude-code; echo > x-b"})
    assert states(run_plan(place, code=1)) == {"a": "finished, to be chosen", "b": "blocked by a"}
    assert files_on(place) == []
    both = run_plan(place, "--take", "a.claude-code", "--take", "a.codex", code=2)
    assert "a.codex is to be taken, too" in both.err
    assert states(run_plan(place, "--take", "a.claude-code")) == {"a": "merged", "b": "merged"}
    assert "a.claude-code is merged" in run_plan(place, "--take", "a.codex", code=2).err
    assert files_on(place) == ["x-b", "x-claude-code"]
    assert "is no alternative of a race" in place.run("plan", "run", "plan.toml", "--take", "b").err


@pytest.mark.thorough
def test_each_line_without_git(place: Place) -> None:
    """Tasks that only read need no repository; a further run runs the new lines alone."""
    agents_do(place, {}, {"match": "read ", "do": [["say", "seen"]]})
    words = ("plan", "run", "--each", "-", "--name", "files", "--no-worktree", "--tool", "codex", "read {}")
    done = place.run(*words, stdin=b"one.py\ntwo.py\n")
    assert (done.code, sorted(states(done).values())) == (0, ["done", "done"]), done.err
    again = place.run(*words, stdin=b"one.py\ntwo.py\nthree.py\n")
    assert (again.code, len(place.ids())) == (0, 4), again.err
    assert {place.state(each)["permission"] for each in place.ids()} == {"read-only"}


@pytest.mark.thorough
def test_max_running(repository: Place) -> None:
    """Of twelve tasks never more than three run at once."""
    place = repository
    names = [f"t{number:02}" for number in range(12)]
    write_plan(place, {name: [] for name in names}, "max_running = 3")
    log = place.tmp / "log"
    agents_do(place, {name: f"echo begin >> {log}; echo > x-{name}; sleep 0.05; echo end >> {log}" for name in names})
    assert place.popen([CSA, "plan", "run", "plan.toml", "--quiet"]).wait(120) == 0
    running = most = 0
    for line in log.read_text().splitlines():
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert 1 < most <= 3  # how many depends on the machine
    assert len(files_on(place)) == 12


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_ends_its_agents_and_can_go_on(repository: Place, number: int) -> None:
    """However csa ends, so do the agents; what they have left is kept, and they go on with it."""
    place = repository
    write_plan(place, {"a": [], "b": []})
    hold = {"match": "do a!", "times": 1, "do": [["run", "echo > x-a"], *place.hold()]}
    agents_do(place, {"a": "test -e x-a", "b": "echo > x-b"}, hold)
    running = place.start("plan", "run", "plan.toml")
    place.wait_ready()
    wait_for(lambda: "x-b" in files_on_if_any(place), "b is merged")
    running.signal(number)
    assert running.wait().code == (130 if number == signal.SIGINT else -number)
    place.wait_until_empty(within_s=5)
    assert place.run("info", "plan.a", "--json").json["status"] in {"cancelled", "lost"}
    assert states(run_plan(place)) == {"a": "merged", "b": "merged"}
    assert files_on(place) == ["x-a", "x-b"]


@pytest.mark.thorough
def test_what_a_dry_run_says(repository: Place) -> None:
    """The tasks in their order, and what would be done for each; nothing is made."""
    place = repository
    write_plan(place, {"b": ["a"], "a": [], "c": []})
    plans: list[dict[str, Any]] = place.run("plan", "run", "plan.toml", "b", "--dry-run", "--json").json
    assert [(each["task"], each["would"], each["state"]) for each in plans] == [
        ("a", "run", "to do"),
        ("b", "run", "waiting for a"),
    ]
    assert (place.ids(), sh(place, "git branch --list 'csa/*'")) == ([], "")
    assert Path(place.project / "plan.toml").exists()


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.long
def test_kills_at_random_instants() -> None:
    """However often csa is killed, the plan ends with the same tree, and nothing that a turn has committed is lost."""
    torture = [sys.executable, str(REPOSITORY / "bench" / "torture.py"), "plans", "--instants", "6"]
    done = subprocess.run(torture, capture_output=True, check=False, timeout=880)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@pytest.mark.thorough
def test_names_that_are_taken(repository: Place) -> None:
    """What an earlier plan of the name has left makes room; a session that is of no plan stays, and is named."""
    place = repository
    write_plan(place, {"a": []})
    agents_do(place, {"a": "echo > x-a"})
    run_plan(place)
    assert place.run("rm", "--force", "plan-plan").code == 0
    done = run_plan(place)
    assert (states(done), "its earlier session is plan.a-1 now" in done.err) == ({"a": "merged"}, True)
    write_plan(place, {"a": [], "b": []})
    assert place.run("run", "--tool", "codex", "--name", "plan.b", "do a!").code == 0
    done = run_plan(place, code=1)
    assert states(done) == {"a": "merged", "b": "failed: The session named 'plan.b' is not of this plan."}
    assert "csa rename plan.b OTHER" in done.err


@pytest.mark.thorough
def test_the_setup_of_a_plan(repository: Place) -> None:
    """It prepares the worktrees, as the file says now; an agent that may not do everything cannot name one."""
    place = repository
    write_plan(place, {"a": []}, 'setup = "exit 3"')
    agents_do(place, {"a": "test -e ready.log; echo > x-a"})
    assert states(run_plan(place, code=1)) == {"a": "failed"}
    write_plan(place, {"a": []}, 'setup = "touch ready.log"')
    assert states(run_plan(place)) == {"a": "merged"}
    command = f"{CSA} plan run plan.toml --name nested; echo $? > {place.tmp}/code"
    place.script({"match": "outer", "do": [["run", command], ["say", "."]]})
    place.codex("outer")
    assert (place.tmp / "code").read_text().strip() == "5"


@pytest.mark.thorough
def test_work_that_somebody_has_landed_elsewhere(repository: Place) -> None:
    """The run says what brings the plan there; then it goes on."""
    place = repository
    write_plan(place, {"a": ["z"], "b": ["a"], "z": []}, "repairs = 0", a='check = "test -e x-ok"')
    agents_do(place, {"a": "echo > x-a", "b": "test -e x-a; echo > x-b", "z": "echo > x-z"})
    assert states(run_plan(place, code=1)) == {"z": "merged", "a": "check failed", "b": "blocked by a"}
    assert place.run("land", "plan.a").code == 0
    done = run_plan(place, code=1)
    assert "a was landed elsewhere, not in the plan: csa land plan-plan" in done.err
    assert place.run("land", "plan-plan").code == 0
    assert states(run_plan(place)) == {"z": "merged", "a": "merged", "b": "merged"}


@pytest.mark.thorough
def test_a_task_that_was_to_read_only(repository: Place) -> None:
    """What it leaves in the plan's tree is told, and committed there as what it is."""
    place = repository
    write_plan(place, {"a": [], "r": ["a"]}, r="worktree = false")
    agents_do(place, {"a": "echo > x-a", "r": "echo > x-stray"})
    done = run_plan(place)
    assert "warning: r was to read only, and has left" in done.err
    assert files_on(place) == ["x-a", "x-stray"]
    assert sh(place, f"git log -1 --format=%s {BRANCH}") == "plan plan.toml: 2 tasks"
