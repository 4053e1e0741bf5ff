"""`csa plan status` and `csa plan drop`: what has become of a plan's tasks, and what is taken away of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from csa.model.plan import parse_plan
from csa.model.worktree import Task
from tests.cli.plans import agents_do, write_plan
from tests.cli.prepared import session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.cli.worktrees import make_repository, sh
from tests.support import Place, wait_for

RULES = (
    {"match": "Write a", "do": [["run", "echo eins > a"], ["usage", 1000, 100], ["say", "a is eins."]]},
    {"match": "Rewrite a", "do": [["run", "echo zwei > a; echo b > b"], ["usage", 500, 50], ["say", "a is zwei."]]},
    {"match": "Describe", "do": [["say", "Not yet."]]},
    {"match": "Compete", "do": [["run", "echo $CSA_SESSION_ID > c"], ["say", "c"]]},
)
PLAN = """
repairs = 0
max_running = 1
tool = "codex"
[task.first]
prompt = "Write a"
[task.second]
prompt = "Rewrite a"
[task.third]
needs = ["second"]
prompt = "Describe"
"""


def run_plan(place: Place, text: str, *, code: int) -> Place:
    """Make a repository with the plan in it, and run that."""
    make_repository(place)
    place.script(*RULES)
    (place.project / "plan.toml").write_text(text)
    sh(place, "git add plan.toml && git commit -qm plan")
    done = place.run("plan", "run", "plan.toml")
    assert done.code == code, (done.out, done.err)
    return place


@pytest.fixture
def conflicting(place: Place) -> Place:
    """Two tasks that were based on the same commit, and changed the same file; the second did so later."""
    make_repository(place)
    place.script(*RULES)
    (place.project / "plan.toml").write_text(PLAN.replace("max_running = 1\n", ""))
    sh(place, "git add plan.toml && git commit -qm plan")
    assert place.run("plan", "run", "plan.toml").code == 1
    return place


@pytest.mark.parametrize("columns", [40, pytest.param(60, marks=pytest.mark.thorough), 120])
def test_a_table_that_fits(place: Place, columns: int) -> None:
    """Each task has a line, whether it ran, waits or was never reached."""
    store = store_of(place)
    plan = parse_plan(tomllib.loads(PLAN), place="plan.toml", read=str)
    write_session(store, 1, tools=("plan",), name="plan-plan")
    kin: dict[str, Any] = {"parent_session_id": session_id(1), "root_session_id": session_id(1), "depth": 1}
    for number, (name, status) in enumerate((("first", "succeeded"), ("second", "failed")), 2):
        task = Task(name=name, digest=plan.tasks[name].digest)
        write_session(store, number, name=f"plan.{name}", task=task, status=status, **kin)
    (place.project / "plan.toml").write_text(PLAN)
    with Terminal(place, "plan", "status", "plan.toml", size=(columns, 24)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert [line[10:18].ljust(8) for line in lines[1:4]] == ["finished", "failed  ", "blocked "]
    assert lines[4].startswith("0 of 3 tasks merged or done")


@pytest.mark.thorough
def test_an_agent_drops_only_what_it_has_started(place: Place) -> None:
    """What the agents of others have done is not taken away by one that has not asked for it."""
    make_repository(place)
    _, owner = place.agent()
    _, stranger = place.agent()
    write_plan(place, {"one": []})
    agents_do(place, {"one": "echo 1 > t1"})
    assert place.run("plan", "run", "plan.toml", env=owner).code == 0
    refused = place.run("plan", "drop", "plan.toml", "--force", env=stranger)
    assert (refused.code, "was not started by the calling session" in refused.err) == (5, True)
    assert sh(place, "git rev-parse csa/plan-plan")
    dropped = place.run("plan", "drop", "plan.toml", "--force", env=owner)
    assert (dropped.code, "dropped plan-plan" in dropped.out) == (0, True), (dropped.out, dropped.err)


@pytest.mark.thorough
def test_status_and_drop(conflicting: Place) -> None:
    """Each task has its state, lines and cost; what is merged is taken away, the rest stays, and is named."""
    place = conflicting
    found = place.run("plan", "status", "--json").json
    states = {task["task"]: task for task in found["tasks"]}
    merged, other = sorted(("first", "second"), key=lambda name: states[name]["state"], reverse=True)
    assert (states[merged]["state"], states[other]["words"]) == ("merged", f"conflict with {merged}: a")
    assert states["third"]["words"] in {"blocked by second", "merged"}
    lines = {"first": (1, 1), "second": (2, 1)}
    assert {name: (unit["added"], unit["removed"]) for name in lines for unit in states[name]["sessions"]} == lines
    assert states["first"]["usage"]["input_tokens"] == 1000
    assert found["would_conflict"] == []
    text = place.run("plan", "status", "plan").out
    assert f"! {other}" in text
    assert "tasks merged or done, plan failed" in text.splitlines()[-1]
    done = place.run("plan", "drop", "plan.toml")
    assert (done.code, f"plan.{other}: " in done.err, "plan-plan: " in done.err) == (5, True, True)
    tip = sh(place, f"git rev-parse csa/plan.{other}")
    assert place.run("plan", "drop", "plan.toml", "--force").code == 0
    assert sh(place, "git for-each-ref --format='%(refname)' refs/heads") == "refs/heads/main"
    session_id = states[other]["sessions"][0]["session_id"]
    assert tip in sh(place, f"git for-each-ref --format='%(objectname)' refs/csa/{session_id}/")
    assert place.run("plan", "drop", "plan.toml").err.startswith("csa: nothing to drop")


@pytest.mark.thorough
def test_tasks_that_would_conflict(place: Place) -> None:
    """While tasks run, those that change the same line are named; the plan cannot be dropped meanwhile."""
    make_repository(place)
    hold = [["touch", str(place.tmp / "begun")], ["wait-file", str(place.tmp / "go"), 30]]
    place.script(
        {"match": "Write a", "do": [["run", "echo eins > a"], ["touch", str(place.tmp / "one")], *hold[1:]]},
        {"match": "Rewrite a", "do": [["run", "echo zwei > a"], ["touch", str(place.tmp / "two")], *hold[1:]]},
    )
    (place.project / "plan.toml").write_text(PLAN.replace("max_running = 1\n", ""))
    running = place.start("plan", "run", "plan.toml")
    for name in ("one", "two"):
        wait_for((place.tmp / name).exists, f"{name} has changed a")
    found = place.run("plan", "status", "plan.toml", "--json").json
    assert found["would_conflict"] == [{"sessions": ["first", "second"], "files": ["a"]}]
    assert place.run("plan", "drop", "plan.toml").code == 4
    with Terminal(place, "plan", "status", "--watch", size=(60, 12)) as terminal:
        terminal.wait_for("first and second would conflict: a")
        terminal.type("q")
        assert terminal.end() == 0
    (place.tmp / "go").touch()
    assert running.wait().code == 1


@pytest.mark.thorough
def test_a_race_and_its_lines(place: Place) -> None:
    """The alternatives stand below their task, each with its lines; they do not conflict with each other."""
    race = 'tools = ["codex", "claude-code"]\nprompt = "Compete"\n'
    run_plan(place, f"[task.race]\n{race}", code=1)
    found = place.run("plan", "status", "--json").json
    assert [unit["name"] for unit in found["tasks"][0]["sessions"]] == ["race.codex", "race.claude-code"]
    assert (found["tasks"][0]["state"], found["would_conflict"]) == ("to_choose", [])
    for columns in (40, 60, 80, 120):
        with Terminal(place, "plan", "status", size=(columns, 24)) as terminal:
            assert terminal.end() == 0
        lines = terminal.text.splitlines()
        assert all(len(line) <= columns for line in lines)
        assert [line[:9].rstrip() for line in lines[1:4]] == ["! race", "  ✓ codex", "  ✓ claud"]
    assert place.run("plan", "run", "plan.toml", "--take", "race.codex").code == 0
    found = place.run("plan", "status", "--json").json
    assert [unit["words"] for unit in found["tasks"][0]["sessions"]] == ["merged", "finished"]
    assert found["would_conflict"] == []


@pytest.mark.thorough
def test_which_plan(place: Place) -> None:
    """A file that never ran, no plan at all, a session that is none, and a plan whose file is gone."""
    make_repository(place)
    assert place.run("plan", "status").code == 3
    (place.project / "plan.toml").write_text(PLAN)
    assert "to do" in place.run("plan", "status", "plan.toml").out
    assert place.run("plan", "status", "plant.toml").code == 3
    assert place.run("plan", "drop", "plan.toml").code == 3
    place.script(*RULES)
    place.run("run", "--tool", "codex", "--name", "other", "Describe")
    assert place.run("plan", "status", "other").code == 2
    place.run("plan", "run", "plan.toml")
    Path(place.project / "plan.toml").unlink()
    assert "merged" in place.run("plan", "status").out
    assert "merged" in place.run("plan", "status", "plan-plan").out


@pytest.mark.thorough
def test_a_file_stands_for_the_plan_that_was_run_from_it(place: Place) -> None:
    """Two files of one name are two plans, whatever they are called; what another one has done is not told or taken."""
    run_plan(place, '[task.first]\ntool = "codex"\nprompt = "Write a"\n', code=0)
    other = place.project / "sub" / "plan.toml"
    other.write_text('tool = "codex"\n[task.first]\nprompt = "Describe"\n')
    for words in (("status",), ("drop",), ("run", "--dry-run")):
        refused = place.run("plan", words[0], "sub/plan.toml", *words[1:])
        assert (refused.code, "that of another plan" in refused.err, "--name" in refused.err) == (2, True, True)
    assert place.run("plan", "run", "sub/plan.toml", "--name", "other").code == 0
    found = place.run("plan", "status", "sub/plan.toml", "--json").json
    assert (found["plan"], [task["state"] for task in found["tasks"]]) == ("other", ["merged"])
    assert place.run("plan", "status", "plan.toml", "--json").json["plan"] == "plan"
    assert place.run("run", "--tool", "codex", "--name", "plan-mine", "Describe").code == 0
    other.rename(place.project / "mine.toml")
    stranger = place.run("plan", "status", "mine.toml")
    assert (stranger.code, "is not a plan's" in stranger.err) == (2, True)
    other.write_text('[task.first]\nprompt_file = "gone"\n')
    assert place.run("plan", "drop", "sub/plan.toml").code == 6
    assert "dropped plan-other" in place.run("plan", "drop", "other").out
