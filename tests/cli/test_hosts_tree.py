"""One tree over hosts: what was placed on another host is shown, waited for and ended from here."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.cli.hosts import place_below, sync
from tests.support import Json, Place


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
