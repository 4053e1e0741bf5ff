"""Observing many sessions repeatedly, cheaply. Nothing is written.

For a finished session two files and its locks are stat'ed, and read again only if they have changed. For a running one
the lock is checked each time, and what was added to its transcript is read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from csa.errors import StateError
from csa.model.events import Event
from csa.model.state import SessionState
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.store.flocks import lock_inodes, may_be_held
from csa.store.liveness import Liveness, probe
from csa.store.owner import CHANGE
from csa.store.sessions import Record, Store
from csa.store.shown import SessionInfo, Siblings, seconds_of, span_of
from csa.store.status import session_status
from csa.store.transcript import read_events_backwards
from csa.store.turns import TURN_ENDS, TurnFilter
from csa.store.unfinished import Unfinished, read_unfinished
from csa.structs import Struct, field, replace

Describe = Callable[[Event], str | None]
_Signature = tuple[int, int, int] | None
_MAX_LOOK_BACK = 200  # events, back to the current activity and the turn's beginning
_MAX_TEXT = 400
_SETTLED_NS = 100_000_000  # a directory changed more recently may change again without a new mtime


class _Tail(Struct):
    """What the end of a transcript says about its last turn."""

    seq: int = -1  # another implementation counts from 0
    turn: int = 0
    tool: str = ""
    doing: str = ""
    started_at: float | None = None
    last_at: float | None = None
    duration_s: float | None = None
    is_finished: bool = False
    is_settled: bool = False  # no events since its end


class _Known(Struct, frozen=False):
    """The findings when a session was last read, and the state of its files before.

    Their paths are built once: that costs as much as a stat.
    """

    paths: SessionPaths
    state_path: str
    transcript_path: str
    state_file: _Signature = None
    transcript: _Signature = None
    told: _Signature = None
    liveness: Liveness | None = None
    record: Record | None = None
    locks: _Signature = None
    lock_inodes: frozenset[int] = frozenset()
    tail: _Tail = _Tail()
    turns: TurnFilter = field(default_factory=TurnFilter)  # has seen the transcript as far as `tail` has
    unfinished: Unfinished = Unfinished()
    info: SessionInfo | None = None


class Observer:
    """The current sessions of one store. `describe` renders an event, or skips it."""

    def __init__(self, store: Store, describe: Describe) -> None:
        self.store = store
        self._describe = describe
        self._directory = store.sessions_dir
        self._listed: _Signature = None
        self._siblings = Siblings(store, [])
        self._known: dict[str, _Known] = {}
        self._told_file = ""  # of another host's session: what that has said of it
        if store.host:
            from csa.store.mirrors import TOLD_FILE  # noqa: PLC0415  # most sessions are this host's

            self._told_file = TOLD_FILE

    def ids(self) -> Sequence[str]:
        """Return the ids of all sessions, oldest first; the same list while nothing changes."""
        found = _sign(self._directory)
        if found != self._listed or found is None:
            ids = self.store.ids()
            if ids != self._siblings.ids:
                self._siblings.replace(ids)
                self._known = {session_id: self._known[session_id] for session_id in ids if session_id in self._known}
            is_settled = found is not None and time.time_ns() - found[0] > _SETTLED_NS
            self._listed = found if is_settled else None
        return self._siblings.ids

    def is_running(self, session_id: str) -> bool:
        """Say whether a session is running; for a finished one that costs a stat."""
        return self._probe(self._get(session_id)).state == "alive"

    def look(self, session_id: str) -> SessionInfo | None:
        """Return the current session, the same object if nothing has changed; None if it is gone."""
        known = self._get(session_id)
        try:
            return self._look(known)
        except StateError as fault:  # not kept: a change of modes, which fixes it, changes neither size nor time
            return self._unreadable(Record(self.store, session_id, known.paths, None, fault), str(fault))
        except (OSError, ValueError, TypeError) as error:  # the latter: values that no csa writes
            record = known.record or Record(self.store, session_id, known.paths, None)
            info = SessionInfo(record=record, status="unknown", _usage=Usage(), _beside=self._siblings)
            return replace(info, doing=f"cannot be read: {error}")

    def has_changed(self, session_id: str) -> bool:
        """Say whether a session's record or transcript is not as it was at the last look; its lock is not looked at."""
        known = self._get(session_id)
        return _sign(known.transcript_path) != known.transcript or _sign(known.state_path) != known.state_file

    def _get(self, session_id: str) -> _Known:
        known = self._known.get(session_id)
        if known is None:
            paths = self.store.paths(session_id)
            known = self._known[session_id] = _Known(paths, str(paths.state), str(paths.transcript))
        return known

    def _probe(self, known: _Known) -> Liveness:
        """Check the lock, unless the session had finished and its transcript, where turns begin, is unchanged."""
        transcript = _sign(known.transcript_path)  # before reading anything: later changes show next time
        seen = known.liveness
        told = _sign(f"{known.paths.pathname}/{self._told_file}") if self._told_file else None
        is_changed = seen is None or seen.state != "not_alive" or (transcript, told) != (known.transcript, known.told)
        known.told = told
        if known.liveness is None or is_changed or _may_have_stranger(known):
            if transcript != known.transcript:
                if _is_another(known.transcript, transcript):
                    known.tail, known.turns, known.unfinished = _Tail(), TurnFilter(), Unfinished()
                known.transcript, known.info = transcript, None
            liveness = probe(known.paths)
            if known.liveness is None or liveness != known.liveness:
                known.info = None
            known.liveness = liveness
        return known.liveness

    def _look(self, known: _Known) -> SessionInfo | None:
        liveness, paths = self._probe(known), known.paths
        state_file = _sign(known.state_path)
        if known.record is None or state_file != known.state_file:
            known.record, known.state_file, known.info = self.store.record(paths.session_id), state_file, None
            self._siblings.note(known.record)
        if known.info:
            return known.info
        record = known.record
        if record.state is None:
            known.info = None if record.is_gone else self._unreadable(record, str(record.fault))
            return known.info
        known.tail = tail = _read_tail(paths.transcript, self._describe, known.tail, known.turns)
        known.unfinished = Unfinished() if tail.is_settled else read_unfinished(paths.transcript, known.unfinished)
        info = SessionInfo(
            record=record,
            status="running",
            tool=tail.tool or record.state.last_tool or "",
            turn=tail.turn or record.state.turns,
            doing=tail.doing,
            started_at=tail.started_at,
            _usage=record.state.usage + known.unfinished.usage,
            _beside=self._siblings,
        )
        if liveness.runs_turn:
            known.info = _running(info, liveness, tail)
            return known.info
        status, _ = session_status(paths, record.state)
        if status == "running":  # it has just begun
            known.liveness = None
        known.info = _at_rest(info, record.state, status, tail)
        if liveness.state == "alive" and liveness.owner and liveness.owner.errand != CHANGE:
            known.info = replace(known.info, doing=liveness.owner.errand, owner=liveness.owner)
        return known.info

    def _unreadable(self, record: Record, why: str) -> SessionInfo:
        return replace(record.examine(self._siblings), doing=why, _usage=Usage())


def _may_have_stranger(known: _Known) -> bool:
    """Say whether a session's lock file may be held by another program, which its transcript does not show."""
    held = may_be_held(known.paths.pathname)
    if not held:
        return False
    locks = _sign(f"{known.paths.pathname}/locks")
    if locks != known.locks or (locks and time.time_ns() - locks[0] < _SETTLED_NS):
        known.locks, known.lock_inodes = locks, lock_inodes(known.paths.pathname)
    return not held.isdisjoint(known.lock_inodes)


def _running(info: SessionInfo, liveness: Liveness, tail: _Tail) -> SessionInfo:
    if (stranger := liveness.stranger) is not None:
        return replace(info, tool=stranger.tool, turn=0, doing=stranger.in_words, started_at=None, pid=stranger.pid)
    if (owner := liveness.owner) is None:
        return replace(info, tool=tail.tool, turn=tail.turn)
    began = seconds_of(owner.since) if owner.turn != tail.turn or tail.started_at is None else tail.started_at
    doing = owner.waits or tail.doing
    return replace(info, tool=owner.tool, turn=owner.turn, doing=doing, started_at=began, owner=owner, pid=owner.pid)


def _at_rest(info: SessionInfo, state: SessionState, status: str, tail: _Tail) -> SessionInfo:
    duration, doing = tail.duration_s, tail.doing
    if not tail.is_finished:
        doing = ": ".join(filter(None, (status, tail.doing or state.description)))
        if tail.started_at is not None and tail.last_at is not None:
            duration = tail.last_at - tail.started_at
    return replace(info, status=status, doing=doing, duration_s=duration)


def _read_tail(transcript: Path, describe: Describe, before: _Tail, turns: TurnFilter) -> _Tail:
    """Read what was added since `before`; of a transcript not read yet, a limited part of its end."""
    added = _last_events(transcript, before.seq)
    events = [event for event in reversed(added) if turns.takes(event)][::-1]
    if not events:
        return replace(before, seq=added[0].seq, is_settled=False) if added else before
    oldest, turn = events[-1], events[0].turn
    if oldest.type in TURN_ENDS or before.turn != turn:
        before = _Tail(turn=oldest.turn if oldest.type in TURN_ENDS else turn)
    newest, doing = events[0], _word(events, describe)
    is_settled = added[0].type == "run_finished"
    last_at, doing = seconds_of(newest.ts), doing or before.doing
    tail = replace(before, seq=added[0].seq, last_at=last_at, doing=doing, is_settled=is_settled)
    if oldest.type == "run_finished":
        return _finished(tail, oldest)
    if oldest.type == "run_started":
        tail = replace(tail, tool=str(oldest.data.get("tool", "")), started_at=seconds_of(oldest.ts))
    return tail


def _last_events(transcript: Path, seen: int) -> list[Event]:
    """Return the events after `seen`, newest first, back to where the last turn began or ended, and not too many."""
    events: list[Event] = []
    for event in read_events_backwards(transcript):
        if event.seq <= seen and not event.data.get("chunk"):  # a streamed message is rendered as a whole
            break
        events.append(event)
        if event.type in TURN_ENDS or len(events) >= _MAX_LOOK_BACK:
            break
    return events


def _word(events: list[Event], describe: Describe) -> str:
    """Return the newest event worth showing."""
    for index, event in enumerate(events):
        if event.type == "usage":
            continue
        if line := describe(_whole(events, index) if event.data.get("chunk") else event):
            return line[:_MAX_TEXT]
    return ""


def _whole(events: list[Event], index: int) -> Event:
    """Return a streamed message as one event, as far as `events`, newest first, contain it."""
    last = events[index]
    parts = takewhile(lambda event: event.type == last.type and event.data.get("chunk"), events[index:])
    return replace(last, data={"text": "".join(reversed([str(part.data.get("text", "")) for part in parts]))})


def _finished(tail: _Tail, event: Event) -> _Tail:
    began, duration = span_of(event)
    tool = str(event.data.get("tool", ""))
    return replace(tail, tool=tool, started_at=began, duration_s=duration or 0.0, is_finished=True)


def _is_another(before: _Signature, now: _Signature) -> bool:
    """Say whether a file was replaced or truncated, so that what was read is invalid."""
    return before is None or now is None or now[2] != before[2] or now[1] < before[1]


def _sign(path: str) -> _Signature:
    """Return a value that changes when a file is written or replaced; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
