"""Recovering the end of a turn that could not be written everywhere: a full disk, a limit on file sizes.

`run_finished` in the transcript has what state.toml lacks, and result.toml what the transcript lacks. Only reads;
the holder of the session writes it.
"""

from __future__ import annotations

import os
from contextlib import suppress

from csa.errors import StateError
from csa.model.events import Event
from csa.model.limits import spent_by_turn
from csa.model.result import result_from_event, text_of
from csa.model.state import SessionState, ToolState, parse_time
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.store.transcript import last_turn_event, read_events_backwards
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_RESERVED_BYTES = 64 << 10
_LOOKED_AT = 10_000  # events of a turn without an end


def reserve_room(paths: SessionPaths) -> None:
    """Reserve disk space while there is some, so that the end of the turn can be written on a full disk."""
    with suppress(OSError):  # then there may be no space at the end
        fd = os.open(paths.reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVED_BYTES)
        finally:
            os.close(fd)


def free_room(paths: SessionPaths) -> None:
    """Release it."""
    with suppress(OSError):
        os.unlink(paths.reserve)


def caught_up(paths: SessionPaths, state: SessionState, last: Event | None = None) -> SessionState:
    """Return the state updated from the end of the last turn, if it could not be written there.

    `last` is that end, if already known.
    """
    if state.schema is None:  # another implementation's, whose transcript is not a journal
        return state
    try:
        last = last or last_turn_event(paths.transcript)
        if last is None:
            return state
        state = replace(state, turns=max(state.turns, last.turn))
        if last.type == "run_started":
            return _bound(paths, state, last)
        return _ended(state, last.turn, last.data)
    except (StateError, OSError, KeyError, TypeError, ValueError, OverflowError):  # others report damage
        return state


def end_in_result(paths: SessionPaths, started: Event) -> dict[str, Any] | None:
    """Return the data of a turn's `run_finished` that result.toml has kept; None if it has not."""
    from csa.store.statefile import read_record  # noqa: PLC0415  # hardly ever needed

    try:
        kept = read_record(paths.result)
        if kept.get("turn") != started.turn or kept.get("session_id") != paths.session_id:
            return None
        data = {key: value for key, value in kept.items() if key not in {"session_id", "turn"}}
        if "output" in data:
            import json  # noqa: PLC0415  # hardly ever needed

            data["output"] = json.loads(data["output"])
        result_from_event(paths.session_id, started.turn, data)
        if "usage" in data:  # TOML has no null, which an unknown cost is
            data["usage"] = Usage.from_dict(data["usage"]).to_dict()
    except (StateError, OSError, KeyError, TypeError, ValueError, OverflowError):
        return None
    began, now = parse_time(started.ts), parse_time(data.get("finished_at"))
    return data if began and now and now >= began and data["status"] != "lost" else None


def _ended(state: SessionState, turn: int, data: Mapping[str, Any]) -> SessionState:
    known = result_from_event(state.session_id, turn, data)
    tool = known["tool"]
    before, finished_at = state.tools.get(tool, ToolState()), known["finished_at"]
    is_told = before.updated_at is None or finished_at is None or before.updated_at >= finished_at
    if known["status"] == "lost" or is_told or turn != state.turns:
        return state
    spent = state.spent
    if known["usage"] is not None or known["error_kind"] != "spawn":
        spent += spent_by_turn(known["usage"], known["duration_s"])
    code = known["tool_exit_code"]
    totals = data.get("totals")
    after = replace(
        before,
        provider_session_id=known["provider_session_id"] or before.provider_session_id,
        last_action_summary=known["summary"],
        last_exit_code=code if code is not None else known["exit_code"],
        updated_at=finished_at,
        totals=totals if isinstance(totals, dict) else before.totals,
    )
    return replace(
        state,
        tools={**state.tools, tool: after},
        usage=spent.usage,
        duration_s=spent.time_s,
        last_accessed=max(state.last_accessed, finished_at),
    )


def _bound(paths: SessionPaths, state: SessionState, started: Event) -> SessionState:
    """Return the state with the conversation of a turn without an end, if only the transcript has it."""
    tool = text_of(started.data.get("tool")) or ""
    before = state.tools.get(tool)
    if before is None or before.provider_session_id is not None:
        return state
    for count, event in enumerate(read_events_backwards(paths.transcript)):
        if count == _LOOKED_AT or event.turn != started.turn:
            break
        if event.type == "session_bound" and (found := text_of(event.data.get("provider_session_id"))):
            return replace(state, tools={**state.tools, tool: replace(before, provider_session_id=found)})
    return state
