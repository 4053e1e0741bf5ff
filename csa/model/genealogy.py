"""Genealogy: sessions arranged below their parents, the sums of trees, and how trees are drawn. Pure.

Safe against missing parents and cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from csa.model.usage import Usage
from csa.structs import Struct, field

T = TypeVar("T")
K = TypeVar("K")
Span = tuple[float, float]  # Unix seconds


class Node(Struct, Generic[T], frozen=False):
    """A session and its children, in the order given; `item` is None for a missing parent.

    `session_id` is its key: the id, followed by the project for a second session with that id (see `tell_apart`).
    """

    session_id: str
    item: T | None
    children: list[Node[T]] = field(default_factory=list)


def build_forest(items: Sequence[tuple[str, str | None, T]]) -> list[Node[T]]:
    """Arrange `(id, parent id, item)`, keeping their order among siblings.

    Children of an unknown parent are below a node without an item; in a cycle, the first member given becomes a root.
    """
    nodes: dict[str, Node[T]] = {session_id: Node(session_id, item) for session_id, _, item in items}
    parents = {session_id: parent for session_id, parent, _ in items}
    roots: list[Node[T]] = []
    missing: dict[str, Node[T]] = {}
    circling = _circling(parents)
    for session_id, parent, _ in items:
        if parent is None or (session_id in circling and _leads_back(session_id, parents)):
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

    An id may be in several projects, after an import. Each is then in a tree of its own project; a copy whose
    parent is missing is a root, so that no parent has a child twice.
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


def _circling(parents: dict[str, str | None]) -> set[str]:
    """Return those that are their own ancestors, in a time that does not grow with the depth of a tree."""
    found, seen = set[str](), set[str]()
    for start in parents:
        path: list[str] = []
        at: str | None = start
        while at is not None and at not in seen:
            seen.add(at)
            path.append(at)
            at = parents.get(at)
        if at in path:
            found.update(path[path.index(at) :])
    return found


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


def nodes_above(forest: Iterable[Node[T]], nodes: Iterable[Node[T]]) -> list[Node[T]]:
    """Return the ancestors of some nodes of a forest, nearest first."""
    parents = {child.session_id: node for node in walk(forest) for child in node.children}
    found: list[Node[T]] = []
    for node in nodes:
        while parent := parents.get(node.session_id):
            found.append(parent)
            node = parent  # noqa: PLW2901  # the path up
    return found


def prune(forest: Iterable[Node[T]], keep: Collection[str]) -> list[Node[T]]:
    """Return the forest of the nodes to keep, in their order; one whose parent was left out moves up."""
    roots: list[Node[T]] = []
    stack = [(node, roots) for node in forest][::-1]
    while stack:
        node, siblings = stack.pop()
        if node.session_id in keep:
            siblings.append(copy := Node(node.session_id, node.item))
            siblings = copy.children
        stack += [(child, siblings) for child in reversed(node.children)]
    return roots


class Branch(Struct, Generic[T]):
    """A node of a drawn tree, with the lines before it and before its children."""

    node: Node[T]
    parent: Node[T] | None = None
    lead: str = ""
    below: str = ""


def branches(
    forest: Sequence[Node[T]], *, edge: Callable[[Node[T], Node[T]], str] = lambda *_: "─"
) -> Iterator[Branch[T]]:
    """Yield every node of a forest with the lines that join it to its parent; `edge` draws their last piece."""
    stack = [Branch(root) for root in reversed(forest)]
    while stack:
        branch = stack.pop()
        yield branch
        node, last = branch.node, len(branch.node.children) - 1
        stack += [
            Branch(
                child,
                node,
                f"{branch.below}{'└' if at == last else '├'}{edge(node, child)} ",
                branch.below + ("   " if at == last else "│  "),
            )
            for at, child in reversed(list(enumerate(node.children)))
        ]


def descend(start: Iterable[K], kin: Iterable[tuple[K, K | None]]) -> list[K]:
    """Return some nodes and all their descendants, parents first, from pairs of node and parent."""
    children: dict[K | None, list[K]] = {}
    for child, parent in kin:
        children.setdefault(parent, []).append(child)
    found = list(start)
    known = set(found)
    for one in found:  # the list grows
        more = [child for child in children.get(one, ()) if child not in known]
        known.update(more)
        found += more
    return found


class Rollup(Struct, frozen=False):
    """Sessions by status, when any of them was running, and their usage."""

    statuses: dict[str, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def sessions(self) -> int:
        return sum(self.statuses.values())

    @property
    def time_s(self) -> float:
        """How long any of them was running: simultaneous turns count once, as a child within its parent's turn."""
        return sum(end - start for start, end in merge_spans(self.spans))

    def add(self, status: str, spans: Iterable[Span], usage: Usage) -> None:
        """Add a session."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.spans += spans
        self.usage = self.usage + usage

    def merge(self, other: Rollup) -> None:
        """Add another tally."""
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.spans = merge_spans([*self.spans, *other.spans])
        self.usage = self.usage + other.usage


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Merge spans into non-overlapping ones."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end >= start:
            merged.append((start, end))
    return merged
