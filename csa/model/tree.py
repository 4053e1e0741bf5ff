"""Genealogy: sessions arranged below their parents. Pure, and safe against missing parents and cycles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from csa.structs import Struct, field

T = TypeVar("T")


class Node(Struct, Generic[T], frozen=False):
    """A session and its children, in the order given; `item` is None for a parent that is not there.

    `session_id` is its key: the id, with the project behind it for a second session of that id (see `tell_apart`).
    """

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


_Kin = tuple[str, str, str | None, str | None]


def tell_apart(entries: Sequence[_Kin]) -> list[tuple[str, str | None]]:
    """Return a key for each `(id, project, parent id, parent's project or None)`, and that of its parent.

    An id may be in several projects, after an import. Each then stands in a tree of its own project's; a copy whose
    parent is not there is a root, so that no parent has a child twice.
    """
    projects: dict[str, list[str]] = {}
    for session_id, project, _, _ in entries:
        projects.setdefault(session_id, []).append(project)
    if len(projects) == len(entries):
        return [(session_id, parent) for session_id, _, parent, _ in entries]
    found: list[tuple[str, str | None]] = [(_key(projects, each[0], each[1]), None) for each in entries]
    taken = set[tuple[str, str]]()
    for at in sorted(range(len(entries)), key=lambda at: not _has_parent_there(projects, entries[at])):
        session_id, project, parent, elsewhere = entries[at]
        if parent is not None:
            above = _key(projects, parent, elsewhere or project)
            if (session_id, above) not in taken:
                taken.add((session_id, above))
                found[at] = found[at][0], above
    return found


def _key(projects: dict[str, list[str]], session_id: str, project: str) -> str:
    known = projects.get(session_id, [])
    at = known.index(project) if project in known else 0
    return f"{session_id} {project}" if at else session_id


def _has_parent_there(projects: dict[str, list[str]], entry: _Kin) -> bool:
    _, project, parent, elsewhere = entry
    return parent is not None and (elsewhere or project) in projects.get(parent, ())


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
