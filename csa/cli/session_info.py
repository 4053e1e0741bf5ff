"""Show all that is known of a session: its state, tool, turns, context, owner, last messages, children and denials.

The context is what the tool has read and written in the last turn, all of its requests together: tools say no more.
Children in other projects are not looked for; the tree of the other project shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from csa.cli.describe import conversation_in_words, elapsed, tokens, usage_in_words
from csa.cli.output import STATUS_STYLES, Style, cut, one_line, print_json, shorten, terminal_width
from csa.cli.selecting import add_selector, find_to_read
from csa.model.clock import local_clock
from csa.model.state import parse_time
from csa.model.usage import Usage
from csa.paths import home
from csa.runner.sessions.inspection import SessionCard, inspect_session
from csa.store.sessions import format_age
from csa.store.strangers import resumed_session

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_LABEL_WIDTH = 12
_Field = tuple[str, str]


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    session = find_to_read(arguments, "session info")
    card = inspect_session(session)
    if arguments.json:
        print_json(card.to_json())
    else:
        _print_card(card, home(session.context.environ))
    return 0


def _print_card(card: SessionCard, user_home: Path) -> None:
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    place = (lambda path: shorten(path, user_home)) if width else str
    name = f"[{card.state.name}] " if card.state.name else ""
    session_id = card.state.session_id
    prefix = card.info.prefix
    title = cut(one_line(f"{name}{card.state.description}"), width and max(10, width - len(session_id) - 2))
    print(f"{style(prefix, 'bold')}{session_id[len(prefix) :]}  {style(title, 'bold')}")
    for label, text in _fields(card, datetime.now(UTC), place):
        shown = cut(one_line(text), width and width - _LABEL_WIDTH)
        look = STATUS_STYLES.get(card.info.status, "") if label == "status" else ""
        print(f"{style(f'{label:<{_LABEL_WIDTH}}', 'dim')}{style(shown, look)}")
    for label, lines in (("messages", _messages(card)), ("children", _children(card)), ("denied", _denied(card))):
        for index, line in enumerate(lines):
            head = label if index == 0 else ""
            print(f"{style(f'{head:<{_LABEL_WIDTH}}', 'dim')}{cut(line, width and width - _LABEL_WIDTH)}")


def _fields(card: SessionCard, now: datetime, place: Callable[[Path], str]) -> Iterator[_Field]:
    state = card.state
    yield "status", _status(card, now)
    yield from _tools(card)
    yield "turns", _turns(card)
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
            ("permission", state.permission),
            ("writable", ", ".join(place(Path(path)) for path in state.extra_writable)),
            ("project", place(Path(state.project_path))),
            ("directory", place(card.info.record.paths.root)),
            ("parent", state.parent_session_id and _parent(card)),
            ("fork of", state.fork_of),
            ("resumes", resumed_session(card.info.record.paths.pathname)),
        )
        if value
    )
    yield "created", _moment(state.created_at, now)
    yield "last used", _moment(state.last_accessed, now)
    if expires := parse_time(card.extra.get("expires_at")):
        yield "expires", local_clock(expires)
    if card.activity and (at := parse_time(card.activity.ts)):
        yield "activity", f"{card.activity.type}, {_moment(at, now)}"


def _status(card: SessionCard, now: datetime) -> str:
    words = [card.info.status]
    owner, last = card.liveness.owner, card.last_turn
    if card.info.status in {"running", "open"} and owner:
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
        message += f" (to be asked again at {local_clock(again)})"
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
    return f"{card.state.parent_session_id}{elsewhere} (depth {card.state.depth})"


def _moment(at: datetime, now: datetime) -> str:
    return f"{local_clock(at)} ({format_age(now, at)} ago)"


def _messages(card: SessionCard) -> Iterator[str]:
    for message in card.messages:
        clock = local_clock(parse_time(message.timestamp), "%H:%M")
        who = "user" if message.role == "user" else message.tool or "agent"
        yield one_line(f"{clock} {who}: {message.content}")


def _children(card: SessionCard) -> Iterator[str]:
    for child in card.children:
        if child.state:
            who = one_line(f"{child.session_id} {child.state.last_tool or '-'} {child.status}")
            yield f"{who}  {one_line(child.state.description)}"


def _denied(card: SessionCard) -> Iterator[str]:
    for turn, what in card.denied:
        yield f"turn {turn}: {one_line(what)}"
