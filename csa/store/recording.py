"""What was recorded of a tree of sessions, as far as its turns can be run again: events, output, and who called whom.

Only reads, from a state root or from the unpacked archive of an export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from csa.errors import NotFoundError, StateError
from csa.model.events import Event
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.store.atomic import read_regular
from csa.store.statefile import load_state
from csa.store.transcript import HEAD_BYTES, parse_line, read_events, read_lines
from csa.structs import Struct

_ENDS = (b'"run_started"', b'"run_finished"')


class Span(Struct):
    """The beginning and the end of a turn; a turn that is running, or was lost, has none."""

    started: Event
    finished: Event | None

    @property
    def number(self) -> int:
        return self.started.turn


class Start(Struct, kw_only=True):
    """One process of the tool: what happened while it ran, what it wrote, and how it ended."""

    begun: str
    ended: str
    events: list[Event]
    stdout: bytes
    stderr: bytes
    exit_code: int | None
    signal: int | None


class RecordedTurn(Struct, kw_only=True):
    """A turn, with all that happened in it, and what its tool wrote; None where that was not kept."""

    session: RecordedSession
    span: Span
    events: list[Event]
    stdout: bytes | None
    stderr: bytes
    schema: dict[str, Any] | None  # of the answer, where one was asked for

    @property
    def starts(self) -> list[Start] | None:
        """The processes of the tool, several if csa has started it again; None if an older csa did not note them."""
        marks = [event for event in self.events if _is_another_start(event)]
        if not all(map(_has_noted, marks)) or self.stdout is None or self.span.finished is None:
            return None
        found: list[Start] = []
        begun, at, out, err = self.span.started, 0, 0, 0
        for mark in (*marks, self.span.finished):
            is_last = mark is self.span.finished
            data = mark.data if is_last else mark.data["process"]
            index = len(self.events) if is_last else self.events.index(mark)
            ends = (None, None) if is_last else (data["stdout_bytes"], data["stderr_bytes"])
            start = Start(
                begun=begun.ts,
                ended=mark.ts,
                events=self.events[at:index],
                stdout=self.stdout[out : ends[0]],
                stderr=self.stderr[err : ends[1]],
                exit_code=_number(data.get("tool_exit_code" if is_last else "exit_code")),
                signal=_number(data.get("signal")),
            )
            found.append(start)
            begun, at, (out, err) = mark, index + 1, (ends[0] or 0, ends[1] or 0)
        return found


class Call(Struct):
    """A `csa run` of an agent: the session, and the first and last turn, which differ if a fallback took over.

    `fork_of` is the session that it forked.
    """

    session: RecordedSession
    first: Span
    last: Span
    fork_of: str | None

    @property
    def begins(self) -> bool:
        """Whether it began the session."""
        return self.first.number == self.session.spans[0].number


class RecordedSession:
    """A recorded session; what is read of it is kept."""

    def __init__(self, paths: SessionPaths) -> None:
        self.paths = paths
        self.session_id = paths.session_id
        self.state: SessionState = load_state(paths.state)
        self._spans: list[Span] | None = None

    @property
    def spans(self) -> list[Span]:
        """Its turns, in order."""
        if self._spans is None:
            self._spans = list(_read_spans(self.paths.transcript))
        return self._spans

    def span(self, number: int) -> Span:
        """Return where a turn begins and ends; NotFoundError."""
        found = next((span for span in self.spans if span.number == number), None)
        if found is None:
            count = len(self.spans)
            raise NotFoundError(f"The recorded session {self.session_id} has {count} turn{'s' * (count != 1)} only.")
        return found

    def turn(self, number: int) -> RecordedTurn:
        """Read a turn; NotFoundError if there is none, StateError if it cannot be read."""
        span = self.span(number)
        last = span.finished.seq if span.finished else None
        events = [
            event
            for event in read_events(self.paths.transcript)
            if span.started.seq < event.seq and (last is None or event.seq < last)
        ]
        place = self.paths.turn_output(number)
        return RecordedTurn(
            session=self,
            span=span,
            events=events,
            stdout=_read_file(place / "stdout.log"),
            stderr=_read_file(place / "stderr.log") or b"",
            schema=_read_schema(place / "schema.json") if "schema" in span.started.data else None,
        )

    def answer(self) -> str:
        """Return the answer of its last turn; empty if there is none."""
        place = self.paths.turn_output(self.spans[-1].number if self.spans else 0)
        return (_read_file(place / "final.md") or b"").decode("utf-8", "replace")

    def fork_of(self, span: Span) -> str | None:
        """Return the session that was forked in a turn, which then is the first one."""
        if not self.state.fork_of or span.number != self.spans[0].number:
            return None
        events = takewhile(lambda event: event.type != "run_finished", read_events(self.paths.transcript))
        return next((str(event.data.get("from")) for event in events if event.type == "fork"), None)

    def run_of(self, span: Span) -> Span:
        """Return the last turn of the `csa run` that began with this one."""
        last = span
        for later in self.spans:
            if later.number > last.number and span.number in _chain(later):
                last = later
        return last

    def is_continuation(self, span: Span) -> bool:
        """Say whether a turn was begun by the run of the turn before it: by a fallback, or after a quota."""
        return any(number < span.number for number in _chain(span))


class Recording:
    """A tree of recorded sessions, by id."""

    def __init__(self, places: Mapping[str, SessionPaths]) -> None:
        self._places = places
        self._sessions: dict[str, RecordedSession] = {}

    def session(self, session_id: str) -> RecordedSession:
        """Return a session; StateError if its record cannot be read."""
        if session_id not in self._sessions:
            self._sessions[session_id] = RecordedSession(self._places[session_id])
        return self._sessions[session_id]

    def founders(self) -> list[str]:
        """Return the sessions without a parent in the recording."""
        return [each for each in sorted(self._places) if self.session(each).state.parent_session_id not in self._places]

    def below(self, top: str) -> list[RecordedSession]:
        """Return a session and all below it, parents first."""
        found = [self.session(top)]
        for parent in found:
            found += [
                child
                for child in map(self.session, sorted(self._places))
                if child.state.parent_session_id == parent.session_id and child not in found
            ]
        return found

    def calls_of(self, turn: RecordedTurn) -> list[Call]:
        """Return the runs that an agent has called for in a turn, in the order in which they began."""
        found = [
            Call(session, span, session.run_of(span), session.fork_of(span))
            for session in map(self.session, self._places)
            if session.session_id != turn.session.session_id
            for span in session.spans
            if _is_called_in(turn, session, span)
        ]
        return sorted(found, key=lambda call: call.first.started.ts)


def _is_another_start(event: Event) -> bool:
    """Say whether csa starts the tool again: after a transient failure, a wrong answer, or for a lost conversation."""
    if event.type == "retry":
        return event.data.get("by") == "csa"
    return event.type == "handoff" and event.data.get("reason") == "unknown_conversation"


def _has_noted(mark: Event) -> bool:
    """Say whether an event has where the output of the process before it ends."""
    told = mark.data.get("process")
    return isinstance(told, dict) and all(isinstance(told.get(f"{each}_bytes"), int) for each in ("stdout", "stderr"))


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _is_called_in(turn: RecordedTurn, session: RecordedSession, span: Span) -> bool:
    """Say whether a turn was begun by the agent of another one, which an older csa has not recorded."""
    caller = span.started.data.get("caller", session.state.parent_session_id)
    begun, ended = turn.span.started.ts, turn.span.finished.ts if turn.span.finished else ""
    is_within = begun <= span.started.ts and (not ended or span.started.ts <= ended)
    return caller == turn.session.session_id and is_within and not session.is_continuation(span)


def _chain(span: Span) -> list[int]:
    chain = span.finished.data.get("chain") if span.finished else None
    links = chain if isinstance(chain, list) else []
    return [link["turn"] for link in links if isinstance(link, dict) and isinstance(link.get("turn"), int)]


def _read_spans(transcript: Path) -> Iterator[Span]:
    started: Event | None = None
    for line in read_lines(transcript):
        if not (any(mark in line[:HEAD_BYTES] for mark in _ENDS) and (event := parse_line(line))):
            continue
        if event.type == "run_started":
            if started is not None:
                yield Span(started, None)
            started = event
        elif event.type == "run_finished" and started is not None:
            yield Span(started, event)
            started = None
    if started is not None:
        yield Span(started, None)


def _read_schema(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(_read_file(path) or b"null")
    except (ValueError, RecursionError) as error:
        raise StateError(path, "it is not JSON") from error
    return found if isinstance(found, dict) else None


def _read_file(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError.unreadable(path, error) from error
