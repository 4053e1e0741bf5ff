"""The genealogy as a forest."""

from csa.model.genealogy import Node, branches, build_forest, descend, nodes_above, prune, tell_apart, walk


def shape(nodes: list[Node[str]]) -> list[object]:
    return [
        [("?" if node.item is None else "") + node.session_id, *([shape(node.children)] if node.children else [])]
        for node in nodes
    ]


def test_children_stand_below_their_parents_in_order() -> None:
    """Siblings keep the order they were given in, wherever their parent stands."""
    forest = build_forest([("c", "a", "C"), ("a", None, "A"), ("b", "a", "B"), ("d", None, "D"), ("e", "b", "E")])
    assert shape(forest) == [["a", [["c"], ["b", [["e"]]]]], ["d"]]
    assert [node.session_id for node in walk(forest)] == ["a", "c", "b", "e", "d"]


def test_a_missing_parent_is_marked_and_keeps_its_children_together() -> None:
    """Deleting a parent does not hide its subtree."""
    forest = build_forest([("b", "gone", "B"), ("c", "gone", "C"), ("d", "b", "D")])
    assert shape(forest) == [["?gone", [["b", [["d"]]], ["c"]]]]


def test_a_cycle_is_broken_at_its_first_member() -> None:
    """Sessions that claim to be each other's parents are still shown, once."""
    forest = build_forest([("b", "c", "B"), ("c", "b", "C"), ("x", "c", "X"), ("s", "s", "S")])
    assert shape(forest) == [["b", [["c", [["x"]]]]], ["s"]]
    assert build_forest([]) == []


def test_ids_that_are_in_two_projects() -> None:
    """Each copy has a key of its own and its own project's parent; no parent has a child twice."""
    assert tell_apart([("p", "A", None, None), ("c", "A", "p", None)]) == [("p", None), ("c", "p")]
    both = [("p", "A", None, None), ("p", "B", None, None), ("c", "A", "p", None), ("c", "B", "p", None)]
    assert tell_apart(both) == [("p", None), ("p B", None), ("c", "p"), ("c B", "p B")]
    child_alone = [("c", "B", "p", None), ("c", "A", "p", None), ("p", "A", None, None)]
    assert tell_apart(child_alone) == [("c", None), ("c A", "p"), ("p", None)]
    elsewhere = [("p", "B", None, None), ("p", "A", None, None), ("c", "C", "p", "A"), ("c", "D", "p", "A")]
    assert tell_apart(elsewhere) == [("p", None), ("p A", None), ("c", "p A"), ("c D", None)]


FAMILY = [("a", None, "A"), ("b", "a", "B"), ("c", "a", "C"), ("d", "b", "D"), ("e", None, "E")]


def test_what_is_kept_of_a_forest_keeps_its_order() -> None:
    """A node whose parent was left out moves up, to the nearest that stays."""
    forest = prune(build_forest(FAMILY), {"a", "c", "d", "e"})
    assert [(node.session_id, [child.session_id for child in node.children]) for node in forest] == [
        ("a", ["d", "c"]),
        ("e", []),
    ]
    assert [node.session_id for node in prune(build_forest(FAMILY), {"d", "c"})] == ["d", "c"]


def test_what_nodes_stand_below() -> None:
    """The nearest first, up to the root."""
    forest = build_forest(FAMILY)
    deep = [node for node in walk(forest) if node.session_id in {"d", "e"}]
    assert [node.session_id for node in nodes_above(forest, deep)] == ["b", "a"]


def test_what_descends() -> None:
    """Some, and what is below them, parents before children; a cycle ends."""
    kin = [("d", "b"), ("b", "a"), ("c", "a"), ("a", None), ("x", "y"), ("y", "x")]
    assert descend(["a"], kin) == ["a", "b", "c", "d"]
    assert descend(["x"], kin) == ["x", "y"]
    assert descend(["z"], kin) == ["z"]


def test_how_a_tree_is_drawn() -> None:
    """Each node with the lines that lead to it; the last piece of them tells how it belongs there."""
    drawn = branches(build_forest(FAMILY), edge=lambda _, child: "╌" if child.session_id == "c" else "─")
    assert [branch.lead + branch.node.session_id for branch in drawn] == ["a", "├─ b", "│  └─ d", "└╌ c", "e"]
