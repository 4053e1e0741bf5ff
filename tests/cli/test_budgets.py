"""Budgets of tokens, money and time for a session and all below it, and what `csa session budget` says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.support import Json, Place, snapshot, wait_for

RACERS, AT_ONCE, COST = 50, 4, 100
Env = dict[str, str | None]


def agent(place: Place, *words: str, env: Env | None = None) -> tuple[str, Env]:
    """Run a turn that uses little; return its session and its agent's variables."""
    session_id, seen = place.agent(*words, env=env)
    return session_id, {name: value for name, value in seen.items() if not name.startswith("CSA_CONF_")}


def uses(place: Place, tokens: int) -> None:
    """Have each turn use so many tokens."""
    place.play(["usage", tokens - 10, 10], ["say", "done"])


def budget(place: Place, session_id: str, env: Env | None = None) -> Json:
    done = place.run("session", "budget", "-s", session_id, "--json", env=env)
    assert done.code == 0, done.err
    found: Json = done.json
    return found


@pytest.mark.thorough
def test_a_token_budget_of_a_tree(place: Place) -> None:
    """When root and descendants have used the tokens, no turn of the tree starts: neither new nor resumed, nor deep."""
    root, env = agent(place, "--budget-tokens", "3000")
    _, inner = agent(place, env=env)
    left = budget(place, root)["left"]["tokens"]
    uses(place, left)
    child = place.codex("spends the rest", env=inner).session_id
    for words in (["new"], ["--session", child, "more"]):
        for env_of in (env, inner):
            done = place.run("run", "--tool", "codex", *words, env=env_of)
            assert done.code == 5
            assert f"The budget of session {root} is used up: 3,000 of 3,000 tokens" in done.err
            assert f"csa budget {root}" in done.err
    assert place.run("run", "--session", root, "more").code == 5
    assert len(place.ids()) == 3
    place.codex("another tree has no part in it")


@pytest.mark.thorough
@pytest.mark.timeout(150)  # fifty processes on a busy machine
@pytest.mark.long
def test_fifty_racing_children_and_a_token_budget(place: Place) -> None:
    """A budget is exceeded by no more than what ran when it was reached, however many start at once."""
    root, env = agent(place)
    uses(place, COST)
    limit = budget(place, root)["used"]["tokens"] + COST + 10 * COST
    place.codex("sets the budget", "--session", root, "--budget-tokens", str(limit))
    env |= {"CSA_CONF_MAX_RUNNING": str(AT_ONCE)}
    started = [
        place.start("run", "--tool", "codex", "-q", "--wait", f"racer {number}", env=env) for number in range(RACERS)
    ]
    codes = [running.wait().code for running in started]
    assert set(codes) == {0, 5}
    report = budget(place, root)
    assert report["used"]["tokens"] == limit + COST * (codes.count(0) - 10)
    assert 10 <= codes.count(0) <= 10 + AT_ONCE - 1
    assert report["left"]["tokens"] == 0


def test_a_budget_reaches_into_other_projects(place: Place) -> None:
    """Children by --cd spend the same budget, and are refused by it."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    root, env = agent(place, "--budget-tokens", "2000")
    uses(place, 1900)
    child = place.codex("there", "--cd", str(other), env=env).session_id
    assert place.state(child, other)["genealogy"]["root_session_id"] == root
    done = place.run("run", "--tool", "codex", "--cd", str(other), "again", env=env)
    assert done.code == 5
    assert root in done.err
    accounts = budget(place, root)["sessions"]
    assert {account["project"] for account in accounts} == {str(place.project), str(other)}


@pytest.mark.thorough
def test_ephemeral_and_deleted_children_are_paid_for(place: Place) -> None:
    """What an ephemeral session has used is not refunded when it goes."""
    root, env = agent(place, "--budget-tokens", "5000")
    before = budget(place, root)["used"]["tokens"]
    uses(place, 300)
    place.codex("x", "--ephemeral", env=env)
    report = budget(place, root)
    assert report["used"]["tokens"] == before + 300
    assert [account["state"] for account in report["sessions"]] == ["at_rest", "gone"]
    child = place.codex("y", env=env).session_id
    place.session(child).rename(place.tmp / child)
    report = budget(place, root)
    assert [account["known"] for account in report["sessions"]] == [True, True, False]
    uses(place, 100)
    noted = place.codex("z", env=env).session_id
    warnings = [event["data"]["message"] for event in place.events(noted) if event["type"] == "warning"]
    assert any("the usage of 1 deleted session" in message for message in warnings)


@pytest.mark.thorough
def test_a_budget_of_a_child_is_a_part_of_its_parents(place: Place) -> None:
    """A child's own budget binds it and what is below it; its parent's binds them as well."""
    root, env = agent(place, "--budget-tokens", "9000")
    child, inner = agent(place, "--budget-tokens", "2000", env=env)
    uses(place, 2000)
    leaf = place.codex("spend", env=inner).session_id
    done = place.run("run", "--tool", "codex", "x", env=inner)
    assert done.code == 5
    assert child in done.err
    uses(place, 100)
    place.codex("beside it", env=env)
    report = budget(place, leaf)
    assert [state["session_id"] for state in report["above"]] == [child, root]
    assert report["left"]["tokens"] == 0


@pytest.mark.thorough
def test_an_agent_does_not_change_a_budget(place: Place) -> None:
    """From inside a session the budget of an existing one stays; from outside it is raised, and lifted by 0."""
    root, env = agent(place, "--budget-tokens", "2000", "--budget-time", "600")
    uses(place, 2000)
    child = place.codex("spend", env=env).session_id
    done = place.run("run", "--session", child, "--budget-tokens", "9", "x", env=env)
    assert done.code == 5
    assert "cannot be changed from inside" in done.err
    assert place.run("run", "--session", root, "x").code == 5
    place.codex("go on", "--session", root, "--budget-tokens", "9000")
    assert place.state(root)["budget"] == {"tokens": 9000, "time_s": 600.0}
    place.codex("go on", "--session", root, "--budget-tokens", "0", "--budget-time", "0")
    assert "budget" not in place.state(root)


@pytest.mark.thorough
def test_a_budget_is_set_without_a_turn(place: Place) -> None:
    """`budget` with amounts sets them, and leaves the others; a running session and an agent are refused."""
    root, env = agent(place, "--name", "api", "--budget-tokens", "3000")
    uses(place, budget(place, root)["left"]["tokens"])
    place.codex("spends the rest", env=env)
    assert place.run("run", "--session", "api", "more").code == 5
    report = place.run("budget", "api", "--tokens", "9000", "--usd", "2.5", "--json").json
    assert report["budget"] == {"tokens": 9000, "usd": 2.5, "time_s": None}
    assert report["left"]["tokens"] == 6000
    head = place.run("budget", "api").out.splitlines()[0]
    assert head.endswith(" and all below it: 3,000 of 9,000 tokens, ? of $2.50"), head
    assert place.state(root)["budget"] == {"tokens": 9000, "usd": 2.5}
    assert place.events(root)[-1]["data"]["before"]["tokens"] == 3000
    assert '"budgeted"' in (place.store / "audit.jsonl").read_text()
    assert place.run("budget", "api", "--cost", "0").code == 0
    assert "usd" not in place.state(root)["budget"]
    for wrong in (["--tokens", "-1"], ["--time", "nan"], ["--tokens", "x"]):
        assert place.run("budget", "api", *wrong).code == 2
    assert place.run("budget", "--tokens", "5").code == 2  # which session?
    for amount in ("1", "0"):
        done = place.run("budget", "@self", "--tokens", amount, env=env)
        assert (done.code, "cannot be changed from inside session" in done.err) == (5, True)
    place.play(*place.hold())
    running = place.start("run", "--session", "api", "holds")
    place.wait_ready()
    assert place.run("budget", "api", "--tokens", "5").code == 4
    assert place.run("budget", "api", "--tokens", "5", env=env).code == 5
    place.release()
    assert running.wait().code == 0
    assert place.state(root)["budget"] == {"tokens": 9000}


@pytest.mark.thorough
def test_a_time_budget_bounds_running_turns(place: Place) -> None:
    """The time of all turns counts, and a turn ends when it is up."""
    place.play(["sleep", 30])
    done = place.run("run", "--tool", "codex", "--budget-time", "1", "sleeps", "--json")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (5, "failed", "budget")
    root = done.json["session_id"]
    used = budget(place, root)
    assert used["used"]["time_s"] >= 1
    refused = place.run("run", "--session", root, "more")
    assert refused.code == 5
    assert "seconds" in refused.err


@pytest.mark.thorough
def test_unknown_usage_is_said(place: Place) -> None:
    """Turns whose tool does not tell tokens or money count as nothing, and this is said."""
    root, env = agent(place, "--budget-usd", "5")
    child = place.codex("codex tells no money", env=env).session_id
    warnings = [event["data"]["message"] for event in place.events(child) if event["type"] == "warning"]
    assert any("the cost of" in message for message in warnings) or budget(place, root)["used"]["turns_unpriced"]
    place.play(["signal-self", "KILL"])
    assert place.run("run", "--tool", "codex", "dies", env=env).code == 1
    assert budget(place, root)["used"]["turns_unmeasured"] == 1
    shown = place.run("session", "budget", "-s", root).out
    assert "and 1 turn unknown" in shown
    assert max(map(len, shown.splitlines())) <= 110
    for columns in (40, 60, 80):
        with Terminal(place, "session", "budget", child, size=(columns, 40)) as terminal:
            assert terminal.end() == 0
        assert "turn unknown" in terminal.text
        assert "no budget" in terminal.text
        assert f"session {root[:10]}" in terminal.text  # whose budget binds it too
        assert max(map(len, terminal.text.splitlines())) <= columns


@pytest.mark.thorough
def test_a_running_turn_counts_with_its_time(place: Place) -> None:
    """A turn that still runs is shown as running, with the time it has taken so far."""
    root, env = agent(place, "--budget-time", "600")
    place.play(*place.hold(), ["say", "x"])
    running = place.start("run", "--tool", "codex", "-q", "hold", env=env)
    place.wait_ready()
    wait_for(lambda: budget(place, root)["sessions"][1]["time_s"] > 0.05, "its time counts")
    assert budget(place, root)["sessions"][1]["state"] == "running"
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_a_lost_turn_is_counted(place: Place) -> None:
    """When csa is killed its turn counts with its time, and as one of unknown usage, before and after it is found."""
    root, env = agent(place, "--budget-time", "600")
    place.play(*place.hold(), ["say", "x"])
    running = place.start("run", "--tool", "claude-code", "hold", env=env)  # which tells each run's usage
    place.wait_ready()
    child = running.session_id
    running.kill()
    place.wait_until_empty(within_s=5)
    assert budget(place, root)["used"]["turns_unmeasured"] == 1
    place.release()
    assert place.run("run", "--session", child, "more", env=env).code == 0
    assert budget(place, root)["used"]["turns_unmeasured"] == 1


@pytest.mark.thorough
def test_the_budget_command_only_reads(place: Place) -> None:
    """It takes a session or a usage error, and leaves the store as it was; also of a tree without a list."""
    root, env = agent(place)
    place.codex("child", env=env)
    (place.session(root) / "locks" / "tree.lock").unlink()
    before = snapshot(place.state_root)
    report = budget(place, root)
    assert report["budget"] == {"tokens": None, "usd": None, "time_s": None}
    assert len(report["sessions"]) == 2
    assert place.run("session", "budget", "@self", env=env).code == 0
    assert place.run("session", "budget", "01JH4Q").code == 3
    assert snapshot(place.state_root) == before


@pytest.mark.parametrize(
    "words", [["--budget-tokens", "-1"], ["--budget-tokens", "many"], ["--budget-usd", "nan"], ["--budget-time", "inf"]]
)
def test_a_budget_is_an_amount(place: Place, words: list[str]) -> None:
    """What is no amount is a usage error, and nothing is created."""
    assert place.run("run", "--tool", "codex", *words, "x").code == 2
    assert place.ids() == []


def test_a_damaged_record_fails_closed(place: Place) -> None:
    """Where what a member spent cannot be read, a budgeted tree starts nothing: exit 6 names the file."""
    _, env = agent(place, "--budget-tokens", "9000")
    child = place.codex("child", env=env).session_id
    state: Path = place.session(child) / "state.toml"
    state.write_text("meta_session_id = ")
    done = place.run("run", "--tool", "codex", "x", env=env)
    assert done.code == 6
    assert str(state) in done.err
