"""The rows of a copy: what a database has of a session, and of what was said in it. Pure.

A row is for ever that of the event with its number: what a later event adds changes it. So rows are made again, from
the beginning of a turn, as often as needed, and the last ones are right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

from csa.model.conversation import Conversation, Message, ToolCall
from csa.model.events import Event
from csa.model.state import parse_time
from csa.structs import Struct, asdict

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from datetime import datetime

    from csa.model.state import SessionState

LARGEST_NUMBER = (1 << 63) - 1  # of a database
_LONGEST = 32 << 20  # characters of a message
_LONGEST_OWNER = 200  # which is in an index, whose entries have a size limit; no role has a longer name
LONGEST_PROJECT = 2000  # bytes, likewise
_SENDERS = {"user": "user", "assistant": "agent", "thought": "agent", "system": "system"}
_OF_CALLS = frozenset({"tool_call", "tool_call_update", "permission"})
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_CHAT_NAME = "x-"  # begins the name of a session that a client of the chat API has made


class SessionRow(Struct, kw_only=True):
    """What a copy has of a session; its columns in a database have the same names."""

    host: str
    project: str
    id: str
    public_id: str
    name: str | None
    title: str | None
    owner: str | None
    tool: str | None
    status: str
    turns: int
    parent_session_id: str | None
    parent_host: str | None
    root_session_id: str | None
    depth: int
    created_at: datetime | None
    last_active_at: datetime | None
    closed_at: datetime | None
    is_deleted: bool
    deleted_at: datetime | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


class MessageRow(Struct, kw_only=True):
    """A message, or a tool call with its output so far."""

    session_id: str
    message_type: str
    sender: str
    content: Mapping[str, Any]
    timestamp: int
    seq: int
    turn: int
    tool: str | None
    model: str | None
    at: datetime | None


SESSION_COLUMNS = tuple(SessionRow.__annotations__)
MESSAGE_COLUMNS = tuple(MessageRow.__annotations__)


def session_row(state: SessionState | None, redact: Callable[[str], str], **known: Any) -> SessionRow:
    """Return the row of a session; what only a record says is missing where that is damaged."""
    name, session_id = (state.name if state else None), known["id"]
    usage = state.usage if state else None
    return SessionRow(
        **known,
        public_id=name.removeprefix(_CHAT_NAME) if name and name.startswith(_CHAT_NAME) else session_id,
        name=name,
        title=(redact(state.description) or None) if state else None,
        owner=state.owner[:_LONGEST_OWNER] if state and state.owner else None,
        turns=_number(state.turns) if state else 0,
        parent_session_id=state.parent_session_id if state else None,
        parent_host=state.parent_host if state else None,
        root_session_id=state.root_session_id if state else None,
        depth=_number(state.depth) if state else 0,
        created_at=state.created_at if state else None,
        last_active_at=state.last_accessed if state else None,
        closed_at=state.closed_at if state else None,
        deleted_at=state.retired_at if state and known["is_deleted"] else None,
        input_tokens=_number(usage.input_tokens) if usage else None,
        output_tokens=_number(usage.output_tokens) if usage else None,
        cost_usd=usage.cost_usd if usage else None,
    )


class Messages:
    """Makes rows of events; of those that were changed since `take` was called last."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._talk = Conversation()
        self._callers: dict[int, Message] = {}  # of this turn's calls
        self._changed: dict[int, tuple[Message, ToolCall | None]] = {}

    def add(self, event: Event) -> None:
        """Take an event."""
        talk = self._talk
        if event.type == "run_started":
            self._end_turn()
        before = len(talk.messages)
        talk.add(event)
        for message in talk.messages[max(0, before - 1) :]:
            self._note(message, None)
            if message.calls:
                self._note(message, message.calls[-1])
        if event.type in _OF_CALLS and (call := talk.call_of(event)):
            self._note(self._callers[call.seq], call)
        if event.type == "run_finished":
            self._end_turn()

    def __len__(self) -> int:
        return len(self._changed)

    def take(self) -> list[MessageRow]:
        """Return the rows, by their numbers."""
        changed, self._changed = self._changed, {}
        return [self._row(seq, *changed[seq]) for seq in sorted(changed)]

    def _end_turn(self) -> None:
        self._talk.take()
        self._callers.clear()

    def _note(self, message: Message, call: ToolCall | None) -> None:
        if call:
            self._callers[call.seq] = message
            self._changed[call.seq] = message, call
        elif message.content or not message.calls:  # else it is there for its calls alone
            self._changed[message.seq] = message, None

    def _row(self, seq: int, message: Message, call: ToolCall | None) -> MessageRow:
        at = parse_time(call.timestamp if call else message.timestamp)
        return MessageRow(
            session_id=self._session_id,
            message_type="thought" if message.role == "thought" and not call else "chat",
            sender=_SENDERS[message.role],
            content=_content_of_call(call) if call else {"content": message.content[:_LONGEST]},
            timestamp=int(at.timestamp()) if at else 0,
            seq=seq,
            turn=message.turn,
            tool=message.tool or None,
            model=message.model,
            at=at,
        )


def _content_of_call(call: ToolCall) -> dict[str, Any]:
    more = {"kind": call.kind, "status": call.status, "exit_code": call.exit_code}
    return {"content": "", "tool_result": [call.title[:_LONGEST], call.content[:_LONGEST]], **more}


def fits(event: Event) -> bool:
    """Say whether an event has numbers that a database can have; another implementation may write any."""
    return 0 <= event.seq <= LARGEST_NUMBER and 0 <= event.turn <= LARGEST_NUMBER


def values_of(row: Struct) -> Iterator[Any]:
    """Yield the values of a row, as databases take them: text without NUL, and without half a character."""
    for value in asdict(row).values():
        if isinstance(value, str):
            yield clean(value)
        elif isinstance(value, Mapping):
            yield _encode(_cleaned(value))
        else:
            yield value


def clean(text: str) -> str:
    """Return a text as databases take it: without NUL, and without half a character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _cleaned(value: Any) -> Any:
    """Return a value of JSON as databases take it; Python also reads numbers that JSON does not have."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return [_cleaned(each) for each in value] if isinstance(value, list) else value


def _number(value: int) -> int:
    return min(value, LARGEST_NUMBER)
