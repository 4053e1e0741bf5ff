"""A session's transcript as a conversation: messages with the tool calls they led to, the same for every tool. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from csa.errors import SealedError
from csa.model.events import Event
from csa.model.skeleton import is_bare
from csa.structs import Struct, field

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

_ENDED = {"completed", "failed"}


class ToolCall(Struct, frozen=False):
    """An agent's tool call, and its result."""

    id: str
    title: str
    kind: str = "other"
    status: str = "in_progress"  # completed, failed, denied
    content: str = ""
    exit_code: int | None = None
    seq: int = 0  # of its first event
    timestamp: str = ""


class Message(Struct, frozen=False):
    """A message: from the `user`, the `assistant`, as its `thought`, or from csa, the `system`.

    Tool calls belong to the assistant's message before them, which may be empty.
    """

    seq: int  # of its first event
    turn: int
    role: str
    content: str
    timestamp: str
    tool: str = ""
    model: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    is_replay: bool = False  # a recorded turn stood in for the tool


def read_conversation(events: Iterable[Event]) -> Iterator[Message]:
    """Yield the messages of a transcript in order; at most one turn is in memory."""
    conversation = Conversation()
    for event in events:
        if event.type == "run_started":
            yield from conversation.take()
        conversation.add(event)
        if event.type == "run_finished":
            yield from conversation.take()
    yield from conversation.take()


class Conversation:
    """The messages of the current turn."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.calls: dict[str, ToolCall] = {}
        self._open: str | None = None  # the type of event whose chunks continue
        self._tool = ""
        self._model: str | None = None
        self._prompt = ""
        self._is_replay = False

    def take(self) -> list[Message]:
        """Return the messages, and forget them."""
        messages, self.messages = self.messages, []
        self.calls.clear()
        self._open = None
        return messages

    def call_of(self, event: Event) -> ToolCall | None:
        """Return the call of this turn that an event is about; None if it is about none, or its beginning is lost."""
        return self.calls.get(_text(event.data.get("id")))

    def add(self, event: Event) -> None:
        """Take an event; SealedError for one that is only what encryption has left readable."""
        if event.type == "run_started" and is_bare(event):
            raise SealedError("The session is encrypted.", hint="csa show opens it, with your key")
        take = _TAKE.get(event.type)
        if take:
            take(self, event)
        if event.type not in {"usage", "plan", "session_bound"}:
            self._open = event.type if event.data.get("chunk") else None

    def say(self, event: Event, role: str, content: str) -> Message:
        """Add a message."""
        message = Message(event.seq, event.turn, role, content, event.ts, self._tool, self._model)
        message.is_replay = self._is_replay
        self.messages.append(message)
        return message

    def begin(self, event: Event) -> None:
        self._tool = str(event.data.get("tool") or "")
        self._model = _optional_text(event.data.get("model"))
        self._prompt = _text(event.data.get("prompt"))
        self._is_replay = bool(event.data.get("replayed_from"))
        attached = event.data.get("attachments")
        shown = _described(attached) if isinstance(attached, list) and attached else ()
        self.say(event, "user", "\n".join([self._prompt, *shown]))

    def bind(self, event: Event) -> None:
        self._model = _optional_text(event.data.get("model")) or self._model

    def user(self, event: Event) -> None:
        text = _text(event.data.get("text"))
        if text and text != self._prompt:  # some tools repeat the prompt
            self.say(event, "user", text)

    def speak(self, event: Event) -> None:
        role = "thought" if event.type == "agent_thought" else "assistant"
        text = _text(event.data.get("text"))
        if self._open == event.type and event.data.get("chunk") and self.messages:
            self.messages[-1].content += text
        elif text:
            self.say(event, role, text)

    def call(self, event: Event) -> None:
        data = event.data
        call = ToolCall(_text(data.get("id")), _text(data.get("title")) or "tool", _text(data.get("kind")) or "other")
        call.seq, call.timestamp = event.seq, event.ts
        _update(call, data)
        self.calls[call.id] = call
        self._caller(event).calls.append(call)

    def go_on(self, event: Event) -> None:
        call = self.call_of(event)
        if call is None:  # its beginning is lost, or was in an earlier turn
            return self.call(event)
        return _update(call, event.data)

    def permission(self, event: Event) -> None:
        if event.data.get("status") != "denied":
            return
        call = self.call_of(event)
        if call:
            call.status = "denied"
        else:
            title = _text(event.data.get("title") or event.data.get("message"))
            denied = ToolCall(_text(event.data.get("id")), title, status="denied", seq=event.seq, timestamp=event.ts)
            self._caller(event).calls.append(denied)

    def finish(self, event: Event) -> None:
        status = _text(event.data.get("status"))
        if status != "succeeded":
            error = event.data.get("error")
            message = _text(error.get("message")) if isinstance(error, Mapping) else ""
            self.say(event, "system", f"turn {event.turn} {status}" + (f": {message}" if message else ""))

    def handoff(self, event: Event) -> None:
        count = count_told(event.data)
        told = f"gave {event.data.get('to')} a summary of {count} earlier turn{'s' * (count != 1)}"
        gone = _text(event.data.get("replaces"))
        self.say(event, "system", f"{told}: it no longer knew conversation {gone}" if gone else told)

    def compaction(self, event: Event) -> None:
        if event.data.get("status") in (None, "succeeded"):  # one that only began, or failed, changes nothing
            self.say(event, "system", "the conversation was compacted")

    def _caller(self, event: Event) -> Message:
        """Return the message that a call belongs to."""
        last = self.messages[-1] if self.messages else None
        return last if last and last.role == "assistant" else self.say(event, "assistant", "")


_TAKE: Mapping[str, Callable[[Conversation, Event], None]] = {
    "run_started": Conversation.begin,
    "session_bound": Conversation.bind,
    "user_message": Conversation.user,
    "agent_message": Conversation.speak,
    "agent_thought": Conversation.speak,
    "tool_call": Conversation.call,
    "tool_call_update": Conversation.go_on,
    "permission": Conversation.permission,
    "handoff": Conversation.handoff,
    "compaction": Conversation.compaction,
    "run_finished": Conversation.finish,
}


def _described(attached: list[Any]) -> list[str]:
    from csa.model.attachment import describe  # noqa: PLC0415  # lists load this module, and few prompts have any

    return [describe(each) for each in attached if _is_mapping(each)]


def count_told(handoff: Mapping[str, Any]) -> int:
    """Return how many turns a `handoff` event says were summarised, of the session and of those that it began with."""
    sources = handoff.get("sources")
    others = [each for each in sources if isinstance(each, Mapping)] if isinstance(sources, list) else []
    told = [each.get("turns") for each in (handoff, *others)]
    return sum(len(turns) for turns in told if isinstance(turns, list))


def _update(call: ToolCall, data: Mapping[str, Any]) -> None:
    if data.get("title"):
        call.title = _text(data["title"])
    if call.status != "denied" and data.get("status"):
        call.status = _text(data["status"])
    if type(data.get("exit_code")) is int:
        call.exit_code = data["exit_code"]
    call.content = _joined(call.content, _text(data.get("content")), is_end=_text(data.get("status")) in _ENDED)


def _joined(before: str, added: str, *, is_end: bool) -> str:
    """Join outputs of a call; at its end some tools repeat all output, others send only the rest."""
    if not before or added.startswith(before):
        return added or before
    if not added or (is_end and before.endswith(added)):
        return before
    return before + added if before.endswith("\n") else f"{before}\n{added}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _optional_text(value: Any) -> str | None:
    return _text(value) or None


def message_to_json(session_id: str, message: Message) -> dict[str, Any]:
    """Return the line of `export --format jsonl`; its keys are fixed."""
    return {
        "id": f"{session_id}-{message.seq}",
        "session_id": session_id,
        "role": message.role,
        "content": message.content,
        "tool_calls": [{"id": call.id, "title": call.title, "kind": call.kind} for call in message.calls],
        "tool_results": [
            {"id": call.id, "status": call.status, "content": call.content, "exit_code": call.exit_code}
            for call in message.calls
        ],
        "timestamp": message.timestamp,
        "model": message.model,
    }


def shown_to_json(session_id: str, message: Message) -> dict[str, Any]:
    """Return the object that `session show --json` prints of a message."""
    more = {"turn": message.turn, "tool": message.tool or None, "at": message.timestamp}
    return {**message_to_json(session_id, message), **more}
