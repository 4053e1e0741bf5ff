"""The genealogy as a forest."""

from csa.model.tree import Node, build_forest, tell_apart, walk


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
