"""Sessions inside sessions: who is whose parent, what an agent is told, and what it may not do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.support import Json, Place

UNUSED = "01JH4QWERT1234567890ABCDEF"


def listed(place: Place, project: Path | None = None) -> dict[str, Json]:
    """Return what `session list --json` says, by description."""
    done = place.run("session", "list", "--json", cwd=project)
    return {item["description"]: item for item in done.json}


def test_real_nesting(place: Place) -> None:
    """Three levels of agents that call csa: depth, parent and root are recorded, and every answer comes back up."""
    place.script(
        {"match": "leaf", "do": [["say", "leaf answer"]]},
        {"match": "middle", "do": [["run", "csa run --tool codex leaf"], ["say", "middle answer"]]},
        {
            "match": "top",
            "do": [["run-parallel", ["csa run -q --tool claude-code middle", "csa run -q --tool codex leaf2"]]],
        },
    )
    done = place.codex("top", "--json")
    top, middle, leaf, leaf2 = (listed(place)[name] for name in ("top", "middle", "leaf", "leaf2"))
    assert top["id"] == done.json["session_id"]
    assert [item["depth"] for item in (top, middle, leaf, leaf2)] == [0, 1, 2, 1]
    assert [item["parent_session_id"] for item in (top, middle, leaf)] == [None, top["id"], middle["id"]]
    assert [item["root_session_id"] for item in (top, middle, leaf)] == [None, top["id"], top["id"]]
    assert [item["children"] for item in (top, middle, leaf)] == [2, 1, 0]
    outputs = [e["data"].get("content", "") for e in place.events(top["id"]) if e["type"] == "tool_call_update"]
    assert sorted(outputs) == ["leaf answer\n", "middle answer\n"]


@pytest.mark.thorough
def test_tree_view(place: Place) -> None:
    """`session list --tree` shows children below their parents, and those of a missing one below a mark."""
    root, env = place.agent()
    child = place.codex("the child", env=env).session_id
    shown = place.run("session", "list", "--tree").out.splitlines()
    assert shown[0].startswith(root)
    assert shown[1].startswith(f"└─ {child}")
    (place.session(root)).rename(place.tmp / "aside")
    shown = place.run("session", "list", "--tree").out.splitlines()
    assert shown[0].startswith(f"{root}  (missing)")
    assert shown[1].startswith(f"└─ {child}")


@pytest.mark.thorough
def test_environment_of_a_root(place: Place) -> None:
    """The tool of a root session is told id, depth, project, directories, its own name; there is no parent."""
    session_id, env = place.agent()
    assert env == {
        "CSA_SESSION_ID": session_id,
        "CSA_DEPTH": "0",
        "CSA_PROJECT_ROOT": str(place.project),
        "CSA_SESSION_DIR": str(place.session(session_id)),
        "CSA_OUTPUT_DIR": str(place.session(session_id) / "output" / "turn-0001"),
        "CSA_TOOL": "codex",
        "CSA_STATE_DIR": str(place.state_root),
    }


@pytest.mark.thorough
def test_environment_of_a_child(place: Place) -> None:
    """A child's tool is told its own id and depth, and its parent; the parent's values do not shine through."""
    root, env = place.agent()
    child, inner = place.agent(env={**env, "CSA_DEPTH": "77", "CSA_TOOL": "claude-code"})
    assert inner["CSA_SESSION_ID"] == child
    assert inner["CSA_PARENT_SESSION"] == root
    assert (inner["CSA_DEPTH"], inner["CSA_TOOL"]) == ("1", "codex")
    assert inner["CSA_SESSION_DIR"] == str(place.session(child))


@pytest.mark.thorough
def test_outer_markers_are_removed(place: Place) -> None:
    """Variables by which an outer agent would confuse the tool are gone; the user's own stay."""
    markers = {
        "CLAUDECODE": "1",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "CLAUDE_CODE_SESSION_ID": "x",
        "CODEX_THREAD_ID": "x",
        "CODEX_CI": "1",
        "AI_AGENT": "claude-code",
        "CSA_DEPTH": "3",
    }
    seen = place.tmp / "env"
    place.play(["write-env", str(seen)])
    for tool in ("codex", "claude-code"):
        outer = {name: value for name, value in markers.items() if not name.startswith("CSA_")}
        assert place.run("run", "--tool", tool, "hello", env={**outer, "EDITOR": "vi"}).code == 0
        env = json.loads(seen.read_text())
        assert not set(outer) & set(env)
        assert env["EDITOR"] == "vi"
        assert env["PWD"] == str(place.project)


@pytest.mark.thorough
def test_child_in_another_project(place: Place) -> None:
    """With --cd a child lives in another project's store, and knows its parent all the same."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    place.script(
        {"match": "inner", "do": [["write-env", str(place.tmp / "env")], ["say", "done"]]},
        {"match": "outer", "do": [["run", f"csa run --tool codex --cd {other} inner"]]},
    )
    root = place.codex("outer").session_id
    (child,) = place.ids(other)
    genealogy = place.state(child, other)["genealogy"]
    assert (genealogy["parent_session_id"], genealogy["root_session_id"], genealogy["depth"]) == (root, root, 1)
    env = json.loads((place.tmp / "env").read_text())
    assert env["CSA_PROJECT_ROOT"] == env["PWD"] == str(other)
    assert env["CSA_PARENT_SESSION"] == root
    # A grandchild back in the first project: the chain holds across both.
    inside = {name: value for name, value in env.items() if name.startswith("CSA_")}
    done = place.run("run", "--tool", "codex", "--cd", str(place.project), "back", env=inside, cwd=other)
    genealogy = place.state(done.session_id)["genealogy"]
    assert (genealogy["parent_session_id"], genealogy["root_session_id"], genealogy["depth"]) == (child, root, 2)
    # It may not resume its grandparent, though that is in another project than its parent.
    _, deep = place.agent(env=inside)
    refused = place.run("run", "--session", root, "more", env=deep, cwd=place.project)
    assert refused.code == 5


@pytest.mark.thorough
def test_depth_limit(place: Place) -> None:
    """At max_depth a further child is refused: exit 5 with limit, value and record, and nothing is created."""
    place.env["CSA_CONF_MAX_DEPTH"] = "1"
    _, env = place.agent()
    child, inner = place.agent(env=env)
    before = place.ids()
    for changes in ({}, {"CSA_DEPTH": "0"}, {"CSA_CONF_MAX_DEPTH": "9"}):
        done = place.run("run", "--tool", "codex", "too deep", env={**inner, **changes})
        assert done.code == 5
        assert "max_depth is 1" in done.err
        assert child in done.err
    as_json = place.run("run", "--tool", "codex", "--json", "too deep", env=inner)
    assert as_json.json["error"]["code"] == "refused"
    assert place.ids() == before


@pytest.mark.thorough
def test_default_depth_limit(place: Place) -> None:
    """By default depths 0 to 5 exist, in real nesting; the sixth level is told why not."""
    place.play(["run", "csa run --tool codex down 2>&1"], ["say", "up"])
    place.codex("down")
    depths = sorted(item["depth"] for item in place.run("session", "list", "--json").json)
    assert depths == [0, 1, 2, 3, 4, 5]
    deepest = next(i["id"] for i in place.run("session", "list", "--json").json if i["depth"] == 5)
    (update,) = [e for e in place.events(deepest) if e["type"] == "tool_call_update"]
    assert "max_depth is 5" in update["data"]["content"]


GARBLED: list[dict[str, str | None]] = [
    {"CSA_SESSION_DIR": None},
    {"CSA_SESSION_DIR": ""},
    {"CSA_SESSION_DIR": "relative"},
    {"CSA_SESSION_DIR": "/tmp"},
    {"CSA_SESSION_DIR": "/no/such/directory"},
    {"CSA_SESSION_ID": None},
    {"CSA_SESSION_ID": ""},
    {"CSA_SESSION_ID": "garbage"},
    {"CSA_SESSION_ID": UNUSED},
    {"CSA_SESSION_ID": None, "CSA_SESSION_DIR": None},
    {"CSA_STATE_DIR": "/no/such/root"},
]


@pytest.mark.thorough
def test_garbled_identity_fails_closed(place: Place) -> None:
    """Missing or garbled CSA_* variables never make a new root: exit 5, a hint, and nothing is created."""
    session_id, env = place.agent()
    for changes in GARBLED:
        done = place.run("run", "--tool", "codex", "hello", env={**env, **changes})
        assert done.code == 5, (changes, done.err)
        assert "hint: " in done.err
        assert place.ids() == [session_id]


@pytest.mark.thorough
def test_identity_outside_the_state_root(place: Place) -> None:
    """A record forged outside the state root is no parent, and neither is one under another id."""
    session_id, env = place.agent()
    forged = place.tmp / session_id
    forged.mkdir()
    (forged / "state.toml").write_bytes((place.session(session_id) / "state.toml").read_bytes())
    assert place.run("run", "--tool", "codex", "x", env={**env, "CSA_SESSION_DIR": str(forged)}).code == 5
    renamed = place.store / "sessions" / UNUSED
    renamed.mkdir()
    (renamed / "state.toml").write_bytes((place.session(session_id) / "state.toml").read_bytes())
    changes: dict[str, str | None] = {"CSA_SESSION_ID": UNUSED, "CSA_SESSION_DIR": str(renamed)}
    assert place.run("run", "--tool", "codex", "x", env={**env, **changes}).code == 5


def test_damaged_parent_fails_closed(place: Place) -> None:
    """An agent whose own record is damaged gets no child."""
    session_id, env = place.agent()
    (place.session(session_id) / "state.toml").write_text("meta_session_id = ")
    assert place.run("run", "--tool", "codex", "x", env=env).code == 5
    assert place.ids() == [session_id]


@pytest.mark.thorough
def test_own_lineage_cannot_be_resumed(place: Place) -> None:
    """A session may resume neither itself nor an ancestor, however it is named; a child of its own it may."""
    root, env = place.agent()
    middle, inner = place.agent(env=env)
    ways = [["--session", root[:-1].lower()], ["--session-id", root], ["--session", "@root"], ["--session", "@parent"]]
    ways += [["--session", middle], ["--session", middle.lower()], ["--session-id", middle.lower()], ["-s", "@self"]]
    for words in ways:
        done = place.run("run", *words, "more", env=inner)
        assert done.code == 5, (words, done.err)
    assert [place.state(name)["turns"] for name in (root, middle)] == [1, 1]
    assert place.run("session", "result", "-s", root, env=inner).out == "noted\n"
    leaf = place.codex("leaf", env=inner).session_id
    assert place.run("run", "--session", leaf, "more", env=inner).code == 0


@pytest.mark.thorough
def test_selectors_of_the_caller(place: Place) -> None:
    """@self, @parent and @root mean the calling session's; @last its own newest child."""
    root, env = place.agent()
    middle, inner = place.agent(env=env)
    leaf = place.codex("leaf", env=inner).session_id
    for selector, meant in {"@self": middle, "@parent": root, "@root": root, "@last": leaf}.items():
        done = place.run("session", "is-alive", selector, "--json", env=inner)
        assert done.json["session_id"] == meant, selector
    assert place.run("session", "is-alive", "@parent", env=env).code == 3
    assert place.codex("more", "--last", env=inner).session_id == leaf
    assert place.codex("more", "--last").session_id == root


@pytest.mark.thorough
def test_selectors_of_the_caller_in_another_project(place: Place) -> None:
    """They are the same wherever the agent stands, and whatever is asked of them."""
    root, env = place.agent()
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    middle, inner = place.agent("--cd", str(other), env=env)
    vendor = place.project / "vendor"
    (vendor / ".csa").mkdir(parents=True)
    ask = partial(place.run, env=inner, cwd=vendor)
    for selector, meant in {"@self": middle, "@parent": root, "@root": root}.items():
        for words in ("info", "is-alive", "why", "budget"):
            assert ask("session", words, selector, "--json").json.get("session_id", meant) == meant
        assert ask("session", "result", "-s", selector).out == "noted\n"
        assert "noted" in ask("session", "show", selector).out
        assert ask("session", "validate", selector).code == 0
        assert ask("run", "--session", selector, "more").code == 5
        assert ask("session", "compress", selector).code == 5
        assert ask("session", "delete", "--force", selector).code == 5
    assert place.ids(other) == [middle]


@pytest.mark.thorough
def test_permission_is_at_most_the_parents(place: Place) -> None:
    """More than the parent's permission is refused when asked for, and cut down when it is the default."""
    argv = place.tmp / "argv"
    root, env = place.agent("--permission", "read-only")
    place.play(["write-argv", str(argv)])
    before = place.ids()
    for asked in ("edit", "full"):
        done = place.run("run", "--tool", "codex", "--permission", asked, "x", env=env)
        assert done.code == 5
        assert root in done.err
    assert place.ids() == before
    child = place.codex("x", env=env).session_id
    assert place.state(child)["permission"] == "read-only"
    assert json.loads(argv.read_text())[json.loads(argv.read_text()).index("--sandbox") + 1] == "read-only"


@pytest.mark.thorough
def test_permission_may_be_less(place: Place) -> None:
    """A child may have less than its parent, and its own children are bound by that."""
    _, env = place.agent()
    child, inner = place.agent("--permission", "read-only", env=env)
    assert place.state(child)["permission"] == "read-only"
    assert place.run("run", "--tool", "codex", "--permission", "edit", "x", env=inner).code == 5


@pytest.mark.thorough
def test_permission_is_not_raised_by_resuming(place: Place) -> None:
    """Resuming a more powerful session from a weaker one is cut down to the caller's level."""
    strong = place.codex("x", "--permission", "full").session_id
    _, env = place.agent("--permission", "read-only")
    argv = place.tmp / "argv"
    place.play(["write-argv", str(argv)])
    assert place.run("run", "--session", strong, "more", env=env).code == 0
    assert "--dangerously-bypass-approvals-and-sandbox" not in json.loads(argv.read_text())


@pytest.mark.thorough
def test_ephemeral_leaves_nothing(place: Place) -> None:
    """An ephemeral turn answers, and leaves no session and no conversation of the tool."""
    for tool in ("codex", "claude-code"):
        done = place.run("run", "--tool", tool, "--ephemeral", "hello")
        assert (done.code, done.out) == (0, "FAKE ECHO: hello [turns=1]\n")
    assert place.ids() == []
    assert place.run("session", "list").out == "No sessions found\n"
    assert list(place.home.rglob("*.json")) == []


@pytest.mark.parametrize("end", ["fail", "signal"])
def test_ephemeral_leaves_nothing_when_it_fails(place: Place, end: str) -> None:
    """The same when the turn fails or its tool dies."""
    place.play(["fail", "500"] if end == "fail" else ["signal-self", "KILL"])
    assert place.run("run", "--tool", "codex", "--ephemeral", "--retries", "0", "hello").code == 1
    assert place.ids() == []


@pytest.mark.thorough
def test_ephemeral_session_exists_while_it_runs(place: Place) -> None:
    """While it runs an ephemeral session is as visible as any, and its agent can have children."""
    place.script(
        {"match": "inner", "do": [["say", "x"]]}, {"match": "outer", "do": [["run", "csa run --tool codex inner"]]}
    )
    assert place.codex("outer", "--ephemeral").code == 0
    (child,) = place.ids()
    assert place.state(child)["genealogy"]["depth"] == 1
