"""Limits on sessions and running turns: kept in the records, and exact however many race for the last place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import Place, Running, wait_for

PAIR = 2
ROUNDS = 6


def limits(**values: int) -> dict[str, str | None]:
    """Return the settings as variables."""
    return {f"CSA_CONF_{name.upper()}": str(value) for name, value in values.items()}


def agent(place: Place, *words: str, env: dict[str, str | None] | None = None) -> tuple[str, dict[str, str | None]]:
    """Run a turn; return its session and its agent's variables, without settings: only the record binds."""
    session_id, seen = place.agent(*words, env=env)
    return session_id, {name: value for name, value in seen.items() if not name.startswith("CSA_CONF_")}


def start_all(place: Place, count: int, env: dict[str, str | None], *words: str) -> list[Running]:
    return [place.start("run", "--tool", "codex", "-q", *words, f"child {n}", env=env) for n in range(count)]


def codes(started: list[Running]) -> list[int]:
    return sorted(running.wait().code for running in started)


def children(place: Place, parent: str) -> list[str]:
    found = place.run("session", "list", "--json").json
    return [item["id"] for item in found if item["parent_session_id"] == parent]


@pytest.mark.thorough
def test_two_racing_children_never_exceed_max_children(place: Place) -> None:
    """Round after round two children are started at once for one place: one wins, the other is refused."""
    for round_number in range(ROUNDS):
        root, env = agent(place, env=limits(max_children=1))
        assert codes(start_all(place, PAIR, env)) == [0, 5], round_number
        assert len(children(place, root)) == 1


@pytest.mark.thorough
def test_many_racing_children_never_exceed_max_tree_sessions(place: Place) -> None:
    """Of ten children of a root and of its child, started at once, as many begin as the tree has room for."""
    root, env = agent(place, env=limits(max_tree_sessions=5))
    _, inner = agent(place, env=env)
    started = start_all(place, 5, env) + start_all(place, 5, inner)
    assert codes(started) == [0] * 3 + [5] * 7
    assert len(place.ids()) == 5
    assert sum(item["root_session_id"] == root for item in place.run("session", "list", "--json").json) == 4


@pytest.mark.thorough
def test_a_refusal_names_limit_value_and_record(place: Place) -> None:
    """Exit 5; limit, its value and the session are named; nothing is left, and a session that is there goes on."""
    root, env = agent(place, env=limits(max_children=1, max_tree_sessions=9))
    child = place.codex("one", env=env).session_id
    done = place.run("run", "--tool", "codex", "two", env=env)
    assert done.code == 5
    assert f"max_children is 1: session {root} has 1 child" in done.err
    assert "hint: continue one of them" in done.err
    assert sorted(place.ids()) == sorted([root, child])
    assert place.run("run", "--session", child, "more", env=env).code == 0
    as_json = place.run("run", "--tool", "codex", "--json", "two", env=env)
    assert as_json.json["error"]["code"] == "refused"


@pytest.mark.thorough
def test_the_record_binds_children_whatever_they_set(place: Place) -> None:
    """Environment and configuration of a child can tighten what it inherits, and not loosen it."""
    _, env = agent(place, env=limits(max_children=1))
    _, inner = agent(place, env={**env, **limits(max_children=9)})
    place.codex("one", env={**inner, **limits(max_children=0)})
    assert place.run("run", "--tool", "codex", "two", env={**inner, **limits(max_children=9)}).code == 5


@pytest.mark.thorough
def test_a_project_file_tightens_and_does_not_loosen(place: Place) -> None:
    """The project's config may lower the user's limits; what would raise or lift them is passed over."""
    (place.project / ".csa").mkdir()
    config = place.project / ".csa" / "config.toml"
    user = place.home.parent / "config" / "csa" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("max_children = 2")
    for text, limit in (("max_children = 0", 2), ("max_children = 7", 2), ("max_children = 1", 1)):
        config.write_text(text)
        root, _ = agent(place)
        assert place.state(root)["limits"] == {"max_children": limit}, text


@pytest.mark.thorough
def test_a_user_who_changes_the_limit_resumes_with_the_new_one(place: Place) -> None:
    """From outside of any session the configuration counts anew, so that a limit can be raised for a tree."""
    root, env = agent(place, env=limits(max_children=1))
    place.codex("one", env=env)
    assert place.run("run", "--tool", "codex", "two", env=env).code == 5
    place.codex("go on", "--session", root, env=limits(max_children=2))
    place.codex("two", env=env)
    assert place.state(root)["limits"] == {"max_children": 2}
    place.codex("go on", "--session", root)
    assert "max_children" not in place.state(root).get("limits", {})


@pytest.mark.thorough
def test_children_in_other_projects_count(place: Place) -> None:
    """A tree that goes over projects is one tree."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    root, env = agent(place, env=limits(max_tree_sessions=2))
    place.codex("one", "--cd", str(other), env=env)
    done = place.run("run", "--tool", "codex", "two", env=env)
    assert done.code == 5
    assert f"max_tree_sessions is 2: the tree of session {root} has 2 sessions" in done.err


@pytest.mark.thorough
def test_deleted_sessions_make_room(place: Place) -> None:
    """What is gone, and what was ephemeral, does not count as a session."""
    _, env = agent(place, env=limits(max_children=1))
    for _ in range(2):
        place.codex("x", "--ephemeral", env=env)
    child = place.codex("one", env=env).session_id
    place.session(child).rename(place.tmp / child)
    place.codex("two", env=env)


@pytest.mark.thorough
def test_trees_of_an_older_csa_are_counted(place: Place) -> None:
    """Where a tree has no list of members they are looked for, and listed from then on."""
    root, env = agent(place)
    place.codex("one", env=env)
    (place.session(root) / "locks" / "tree.lock").unlink()
    place.codex("two", env=env)
    assert place.run("run", "--tool", "codex", "three", env={**env, **limits(max_children=2)}).code == 5
    listed = (place.session(root) / "locks" / "tree.lock").read_text().splitlines()
    assert sorted(map(str, (json.loads(line).get("id", "whole") for line in listed))) == sorted(
        [*children(place, root), "whole"]
    )


@pytest.mark.thorough
def test_a_list_that_a_crash_left_half_written(place: Place) -> None:
    """A partial line is passed over, and the next one begins on a line of its own."""
    root, env = agent(place, env=limits(max_children=2))
    roll = place.session(root) / "locks" / "tree.lock"
    with roll.open("ab") as file:
        file.write(b'{"id":"01JH4QWE')
    for _ in range(2):
        place.codex("child", env=env)
    assert place.run("run", "--tool", "codex", "x", env=env).code == 5


def held(place: Place, count: int, env: dict[str, str | None] | None = None, tool: str = "codex") -> list[Running]:
    """Start turns that hold until released, and wait until they do."""
    place.script(
        *({"match": f"hold {n}", "do": [["touch", f"{place.tmp}/up-{n}"], *place.hold()[1:]]} for n in range(count))
    )
    started = [place.start("run", "--tool", tool, "-q", f"hold {n}", env=env) for n in range(count)]
    wait_for(lambda: all((place.tmp / f"up-{n}").exists() for n in range(count)), "they run")
    return started


@pytest.mark.thorough
def test_max_running_of_the_host(place: Place) -> None:
    """Over all projects at most so many turns run; exit 5 names the limit and what runs, and points to --wait."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    running = held(place, 2)
    done = place.run("run", "--tool", "codex", "third", env=limits(max_running=2), cwd=other)
    assert done.code == 5
    assert "max_running is 2" in done.err
    assert all(session_id in done.err for session_id in place.ids())
    assert "--wait" in done.err
    assert not place.ids(other)
    assert place.run("run", "--tool", "codex", "third", "--json", env=limits(max_running=2)).json["error"]["code"] == (
        "full"
    )
    place.codex("a limit that has room", env=limits(max_running=3))
    place.release()
    assert codes(running) == [0, 0]
    place.codex("third", env=limits(max_running=1))


@pytest.mark.thorough
def test_max_running_of_a_tool(place: Place) -> None:
    """`tools.<name>.max_running` counts the turns of that tool alone."""
    user = place.home.parent / "config" / "csa" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[tools.codex]\nmax_running = 1\n")
    running = held(place, 1)
    done = place.run("run", "--tool", "codex", "x")
    assert done.code == 5
    assert "tools.codex.max_running is 1" in done.err
    assert place.run("run", "--tool", "claude-code", "x").code == 0
    place.release()
    assert codes(running) == [0]
    place.codex("x")


@pytest.mark.thorough
def test_max_tree_running(place: Place) -> None:
    """Running turns of a tree are counted by their locks, the root's own included; other trees do not count."""
    root, env = agent(place, env=limits(max_tree_running=1))
    running = held(place, 1, env)
    done = place.run("run", "--tool", "codex", "x", env=env)
    assert done.code == 5
    assert f"max_tree_running is 1, and the tree of session {root} has that many running turns" in done.err
    assert place.run("run", "--session", root, "x", env=limits(max_tree_running=1)).code == 5
    place.codex("another tree", env=limits(max_tree_running=1))
    place.release()
    assert codes(running) == [0]
    place.codex("x", env=env)


@pytest.mark.thorough
@pytest.mark.parametrize("limit", ["max_running", "max_tree_running"])
def test_running_turns_race(place: Place, limit: str) -> None:
    """Of eight turns started at once for three places, three begin, round after round."""
    for round_number in range(2):
        place.go.unlink(missing_ok=True)
        _, env = agent(place)
        place.play(*place.hold(), ["say", "x"])
        started = start_all(place, 8, {**env, **limits(**{limit: 3})})
        wait_for(lambda: sum(r.process.poll() is None for r in started) <= 3, "the others have given up")  # noqa: B023
        place.release()
        assert codes(started) == [0] * 3 + [5] * 5, round_number
        del place.env["FAKE_TOOL_SCRIPT"]


@pytest.mark.thorough
def test_a_killed_csa_gives_its_place_back(place: Place) -> None:
    """After SIGKILL of csa its place is free as soon as its processes are gone, and nothing has to be cleaned."""
    (running,) = held(place, 1)
    assert place.run("run", "--tool", "codex", "x", env=limits(max_running=1)).code == 5
    running.kill()
    place.wait_until_empty(within_s=5)
    place.codex("x", env=limits(max_running=1))
    assert sorted(path.name for path in (place.state_root / ".slots").iterdir()) == ["0001.lock", "lock"]


def test_readers_see_limits_and_write_nothing(place: Place) -> None:
    """`config show` knows the keys; a limit that is no count is an error."""
    shown = place.run("config", "show", "--json", env=limits(max_children=3)).json
    assert shown["max_children"] == {"value": 3, "origin": "CSA_CONF_MAX_CHILDREN", "ignored": None}
    assert place.run("run", "x", env={"CSA_CONF_MAX_RUNNING": "-1"}).code == 6


def test_a_damaged_limit_fails_closed(place: Place) -> None:
    """A record whose limits cannot be read gives no child."""
    root, env = agent(place, env=limits(max_children=1))
    state: Path = place.session(root) / "state.toml"
    state.write_text(state.read_text().replace("max_children = 1", 'max_children = "many"'))
    assert place.run("run", "--tool", "codex", "x", env=env).code == 5
