"""What the readers of all tools' streams share: dispatching lines to handlers by type, and judging the end.

A tool's reader fills the table of handlers, and judges an end, unless it is that of the wrong conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from csa.model.adapter import CompactionOutcome, ErrorKind, Outcome, ToolExit, Update
from csa.model.usage import Usage
from csa.structs import asdict
from csa_adapters.failures import Failure
from csa_adapters.jsonlines import Json, list_of, mapping_of, number_of, other, read_object, text_of

# The parameters of tools that name a file, and those with what an edit replaces, if anything, and by what.
_PATHS = ("file_path", "filePath", "notebook_path")
_EDITS = (("old_string", "new_string"), ("oldString", "newString"), ("", "content"))
_LONGEST_CHANGES = 64 << 10  # characters
_PLAN_STATUSES = frozenset({"pending", "in_progress", "completed"})


class StreamDecoder:
    """The reader of one run."""

    _reads_on = False  # after a fault: its usage and text still count
    _repeats_ids = False  # of calls

    def __init__(self) -> None:
        self._events: dict[str, Callable[[Json], list[Update] | None]] = {}  # by type; None: it is not recognised
        self._session: str | None = None  # the conversation, once the tool has named it
        self._fault: str | None = None
        self._error: Failure | None = None  # the last report
        self._text = ""  # the last message
        self._usage: Usage | None = None  # as far as reported
        self._open: dict[str, str] = {}  # the titles of tool calls begun and not ended
        self._denied: dict[str, str] = {}  # the titles of refused calls

    @property
    def is_finished(self) -> bool:
        """Whether the tool has announced the end of the turn: never, for tools that only exit."""
        return False

    @property
    def fault(self) -> str | None:
        """Why this is not the requested conversation."""
        return self._fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is None:
            return other(line)
        updates = self._identify(event)
        if self._fault is not None and not self._reads_on:
            return updates
        handler = self._events.get(text_of(event.get("type")))
        told = handler(event) if handler else None
        return updates + (other(line, event) if told is None else told)

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        failure: Failure | None = ("protocol", self._fault) if self._fault is not None else self._verdict(end)
        kind, message = failure or (None, None)
        return Outcome(
            succeeded=failure is None,
            text=self._text,
            error_kind=kind,
            error_message=message,
            usage=self._usage,
            denied=tuple(self._denied.values()),
        )

    def _identify(self, _event: Json) -> list[Update]:
        """Check the conversation that a line names, for tools where every line does."""
        return []

    def _verdict(self, end: ToolExit) -> Failure | None:
        """Say why the run has failed."""
        raise NotImplementedError

    def _ignore(self, _event: Json) -> list[Update]:
        """Report nothing for a known event."""
        return []

    def _refuse(self, fault: str) -> list[Update]:
        """Report that this is not the requested conversation."""
        self._fault = self._fault or fault
        return [error_update(("protocol", self._fault))]

    def _bind(self, session: str, model: object = None) -> list[Update]:
        """Report which conversation this is, once known."""
        if self._session is not None:
            return []
        self._session = session
        named = {"model": model} if text_of(model) else {}
        return [Update("session_bound", {"provider_session_id": session, **named})]

    def _fail(self, kind: ErrorKind, message: str) -> list[Update]:
        """Note and report a failure."""
        self._error = kind, message
        return [error_update(self._error)]

    def _use(self, usage: Usage | None) -> list[Update]:
        """Report the turn's total usage so far."""
        self._usage = usage
        return [] if usage is None else [Update("usage", usage.to_dict())]

    def _begin_call(self, call: str, kind: str, title: str, **more: Any) -> list[Update]:
        self._open[call] = title
        return [Update("tool_call", {"id": call, "title": title, "kind": kind, "status": "in_progress", **more})]

    def _deny(self, call: str, title: str) -> list[Update]:
        """Report a refused call, which may be announced twice."""
        key = f"{call} {title}" if self._repeats_ids else call
        if not call:
            key = str(len(self._denied))
        if key in self._denied:
            return []
        self._denied[key] = title
        return [Update("permission", {"id": call, "title": title, "status": "denied"})]


def asked_of(line: Json) -> Json:
    """Return what an event `permission` has of a line about something that a person is, or was, asked."""
    if line.get("pending") is not True:
        return {key: text_of(line[key]) for key in ("ask", "by", "via") if line.get(key)}
    options = [
        {"id": text_of(each.get("optionId")), "name": text_of(each.get("name")), "kind": text_of(each.get("kind"))}
        for each in map(mapping_of, list_of(line.get("options")))
    ]
    return {
        "ask": text_of(line.get("ask")),
        "kind": text_of(line.get("kind")) or "other",
        "command": text_of(line.get("command")) or None,
        "paths": [path for path in list_of(line.get("paths")) if type(path) is str],
        "options": options,
    }


def files_of(given: Json) -> Json:
    """Return what the parameters of a call say of a file: `paths`, and `changes`, unless they are long."""
    path = next(filter(None, (text_of(given.get(name)) for name in _PATHS)), "")
    if not path:
        return {}
    edits = list_of(given.get("edits")) or [given]  # several of one file
    changes = [change for edit in map(mapping_of, edits) if (change := _change(path, edit))]
    return {"paths": [path], **changes_of(changes)}


def changes_of(changes: list[Json]) -> Json:
    """Return changes as an event has them; none at all where they are long."""
    length = sum(len(change["old"] or "") + len(change["new"]) for change in changes)
    return {"changes": changes} if changes and length <= _LONGEST_CHANGES else {}


def _change(path: str, edit: Json) -> Json | None:
    for old, new in _EDITS:
        if type(edit.get(new)) is str:
            return {"path": path, "old": text_of(edit.get(old)) if old else None, "new": edit[new]}
    return None


def compaction_outcome(outcome: Outcome, proof: str, *, before: Any = None, after: Any = None) -> CompactionOutcome:
    """Return the verdict on a compaction, with its proof and the context's tokens before and after."""
    return CompactionOutcome(
        **asdict(outcome),
        proof=proof if outcome.succeeded else None,
        tokens_before=_whole(before),
        tokens_after=_whole(after),
    )


def _whole(told: Any) -> int | None:
    number = number_of(told)
    return None if number is None else int(number)


def error_update(failure: Failure) -> Update:
    """Report a failure."""
    return Update("error", {"kind": failure[0], "message": failure[1]})


def warning_update(message: str) -> Update:
    """Report a warning for the user."""
    return Update("warning", {"message": message})


def retry_update(
    failure: Failure, *, attempt: int | None = None, most: int | None = None, delay_s: float | None = None
) -> Update:
    """Report a retry of the tool, with its number, the maximum and the delay, if known."""
    told = {"attempt": attempt, "max": most, "retry_after_s": delay_s}
    known = {name: value for name, value in told.items() if value is not None}
    return Update("retry", {"kind": failure[0], "message": failure[1], **known})


def plan_update(todos: Any) -> Update:
    """Report the whole plan."""
    return Update("plan", {"entries": [_entry(todo) for todo in map(mapping_of, list_of(todos)) if todo]})


def _entry(todo: Json) -> dict[str, str]:
    status = text_of(todo.get("status"))
    return {"content": text_of(todo.get("content")), "status": status if status in _PLAN_STATUSES else "pending"}


def describe_call(name: str, given: Json, *, tools: Mapping[str, tuple[str, str]], shell_tool: str) -> tuple[str, str]:
    """Return a call's kind and title: the command of a call of `shell_tool`, else the tool's name and its subject.

    `tools` has each tool's kind, and the parameter that distinguishes its calls.
    """
    kind, key = tools.get(name, ("other", ""))
    subject = text_of(given.get(key))
    return kind, subject if name == shell_tool and subject else f"{name} {subject}".strip()
