"""`csa land`: the work of sessions comes into the checkout one stands in."""

from __future__ import annotations

import pytest

from tests.cli.worktrees import make_repository, sh, tree_of, work
from tests.support import Place


@pytest.fixture
def repository(place: Place) -> Place:
    return make_repository(place)


def test_two_sessions_change_one_line(repository: Place) -> None:
    """The first lands; the second conflicts with it, and nothing changes; sessions after it are not tried."""
    place = repository
    first = work(place, "echo one > a", "--name", "first")
    second = work(place, "echo two > a; echo more > b", "--name", "second")
    third = work(place, "echo c > c")
    sh(place, "echo mine > mine")
    done = place.run("land", "first", second, third)
    head = sh(place, "git rev-parse HEAD")
    assert done.code == 1
    assert done.out == f"{first} (first): landed 1 commit (a) on main, now {head[:7]}\n"
    assert "error: The work of session second conflicts in a." in done.err
    assert "hint: csa run -s second --repair" in done.err
    assert f"csa: changed there by {head[:7]} of session first: work" in done.err
    assert f"csa: not tried: {third}" in done.err
    assert sh(place, "cat a; git status --porcelain; git log --format=%s") == "one\n?? mine\nwork\nfirst"
    assert tree_of(place, second)["refused"] == {"kind": "conflict", "files": ["a"], "onto": head}
    done = place.run("land", "third", "--json", second, third)
    assert done.code == 3
    done = place.run("land", "--json", second, third)
    conflict, untried = done.json
    assert (conflict["status"], conflict["error"]["kind"], untried["status"]) == ("refused", "conflict", "not_tried")
    assert place.run("land", third, "--dry-run").out == f"{third}: would land 1 commit (c) on main\n"
    assert place.run("land", third, "--squash", "--check", "test -f c").code == 0
    assert sh(place, "git log -1 --format=%B").split("\n") == ["work", "", f"Csa-Session: {third}"]
