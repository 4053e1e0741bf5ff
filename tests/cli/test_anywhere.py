"""A session is found from wherever one stands: from other projects, from worktrees, and when these are gone."""

from __future__ import annotations

import shutil

import pytest

from csa.cli.commands import COMMANDS, command_names
from csa.model.wording import describe
from csa.runner.sessions.observing import LiveProject
from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.store.test_worktrees import git
from tests.support import Place, snapshot

THERE = session_id(5)
IS_THERE = "csa: session there is in "
SELECTS = {"session", "sessions", "session_option", "more", "fork_from", "session_id"}
# The words of each command, and what it exits with; `{}` is the session, which is in another project.
READS: dict[tuple[str, ...], tuple[str, int]] = {
    ("session", "result"): ("{}", 0),
    ("session", "status"): ("{}", 0),
    ("session", "info"): ("{}", 0),
    ("session", "show"): ("{}", 0),
    ("session", "logs"): ("{}", 0),
    ("session", "log"): ("{}", 0),
    ("session", "artifacts"): ("{}", 0),
    ("session", "why"): ("{}", 0),
    ("session", "is-alive"): ("{}", 1),
    ("session", "wait"): ("{}", 0),
    ("session", "attach"): ("{}", 0),
    ("session", "budget"): ("{}", 0),
    ("session", "checkpoints"): ("{}", 0),
    ("session", "validate"): ("{}", 0),
    ("session", "export"): ("--tree -o out.tgz {}", 0),
    ("session", "current"): ("{}", 0),
    ("session", "list"): ("--tree {}", 0),
    ("session", "context"): ("{}", 0),
    ("session", "queue"): ("{}", 0),
    ("session", "diff"): ("{}", 3),  # which needs a git repository
    ("session", "fetch"): ("{}", 2),  # it is on this host
    ("answer",): ("--session {}", 0),
    ("replay",): ("--speed 1000 {}", 0),
    ("template", "save"): ("mine -s {}", 0),
    ("chat",): ("-q --session {}", 0),  # without a prompt
}
ACTS: dict[tuple[str, ...], tuple[str, int]] = {
    ("session", "rename"): ("{} other-name", 0),
    ("session", "describe"): ("{} words", 0),
    ("session", "pin"): ("{}", 0),
    ("session", "seal"): ("{}", 2),  # for whom?
    ("session", "unseal"): ("{}", 0),
    ("session", "close"): ("{}", 0),
    ("session", "prune"): ("--keep-last 1 {}", 0),
    ("session", "clear"): ("{}", 0),
    ("session", "retry"): ("{}", 0),
    ("session", "checkpoint"): ("{}", 0),
    ("session", "repair"): ("{}", 0),
    ("session", "kill"): ("--tree {}", 0),
    ("session", "compress"): ("{}", 0),
    ("land",): ("{}", 5),  # it has no worktree
    ("open",): ("{}", 2),  # which needs a terminal
    ("session", "delete"): ("{}", 0),
    ("run",): ("--tool codex --session {} go", 0),
}
ALL = {**READS, **ACTS}


@pytest.fixture
def other(place: Place) -> Store:
    """Make another project, with a session that is called `there`."""
    project = place.tmp.resolve() / "other"
    (project / ".csa").mkdir(parents=True)
    place.play(["say", "done"])
    made = place.run("run", "--tool", "codex", "--session-id", THERE, "--name", "there", "begin", cwd=project)
    assert made.code == 0, made.err
    return Store(place.state_root, project)


def test_every_command_is_tried() -> None:
    """Whatever names a session is in the table above, or restores or merges some, which have tests of their own."""
    dests = {each.name: {action.dest for action in each.parser()._actions} for each in COMMANDS}  # noqa: SLF001  # no public way
    naming = {name for name, found in dests.items() if SELECTS & found}
    assert naming - {"restore", "merge"} == {command_names()[" ".join(words)].name for words in ALL}


@pytest.mark.thorough
def test_what_reads_finds_it_from_another_project(place: Place, other: Store) -> None:
    """By ten characters in any case; nobody is told where it is, and nothing is written."""
    before = snapshot(other.path)
    for command, (words, code) in READS.items():
        done = place.run(*command, *words.format(THERE[:10].lower()).split())
        assert (command, done.code) == (command, code), done.err
        assert IS_THERE not in done.err
        assert (command, snapshot(other.path)) == (command, before)
    assert place.ids() == []


@pytest.mark.thorough
@pytest.mark.parametrize("command", ACTS, ids=" ".join)
def test_what_acts_finds_it_from_another_project(place: Place, other: Store, command: tuple[str, ...]) -> None:
    """By a full id; who acts there is told so."""
    words, code = ACTS[command]
    done = place.run(*command, *words.format(THERE).split())
    assert done.code == code, done.err
    assert IS_THERE + str(other.project) in done.err
    assert place.ids() == []


@pytest.mark.thorough
def test_what_is_found_nowhere(place: Place, other: Store) -> None:
    """Errors name the project: short prefixes and names are its own, and a name elsewhere is told of."""
    write_session(store_of(place), 7, name="nightly")
    nowhere = place.run("session", "result", "01ZZZZZZZZZZ")
    assert nowhere.code == 3
    assert f"in {place.project}, nor in any other project." in nowhere.err
    short = place.run("session", "result", THERE[:9] + "9")
    assert (short.code, str(place.project) in short.err) == (3, True)
    name = place.run("session", "result", "there")
    assert name.code == 3
    assert f"No session is named 'there' in {place.project}." in name.err
    assert f"did you mean {THERE} in {other.project}?" in name.err
    assert "did you mean 'nightly'?" in place.run("session", "result", "nigthly").err


@pytest.mark.thorough
def test_an_id_that_is_in_two_other_projects(place: Place, other: Store) -> None:
    """It is ambiguous, with both projects; where one stands in one of them, that one is meant."""
    third = place.tmp.resolve() / "third"
    (third / ".csa").mkdir(parents=True)
    write_session(Store(place.state_root, third), 5, description="a copy")
    done = place.run("session", "result", THERE)
    assert done.code == 3
    assert f"in {other.project}" in done.err
    assert f"in {third}" in done.err
    assert f"as in --cd {other.project}" in done.err
    assert "a copy" in place.run("session", "info", THERE, cwd=third).out


@pytest.mark.thorough
def test_retired_ones(place: Place, other: Store) -> None:
    """They are read from anywhere, and restored from anywhere."""
    retire(other, THERE)
    assert place.run("session", "result", THERE).out == "done\n"
    refused = place.run("session", "pin", THERE)
    assert (refused.code, f"of {other.project} is deleted" in refused.err) == (3, True)
    restored = place.run("session", "restore", THERE[:12])
    assert restored.code == 0, restored.err
    assert IS_THERE in restored.err
    assert other.has(THERE)


@pytest.mark.thorough
def test_a_turn_runs_where_its_session_is(place: Place, other: Store) -> None:
    """In its project's directory, with that project's settings, detached too; a fork is begun where one stands."""
    (other.project / ".csa" / "config.toml").write_text("[tools.codex]\nmodel = 'of-other'\n")
    env = {"CSA_CONF_TOOL": "codex"}
    plan = place.run("run", "--dry-run", "--json", "--session", THERE, "go", env=env).json
    assert (plan["project"], plan["cwd"], plan["model"]) == (str(other.project), str(other.project), "of-other")
    assert place.run("run", "--dry-run", "--json", "--session-id", THERE, "go").json["session"] == THERE
    done = place.run("run", "--detach", "--session", THERE[:10], "go")
    assert done.code == 0, done.err
    assert IS_THERE in done.err
    assert place.run("session", "wait", THERE).code == 0
    assert place.state(THERE, other.project)["turns"] == 2
    assert place.ids() == []
    fork = place.run("run", "--dry-run", "--json", "--fork-from", THERE, "go").json
    assert (fork["fork_of"], fork["cwd"], fork["project"]) == (THERE, str(place.project), str(place.project))
    assert place.codex("go", "--fork-from", THERE).code == 0


@pytest.mark.thorough
def test_an_agent_is_bound_from_anywhere(place: Place, other: Store) -> None:
    """It may not act on its own session or one above it, by whatever words, from whatever project."""
    root, env = place.agent()
    child, inner = place.agent("--cd", str(other.project), env=env)
    for words in (["-s", "@self"], ["@self"], [child], [root], ["@root"]):
        assert place.run("session", "delete", *words, env=inner).code == 5, words
        assert place.run("session", "kill", *words, env=inner).code == 5, words
    assert place.run("run", "--session", root, "go", env=inner, cwd=other.project).code == 5
    assert place.run("session", "info", root, env=inner, cwd=other.project).code == 0


def test_trees_show_what_is_in_other_projects(place: Place, other: Store) -> None:
    """Children there stand below their parents, with their sums; so does what those have started in turn."""
    root, env = place.agent()
    child, inner = place.agent("--cd", str(other.project), env=env)
    leaf = place.codex("leaf", env=inner).session_id
    shown = place.run("session", "list", "--tree").out
    assert f"└─ {child}" in shown
    assert f"(in {other.project})" in shown
    assert f"   └─ {leaf}" in shown
    (top, *_) = place.run("session", "list", "--tree", "--json").json
    assert (top["id"], top["subtree"]["sessions"], top["subtree"]["statuses"]) == (root, 3, {"succeeded": 3})
    alone = [item["id"] for item in place.run("session", "list", "--tree", "--json", cwd=other.project).json]
    assert alone == [child, leaf, THERE]


@pytest.mark.thorough
def test_the_live_view_shows_what_is_in_other_projects(place: Place, other: Store) -> None:
    """With who started it, and not what is there besides."""
    root, env = place.agent()
    child, inner = place.agent("--cd", str(other.project), env=env)
    leaf = place.codex("leaf", env=inner).session_id
    rows = LiveProject(store_of(place), describe).family()
    assert {(row.session_id, row.parent, row.project) for row in rows} == {
        (root, None, str(place.project)),
        (child, root, str(other.project)),
        (leaf, child, str(place.project)),
    }


@pytest.mark.thorough
def test_a_turn_that_runs_in_another_project(place: Place, other: Store) -> None:
    """It is watched, waited for and ended from here, by ten characters of its id."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "work", cwd=other.project)
    place.wait_ready()
    short = running.session_id[:16]
    assert place.run("session", "is-alive", short).out.startswith("alive: codex, turn 1")
    assert place.run("session", "wait", "--timeout", "0", short).code == 4
    assert place.run("run", "--tool", "codex", "--session", short, "go").code == 4
    ended = place.run("session", "kill", short)
    assert (ended.code, f"is in {other.project}" in ended.err) == (0, True)
    assert running.wait().code == 130
    assert place.run("session", "why", short).code == 0


@pytest.mark.thorough
def test_one_id_in_two_projects_is_counted_once(place: Place) -> None:
    """Each copy is shown in a tree of its own, sums count it once, and ending a tree leaves the other's alone."""
    here, other = store_of(place), Store(place.state_root, place.tmp.resolve() / "other")
    (other.project / ".csa").mkdir(parents=True)
    child, only_there = session_id(6), session_id(8)
    for store in (here, other):
        write_session(store, 5)
        write_session(store, 6, parent_session_id=THERE, root_session_id=THERE, depth=1)
    write_session(other, 8, parent_session_id=THERE, root_session_id=THERE, depth=1)
    done = place.run("session", "list", "--tree", "--all-projects")
    rows = done.out.splitlines()
    assert [row.split()[0] for row in rows if row.startswith(THERE)] == [THERE, THERE]
    assert done.out.count(child) == 2
    assert done.out.count(only_there) == 1
    assert "3.3k tokens" in rows[-1]
    sums = {
        item["project"]: item["subtree"]["sessions"]
        for item in place.run("session", "list", "--tree", "--all-projects", "--json").json
        if item["id"] == THERE
    }
    assert sums == {str(here.project): 2, str(other.project): 3}
    ended = place.run("session", "kill", "--tree", THERE, "--json").json
    assert {item["project"] for item in ended} == {str(here.project)}
    waited = place.run("session", "wait", "--tree", THERE, "--json", cwd=other.project).json
    assert sorted(item["session_id"] for item in waited) == [THERE, child, only_there]
    assert {item["project"] for item in waited} == {str(other.project)}


@pytest.mark.thorough
def test_sessions_of_worktrees_outlive_them(place: Place) -> None:
    """Two worktrees share the project's sessions; each turn runs where its session began; removal loses none."""
    shutil.rmtree(place.project)
    place.project.mkdir()
    git(place.project, "init", "-q", "-b", "main")
    git(place.project, "commit", "-q", "--allow-empty", "-m", "first")
    one, two = place.tmp.resolve() / "one", place.tmp.resolve() / "two"
    for tree in (one, two):
        git(place.project, "worktree", "add", "-q", str(tree), "-b", tree.name)
    done = place.run("run", "--tool", "codex", "--name", "work", "begin", cwd=one)
    made = done.session_id
    assert place.ids() == [made]
    state = place.state(made)
    assert (state["project_path"], state["branch"]) == (str(place.project), "one")
    assert state["tools"]["codex"]["cwd"] == str(one)
    for tree in (place.project, two):
        assert place.run("session", "result", "work", cwd=tree).code == 0
        assert place.run("run", "--dry-run", "--json", "--session", "work", "go", cwd=tree).json["cwd"] == str(one)
    other_tool = place.run("run", "--dry-run", "--json", "--tool", "claude-code", "--session", "work", "go").json
    assert other_tool["cwd"] == str(one)
    git(place.project, "worktree", "remove", "--force", str(one))
    assert place.run("session", "show", "work", cwd=two).code == 0
    gone = place.run("run", "--session", "work", "go", cwd=two)
    assert gone.code == 3
    assert f"works in {one}, which is gone" in gone.err
    assert f"git worktree add {one} one" in gone.err
    fork = place.codex("go on", "--fork-from", "work")
    assert fork.code == 0, fork.err
    git(place.project, "worktree", "add", "-q", str(one), "one")
    assert place.run("run", "--session", "work", "go", cwd=two).code == 0


@pytest.mark.thorough
def test_what_a_worktree_has_had_for_itself(place: Place) -> None:
    """Sessions that an older csa has kept under a worktree's own path are found, hinted at, and adopted as they are."""
    shutil.rmtree(place.project)
    place.project.mkdir()
    git(place.project, "init", "-q")
    git(place.project, "commit", "-q", "--allow-empty", "-m", "first")
    tree = place.tmp.resolve() / "tree"
    git(place.project, "worktree", "add", "-q", str(tree))
    write_session(Store(place.state_root, tree), 5, name="old")
    assert place.run("session", "result", THERE, cwd=tree).out == "done\n"
    assert f"{THERE} in {tree}" in place.run("session", "result", "old", cwd=tree).err
    assert f"hint: csa adopt {tree}" in place.run("session", "list", cwd=tree).err
    assert place.run("session", "adopt", str(tree), cwd=tree).code == 0
    assert place.run("session", "result", "old", cwd=tree).out == "done\n"
    assert place.state(THERE)["project_path"] == str(place.project)


@pytest.mark.thorough
def test_completion_knows_ids_of_other_projects(place: Place, other: Store) -> None:
    """Where ten characters fit nothing here."""
    assert place.run("__complete", "sessions", THERE[:10]).out.startswith(f"{THERE}\tin {str(other.project)[:40]}")
    assert place.run("__complete", "sessions", THERE[:9]).out == ""
