"""A conversation in pages for people: the newest first, older ones by number, and what is still growing again.

Messages are the same as those of `csa show`, with what is around them: how turns ended and what to do about it,
retries, warnings, requests for a permission. Long texts are cut; a single message is there in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from csa.model.conversation import Conversation, Message, ToolCall
from csa.model.events import Event
from csa.model.result import next_step
from csa.model.text import printable
from csa.model.usage import Usage, number_of
from csa.model.wording import describe, usage_in_words
from csa.serve.markup import to_html
from csa.store.lines import read_page
from csa.store.transcript import last_turn_event, parse_line
from csa.structs import Struct

_MOST_TEXT, _MOST_OUTPUT = 24_000, 2000  # characters of a message, and of a call's output
_MOST_CALLS = 50  # of a message; an agent may make thousands without a word
_PAGE_CHARACTERS = 120_000  # after which a page has enough
_STEP, _MOST_EVENTS = 300, 6000  # that are read at a time, and for a page
_LONGEST_WAIT = 500  # events after which a page ends although it has updates of what began earlier
_NOTED = {"retry", "warning", "parked", "checkpoint", "fork", "session_updated"}
_SAID = {"agent_message", "agent_thought"}
_BOUNDS = {"run_started", "run_finished"}
_BETWEEN = {"usage", "plan", "session_bound"}  # which do not break a text that comes in chunks


class Page(Struct):
    """Messages in order. `older`: the number before which earlier ones are; None if there are none."""

    messages: list[dict[str, Any]]
    older: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the answer of the route."""
        return {"messages": self.messages, "older": self.older}


def read_before(transcript: Path, session_id: str, before: int | None, limit: int) -> Page:
    """Return the last messages, or the last before a number: at least one, if there is one."""
    events, is_first = _window(_backwards(transcript, before), limit)
    return Page(_shown(transcript, session_id, events), None if is_first else events[0].seq)


def read_since(transcript: Path, session_id: str, since: int) -> Page:
    """Return the messages from the one with that number on; `older` is that number if they are too many for a page."""
    lines = read_page(transcript, after=since - 1, limit=_MOST_EVENTS + 1)
    events = list(filter(None, map(parse_line, lines)))
    if len(events) > _MOST_EVENTS:
        return Page([], since)
    return Page(_shown(transcript, session_id, events), None)


def read_whole(transcript: Path, seq: int) -> Page:
    """Return one message with all of its text and output."""
    lines = read_page(transcript, after=seq - 1, limit=_MOST_EVENTS)
    found = next(iter(_items(filter(None, map(parse_line, lines)))), None)
    return Page([_item("", found, is_whole=True)] if found else [], None)


def _backwards(transcript: Path, before: int | None) -> Iterator[Event]:
    while lines := read_page(transcript, before=before, limit=_STEP):
        events = list(filter(None, map(parse_line, lines)))
        yield from reversed(events)
        if len(lines) < _STEP or not events:
            return
        before = events[0].seq


def _window(newest_first: Iterable[Event], limit: int) -> tuple[list[Event], bool]:
    """Return the events of a page, and whether they are the first ones; no message and no call is cut in two."""
    found: list[Event] = []
    count = characters = enough_at = 0
    unbegun = set[tuple[str, str]]()
    for event in newest_first:
        if found and _begins(found[-1], event):
            count += 1
            if not enough_at and (count >= limit or characters >= _PAGE_CHARACTERS or len(found) >= _MOST_EVENTS):
                enough_at = len(found)
            if enough_at and (not unbegun or len(found) - enough_at >= _LONGEST_WAIT):
                return found[::-1], False
        found.append(event)
        characters += _weight(event)
        _note_beginning(event, unbegun)
    return found[::-1], True


def _note_beginning(event: Event, unbegun: set[tuple[str, str]]) -> None:
    """Keep account of the calls and requests of which only later events were seen so far."""
    data = event.data
    if event.type == "tool_call":
        unbegun.discard(("call", str(data.get("id"))))
    elif event.type == "tool_call_update" or data.get("status") == "denied":
        unbegun.add(("call", str(data.get("id"))))
    elif event.type in _BOUNDS:
        unbegun.clear()
    if event.type == "permission" and (ask := data.get("ask")):
        (unbegun.discard if data.get("status") == "pending" else unbegun.add)(("ask", str(ask)))


def _begins(event: Event, before: Event) -> bool:
    """Say whether an event begins something that is shown; `before` is the one before it."""
    if event.type in {"run_started", "tool_call", "run_finished"}:
        return True
    is_chunk = bool(event.data.get("chunk"))
    goes_on = is_chunk and (before.type in _BETWEEN or (before.type == event.type and bool(before.data.get("chunk"))))
    return event.type in _SAID and not goes_on


def _weight(event: Event) -> int:
    return min(_MOST_TEXT, sum(len(text) for text in event.data.values() if isinstance(text, str)))


class _End(Struct):
    """The end of a turn."""

    event: Event


class _Ask(Struct, frozen=False):
    """A request for a permission that a person may answer."""

    event: Event
    status: str


def _items(events: Iterable[Event]) -> Iterator[Message | _End | _Ask]:
    turn, asks = Conversation(), dict[str, _Ask]()
    beside: list[_Ask] = []
    for event in events:
        if event.type in _BOUNDS:
            yield from _in_order(turn.take(), beside)
            beside.clear()
            asks.clear()
        if event.type == "run_finished":
            yield _End(event)
            continue
        if event.type == "tool_call" and turn.messages and len(turn.messages[-1].calls) >= _MOST_CALLS:
            turn.say(event, "assistant", "")
        turn.add(event)
        if event.type in _NOTED and (words := describe(event)):
            turn.say(event, "note", words)
        if event.type == "permission" and (name := _words(event.data.get("ask"))):
            status = str(event.data.get("status"))
            if name in asks:
                asks[name].status = status
            else:
                asks[name] = _Ask(event, status)
                beside.append(asks[name])
    yield from _in_order(turn.take(), beside)


def _in_order(messages: list[Message], asks: list[_Ask]) -> list[Message | _Ask]:
    return sorted(chain(messages, asks), key=_number) if asks else list(messages)


def _number(item: Message | _Ask) -> int:
    return item.seq if isinstance(item, Message) else item.event.seq


def _shown(transcript: Path, session_id: str, events: Iterable[Event]) -> list[dict[str, Any]]:
    items = list(_items(events))
    if pending := [item for item in items if isinstance(item, _Ask) and item.status == "pending"]:
        last = last_turn_event(transcript)
        running = last.turn if last and last.type == "run_started" else None
        for ask in pending:  # with the turn its requests end
            ask.status = "pending" if ask.event.turn == running else "expired"
    return [_item(session_id, item, is_whole=False) for item in items]


def _item(session_id: str, item: Message | _End | _Ask, *, is_whole: bool) -> dict[str, Any]:
    if isinstance(item, _End):
        return {**_head(item.event, "end"), "end": _end(session_id, item.event)}
    if isinstance(item, _Ask):
        data = item.event.data
        ask = {"ask": str(data["ask"]), "status": item.status, "kind": str(data.get("kind") or "other")}
        return {**_head(item.event, "ask"), "text": _what_for(data), "ask": ask}
    return _message(item, is_whole=is_whole)


def _head(event: Event, role: str) -> dict[str, Any]:
    return _blank(event.seq, event.turn, role, event.ts)


def _blank(seq: int, turn: int, role: str, at: str) -> dict[str, Any]:
    return {"seq": seq, "turn": turn, "role": role, "at": at, **_EMPTY, "calls": []}


_EMPTY = {
    "text": "",
    "is_cut": False,
    "length": 0,
    **dict.fromkeys(("html", "tool", "model", "ask", "end")),
}


def _message(message: Message, *, is_whole: bool) -> dict[str, Any]:
    text = printable(message.content)
    shown = text if is_whole else _cut(text, _MOST_TEXT)
    is_markdown = message.role == "assistant" and not is_whole and bool(shown.strip())
    return {
        **_blank(message.seq, message.turn, message.role, message.timestamp),
        "text": "" if is_markdown else shown,
        "is_cut": len(shown) < len(text),
        "length": len(text),
        "html": to_html(shown) if is_markdown else None,
        "tool": message.tool or None,
        "model": message.model,
        "calls": [_call(call, is_whole=is_whole) for call in message.calls],
    }


def _call(call: ToolCall, *, is_whole: bool) -> dict[str, Any]:
    content = printable(call.content)
    return {
        "id": call.id,
        "title": printable(call.title) if is_whole else _cut(printable(call.title), _MOST_OUTPUT),
        "kind": call.kind,
        "status": call.status,
        "exit_code": call.exit_code,
        "content": content if is_whole else _cut(content, _MOST_OUTPUT),
        "length": len(content),
    }


def _cut(text: str, most: int) -> str:
    """Return the beginning, up to the end of a line if one is near."""
    if len(text) <= most:
        return text
    at = text.rfind("\n", most // 2, most)
    return text[: at if at > 0 else most]


def _end(session_id: str, event: Event) -> dict[str, Any]:
    data = event.data
    error = data.get("error")
    fault: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    status = str(data.get("status"))
    message = _words(fault.get("message") or (data.get("summary") if status != "succeeded" else ""))
    kind = str(fault.get("kind") or "")
    known = bool(data.get("provider_session_id"))
    hint = None
    if status != "succeeded":
        hint = next_step(session_id, str(data.get("tool")), kind, message, is_known_to_tool=known)
    usage = data.get("usage")
    return {
        "status": status,
        "message": "" if message == status else message,
        "kind": kind or None,
        "hint": hint,
        "used": _used(Usage.from_dict(usage)) if isinstance(usage, Mapping) else "",
        "duration_s": number_of(data.get("duration_s")),
    }


def _used(usage: Usage) -> str:
    return ", ".join(words for words in usage_in_words(usage) if "unknown" not in words)


def _what_for(data: Mapping[str, Any]) -> str:
    """Return what a permission is asked for, with the command and the paths if the title does not have them."""
    title, paths = _words(data.get("title") or data.get("message")), data.get("paths")
    more = [data.get("command"), *(paths if isinstance(paths, list) else [])]
    return "\n".join([title, *(words for each in more if (words := _words(each)) and words not in title)])


def _words(value: object) -> str:
    return printable(str(value or "")).strip()
