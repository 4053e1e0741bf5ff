"""Tasks of plans on other hosts: over an ssh that leads to another home and state root, or a real one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from csa.cli.views.naming import fate_of
from csa.store.mirrors import mirror_for
from csa.store.sessions import Store
from tests.cli.plans import agents_do, files_on, prompts, run_plan, states, states_now, until, write_plan
from tests.cli.test_plan_quotas import used_up
from tests.cli.worktrees import make_repository, sh
from tests.realhosts import Hosts
from tests.realslurm import Cluster
from tests.support import Place, wait_for

pytestmark = pytest.mark.timeout(180)
LEASH_S = 5
ON_N1 = "host = 'n1'"


@pytest.fixture
def repository(place: Place, remote: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a repository here, beside a host n1 with a short leash."""
    monkeypatch.setattr("tests.support.PATIENCE_S", 60)
    config = place.tmp / "own.toml"
    config.write_text(f"[engines.n1]\nleash_s = {LEASH_S}\n")
    place.env["CSA_CONFIG"] = str(config)
    return make_repository(place)


def tasks(place: Place) -> dict[str, dict[str, Any]]:
    """Return what `csa plan status` says of each task."""
    return {each["task"]: each for each in place.run("plan", "status", "plan.toml", "--json").json["tasks"]}


def on_n1(place: Place) -> list[dict[str, Any]]:
    """Return the sessions of n1, newest first."""
    return list(place.run("ls", "--host", "n1", "--json").json)


def fate_there(place: Place, there: dict[str, Any]) -> str:
    """Return what live views say of the work of a session of n1."""
    store = Store(mirror_for(str(place.state_root), "n1").pathname, there["project"])
    return fate_of(store.record(there["session_id"]).examine())


def ssh_of(place: Place) -> Path:
    return place.tmp / "bin" / "ssh"


def test_a_task_on_another_host_is_merged_here(repository: Place) -> None:
    """Its session is there, with the plan's as its parent; its work is merged into the plan's branch, and lands."""
    place = repository
    write_plan(place, {"a": []}, "check = 'test -e x-a'", a=ON_N1)
    agents_do(place, {"a": "echo > x-a"})
    assert states(run_plan(place)) == {"a": "merged"}
    assert files_on(place) == ["x-a"]
    (there,), (plan,) = on_n1(place), place.ids()
    assert (there["name"], there["parent_session_id"]) == ("plan.a", plan)
    task = tasks(place)["a"]
    (unit,) = task["sessions"]
    assert (task["host"], unit["mirror"], unit["session_id"]) == ("n1", "n1", there["session_id"])
    assert (task["state"], unit["added"], unit["removed"]) == ("merged", 1, 0)
    assert fate_there(place, there) == "merged"
    landed = there["worktree"]["landed"]
    assert landed == sh(place, "git rev-parse csa/plan-plan")
    assert f"landed {landed[:7]}" in place.run("status", "n1:plan.a").out
    assert place.run("run", "-s", "n1:plan.a", "again").code == 0
    assert fate_there(place, there) == ""
    assert on_n1(place)[0]["worktree"]["landed"] == landed


@pytest.mark.thorough
def test_a_plan_over_two_hosts(repository: Place) -> None:
    """What needs a task begins with its work and its answer, wherever both are; run again, there is nothing to do."""
    place = repository
    needs = {"a": [], "b": ["a"], "c": ["b"], "r": ["c"]}
    write_plan(place, needs, "setup = 'echo > made.log'", b=ON_N1, r=f"{ON_N1}\nworktree = false")
    agents_do(
        place,
        {
            "a": "echo > x-a",
            "b": "test -e x-a; test -e made.log; echo > x-b",
            "c": "test -e x-b; echo > x-c",
            "r": "ls x-c",
        },
    )
    planned = place.run("plan", "run", "plan.toml", "--dry-run").out.splitlines()
    assert planned[1] == "b  run on n1 (waiting for a, after a)"
    assert states(run_plan(place)) == {"a": "merged", "b": "merged", "c": "merged", "r": "done"}
    assert files_on(place) == ["x-a", "x-b", "x-c"]
    assert "a:\na is done" in prompts(place, "n1:plan.b")[0]
    assert "b:\nb is done" in prompts(place, "plan.c")[0]
    assert place.run("hosts", "--placed", "--json").json == []
    assert states(run_plan(place))["b"] == "merged"
    assert len(on_n1(place)) == 2
    assert "n1" in place.run("plan", "status").out
    assert place.run("ls", "--tree").out.count("(on n1)") == 2
    assert place.run("land", "plan-plan").code == 0
    assert sh(place, "git ls-tree --name-only HEAD") == ".gitignore\na\nsub\nx-a\nx-b\nx-c"
    assert states(run_plan(place))["b"] == "merged"


@pytest.mark.thorough
def test_what_conflicts_is_repaired_on_its_host(repository: Place) -> None:
    """In its own session, with the conflict in its worktree there; likewise what the check finds."""
    place = repository
    write_plan(place, {"a": [], "b": []}, "check = 'test ! -e bad'", b=ON_N1)
    repairs = [
        {"match": "conflicts with what has happened", "do": [["run", "grep '<<<<' x; echo both > x; echo > bad"]]},
        {"match": "its check failed", "do": [["run", "rm bad"]]},
    ]
    agents_do(place, {"a": "echo a > x", "b": f"{until(place, 'merged')}; echo b > x"}, *repairs)
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: states_now(place).get("a") == "merged", "a is merged")
    (place.tmp / "merged").touch()
    done = running.wait()
    assert (done.code, states(done)["b"].partition(" together")[0]) == (1, "check failed"), done.err
    assert tasks(place)["b"]["state"] == "check_failed"
    assert fate_there(place, on_n1(place)[0]) == "check failed"
    assert states(run_plan(place))["b"] == "merged"
    assert fate_there(place, on_n1(place)[0]) == "merged"
    assert sh(place, "git show csa/plan-plan:x") == "both"
    assert len(on_n1(place)) == 1


@pytest.mark.thorough
def test_a_race_on_another_host(repository: Place) -> None:
    """Each alternative has a session there; the one that is chosen is merged."""
    place = repository
    plan = f"[task.a]\nprompt = 'do a!'\ntools = ['codex', 'claude-code']\n{ON_N1}\n"
    (place.project / "plan.toml").write_text(plan)
    agents_do(place, {"a": "echo > x-a"})
    assert states(run_plan(place, code=1)) == {"a": "finished, to be chosen"}
    assert {each["name"] for each in on_n1(place)} == {"plan.a.codex", "plan.a.claude-code"}
    assert states(run_plan(place, "--take", "a.claude-code")) == {"a": "merged"}
    assert files_on(place) == ["x-a"]
    lines = place.tmp / "lines"
    lines.write_text("a\n")
    done = place.run("plan", "run", "--each", str(lines), "do {}!", "--tool", "codex", "--on", "n1", "--name", "each")
    assert done.code == 0, done.err
    assert len(on_n1(place)) == 3


@pytest.mark.thorough
def test_what_begins_again_on_another_host(repository: Place) -> None:
    """A task that was merged and has changed, or with --fresh: in a new session, and the old one stays as it is."""
    place = repository
    write_plan(place, {"a": []}, a=ON_N1)
    agents_do(place, {"a": "echo >> x-a"})
    run_plan(place)
    run_plan(place, "--fresh", "a")
    assert {each["name"] for each in on_n1(place)} == {"plan.a", "plan.a-2"}
    text = (place.project / "plan.toml").read_text()
    (place.project / "plan.toml").write_text(text.replace("do a!", "do a! Now."))
    assert states(run_plan(place)) == {"a": "merged"}
    assert {each["turn"] for each in on_n1(place)} == {1}
    (place.project / "plan.toml").write_text(text.replace(ON_N1, ""))
    assert states(run_plan(place, "--fresh", "a")) == {"a": "merged"}
    assert (len(on_n1(place)), tasks(place)["a"]["sessions"][0]["mirror"]) == (3, None)
    assert sh(place, "git show csa/plan-plan:x-a | wc -l") == "4"


@pytest.mark.thorough
def test_a_host_that_cannot_be_reached(repository: Place) -> None:
    """Its task fails with the next step, the others are merged; when it is there again, the task goes on there."""
    place = repository
    write_plan(place, {"a": [], "b": [], "c": []}, a=ON_N1, b="host = 'nowhere'")
    agents_do(place, {"a": "echo > x-a", "c": "echo > x-c"})
    done = run_plan(place, code=1)
    assert {name: words.partition(":")[0] for name, words in states(done).items()} == {
        "a": "merged",
        "b": "failed",
        "c": "merged",
    }
    assert "nowhere cannot be reached" in done.err
    assert "is nowhere in ~/.ssh/config" in done.err
    assert states_now(place)["b"] == "to do"
    assert place.run("hosts", "--placed", "--json").json == []


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_plan_that_ends_early(repository: Place, how: signal.Signals) -> None:
    """Its agent on another host ends: at once, or when its leash has run out; the next run goes on in its session."""
    place = repository
    write_plan(place, {"a": []}, a=ON_N1)
    begun = place.tmp / "begun"
    first = {"match": "do a!", "do": [["run", f"echo > x-a; touch {begun}; sleep 100"]], "times": 1}
    agents_do(place, {"a": "test -e x-a"}, first)
    running = place.start("plan", "run", "plan.toml")
    wait_for(begun.exists, "it works")
    os.kill(running.pid, how)
    running.wait()
    wait_for(lambda: states_now(place)["a"] in {"stopped", "away"}, "the plan has ended")
    done = run_plan(place)
    assert states(done) == {"a": "merged"}
    (session,) = on_n1(place)
    assert session["turn"] == 2
    assert prompts(place, "n1:plan.a")[1].startswith("Your last turn ended before the task was done")
    assert files_on(place) == ["x-a"]


@pytest.mark.thorough
def test_the_budget_of_a_plan_is_shared_out(repository: Place) -> None:
    """A task gets the part that its table says, or an equal one; what it has not used comes back."""
    place = repository
    write_plan(place, {"a": [], "b": []}, "budget_tokens = 100000", a=ON_N1, b=f"{ON_N1}\nbudget_tokens = 20000")
    ready = {name: place.tmp / f"begun-{name}" for name in "ab"}
    agents_do(place, {name: f"touch {ready[name]}; {until(place, 'go')}; echo > x-{name}" for name in "ab"})
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: all(each.exists() for each in ready.values()), "both work")
    held = [each["held"]["tokens"] for each in place.run("hosts", "--placed", "--json").json]
    assert sorted(held) == [20000, 50000]
    (place.tmp / "go").touch()
    assert running.wait().code == 0
    assert place.run("hosts", "--placed", "--json").json == []


@pytest.mark.thorough
def test_a_quota_on_another_host(repository: Place) -> None:
    """A task waits for it there, in its session, and is shown as parked; another tool takes over; or the run ends."""
    place = repository
    waiting = "on_quota = 'wait'"
    fallback = "on_quota = 'fallback'\nfallback = ['claude-code']"
    write_plan(place, {"a": [], "b": ["a"]}, waiting, a=ON_N1, b=f"{ON_N1}\n{fallback}")
    scripts = {"a": "test -e x-a", "b": "test -e x-b; test $CSA_TOOL = claude-code"}
    agents_do(place, scripts, used_up("a", 8), used_up("b", 3600))
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: states_now(place)["a"].startswith("parked until "), "a is parked")
    done = running.wait()
    assert (done.code, states(done)) == (0, dict.fromkeys("ab", "merged")), done.err
    assert files_on(place) == ["x-a", "x-b"]
    assert {each["name"] for each in on_n1(place)} == {"plan.a", "plan.b"}
    write_plan(place, {"c": []}, "on_quota = 'fail'", c=ON_N1)
    agents_do(place, {"c": "test -e x-c"}, used_up("c", 3600))
    assert states(run_plan(place, code=8))["c"].startswith("parked until ")
    assert states(run_plan(place)) == {"c": "merged"}
    assert place.run("hosts", "--placed", "--json").json == []


@pytest.mark.thorough
def test_a_plan_where_hosts_share_the_files(repository: Place) -> None:
    """A task there has a worktree of the same repository; what it conflicts with is repaired there, and it lands."""
    place = repository
    (place.tmp / "own.toml").write_text(f'[engines.n1]\nleash_s = {LEASH_S}\ncode = "shared"\n')
    write_plan(
        place, {"a": [], "b": [], "c": ["b"]}, "check = 'test ! -e bad'", b=ON_N1, c=f"{ON_N1}\nworktree = false"
    )
    repair = {"match": "conflicts with what has happened", "do": [["run", "grep '<<<<' x; echo both > x"]]}
    scripts = {"a": "echo a > x", "b": f"{until(place, 'merged')}; echo b > x", "c": "ls x"}
    agents_do(place, scripts, repair)
    running = place.start("plan", "run", "plan.toml")
    wait_for(lambda: states_now(place).get("a") == "merged", "a is merged")
    (place.tmp / "merged").touch()
    done = running.wait()
    assert (done.code, states(done)) == (0, {"a": "merged", "b": "merged", "c": "done"}), done.out + done.err
    assert sh(place, "git show csa/plan-plan:x") == "both"
    there = {each["name"]: each for each in on_n1(place)}
    assert there["plan.b"]["branch"] == "csa/plan.b"
    assert there["plan.b"]["turns"] == 2
    assert states(run_plan(place))["b"] == "merged"
    assert place.run("land", "plan-plan").code == 0
    assert sh(place, "cat x") == "both"
    assert place.run("hosts", "--placed", "--json").json == []


@pytest.mark.thorough
@pytest.mark.long
def test_a_plan_over_a_cluster(cluster: Cluster) -> None:
    """A scheduler finds the hosts of its tasks, whose work is merged here; what it goes on with is where it was."""
    a = cluster.a
    make_repository(a)
    cluster.configure(f"leash_s = {LEASH_S}", "queue_s = 2")
    lab = "host = 'lab'"
    write_plan(a, {"x": [], "y": [], "z": ["x", "y"]}, "budget_tokens = 90000", x=lab, y="host = 'lab:n2'", z=lab)
    repair = {"match": "conflicts with what has happened", "do": [["run", "grep '<<<<' both; echo z > both"]]}
    failing = {"match": "do y!", "do": [["run", "echo > x-y"], ["fail", "500"]], "times": 1}
    scripts = {"x": "echo x > both", "y": "test -e x-y; echo y > both", "z": "test -e x-y; grep z both"}
    cluster.play(repair, failing, *({"match": f"do {name}!", "do": [["run", does]]} for name, does in scripts.items()))
    done = run_plan(a, code=1)
    assert states(done) == {"x": "merged", "y": "failed", "z": "blocked by y"}, done.err
    done = run_plan(a)
    assert states(done) == {"x": "merged", "y": "merged", "z": "merged"}, done.err
    (y,) = (row for row in a.run("ls", "--all-hosts", "--json").json if row["name"] == "plan.y")
    assert (y["mirror"], y["turns"]) == ("n2", 3)
    assert sh(a, "git show csa/plan-plan:both") == "z"
    _, agent = a.agent("--permission", "edit")
    cluster.slurm("scontrol", "update", "nodename=n2", "state=drain", "reason=full")
    write_plan(a, {"y": []}, y="host = 'lab:n2'")
    cluster.play({"match": "do y!", "do": [["run", "echo > x-y"]]})
    done = a.run("plan", "run", "plan.toml", "--name", "agents", env=agent)
    assert (done.code, states(done)) == (0, {"y": "merged"}), done.err
    assert "The turn runs here" in done.err
    assert a.run("info", "agents.y", "--json").json["mirror"] is None
    assert a.run("hosts", "--placed", "--json").json == []
    wait_for(lambda: not cluster.jobs(), "the jobs have ended")


@pytest.mark.thorough
def test_a_plan_over_real_hosts_is_killed_and_goes_on(hosts: Hosts) -> None:
    """SIGKILL of a plan while a host is cut off: its agent there ends with its leash; then the plan goes on there."""
    a, n1, n2 = hosts.up("a", "n1", "n2")
    make_repository(a)
    config = a.home / ".config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("".join(f"[engines.{name}]\nleash_s = {LEASH_S}\n" for name in ("n1", "n2")))
    write_plan(a, {"x": [], "y": [], "z": ["x", "y"]}, x=ON_N1, y="host = 'n2'")
    begun = n2.tmp / "begun"
    first = {"match": "do y!", "do": [["run", f"echo > x-y; touch {begun}; sleep 100"]], "times": 1}
    agents_do(n1, {"x": "echo > x-x"})
    agents_do(n2, {"y": "test -e x-y"}, first)
    agents_do(a, {"z": "test -e x-x; test -e x-y; echo > x-z"})
    running = a.start("plan", "run", "plan.toml")
    wait_for(lambda: begun.exists() and states_now(a)["x"] == "merged", "one works, the other is merged", within_s=60)
    n2.cut()
    running.kill()
    wait_for(lambda: n2.run("ps", "--json").json == [], "its turn has ended", within_s=8 * LEASH_S)
    done = run_plan(a, code=1)
    assert (states(done)["x"], states(done)["z"]) == ("merged", "blocked by y")
    assert "n2 cannot be reached" in done.err
    n2.heal()
    assert states(run_plan(a)) == dict.fromkeys("xyz", "merged")
    assert files_on(a) == ["x-x", "x-y", "x-z"]
    assert [each["turn"] for each in a.run("ls", "--host", "n2", "--json").json] == [2]
    assert a.run("hosts", "--placed", "--json").json == []
    wait_for(lambda: not n2.processes(), "what was connected when it was cut off hears that nobody is there")
