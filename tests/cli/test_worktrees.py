"""`csa run --worktree`: a session with a checkout of its own, whose work csa commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.worktrees import agent_does, left_of, make_repository, sh, tree_of
from tests.support import CSA, Place, wait_for


@pytest.fixture
def repository(place: Place) -> Place:
    return make_repository(place)


def test_work_in_a_worktree_is_committed_there(repository: Place) -> None:
    """Each turn's work is a commit on the session's branch; the checkout, its branch and its index stay as they are."""
    place = repository
    (place.project / "a").write_text("dirty\n")
    before = sh(place, "git status --porcelain; git rev-parse HEAD main")
    agent_does(place, 'echo one > new; echo "$CSA_WORKTREE" > out.log; pwd > place.log')
    done = place.run(
        "run", "--tool", "codex", "--worktree", "--json", "--name", "fix", "add  a file", cwd=place.project / "sub"
    )
    head = sh(place, "git rev-parse main")
    assert f"worktree: csa/fix from main ({head[:7]})" in done.err
    assert "not in the worktree, as it is not committed: a (--with-changes" in done.err
    session_id, tree = done.json["session_id"], tree_of(place, done.json["session_id"])
    assert Path(tree["path"]) == place.store / "worktrees" / session_id
    assert Path(tree["path"], "sub/place.log").read_text() == f"{tree['path']}/sub\n"
    assert Path(tree["path"], "sub/out.log").read_text() == "1\n"
    message = f"add a file\n\nCsa-Session: {session_id}\nCsa-Turn: 1"
    assert sh(place, "git log -1 --format=%B csa/fix").strip() == message
    assert sh(place, "git show --name-only --format=%P csa/fix").split() == [head, "sub/new"]
    assert done.json["commit"] == done.json["head"] == sh(place, "git rev-parse csa/fix")
    assert place.last_event(session_id)["commit"] == done.json["commit"]
    agent_does(place, "git commit -q --allow-empty -m own; echo two > new")
    assert place.run("run", "-s", session_id, "go on", cwd=Path("/")).code == 0
    assert sh(place, "git log --format=%s csa/fix").split("\n") == ["go on", "own", "add a file", "first"]
    assert sh(place, "git status --porcelain; git rev-parse HEAD main") == before
    assert sh(place, "git for-each-ref --format='%(refname)' refs/csa").split() == [
        f"refs/csa/{session_id}/1",
        f"refs/csa/{session_id}/2",
    ]


def test_a_worktree_that_cannot_be_made_leaves_nothing(repository: Place) -> None:
    """A name that is taken, or none; a checkout without a commit, or no checkout: nothing begins, nothing is left."""
    place = repository
    sh(place, "git branch csa/taken; git branch csa/deep/er; mkdir ../empty; git init -q ../empty")
    before = left_of(place)
    for name, said in {
        "taken": "There is a branch csa/taken already",
        "-x": "'-x' cannot name a branch",
        "a..b": "'a..b' cannot name a branch",
        "deep": "cannot be made",
    }.items():
        done = place.run("run", "--tool", "codex", f"--worktree={name}", "work")
        assert done.code != 0
        assert said in done.err
        assert left_of(place) == before
    for words in (["--ephemeral", "--worktree"], ["--with-changes"], ["--setup", "true"]):
        assert place.run("run", "--tool", "codex", *words, "work").code == 2
    empty = place.run("run", "--tool", "codex", "--worktree", "work", cwd=place.project.parent / "empty")
    assert (empty.code, "has no commit yet" in empty.err) == (2, True)
    assert left_of(place) == before


def test_setup_prepares_the_worktree_before_the_agent(repository: Place) -> None:
    """It fails: the turn failed, the agent was not started, and the next turn runs it again; then never again."""
    place = repository
    agent_does(place, "cat ready.log")
    done = place.run("run", "--tool", "codex", "--worktree", "--setup", "echo no luck; exit 3", "--json", "work")
    assert (done.code, done.json["error"]["kind"]) == (1, "setup")
    assert done.json["error"]["message"] == "setup exited with code 3 (echo no luck; exit 3): no luck"
    session_id = done.json["session_id"]
    assert not [event for event in place.events(session_id) if event["type"] == "tool_call"]
    again = place.run("run", "-s", session_id, "--json", "go on")
    assert again.json["error"]["kind"] == "setup"
    setup = 'test "$PWD" = "$(pwd)"; echo "$CSA_WORKTREE $CSA_SESSION_ID" >> ready.log; echo set up'
    assert place.run("run", "-s", session_id, "--setup", setup, "go on").code == 0
    assert place.run("run", "-s", session_id, "go on").code == 0
    tree = tree_of(place, session_id)
    assert tree["is_ready"]
    assert Path(tree["path"], "ready.log").read_text() == f"1 {session_id}\n"
    assert "set up" in (place.session(session_id) / "output/turn-0003/stderr.log").read_text()


def test_two_that_edit_in_one_checkout(repository: Place) -> None:
    """The second is warned, or refused with `one_writer`; a reader, and a child of one that waits, is not."""
    place = repository
    place.play(*place.hold(), ["say", "held"])
    first = place.start("run", "--tool", "codex", "--name", "first", "hold")
    place.wait_ready()
    place.play(["say", "fine"])
    words = ("run", "--tool", "claude-code")
    beside = place.run(*words, "beside", cwd=place.project / "sub")
    assert "warning: session" in beside.err
    assert "edits in the same checkout: csa run --worktree" in beside.err
    for calm in (["--permission", "read-only"], ["--worktree"]):
        assert "same checkout" not in place.run(*words, *calm, "beside").err
    alone = {"CSA_CONF_ONE_WRITER": "true"}
    refused = place.run(*words, "beside", env=alone)
    assert (refused.code, "one_writer is set" in refused.err) == (4, True)
    waiting = place.start(*words, "--wait", "beside", env=alone)
    wait_for(lambda: "waiting: session" in waiting.err, "it waits")
    place.release()
    assert (first.wait().code, waiting.wait().code) == (0, 0)
    place.play(["run", f"CSA_CONF_ONE_WRITER=true {CSA} run --ephemeral inner 2>&1"], ["say", "done"])
    assert "same checkout" not in place.codex("outer").err
