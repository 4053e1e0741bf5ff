"""Everything known about a session: its card, and the evidence for its status.

`csa status` prints both, and so do its older words `info` and `why`; in JSON each of these has its own part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from csa.cli.output import (
    STATUS_STYLES,
    Style,
    count_of,
    cut,
    display_width,
    fold,
    one_line,
    print_json,
    shorten,
    terminal_width,
)
from csa.cli.selecting import add_hosts, add_selector, find_to_read, find_to_show
from csa.cli.views.naming import as_read, called, subject_of
from csa.model.clock import local_clock
from csa.model.state import parse_time
from csa.model.usage import Usage
from csa.model.wording import elapsed, tokens, usage_in_words
from csa.paths import home
from csa.runner.session import Session
from csa.runner.sessions.conclusion import conclude, evidence_rows, evidence_to_json
from csa.runner.sessions.evidence import Evidence, gather_evidence
from csa.runner.sessions.inspection import SessionCard, inspect_session, unreadable_to_json
from csa.store.sessions import format_age
from csa.store.shown import SessionInfo
from csa.store.strangers import resumed_session

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.store.turns import ConversationRecord

_LABEL_WIDTH = 12
_SHORT = 7  # characters of a commit
_Field = tuple[str, str]


def configure_status(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    add_hosts(parser, several=False)
    parser.add_argument("--json", action="store_true", help="print an object")


configure_info = configure_why = configure_status


def execute_status(arguments: argparse.Namespace) -> int:
    """Show everything known about a session, and why it has the status it has.

    First the session: its tools, turns, context, last messages, sub-agents and denials. Then the evidence: who holds
    its lock, its last event, how long its tool has been silent, its processes. Works for every session: one that is
    running, has ended, was lost, never ran, is damaged, or belongs to another machine. Nothing is written. The status
    follows from the lock and the transcript alone: a silent session is not a dead one.

    The context is what the tool has read and written in the last turn, all of its requests together: tools report no
    more. Sub-agents in other projects are not listed; csa ls --tree shows them.
    """
    session = find_to_read(arguments, "session status")
    found = gather_evidence(*session.target)
    card = None if found.fault else inspect_session(session)
    if arguments.json:
        print_json({**(card.to_json() if card else unreadable_to_json(session)), "evidence": evidence_to_json(found)})
    else:
        _print_status(session, card, found)
    return 0


def execute_info(arguments: argparse.Namespace) -> int:
    """Show everything known about a session: the older word for csa status, whose evidence --json leaves out.

    Exits 6 when the session's record is damaged.
    """
    session = find_to_read(arguments, "session info")
    card = inspect_session(session)
    if arguments.json:
        print_json(card.to_json())
    else:
        _print_status(session, card, gather_evidence(*session.target))
    return 0


def execute_why(arguments: argparse.Namespace) -> int:
    """Explain why a session has the status it has: the older word for csa status; --json has the evidence alone."""
    session = find_to_show(arguments)
    found = gather_evidence(*session.target)
    if arguments.json:
        print_json(evidence_to_json(found))
    else:
        _print_status(session, None if found.fault else inspect_session(session), found)
    return 0


def _print_status(session: Session, card: SessionCard | None, found: Evidence) -> None:
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    user_home = home(session.context.environ)
    place = (lambda path: shorten(path, user_home)) if width else str
    info, queued = (card.info, card.queued) if card else (session.record.examine(), None)
    print(_title(info, style, width, queued=queued))
    look = STATUS_STYLES.get(found.status, "")
    rows = [("status", _status(card, datetime.now(UTC)) if card else found.status, look), ("why", conclude(found), "")]
    rows += [(label, text, "") for label, text in _fields(card, datetime.now(UTC), place)] if card else []
    _print_rows(rows, style, width)
    if card:
        for label, lines in (("messages", _messages(card)), ("children", _children(card, width))):
            for index, line in enumerate(lines):
                _print_row("" if index else label, cut(line, width and width - _LABEL_WIDTH), style)
    print()
    _print_rows([(label, text, "") for label, text in evidence_rows(found)], style, width)


_SHARED = {"True": "on", "False": "off: no other tool may work in it or get its history"}


def _title(info: SessionInfo, style: Style, width: int | None, *, queued: int | None) -> str:
    """Return the name and the description; in a pipe the id first, where scripts expect it."""
    name = called(info, width)
    about = subject_of(info, width, queued=queued)
    return f"{style(name, 'bold')}  {cut(about, width and max(10, width - display_width(name) - 2))}"


def _print_rows(rows: Iterable[tuple[str, str, str]], style: Style, width: int | None) -> None:
    """Print labels and texts, each wrapped to the room right of the labels."""
    for label, text, look in rows:
        for index, line in enumerate(fold(one_line(text), width and width - _LABEL_WIDTH)):
            _print_row("" if index else label, line, style, look)


def _print_row(label: str, text: str, style: Style, look: str = "") -> None:
    print(f"{style(f'{label:<{_LABEL_WIDTH}}', 'dim')}{style(text, look)}".rstrip())


def _fields(card: SessionCard, now: datetime, place: Callable[[Path], str]) -> Iterator[_Field]:
    state = card.state
    yield "id", state.session_id
    yield from _tools(card)
    yield "turns", _turns(card)
    if waits := card.queued:
        held = f"; held: {card.held}" if card.held else ""
        way = "" if card.info.is_running else f" (csa queue {state.session_id} --resume)"
        yield "queue", as_read(f"{count_of(waits, 'prompt')} waiting{held}{way}", sys.stdout)
    if card.context:
        turn, used = card.context
        cached = f" ({tokens(used.cached_tokens)} of it cached)" if used.cached_tokens else ""
        words = f"{tokens(used.input_tokens)} in{cached}, {tokens(used.output_tokens)} out in turn {turn}"
        yield "context", words + (", compacted" if card.is_compacted else "")
    if used_words := usage_in_words(card.info.usage or Usage()):
        yield "usage", ", ".join(used_words)
    yield from (
        (label, value)
        for label, value in (
            ("owner", state.owner),
            ("branch", state.branch),
            ("worktree", _worktree(card.info, place)),
            ("permission", state.permission),
            ("template", card.last_turn and card.last_turn.template),
            ("shared", _SHARED.get(str(state.shared), "")),
            ("replay of", _replayed(card)),
            ("writable", ", ".join(place(Path(path)) for path in state.extra_writable)),
            ("host", card.info.store.host),
            ("project", place(Path(state.project_path))),
            ("directory", place(card.info.record.paths.root)),
            ("parent", state.parent_session_id and as_read(_parent(card), sys.stdout)),
            ("fork of", state.fork_of and as_read(state.fork_of, sys.stdout)),
            ("merged from", as_read(", ".join(state.merged_from), sys.stdout)),
            ("merged into", as_read(", ".join(card.merged_into), sys.stdout)),
            ("resumes", as_read(resumed_session(card.info.record.paths.pathname) or "", sys.stdout)),
        )
        if value
    )
    yield "created", f"{_moment(state.created_at, now)}; last used {format_age(now, state.last_accessed)} ago"
    if expires := parse_time(card.extra.get("expires_at")):
        yield "expires", local_clock(expires)
    if state.closed_at:
        yield "closed", f"{_moment(state.closed_at, now)}; csa run --reopen continues it"
    for index, (turn, what) in enumerate(card.denied):
        yield "" if index else "denied", f"turn {turn}: {what}"


def _worktree(info: SessionInfo, place: Callable[[Path], str]) -> str:
    """Return where a session's worktree is, what it was made from, and what has become of its work; empty without."""
    if (tree := info.worktree) is None:
        return ""
    origin = f"from {tree.target or 'a detached HEAD'} ({tree.base[:_SHORT]})"
    gone = "" if info.store.host or os.path.isdir(tree.path) else ", gone"
    landed = f", landed {tree.landed[:_SHORT]}" if tree.landed else ""
    refused = f", refused: {tree.refused.kind}" if tree.refused else ""
    return f"{place(Path(tree.path))} {origin}{gone}{landed}{refused}"


def _status(card: SessionCard, now: datetime) -> str:
    words = [card.info.status]
    owner, last = card.liveness.owner, card.last_turn
    if card.liveness.away:
        words = [f"away: {card.liveness.away.in_words}"]
    elif card.info.status in {"running", "open"} and owner:
        words.append(owner.in_words)
    elif card.info.status in {"running", "unknown"} and card.liveness.stranger:
        words.append(card.liveness.stranger.in_words)
    elif last and last.finished_at:
        words.append(f"{format_age(now, last.finished_at)} ago")
    if card.info.phase != "active":
        words.append(card.info.phase)
    words += [word for word, is_so in (("current", card.is_current), ("pinned", card.extra.get("pinned"))) if is_so]
    error = last.finished.data.get("error") if last and last.finished and card.info.status != "running" else None
    message = one_line(str(error.get("message", ""))) if isinstance(error, dict) else ""
    if isinstance(error, dict) and (again := parse_time(error.get("retry_at"))):
        message += f" (can be used again at {local_clock(again)})"
    return ", ".join(words) + (f": {message}" if message else "")


def _tools(card: SessionCard) -> Iterator[_Field]:
    for index, name in enumerate(sorted(card.state.tools, key=lambda name: name != card.state.last_tool)):
        known = card.state.tools[name]
        asked = known.model or (card.model if name == card.state.last_tool else None)
        model = (f" {asked}" if asked else "") + (f", effort {known.effort}" if known.effort else "")
        session = f" ({known.provider_session_id})" if known.provider_session_id else ""
        yield "tool" if index == 0 else "and", f"{name}{model}{session}"
        if (found := card.conversations.get(name)) and found.replaces:
            yield "", conversation_in_words(found.provider_session_id, found)


def _turns(card: SessionCard) -> str:
    time_s = card.time_s
    return f"{card.state.turns}" + (f" in {elapsed(time_s)}" if time_s else "")


def _parent(card: SessionCard) -> str:
    elsewhere = f" in {card.state.parent_project}" if card.state.parent_project else ""
    elsewhere += f" on {card.state.parent_host}" if card.state.parent_host else ""
    return f"{card.state.parent_session_id}{elsewhere} (depth {card.state.depth})"


def _replayed(card: SessionCard) -> str:
    told = card.last_turn.replayed_from if card.last_turn else None
    return f"{as_read(str(told.get('session')), sys.stdout)}, turn {told.get('turn')}" if told else ""


def _moment(at: datetime, now: datetime) -> str:
    return f"{local_clock(at)} ({format_age(now, at)} ago)"


def _messages(card: SessionCard) -> Iterator[str]:
    for message in card.messages:
        clock = local_clock(parse_time(message.timestamp), "%H:%M")
        who = "user" if message.role == "user" else message.tool or "agent"
        yield one_line(f"{clock} {who}: {message.content}")


def _children(card: SessionCard, width: int | None) -> Iterator[str]:
    for child in card.children:
        if child.state:
            who = f"{called(child, width)} {one_line(child.state.last_tool or '-')} {child.status}"
            yield f"{who}  {subject_of(child, width)}"


def conversation_in_words(provider_session_id: str, found: ConversationRecord | None) -> str:
    """Say which of a tool's conversations is in use, since which turn, and which one it replaces."""
    since = f", since turn {found.since_turn}" if found else ""
    why = " (context window)" if found and found.reason == "context_window" else ", which it no longer knew"
    instead = f", in place of {found.replaces}{why}" if found and found.replaces else ""
    return f"conversation {provider_session_id}{since}{instead}"
