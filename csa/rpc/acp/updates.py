"""A session's events as updates of the Agent Client Protocol: of a turn that runs, and of a history. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from csa.model.conversation import Conversation, ToolCall
from csa.model.events import Event
from csa.model.wording import describe

Json = dict[str, Any]

KINDS = frozenset({"read", "edit", "delete", "move", "search", "execute", "think", "fetch", "other"})
_STATUSES = {"pending": "pending", "in_progress": "in_progress", "failed": "failed", "denied": "failed"}
_PRIORITIES, _PLAN_STATUSES = ("high", "medium", "low"), ("pending", "in_progress", "completed")
_NOTES = frozenset({"warning", "retry", "error", "handoff", "fork", "compaction", "parked"})
_MESSAGE, _THOUGHT, _PROMPT = "agent_message_chunk", "agent_thought_chunk", "user_message_chunk"


class Updates:
    """Turns events into updates, one after the other; a turn's calls have ids that no other turn's have."""

    def __init__(self, session_id: str, *, with_prompts: bool) -> None:
        self._id = session_id
        self._with_prompts = with_prompts  # those that begin turns; the client of a running turn has sent its own
        self._conversation = Conversation()
        self._told = set[str]()  # the calls that the client knows
        self._changes: dict[str, list[Json]] = {}  # of files, by call: an update replaces all content
        self._cwd = ""
        self._open = ""  # the kind of message that the last update was a chunk of
        self._message = 0  # the event that began that message
        self.has_answered = False  # whether the agent has said anything in the last turn

    def of(self, event: Event) -> list[Json]:
        """Return what an event tells the client."""
        if event.type == "run_started":
            self._conversation.take()
            self._told.clear()
            self._changes.clear()
            self._cwd = _text(event.data.get("cwd"))
            self.has_answered = False
        self._conversation.add(event)
        if event.type in _NOTES:
            return self._note(event)
        tell = _TELL.get(event.type)
        return tell(self, event) if tell else []

    def _begin(self, event: Event) -> list[Json]:
        text = self._conversation.messages[-1].content
        return self._say(_PROMPT, text, event) if self._with_prompts else []

    def _user(self, event: Event) -> list[Json]:
        last = self._conversation.messages[-1] if self._conversation.messages else None
        is_new = last and last.role == "user" and last.seq == event.seq  # some tools repeat the prompt
        return self._say(_PROMPT, _text(event.data.get("text")), event) if is_new else []

    def _speak(self, event: Event) -> list[Json]:
        is_answer = event.type == "agent_message" and not event.data.get("parent_id")
        text = _text(event.data.get("text"))
        self.has_answered |= bool(is_answer and text)
        return self._say(_MESSAGE if is_answer else _THOUGHT, text, event)

    def _say(self, kind: str, text: str, event: Event) -> list[Json]:
        """Return a chunk of a message; clients join what follows each other, so another message begins with a gap."""
        if not text:
            return []
        is_more = self._open == kind and bool(event.data.get("chunk"))
        gap = "\n\n" if self._open == kind and not is_more else ""
        if not is_more:
            self._message = event.seq
        self._open = kind
        content = {"type": "text", "text": gap + text}
        return [{"sessionUpdate": kind, "content": content, "messageId": f"{self._id}-{self._message}"}]

    def _note(self, event: Event) -> list[Json]:
        words = describe(event)
        return self._say(_THOUGHT, words, event) if words else []

    def _call(self, event: Event) -> list[Json]:
        call = self._conversation.calls.get(_text(event.data.get("id")))
        return [self._tell_call(call, event)] if call else []

    def _deny(self, event: Event) -> list[Json]:
        """Tell of what the agent was not allowed to do; a call of its own, or one that is known."""
        if event.data.get("status") != "denied":
            return []
        named = _text(event.data.get("id"))
        title = _text(event.data.get("title") or event.data.get("message")) or "denied"
        call = self._conversation.calls.get(named) or ToolCall(named or f"denied-{event.seq}", title, status="denied")
        return [self._tell_call(call, event)]

    def _tell_call(self, call: ToolCall, event: Event) -> Json:
        self._open = ""
        is_known = call.id in self._told
        self._told.add(call.id)
        if "changes" in event.data:
            self._changes[call.id] = self._diffs(event.data["changes"])
        text = call.content or ("Permission was denied." if call.status == "denied" else "")
        update: Json = {
            "sessionUpdate": "tool_call_update" if is_known else "tool_call",
            "toolCallId": self.call_id(event.turn, call.id),
            "title": call.title,
            "kind": call.kind if call.kind in KINDS else "other",
            "status": _STATUSES.get(call.status, "completed"),
        }
        content = [*([text_content(text)] if text else []), *self._changes.setdefault(call.id, [])]
        update |= {"content": content} if content else {}
        paths = event.data.get("paths")
        if isinstance(paths, list) and paths:
            update["locations"] = [{"path": self._place(path)} for path in paths]
        return update

    def _diffs(self, changes: Any) -> list[Json]:
        found = [each for each in changes if isinstance(each, Mapping)] if isinstance(changes, list) else []
        diffs: list[Json] = []
        for each in found:
            new = {"newText": _text(each.get("new"))}
            old = {"oldText": _text(each["old"])} if each.get("old") is not None else {}
            diffs.append({"type": "diff", "path": self._place(each.get("path")), **old, **new})
        return diffs

    def _place(self, path: Any) -> str:
        return posixpath.join(self._cwd, _text(path))

    def call_id(self, turn: int, named: str) -> str:
        """Return the id that the client knows a call by."""
        return f"{turn}-{named}"

    def _plan(self, event: Event) -> list[Json]:
        self._open = ""
        entries = event.data.get("entries")
        found = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
        return [{"sessionUpdate": "plan", "entries": [_entry(entry) for entry in found]}]

    def _finish(self, event: Event) -> list[Json]:
        """Tell how a turn of the history has ended, if not well: that of a prompt is its answer."""
        last = self._conversation.messages[-1] if self._conversation.messages else None
        if not self._with_prompts or last is None or last.role != "system" or last.seq != event.seq:
            return []
        return self._say(_THOUGHT, last.content, event)


_TELL: Mapping[str, Callable[[Updates, Event], list[Json]]] = {
    "run_started": Updates._begin,  # noqa: SLF001  # the class's own table
    "user_message": Updates._user,  # noqa: SLF001  # as above
    "agent_message": Updates._speak,  # noqa: SLF001  # as above
    "agent_thought": Updates._speak,  # noqa: SLF001  # as above
    "tool_call": Updates._call,  # noqa: SLF001  # as above
    "tool_call_update": Updates._call,  # noqa: SLF001  # as above
    "permission": Updates._deny,  # noqa: SLF001  # as above
    "plan": Updates._plan,  # noqa: SLF001  # as above
    "run_finished": Updates._finish,  # noqa: SLF001  # as above
}


def text_content(text: str) -> Json:
    """Return a text as the content of a tool call."""
    return {"type": "content", "content": {"type": "text", "text": text}}


def _entry(entry: Mapping[str, Any]) -> Json:
    priority, status = entry.get("priority"), entry.get("status")
    return {
        "content": _text(entry.get("content")),
        "priority": priority if priority in _PRIORITIES else "medium",
        "status": status if status in _PLAN_STATUSES else "pending",
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
