"""What of a session has no end (yet), and what is known of its use: a turn that runs or was lost, and a compaction.

The end of a turn tells its use, and state.toml adds those up. Before that, and of what csa did not live to end, the last
`usage` event of the transcript tells it: the one home of that, so that every view has the same figure.
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
from csa.store.transcript import end_of_last_line, lines_backwards, parse_line
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

_MARKS = (b'"usage"', b'"run_started"', b'"run_finished"', b'"compaction"')
_HEAD = 160  # bytes of a line in which its type stands
_MAX_LINES = 200_000  # back to the beginning of a turn: about a second
_WITHOUT_END = {"running", "lost", "unknown"}


class Open(Struct):
    """A turn or a compaction without an end: what it began with, and what it has said of its use."""

    started: Event | None  # None: too far back
    usage: Usage | None = None


class Unfinished(Struct):
    """What a transcript says of what has no end, as far as it was read (`end`, in bytes)."""

    end: int = 0
    turn: Open | None = None
    compaction: Open | None = None
    last_at: datetime | None = None

    @property
    def usage(self) -> Usage:
        """What is to be added to the sum of what has ended."""
        return sum((counted(one.usage) for one in (self.turn, self.compaction) if one), Usage())

    def spent(self, *, until: datetime | None = None) -> Spent:
        """Return the same with the time of the turn: until its last event, or the moment given."""
        began = parse_time(self.turn.started.ts) if self.turn and self.turn.started else None
        end = until or self.last_at
        time_s = max(0.0, (end - began).total_seconds()) if began and end else 0.0
        return Spent(self.usage, round(time_s, 3))


def read_unfinished(transcript: Path | str, before: Unfinished | None = None) -> Unfinished:
    """Read what has no end; of a transcript that was read `before` only what was added. StateError as `read_events`."""
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
    """Return what a session has used: what has ended, and what is known of the rest.

    Where its status says that the last turn has an end, the transcript is read only when whoever held the session last
    did not let go of it properly. StateError as `read_unfinished`.
    """
    if status is not None and status not in _WITHOUT_END and not _was_cut_off(paths):
        return state.usage
    return state.usage + read_unfinished(f"{paths.pathname}/transcript.jsonl").usage


def begins_compaction(event: Event) -> bool:
    """Say whether an event is the beginning of a compaction that csa ran; tools tell of their own inside a turn."""
    return event.type == "compaction" and "argv" in event.data


def ends_compaction(event: Event) -> bool:
    """Say whether an event is the end of one."""
    data = event.data
    return event.type == "compaction" and ("duration_s" in data or data.get("status") in {"cancelled", "lost"})


def _was_cut_off(paths: SessionPaths) -> bool:
    """Say whether the lock still names an owner: who lets go of it empties it."""
    try:
        return os.stat(f"{paths.pathname}/locks/session.lock").st_size > 0
    except OSError:
        return False


def _scan(fd: int, end: int, before: Unfinished | None) -> Unfinished | None:
    """Read back to where the last turn began or ended, or to where was read before.

    None where something has begun or ended since: then all has to be read.
    """
    usage: Usage | None = None
    found = Unfinished(end)
    is_inside = False  # of a compaction that has ended
    for count, line in enumerate(lines_backwards(fd, end, down_to=before.end if before else 0)):
        if found.last_at is None and (newest := parse_line(line)):
            found = replace(found, last_at=parse_time(newest.ts))
        if not before and count >= _MAX_LINES:
            return replace(found, turn=Open(None, usage))
        head = line[:_HEAD]
        if not any(mark in head for mark in _MARKS) or not (event := parse_line(line)):
            continue
        if event.type == "usage":
            usage = usage or (None if is_inside else Usage.from_dict(event.data))
        elif before:
            return None
        elif event.type == "run_finished":
            return found
        elif event.type == "run_started":
            return replace(found, turn=Open(event, usage))
        elif begins_compaction(event):
            if not is_inside:
                found = replace(found, compaction=Open(event, usage))
            usage, is_inside = None, False
        elif ends_compaction(event):
            usage, is_inside = None, True
    if before is None:
        return found
    latest = replace(before, end=end, last_at=found.last_at or before.last_at)
    if usage and before.compaction:
        return replace(latest, compaction=replace(before.compaction, usage=usage))
    if usage and before.turn:
        return replace(latest, turn=replace(before.turn, usage=usage))
    return latest
