"""One tree over hosts: what was placed on another host is shown, waited for and ended from here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from csa.store.mirrors import Mirror
from tests.cli.hosts import make_old, place_below, sync
from tests.support import Json, Place, Running


class Tree(NamedTuple):
    """Sessions: a root here, one that it has placed on n1, and what that has started there."""

    root: str
    placed: str
    inner: str


@pytest.fixture
def tree(place: Place, remote: Place) -> Tree:
    remote.script({"match": "outer", "do": [["run", "csa run --tool claude-code --name inner 'the inner work'"]]})
    root = place.codex("the root", "--name", "root").session_id
    placed = remote.codex("the outer work", "--name", "kid").session_id
    (inner,) = set(remote.ids()) - {placed}
    place_below(place, remote, root, placed)
    sync(place)
    return Tree(root, placed, inner)


def names(rows: list[Json]) -> list[tuple[str, str | None]]:
    return [(row["name"], row["mirror"]) for row in rows]


WHOLE = [("root", None), ("kid", "n1"), ("inner", "n1")]


def test_a_tree_is_one_over_hosts(place: Place, remote: Place, tree: Tree) -> None:
    """Lists, the card, logs and waiting have all of it, with its usage, also where no host is named."""
    for words in ([], [tree.root[:12].lower()], ["--all-hosts"]):
        rows = place.run("ls", "--json", "--tree", *words).json
        assert names(rows) == WHOLE
        assert (rows[0]["subtree"]["sessions"], rows[0]["subtree"]["usage"]["output_tokens"]) == (
            3,
            sum(row["usage"]["output_tokens"] for row in rows),
        )
    shown = place.run("ls", "--tree").out.splitlines()
    assert [("(on n1)" in line, line.count("─")) for line in shown[:3]] == [(False, 0), (True, 1), (False, 1)]
    (child,) = place.run("status", "--json", "root").json["children"]
    assert (child["session_id"], child["mirror"]) == (tree.placed, "n1")
    assert "the outer work" in place.run("info", "root").out
    assert place.run("logs", "--tree", "root").out.count("started") == 3  # all of them
    waited = place.run("wait", "--json", "--tree", "root")
    assert (waited.code, {each["session_id"] for each in waited.json}) == (0, set(tree))
    for words in (["ls", "--json"], ["ls", "--json", "--all-projects"]):
        assert names(place.run(*words).json) == WHOLE[:1]
    (row,) = place.run("stats", "--json", "--by", "tree", "--all-hosts").json["rows"]
    assert (row["key"], row["sessions"], row["turns"]) == (tree.root, 3, 3)


@pytest.fixture
def running(place: Place, remote: Place, tree: Tree) -> Running:
    """Return a turn of the session on n1, whose agent waits for one that it has started there."""
    remote.script(
        {"match": "wait", "do": remote.hold()}, {"match": "again", "do": [["run", "csa run -s inner 'wait'"]]}
    )
    found = remote.start("run", "-s", tree.placed, "again")
    remote.wait_ready()
    return found


@pytest.mark.thorough
def test_a_tree_is_ended_where_it_runs(place: Place, remote: Place, tree: Tree, running: Running) -> None:
    """`csa kill --tree` ends what was placed on other hosts there, with all below it; nothing is left."""
    found = place.run("kill", "--tree", "--json", "root")
    assert found.code == 0, found.err
    ended = {each["session_id"]: (each["mirror"], each["outcome"], each["status"]) for each in found.json}
    assert ended == {
        tree.root: (None, "not_running", "succeeded"),
        tree.placed: ("n1", "killed", "cancelled"),
        tree.inner: ("n1", "killed", "cancelled"),
    }
    assert running.wait().code != 0
    assert not remote.processes()
    assert remote.last_event(tree.inner)["status"] == "cancelled"
    again = place.run("kill", "n1:kid", tree.inner[:12])
    assert (again.code, again.out.count("not running"), again.out.count("n1:")) == (0, 2, 2)


@pytest.mark.thorough
def test_what_was_not_heard_of_has_not_ended(
    place: Place, remote: Place, tree: Tree, running: Running, mirror: Mirror
) -> None:
    """Of a host that cannot be reached, what ran when it was seen is an error, exit 7; what had ended has ended."""
    sync(place)
    make_old(mirror)
    ssh = Path(place.env["PATH"].partition(os.pathsep)[0]) / "ssh"
    text = ssh.read_text()
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host n1 port 22: No route to host' >&2; exit 255\n")
    for words in (["--tree", "root"], ["n1:kid"]):
        found = place.run("kill", "--json", *words)
        assert (found.code, "No route to host" in found.err) == (7, True)
        known = {each["session_id"]: (each["outcome"], each["status"]) for each in found.json}
        assert known[tree.placed] == ("failed", "away")
    assert place.run("status", "n1:kid", "--json").json["status"] == "away"
    assert place.run("wait", "--tree", "root").code == 4  # nobody here can know
    ssh.write_text(text)
    assert place.run("kill", "--tree", "n1:kid").code == 0
    running.wait()
    sync(place)
    make_old(mirror)
    ssh.write_text("#!/bin/sh\nexit 255\n")
    found = place.run("kill", "--tree", "root")
    assert (found.code, "not running when last seen, 4 min ago; n1 cannot be reached" in found.out) == (0, True)


@pytest.mark.parametrize("said", ["[]", '[{"session_id": "ID", "outcome": "killed", "status": "cancelled"}]'])
@pytest.mark.thorough
def test_what_a_host_could_not_look_at_has_not_ended(place: Place, tree: Tree, said: str) -> None:
    """A host whose csa leaves out a session, or cannot look everywhere, has not ended the tree: that is no success."""
    ssh = Path(place.env["PATH"].partition(os.pathsep)[0]) / "ssh"
    answer = said.replace("ID", tree.placed)
    ssh.write_text(f"#!/bin/sh\necho hello >&2; echo 'error: /x cannot be listed.' >&2; echo '{answer}'; exit 6\n")
    found = place.run("kill", "--tree", "--json", "root")
    assert (found.code, "/x cannot be listed" in found.err) == (7, True), found
    assert [each["error"] is None for each in found.json] == [True, False]


@pytest.mark.thorough
def test_what_no_mirror_has_seen_is_not_forgotten(place: Place, remote: Place, tree: Tree, mirror: Mirror) -> None:
    """A session that was placed, and is in no mirror, is unknown to `csa wait`; `csa kill` asks its host."""
    shutil.rmtree(mirror.pathname)
    assert names(place.run("ls", "--json", "--tree").json) == WHOLE[:1]
    assert place.run("wait", "--tree", "root").code == 4  # unknown
    found = {each["session_id"]: each for each in place.run("kill", "--json", "--tree", "root").json}
    assert (found[tree.placed]["outcome"], found[tree.placed]["mirror"]) == ("not_running", "n1")
    sync(place)
    assert place.run("wait", "--tree", "root").code == 0


@pytest.mark.thorough
def test_deleting_a_tree_leaves_what_is_elsewhere(place: Place, remote: Place, tree: Tree, running: Running) -> None:
    """`csa rm --tree` deletes what is here, and names the rest; nothing while that runs, unless it is forced."""
    sync(place)
    assert place.run("rm", "--tree", "root").code == 4  # busy
    found = place.run("rm", "--tree", "--force", "root")
    assert (found.code, "n1:kid stays on n1" in found.err) == (0, True), found
    running.wait()
    assert not remote.processes()
    assert place.run("show", "n1:kid").code == 0
