"""The turns and compactions of a session, from its journal: how each began and ended, and what it has used.

What happened in between is not read. This is also the only rule that tells a turn's events from those of errands:
checkpoints, edits of the record, requested compactions, a tool's open interface. Errands
do not affect the outcome of a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from csa.model.events import Event
from csa.model.state import parse_time
from csa.model.usage import Usage, counted, number_of
from csa.store.transcript import HEAD_BYTES, parse_line, read_events_backwards, read_lines
from csa.store.unfinished import ERRANDS, Open, Pending
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

TURN_ENDS = frozenset({"run_started", "run_finished"})
NOTHING_USED = frozenset(
    {"spawn", "setup", "unknown_conversation"}
)  # kinds of error of a turn in which no model was asked
_MAX_LOOK_BACK = 2000  # events of a turn that has not ended
_MARKS = (b'"run_started"', b'"run_finished"', b'"compaction"', b'"usage"')
_BINDINGS = (b'"run_started"', b'"handoff"', b'"session_bound"')
_MESSAGES = (b'"type":"agent_message"', b'"type":"user_message"')
_CHUNK = b'"chunk":true'


class TurnRecord(Struct):
    """A turn. Without an end it is running, or was lost."""

    number: int
    tool: str
    started_at: datetime | None
    finished: Event | None
    messages: int = 1  # the prompt, and the messages; a streamed message counts once
    so_far: Usage | None = None  # the last reported usage; the end is more exact
    template: str | None = None  # that it was run with
    replayed_from: Mapping[str, Any] | None = None  # the recorded session and turn that stood in for the tool

    @property
    def told(self) -> Usage | None:
        """Its usage, as far as known."""
        return usage_told(self.finished) if self.finished else self.so_far

    @property
    def usage(self) -> Usage:
        """What it adds to the usage of its session."""
        return Usage() if self.told is None and never_began(self.finished) else counted(self.told)

    @property
    def finished_at(self) -> datetime | None:
        return parse_time(self.finished.data.get("finished_at") or self.finished.ts) if self.finished else None

    @property
    def status(self) -> str | None:
        """How it ended; None without an end."""
        return str(self.finished.data.get("status", "failed")) if self.finished else None

    def number_of(self, key: str) -> float | None:
        """Return a number from its end; None if that has none."""
        return number_of(self.finished.data.get(key)) if self.finished else None


class TurnFilter:
    """Tells the events of turns from those of errands. It gets them one by one, oldest first."""

    def __init__(self) -> None:
        self._is_over = False
        self._compacts = False

    def takes(self, event: Event) -> bool:
        """Say whether an event belongs to a turn."""
        if event.type in TURN_ENDS:
            self._is_over, self._compacts = event.type == "run_finished", False
            return True
        if event.type == "compaction" and "tool" in event.data:  # else the tool made it, inside a turn
            self._compacts = event.data.get("status") == "started"
            return False
        return not (self._is_over or self._compacts or event.type in ERRANDS)


def newest_of_turn(transcript: Path | str, *, limit: int = _MAX_LOOK_BACK) -> list[Event]:
    """Return the events of the last turn, newest first: only the end of one that has ended, else at most `limit`.

    Raises:
        StateError: the transcript cannot be read.
    """
    events: list[Event] = []
    for event in read_events_backwards(transcript):
        events.append(event)
        if event.type in TURN_ENDS or len(events) >= limit:
            break
    keep = TurnFilter()
    return [event for event in reversed(events) if keep.takes(event)][::-1]


class ConversationRecord(Struct):
    """A tool's conversation in which a session continues: since which turn, and which one it `replaces`.

    That is one that the tool no longer knew, or did not know where the session was forked to.
    """

    provider_session_id: str
    since_turn: int
    replaces: str | None
    reason: str | None = None  # why it replaces that one


class CompactionRecord(Struct):
    """A compaction that csa ran. Without an end it is running, or was lost."""

    tool: str
    started_at: datetime | None
    usage: Usage
    number: int | None = None  # it is not a turn


def usage_told(finished: Event | None) -> Usage | None:
    """Return the usage from the end of a turn or compaction; None if it has none."""
    used = finished.data.get("usage") if finished else None
    return Usage.from_dict(used) if isinstance(used, Mapping) else None


def never_began(finished: Event | None) -> bool:
    """Say whether a turn's tool could not be started, or could not begin, so that it has used nothing."""
    error = finished.data.get("error") if finished else None
    return isinstance(error, Mapping) and error.get("kind") in NOTHING_USED


def usage_of_compaction(told: Usage | None, status: str) -> Usage:
    """Return what a compaction adds to its session's usage; one that failed without reporting usage cost nothing."""
    has_used = told is not None and bool(told.tokens or told.cost_usd)
    return counted(told) if has_used or status != "failed" else Usage()


def read_turns(transcript: Path) -> Iterator[TurnRecord]:
    """Yield the turns in the order in which they began; a missing transcript has none.

    Raises:
        StateError: it cannot be read.
    """
    return (found for found in read_history(transcript) if isinstance(found, TurnRecord))


def read_history(transcript: Path) -> Iterator[TurnRecord | CompactionRecord]:
    """Yield turns and compactions, each when it ends; StateError as `read_turns`."""
    pending = Pending()
    messages = 0
    for found in _read_marks(transcript):
        if found is None:
            messages += 1
            continue
        yield from (_record(begun, end, messages) for begun, end in pending.take(found))
        if found.type in {"run_started", "run_finished"}:
            messages = 0
    yield from (_record(begun, None, messages) for begun in (pending.turn, pending.compaction) if begun)


def read_conversations(transcript: Path) -> dict[str, ConversationRecord]:
    """Return the last conversation of each tool, by its name; StateError as `read_turns`."""
    found: dict[str, ConversationRecord] = {}
    tool, replaced, reason = "", None, None
    for line in read_lines(transcript):
        if not any(mark in line[:HEAD_BYTES] for mark in _BINDINGS) or (event := parse_line(line)) is None:
            continue
        if event.type == "run_started":
            tool, replaced, reason = str(event.data.get("tool") or ""), None, None
        elif event.type == "handoff":
            replaced, reason = event.data.get("replaces") or replaced, event.data.get("reason") or reason
        elif event.type == "session_bound":
            name, known = str(event.data.get("provider_session_id")), found.get(tool)
            if known is None or known.provider_session_id != name:
                found[tool] = ConversationRecord(name, event.turn, replaced, reason)
    return found


def _record(begun: Open, end: Event | None, messages: int) -> TurnRecord | CompactionRecord:
    if begun.started and begun.started.type == "compaction":
        told = usage_told(end) or begun.usage
        usage = usage_of_compaction(told, str(end.data.get("status")) if end else "lost")
        return CompactionRecord(str(begun.started.data.get("tool") or ""), parse_time(begun.started.ts), usage)
    return _turn(begun.started, end, messages, begun.usage)


def _turn(started: Event | None, finished: Event | None, messages: int, so_far: Usage | None) -> TurnRecord:
    known = started or finished
    assert known is not None
    tool = str((started or known).data.get("tool") or (finished.data.get("tool") if finished else "") or "")
    began = finished.data.get("started_at") if finished else None
    moment = parse_time(began or (started.ts if started else None))
    template = started.data.get("template") if started else None
    replayed = started.data.get("replayed_from") if started else None
    return TurnRecord(
        known.turn,
        tool,
        moment,
        finished,
        messages + 1,
        so_far,
        None if template is None else str(template),
        replayed if isinstance(replayed, Mapping) else None,
    )


def _read_marks(transcript: Path) -> Iterator[Event | None]:
    """Yield beginnings, ends and usage events, and None for each message; other lines are not even parsed."""
    was_chunk = False
    for line in read_lines(transcript):
        head = line[:HEAD_BYTES]
        if any(mark in head for mark in _MESSAGES):
            is_chunk = _CHUNK in line
            if not (is_chunk and was_chunk):
                yield None
            was_chunk = is_chunk
            continue
        was_chunk = False
        if any(mark in head for mark in _MARKS) and line.endswith(b"\n"):
            event = parse_line(line)
            if event and event.type in {"run_started", "run_finished", "compaction", "usage"}:
                yield event
