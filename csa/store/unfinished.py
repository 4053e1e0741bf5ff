"""What in a session has no end (yet), and its known usage: a turn that is running or was lost, and a compaction.

The end of a turn has its usage, and state.toml sums these up. Before that, and if csa died before the end, the
last `usage` event of the transcript has it: decided only here, so that every view has the same figure.
"""

from __future__ import annotations

import os
from datetime import datetime

from csa.errors import StateError
from csa.model.events import Event
from csa.model.limits import Spent
from csa.model.state import SessionState, parse_time
from csa.model.usage import Usage, counted
from csa.paths import SessionPaths
from csa.store.atomic import open_regular
from csa.store.transcript import HEAD_BYTES, end_of_last_line, lines_backwards, parse_line
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

ERRANDS = frozenset({"checkpoint", "session_updated"})  # they do not affect a turn's outcome
_COUNTED = {"usage", "run_started", "run_finished", "compaction"}
_MARKS = tuple(f'"{kind}"'.encode() for kind in sorted(_COUNTED))
_MAX_LINES = 200_000  # back to the beginning of a turn: about a second
_WITHOUT_END = {"running", "lost", "unknown", "away"}


class Open(Struct):
    """A turn or a compaction without an end: what it began with, and its reported usage."""

    started: Event | None  # None: too far back
    usage: Usage | None = None


class Pending(Struct, frozen=False):
    """What has begun and not ended, as events are processed in order."""

    turn: Open | None = None
    compaction: Open | None = None

    def take(self, event: Event) -> list[tuple[Open, Event | None]]:
        """Take the next event; return what ends with it, each with its final event, if there is one."""
        ended: list[tuple[Open, Event | None]] = []
        if event.type == "usage":
            self._note(Usage.from_dict(event.data))
        elif event.type == "run_finished":
            is_its = self.turn and self.turn.started and self.turn.started.turn == event.turn
            ended = [(self.turn if self.turn and is_its else Open(None), event)]
            self.turn = None
        elif event.type == "run_started":
            ended = [(lost, None) for lost in (self.compaction, self.turn) if lost]
            self.turn, self.compaction = Open(event), None
        elif "argv" in event.data:  # csa's own; a tool reports its own inside a turn
            ended = [(self.compaction, None)] if self.compaction else []
            self.compaction = Open(event)
        elif self.compaction and _ends_compaction(event):
            ended = [(self.compaction, event)]
            self.compaction = None
        return ended

    def _note(self, usage: Usage) -> None:
        if self.compaction:
            self.compaction = replace(self.compaction, usage=usage)
        elif self.turn:
            self.turn = replace(self.turn, usage=usage)


class Unfinished(Struct):
    """What has no end in a transcript, as far as it was read (`end`, in bytes)."""

    end: int = 0
    turn: Open | None = None
    compaction: Open | None = None
    last_at: datetime | None = None

    @property
    def usage(self) -> Usage:
        """What to add to the sum of what has ended."""
        return sum((counted(one.usage) for one in (self.turn, self.compaction) if one), Usage())

    def spent(self, *, until: datetime | None = None) -> Spent:
        """Return the same with the duration of the turn: until its last event, or the given moment."""
        began = parse_time(self.turn.started.ts) if self.turn and self.turn.started else None
        end = until or self.last_at
        time_s = max(0.0, (end - began).total_seconds()) if began and end else 0.0
        return Spent(self.usage, round(time_s, 3))


def read_unfinished(transcript: Path | str, before: Unfinished | None = None) -> Unfinished:
    """Read what has no end; after `before`, only what was added. StateError as `read_events`."""
    try:
        fd = open_regular(transcript)
    except FileNotFoundError:
        return Unfinished()
    except OSError as error:
        raise StateError.unreadable(transcript, error) from error
    try:
        end = end_of_last_line(fd, os.fstat(fd).st_size)
        seen = before if before and 0 < before.end <= end else None
        found = _scan(fd, end, seen)
        return found or _scan(fd, end, None) or Unfinished(end)
    except OSError as error:
        raise StateError.unreadable(transcript, error) from error
    finally:
        os.close(fd)


def usage_of(paths: SessionPaths, state: SessionState, status: str | None = None) -> Usage:
    """Return a session's usage: of what has ended, and the known usage of the rest.

    If its status says that the last turn has an end, the transcript is read only if the session's last holder
    did not release it properly. StateError as `read_unfinished`.
    """
    if status is not None and status not in _WITHOUT_END and not _was_cut_off(paths):
        return state.usage
    return state.usage + read_unfinished(f"{paths.pathname}/transcript.jsonl").usage


def _ends_compaction(event: Event) -> bool:
    return "duration_s" in event.data or event.data.get("status") in {"cancelled", "lost"}


def _was_cut_off(paths: SessionPaths) -> bool:
    """Say whether the lock still names an owner: a proper release empties it."""
    try:
        return os.stat(f"{paths.pathname}/locks/session.lock").st_size > 0
    except OSError:
        return False


def _scan(fd: int, end: int, before: Unfinished | None) -> Unfinished | None:
    """Read back to where the last turn began or ended, or to where the last read ended.

    None if something has begun or ended since: then everything has to be read.
    """
    events, last_at, is_whole = _marked(fd, end, down_to=before.end if before else 0)
    if before and any(event.type != "usage" for event in events):
        return None
    began = before or Unfinished(turn=None if is_whole else Open(None))
    pending = Pending(began.turn, began.compaction)
    for event in events:
        pending.take(event)
    if before and before.compaction:  # what was added is the compaction's
        last_at = before.last_at
    return Unfinished(end, pending.turn, pending.compaction, last_at or began.last_at)


def _marked(fd: int, end: int, *, down_to: int) -> tuple[list[Event], datetime | None, bool]:
    """Return the relevant events since the last turn began or ended, and the time of the turn's last event.

    Also return whether that is all: a turn may have begun too far back. What an errand has recorded since, such as a
    compaction by csa, does not belong to the turn. Of several `usage` events in a row only the last counts.
    """
    found: list[Event] = []
    last_at: datetime | None = None
    behind: datetime | None = None  # the end of a compaction
    for count, line in enumerate(lines_backwards(fd, end, down_to=down_to)):
        if count == _MAX_LINES:
            return found[::-1], last_at, False
        head = line[:HEAD_BYTES]
        is_marked = any(mark in head for mark in _MARKS)
        if (last_at and not is_marked) or not (event := parse_line(line)):
            continue
        if event.type == "compaction" and _ends_compaction(event):
            behind = last_at
        if event.type == "compaction" and "argv" in event.data:
            last_at = behind
        elif event.type not in ERRANDS:
            last_at = last_at or parse_time(event.ts)
        if event.type in _COUNTED and not (found and event.type == found[-1].type == "usage"):
            found.append(event)
        if event.type in {"run_started", "run_finished"}:
            break
    return found[::-1], last_at, True
