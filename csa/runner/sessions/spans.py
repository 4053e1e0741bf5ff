"""When and where the turns of a session ran, and the project's commit before and after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from csa.model.state import parse_time
from csa.store.project import is_commit
from csa.store.transcript import read_events
from csa.structs import Struct


class Span(Struct, kw_only=True):
    """A turn. Without an end it is running, or was lost."""

    turn: int
    cwd: str
    permission: str | None
    started_at: datetime
    before: str | None
    ended_at: datetime | None = None
    after: str | None = None


def read_spans(transcript: Path) -> Iterator[Span]:
    """Yield the turns of a transcript, oldest first."""
    open_: dict[str, Any] = {}
    for event in read_events(transcript):
        if event.type == "run_started":
            if open_:
                yield Span(**open_)
            started_at, cwd = parse_time(event.ts), str(event.data.get("cwd", ""))
            permission = event.data.get("permission")
            open_ = {"turn": event.turn, "cwd": cwd, "permission": permission, "started_at": started_at}
            open_ = {**open_, "before": _head(event.data)} if started_at and cwd else {}
        elif event.type == "run_finished" and open_ and event.turn == open_["turn"]:
            yield Span(**open_, ended_at=parse_time(event.ts), after=_head(event.data))
            open_ = {}
    if open_:
        yield Span(**open_)


def _head(data: Mapping[str, Any]) -> str | None:
    """Return the recorded commit; anything else must not get near a command line."""
    head = str(data.get("head") or "")
    return head if is_commit(head) else None
