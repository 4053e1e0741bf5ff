"""What the live views show: sessions as a tree, each with what its agent does, for how long, and what it has used.

Pure: from rows to lines of a given width. `csa run`, `session list --watch` and `top` share it.
"""

from __future__ import annotations

from collections.abc import Iterable

from csa.cli.describe import cost_of, elapsed, tokens_of
from csa.cli.output import STATUS_STYLES, cut, display_width, one_line
from csa.ids import is_session_id
from csa.model.tree import Node, build_forest, tell_apart, walk
from csa.model.usage import Usage, counted_once
from csa.store.owner import Owner
from csa.structs import Struct

Line = list[tuple[str, str]]  # pieces of text, each with a style of `csa.cli.output`
Forest = list[Node["Row"]]

REFRESH_S = 0.25
REST = 4  # times as long as it took to look, before the next look: at most a fifth of a core

_MARKS = {"running": "●", "open": "●", "succeeded": "✓", "idle": "○", "unknown": "?"}
_ID_FROM = 60  # columns
_RIGHT = ((24, 8), (40, 7), (60, 8))  # from how many columns on there is one for time, tokens, money; its width
_NAMES = ("TIME", "TOKENS", "COST")


class Row(Struct, kw_only=True):
    """A session. Times are Unix seconds; `duration_s` is None while it runs."""

    session_id: str
    parent: str | None = None
    project: str = ""
    place: str = ""  # its project, as it is shown
    parent_project: str | None = None  # its parent's, when that is another
    parent_place: str = ""  # the same, as it is shown
    label: str = ""  # enough of the id to name it
    tool: str = ""
    status: str = "running"
    turn: int = 0
    doing: str = ""
    started_at: float | None = None
    duration_s: float | None = None
    usage: Usage = Usage()  # immutable
    owner: Owner | None = None  # while it runs
    pid: int | None = None  # of the owner, or of the other program that runs it

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    def elapsed_s(self, now: float) -> float | None:
        """Return how long the turn has run, or ran."""
        if self.duration_s is not None or not self.is_running or self.started_at is None:
            return self.duration_s
        return max(0.0, now - self.started_at)


def arrange(rows: Iterable[Row]) -> Forest:
    """Return the genealogy: first the trees in which something runs, each kind newest first; children oldest first."""
    ordered = sorted(rows, key=lambda row: row.session_id)
    keys = tell_apart([(row.session_id, row.project, row.parent, row.parent_project) for row in ordered])
    forest = build_forest([(*key, row) for key, row in zip(keys, ordered, strict=True)])
    return sorted(forest, key=_rank, reverse=True)


def group(rows: Iterable[Row]) -> Forest:
    """Return the genealogy below the projects of its roots."""
    projects: dict[str, Node[Row]] = {}
    for root in arrange(rows):
        first = root.item or next(child.item for child in root.children if child.item)
        place = first.place if root.item else first.parent_place or first.place
        projects.setdefault(place, Node(place, None)).children.append(root)
    return list(projects.values())


def _rank(root: Node[Row]) -> tuple[bool, float, str]:
    rows = [node.item for node in walk([root]) if node.item]
    running = [row.started_at or 0 for row in rows if row.is_running]
    return bool(running), min(running, default=rows[0].started_at or 0), root.session_id


def lay_out(forest: Forest, *, width: int, height: int, now: float, title: str = "", empty: str = "") -> list[Line]:
    """Return at most `height` lines of at most `width` columns.

    With a title: a heading, the rows and their total; without: the rows, and a total when there are several.
    """
    rows = [node.item for node in walk(forest) if node.item]
    head = [_line([(title, "bold")], _names(width), width)] if title else []
    foot = [_total(rows, width)] if title or len(rows) > 1 else []
    shown, hidden = choose(forest, max(1, height - len(head) - len(foot)))
    body = _branches(shown, width, now) or ([_line([(empty, "dim")], "", width)] if empty else [])
    more = [_more(hidden, width)] if hidden else []
    return [*head, *body, *more, *foot][:height]


def choose(forest: Forest, room: int) -> tuple[Forest, list[Row]]:
    """Leave out what does not fit, and return that too: first stays what runs, then what it belongs to, then the rest.

    What is left keeps its order; a node whose parent was left out moves up.
    """
    nodes = list(walk(forest))
    if len(nodes) <= room:
        return forest, []
    parents = {child.session_id: node for node in nodes for child in node.children}
    running = [node for node in nodes if node.item and node.item.is_running]
    above = [ancestor for node in running for ancestor in _ancestors(node, parents)]
    kept = list(dict.fromkeys(node.session_id for node in (*running, *above, *nodes)))[: room - 1]  # one line says so
    keep = set(kept)
    hidden = [node.item for node in nodes if node.item and node.session_id not in keep]
    return _prune(nodes, parents, keep), hidden


def _ancestors(node: Node[Row], parents: dict[str, Node[Row]]) -> list[Node[Row]]:
    found = []
    while parent := parents.get(node.session_id):
        found.append(parent)
        node = parent
    return found


def _prune(nodes: list[Node[Row]], parents: dict[str, Node[Row]], keep: set[str]) -> Forest:
    copies = {node.session_id: Node(node.session_id, node.item) for node in nodes if node.session_id in keep}
    roots: Forest = []
    for node in nodes:
        if copy := copies.get(node.session_id):
            above = next((copies[up.session_id] for up in _ancestors(node, parents) if up.session_id in copies), None)
            (above.children if above else roots).append(copy)
    return roots


def _branches(forest: Forest, width: int, now: float) -> list[Line]:
    """Render every node of a forest, with the lines that join it to its parent."""
    lines: list[Line] = []
    stack = [(root, "", "", "") for root in reversed(forest)]
    while stack:
        node, lead, below, place = stack.pop()
        lines.append(_branch(node, lead, width, now, place))
        last = len(node.children) - 1
        inside = node.item.place if node.item else place or _place(node)
        stack += [
            (child, below + ("└─ " if at == last else "├─ "), below + ("   " if at == last else "│  "), inside)
            for at, child in reversed(list(enumerate(node.children)))
        ]
    return lines


def _place(node: Node[Row]) -> str:
    """Return the project in which the rows below a heading are expected."""
    return next((child.item.place for child in node.children if child.item), "")


def _branch(node: Node[Row], lead: str, width: int, now: float, place: str) -> Line:
    lead = _shorten_lead(lead, width // 3)
    row = node.item
    if row is None:
        return _line([(lead, "dim"), *_heading(node)], "", width)
    style = STATUS_STYLES.get(row.status, "")
    name = [(f"{row.label} ", "dim")] if width >= _ID_FROM and row.label else []
    away = [(f"({row.place}) ", "dim")] if place and row.place != place else []
    left = [(lead, "dim"), (f"{_MARKS.get(row.status, '✗')} ", style), *name, (f"{row.tool or '-'} ", "bold"), *away]
    doing = one_line(row.doing) or ("starting" if row.is_running else row.status)
    return _line([*left, (doing, "dim" if row.status == "succeeded" else "")], numbers(row, width, now), width)


def _heading(node: Node[Row]) -> Line:
    if not is_session_id(node.session_id):
        return [(node.session_id, "bold")]
    elsewhere = next((child.item.parent_place for child in node.children if child.item), "")
    return [(f"{node.session_id}  ({f'in {elsewhere}' if elsewhere else 'missing'})", "yellow")]


def _shorten_lead(lead: str, room: int) -> str:
    return lead if len(lead) <= room else "… " + lead[-(room - room % 3) :]


def _total(rows: list[Row], width: int) -> Line:
    usage = counted_once((row.session_id, row.usage) for row in rows)
    running = sum(row.is_running for row in rows)
    text = f"{len(rows)} session{'' if len(rows) == 1 else 's'}, {running} running"
    numbers = ("", tokens_of(usage), cost_of(usage)) if rows else ("", "", "")
    return _line([(text, "bold")], _right(numbers, width), width)


def _more(hidden: list[Row], width: int) -> Line:
    running = sum(row.is_running for row in hidden)
    text = f"... and {len(hidden)} more" + (f", {running} of them running" if running else "")
    return _line([(text, "dim")], "", width)


def numbers(row: Row, width: int, now: float) -> str:
    """Return the columns that stand at the right end of a line of that width."""
    seconds = row.elapsed_s(now)
    cells = ("" if seconds is None else elapsed(seconds), tokens_of(row.usage), cost_of(row.usage))
    return _right(cells, width)


def _names(width: int) -> str:
    return _right(_NAMES, width)


def _right(cells: tuple[str, ...], width: int) -> str:
    return "".join(f"{cell:>{room}}" for (since, room), cell in zip(_RIGHT, cells, strict=True) if width >= since)


def _line(left: Line, right: str, width: int) -> Line:
    """Put text on the left, shortened and padded, so that the right stands at the end of the line."""
    room = max(0, width - len(right))
    line: Line = []
    for text, style in left:
        piece = cut(text, room) if room else ""
        room -= display_width(piece)
        if piece:
            line.append((piece, style))
    return [*line, (" " * room + right, "dim" if right.strip() else "")] if right else line
