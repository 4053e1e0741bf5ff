"""What the live views show: sessions as a tree, each with its agent's activity, its time, and its usage.

Pure: from rows to lines of a given width. `csa run`, `session list --watch` and `top` share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

from csa.cli.output import STATUS_STYLES, count_of, cut, display_width, one_line
from csa.cli.views.naming import called, doing_of, label_called, name_host, subject_of
from csa.ids import is_session_id
from csa.model.genealogy import Node, branches, nodes_above, prune, walk
from csa.model.usage import Usage, counted_once
from csa.model.wording import cost_of, elapsed, tokens_of, usage_in_words
from csa.runner.sessions.genealogy import Forest, arrange_sessions, items
from csa.store.shown import SHOWN_LENGTH, SessionInfo

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.store.sessions import Store

Line = list[tuple[str, str]]  # pieces of text, each with a style of `csa.cli.output`
Places = Callable[[str], str]  # how a project is shown

REFRESH_S = 0.25
REST = 4  # the pause before the next look, in multiples of a look's duration: at most a fifth of a core

_MARKS = {"running": "●", "open": "●", "succeeded": "✓", "idle": "○", "unknown": "?", "away": "?"}
_QUIET = {"succeeded", "idle"}  # statuses that need no line each
SUMMARY_ROWS = 12
_ID_FROM = 60  # columns; on a narrower line the description is more useful than the id
_RIGHT = ((24, 8), (50, 7), (60, 8))  # minimum width for the columns time, tokens and cost; their widths
NAMES = ("TIME", "TOKENS", "COST")


def arrange(infos: Iterable[SessionInfo]) -> Forest:
    """Return the genealogy: trees with running sessions first, each kind newest first; children oldest first."""
    ordered = sorted(infos, key=lambda info: info.session_id)
    return sorted(arrange_sessions(ordered[::-1], with_forks=False), key=_rank, reverse=True)


def group(infos: Iterable[SessionInfo]) -> Forest:
    """Return the genealogy below the projects of its roots."""
    projects: dict[str, Node[SessionInfo]] = {}
    for root in arrange(infos):
        store = root.item.store if root.item else _store(root)
        project = (not root.item and _project_of_missing(root)) or (label_called(store) if store else "")
        projects.setdefault(project, Node(project, None)).children.append(root)
    return list(projects.values())


def _rank(root: Node[SessionInfo]) -> tuple[bool, float, str]:
    infos = items(root)
    running = [info.started_at or 0 for info in infos if info.is_running]
    return bool(running), min(running, default=infos[0].started_at or 0), root.session_id


def lay_out(
    forest: Forest, *, width: int, height: int, now: float, title: str = "", empty: str = "", place: Places = str
) -> list[Line]:
    """Return at most `height` lines of at most `width` columns.

    With a title: a heading, the rows and their total; without: the rows, and a total when there are several.
    """
    rows = items(*forest)
    head = [heading(title, width)] if title else []
    foot = [total(rows, width)] if title or len(rows) > 1 else []
    shown, hidden = choose(forest, max(1, height - len(head) - len(foot)))
    body = draw(shown, width, now, place) or ([_line([(empty, "dim")], "", width)] if empty else [])
    more = [more_of(hidden, width)] if hidden else []
    return [*head, *body, *more, *foot][:height]


def heading(title: str, width: int) -> Line:
    """Return the line above the rows."""
    return _line([(title, "bold")], at_right(NAMES, width), width)


def lay_out_end(forest: Forest, *, width: int, now: float, place: Places, time_s: float) -> tuple[list[Line], str]:
    """Return the lines that remain of a tree at its end, and a summary of the whole tree.

    Failed and running sessions are always included, the others while there is room.
    """
    nodes = list(walk(forest))
    worth = [node for node in nodes if node.item and node.item.status not in _QUIET]
    ordered = list(dict.fromkeys(node.session_id for node in (nodes[0], *worth, *nodes)))
    kept = ordered[: max(SUMMARY_ROWS, len(worth) + 1)]
    lines = draw(prune(forest, set(kept)), width, now, place)
    rows = items(*forest)
    if hidden := len(nodes) - len(kept):
        lines.append(_line([(f"... and {hidden} more succeeded", "dim")], "", width))
    words = [f"{count_of(len(rows), 'session')} in {elapsed(time_s)}"]
    counts = Counter(row.status for row in rows if row.status not in _QUIET)
    words += [f"{count} {status}" for status, count in counts.items()]
    used = usage_in_words(counted_once((row.session_id, row.usage or Usage()) for row in rows))
    whole = ", ".join([*words, *used])
    return lines, whole if len(whole) + len("csa: ") <= width else ", ".join(words)


def choose(forest: Forest, room: int) -> tuple[Forest, list[SessionInfo]]:
    """Leave out what does not fit, and return that too. Running sessions stay first, then their ancestors, then others.

    The order is kept; a node whose parent was left out moves up.
    """
    nodes = list(walk(forest))
    if len(nodes) <= room:
        return forest, []
    running = [node for node in nodes if node.item and node.item.is_running]
    first = [node.session_id for node in (*running, *nodes_above(forest, running), *nodes)]
    keep = set(list(dict.fromkeys(first))[: room - 1])  # one line is enough
    return prune(forest, keep), [node.item for node in nodes if node.item and node.session_id not in keep]


def draw(
    forest: Forest, width: int, now: float, place: Places, *, first: int = 0, count: int | None = None
) -> list[Line]:
    """Render nodes of a forest, one line each, with the lines that join them to their parents."""
    where: dict[str, Store | None] = {}  # in which descendants of a node are expected
    lines: list[Line] = []
    for at, branch in enumerate(islice(branches(forest), None if count is None else first + count)):
        node, info = branch.node, branch.node.item
        expected = where.get(branch.parent.session_id) if branch.parent else None
        where[node.session_id] = info.store if info else expected or _store(node)
        if at < first:
            continue
        lead = (_shorten_lead(branch.lead, width // 3), "dim")
        if info is None:
            lines.append(_line([lead, *_heading(node, place)], "", width))
            continue
        away: Line = []
        if expected and info.store != expected:
            away = [(f"({name_host(info.store, expected) or place(info.project)}) ", "dim")]
        lines.append(_line([lead, *_session(info, width, away)], numbers(info, width, now), width))
    return lines


def _session(info: SessionInfo, width: int, away: Line) -> Line:
    """Render a session: its name first, its activity last."""
    mark = (f"{_MARKS.get(info.status, '✗')} ", STATUS_STYLES.get(info.status, ""))
    tool, is_wide = (f"{one_line(info.tool) or '-'} ", ""), width >= _ID_FROM
    name = (f"{called(info, width)} ", "bold" if info.name else "dim")
    if not info.name and not is_wide:
        about = cut(subject_of(info, width), width // 3)
        name = (f"{about} " if about else "", "")
    doing = doing_of(info, width, room=width // 4 if is_wide else 0)
    if info.status == "succeeded":  # the mark shows it
        doing = doing.replace("succeeded: ", "", 1)
    return [mark, name, tool, *away, (doing, "dim" if info.status == "succeeded" else "")]


def _store(node: Node[SessionInfo]) -> Store | None:
    """Return the store in which the rows below a heading are expected."""
    return next((child.item.store for child in node.children if child.item), None)


def _project_of_missing(node: Node[SessionInfo]) -> str | None:
    """Return where a missing parent is, if it is known to be in another project of this host."""
    if _host_of_missing(node):
        return None
    return next((child.item.parent_project for child in node.children if child.item), None)


def _host_of_missing(node: Node[SessionInfo]) -> str | None:
    states = (child.item.state for child in node.children if child.item)
    return next((state.parent_host for state in states if state), None)


def _heading(node: Node[SessionInfo], place: Places) -> Line:
    if not is_session_id(node.session_id):
        return [(place(node.session_id), "bold")]
    elsewhere, host = _project_of_missing(node), _host_of_missing(node)
    where = f"on {host}" if host else f"in {place(elsewhere)}" if elsewhere else "missing"
    return [(f"{node.session_id[:SHOWN_LENGTH]}  ({where})", "yellow")]


def _shorten_lead(lead: str, room: int) -> str:
    return lead if len(lead) <= room else "… " + lead[-(room - room % 3) :]


def total(rows: list[SessionInfo], width: int) -> Line:
    usage = counted_once((row.session_id, row.usage or Usage()) for row in rows)
    running = sum(row.is_running for row in rows)
    text = f"{count_of(len(rows), 'session')}, {running} running"
    numbers = ("", tokens_of(usage), cost_of(usage)) if rows else ("", "", "")
    return _line([(text, "bold")], at_right(numbers, width), width)


def more_of(hidden: list[SessionInfo], width: int) -> Line:
    running = sum(row.is_running for row in hidden)
    text = f"... and {len(hidden)} more" + (f", {running} of them running" if running else "")
    return _line([(text, "dim")], "", width)


def numbers(row: SessionInfo, width: int, now: float) -> str:
    """Return the columns at the right end of a line of that width."""
    seconds = row.elapsed_s(now)
    return at_right(("" if seconds is None else elapsed(seconds), tokens_of(row.usage), cost_of(row.usage)), width)


def at_right(cells: tuple[str, ...], width: int) -> str:
    """Return cells of NAMES as the columns that fit a line of that width."""
    return "".join(f"{cell:>{room}}" for (since, room), cell in zip(_RIGHT, cells, strict=True) if width >= since)


def _line(left: Line, right: str, width: int) -> Line:
    """Put text on the left, shortened and padded, so that the right part is at the end of the line."""
    room = max(0, width - len(right))
    line: Line = []
    for text, style in left:
        piece = cut(text, room) if room else ""
        room -= display_width(piece)
        if piece:
            line.append((piece, style))
    return [*line, (" " * room + right, "dim" if right.strip() else "")] if right else line
