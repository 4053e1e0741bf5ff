"""Commands over a whole tree: `logs -f --tree`, `delete --tree`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Place, wait_for


@pytest.fixture
def tree(place: Place) -> Iterator[str]:
    """Start a turn whose agent starts another one, which waits; return its session."""
    place.script(
        {"match": "inner", "do": [["say", "inner begins"], *place.hold(), ["say", "inner ends"]]},
        {
            "match": "outer",
            "do": [["run", "csa run --tool claude-code --name inner 'the inner work'"], ["say", "over"]],
        },
    )
    running = place.start("run", "--tool", "codex", "--name", "outer", "the outer work")
    place.wait_ready()
    yield running.session_id
    place.release()
    running.wait()


def test_the_log_of_a_tree(place: Place, tree: str) -> None:
    """`logs -f --tree` prints what happens in all sessions of the tree, in order, and ends when all have ended."""
    following = place.start("logs", "-f", "--tree", "outer")
    wait_for(lambda: "inner begins" in following.out, "the child's message")
    place.release()
    done = following.wait()
    assert (done.code, done.err) == (0, "")
    lines = [line.split(maxsplit=3) for line in done.out.splitlines()]
    assert {line[0] for line in lines} == {"outer", "inner"}
    whose = [(line[0], line[3]) for line in lines]
    order = [
        ("outer", "started codex: the outer work"),
        ("inner", "started claude-code: the inner work"),
        ("inner", "inner begins"),
        ("inner", "inner ends"),
        ("inner", "succeeded: inner ends"),
        ("outer", "over"),
        ("outer", "succeeded: over"),
    ]
    assert [line for line in whose if line in order] == order
    assert place.run("logs", "--tree", "outer").out == done.out
    assert place.run("logs", "--tree", "--tail", "2", "outer").out.splitlines() == done.out.splitlines()[-2:]
    assert place.run("logs", "--tree", "inner").out.count("outer  ") == 0
    assert place.run("logs", "--tree", "--json", "outer").code == 2


@pytest.mark.thorough
def test_deleting_a_tree(place: Place, tree: str) -> None:
    """`delete --tree` takes a session and all below it, or nothing while one runs or is pinned; all come back."""
    done = place.run("rm", "--tree", "outer")
    assert (done.code, "nothing was deleted" in done.err) == (4, True)
    place.release()
    place.run("wait", "outer")
    place.run("pin", "inner")
    assert place.run("rm", "--tree", "outer").code == 5
    assert len(place.published()) == 2
    place.run("pin", "--off", "inner")
    other = place.codex("stays").session_id
    inner = place.run("ls", "-q", "--tree", "inner").out.strip()
    items = place.run("rm", "--tree", "outer", "--json").json
    assert [(each["session_id"], each["done"]) for each in items] == [(inner, "removed"), (tree, "removed")]
    assert place.published() == [other]
    assert place.run("restore", "--tree", "outer").out.splitlines() == [f"restored {each}" for each in (tree, inner)]
    assert place.run("rm", "inner").code == 0
    assert place.run("restore", "inner").out == f"restored {inner}\n"
    assert place.run("rm", "--tree", "inner", "outer").out.splitlines() == [f"removed {each}" for each in (inner, tree)]


@pytest.mark.thorough
def test_deleting_a_tree_that_runs(place: Place, tree: str) -> None:
    """With --force what runs is killed first; an agent cannot delete the tree it is in."""
    steps = [["run", "csa rm --force --tree @root; echo code $?"], ["say", "done"]]
    place.script({"match": "", "do": steps})
    mine = place.codex("delete yourself").session_id
    assert "code 5" in place.run("show", "--full", mine).out
    done = place.run("rm", "--tree", "--force", "outer")
    assert done.code == 0, done.err
    assert place.published() == [mine]
