"""The turns of a session, from its journal: how each began and ended, without reading what happened in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from csa.model.events import Event
from csa.model.state import parse_time
from csa.store.transcript import parse_line

_MARKS = (b"run_started", b"run_finished")


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn. Without an end it runs, or was lost."""

    number: int
    tool: str
    started_at: datetime | None
    finished: Event | None

    @property
    def finished_at(self) -> datetime | None:
        return parse_time(self.finished.data.get("finished_at") or self.finished.ts) if self.finished else None

    @property
    def status(self) -> str | None:
        """How it ended; None without an end."""
        return str(self.finished.data.get("status", "failed")) if self.finished else None

    def number_of(self, key: str) -> float | None:
        """Return a number that its end says; None where it says none."""
        value: Any = self.finished.data.get(key) if self.finished else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_turns(transcript: Path) -> Iterator[TurnRecord]:
    """Yield the turns in the order in which they began; a transcript that is missing has none."""
    started: Event | None = None
    for event in _read_ends(transcript):
        if event.type == "run_finished":
            yield _turn(started if started and started.turn == event.turn else None, event)
            started = None
        else:
            if started:
                yield _turn(started, None)
            started = event
    if started:
        yield _turn(started, None)


def _turn(started: Event | None, finished: Event | None) -> TurnRecord:
    known = started or finished
    assert known is not None
    tool = str((started or known).data.get("tool") or (finished.data.get("tool") if finished else "") or "")
    began = finished.data.get("started_at") if finished else None
    return TurnRecord(known.turn, tool, parse_time(began or (started.ts if started else None)), finished)


def _read_ends(transcript: Path) -> Iterator[Event]:
    """Yield beginnings and ends; other lines are not even parsed."""
    try:
        file = transcript.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if any(mark in line for mark in _MARKS) and line.endswith(b"\n"):
                event = parse_line(line)
                if event and event.type in {"run_started", "run_finished"}:
                    yield event
