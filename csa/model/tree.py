"""Genealogy: sessions arranged below their parents. Pure, and safe against missing parents and cycles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from csa.structs import Struct, field

T = TypeVar("T")


class Node(Struct, Generic[T], frozen=False):
    """A session and its children, in the order given; `item` is None for a parent that is not there."""

    session_id: str
    item: T | None
    children: list[Node[T]] = field(default_factory=list)


def build_forest(items: Sequence[tuple[str, str | None, T]]) -> list[Node[T]]:
    """Arrange `(id, parent id, item)`, keeping their order among siblings.

    Children of an unknown parent stand below a node without an item; of a cycle, the first member given becomes a root.
    """
    nodes: dict[str, Node[T]] = {session_id: Node(session_id, item) for session_id, _, item in items}
    parents = {session_id: parent for session_id, parent, _ in items}
    roots: list[Node[T]] = []
    missing: dict[str, Node[T]] = {}
    for session_id, parent, _ in items:
        if parent is None or _leads_back(session_id, parents):
            parents[session_id] = None
            roots.append(nodes[session_id])
        elif parent in nodes:
            nodes[parent].children.append(nodes[session_id])
        else:
            if parent not in missing:
                missing[parent] = Node(parent, None)
                roots.append(missing[parent])
            missing[parent].children.append(nodes[session_id])
    return roots


def _leads_back(start: str, parents: dict[str, str | None]) -> bool:
    seen: set[str] = set()
    at = parents.get(start)
    while at is not None and at not in seen:
        if at == start:
            return True
        seen.add(at)
        at = parents.get(at)
    return False


def walk(nodes: Iterable[Node[T]]) -> Iterable[Node[T]]:
    """Yield every node, parents before children."""
    stack = list(nodes)[::-1]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))
