"""The evidence for a session's status as text: the conclusion, and the rows below."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from csa.model.clock import local_clock
from csa.model.state import parse_time
from csa.model.text import count_of, cut, one_line
from csa.model.wording import describe, elapsed, size
from csa.runner.sessions.evidence import Evidence, OwnerEvidence
from csa.store.owner import INTERFACE

_COMMAND_WIDTH = 120
_BUSY_PERCENT = 1.0
_SAID_WIDTH = 120  # of the last event
_HAS_HEART = {"running", "unknown", "lost"}


def conclude(found: Evidence) -> str:
    """Return the status that follows, and a sentence that explains it."""
    if found.host:
        return _as_heard(found)
    if found.status in _CONCLUSIONS and not (found.status == "lost" and found.is_locked):
        return _CONCLUSIONS[found.status](found)
    if found.is_locked and found.owner and found.owner.owner.errand:
        return f"{_busy(found)}; {_how_it_ended(found)}."
    if found.last_event is None:
        return "nobody holds the lock; the record, written by another program, has the outcome of the last turn."
    return f"nobody holds the lock, and {_how_it_ended(found)}."


def _as_heard(found: Evidence) -> str:
    """Say what is known of a session on another host."""
    heard = f"{found.host} was heard of {_age(found.heard_s)} ago"
    if found.away:
        return (
            f"{found.away.in_words}; whether it still runs is unknown, and only {found.host} can say that it does not."
        )
    if found.owner and found.status in {"running", "open", "unknown"}:
        return f"{found.owner.owner.tool} is at work there ({found.owner.owner.work}); {heard}."
    return f"{_how_it_ended(found)}, as {found.host} has it; {heard}."


def _how_it_ended(found: Evidence) -> str:
    if found.last_event is None:
        return "the transcript has no turn"
    if found.status == "lost":
        return f"turn {_turn(found)} has no end in the transcript"
    return f"turn {_turn(found)} ended {_age(found.last_event_age_s)} ago"


def _busy(found: Evidence) -> str:
    """Describe an errand or an open interface."""
    assert found.owner is not None
    owner = found.owner.owner
    where = "" if found.is_locked else f" on another machine{_host(found)}"
    if owner.errand == INTERFACE:
        return f"the interface of {owner.tool} is open{where}, since {owner.since_clock} (PID {owner.pid})"
    return f"no turn is running, but a {owner.errand}{where}, since {owner.since_clock} (PID {owner.pid})"


def _open(found: Evidence) -> str:
    return f"{_busy(found)}; {_how_it_ended(found)}."


def _damaged(found: Evidence) -> str:
    held = _LOCKS_MEAN[found.is_locked]
    return f"the record cannot be read ({found.fault}); {held}."


_LOCKS_MEAN = {
    True: "its lock is held, so it is running",
    False: "its lock is free, so it is not running",
    None: "whether it is running is unknown",
}


def _unknown(found: Evidence) -> str:
    if found.fault is not None:  # another user's
        return _damaged(found)
    if found.stranger:
        return f"{found.stranger.in_words} has begun a turn; whether it is still running is not visible from here."
    if found.owner is None:
        return "another program's record has no outcome for its last turn."
    heartbeat = "which has left no heartbeat" if found.heartbeat_age_s is None else f"whose heartbeat is {_beat(found)}"
    return (
        f"it belongs to another machine, or to one that has been rebooted{_host(found)}, {heartbeat}; whether it is "
        f"running is unknown here. If you know that it is not: csa repair --steal {found.session_id}"
    )


def _lost(found: Evidence) -> str:
    return f"nobody holds the lock, and turn {_turn(found)} has no end in the transcript{_what_happened(found)}."


def _idle(_found: Evidence) -> str:
    return "it never ran: nobody holds the lock, and its record has no turn."


def _running(found: Evidence) -> str:
    owner = found.owner
    if owner is None:
        other = found.stranger
        held = f"the lock of {other.tool} is held by {other.in_words}, as for a turn" if other else ""
        return f"{held or 'the lock is held by an unknown program'}."
    what = f"{owner.owner.tool} is running turn {owner.owner.turn}"
    if not found.is_locked:
        place = f"as PID {owner.owner.pid}, which has lost its lock," if owner.is_same_boot else "on another machine"
        return f"{what} {place}{_host(found)}, whose heartbeat is {_beat(found)}."
    if owner.process in {"gone", "reused"}:
        return f"the supervisor of turn {owner.owner.turn} is gone, and its remaining processes are being ended."
    if owner.process == "stopped":
        return f"{what}, but its supervisor is stopped (as by Ctrl-Z): kill -CONT {owner.owner.pid} continues it."
    if owner.owner.parked:
        return f"turn {owner.owner.turn} used up a quota of {owner.owner.tool}; the session is {owner.owner.parked}."
    return f"{what}{_how_it_runs(found)}."


_CONCLUSIONS: dict[str, Callable[[Evidence], str]] = {
    "damaged": _damaged,
    "running": _running,
    "open": _open,
    "unknown": _unknown,
    "lost": _lost,
    "idle": _idle,
}


def _how_it_runs(found: Evidence) -> str:
    if found.cancel_asked is not None:
        return ", and has been asked to end"
    if found.owner and found.owner.owner.asks:
        return f", and is {found.owner.owner.waits} (csa answer)"
    if found.is_permission_pending:
        return ", and is waiting for a permission"
    quiet = "" if found.silence_s is None else f"; last output {_age(found.silence_s)} ago"
    if found.cpu_percent is None:
        return quiet
    return f"{quiet}{',' if quiet else ';'} CPU {'busy' if found.cpu_percent >= _BUSY_PERCENT else 'idle'}"


def _beat(found: Evidence) -> str:
    return f"{_age(found.heartbeat_age_s)} old"


def _what_happened(found: Evidence) -> str:
    owner = found.owner
    if owner is None:
        return ": its supervisor died before writing it"
    if not owner.is_same_boot:
        return ": the machine has been rebooted since"
    return f": its supervisor (PID {owner.owner.pid}) was killed before it could write one"


def evidence_to_json(found: Evidence) -> dict[str, object]:
    """Return the object that `session why --json` prints."""
    return {**found.to_json(), "why": conclude(found)}


def evidence_rows(found: Evidence) -> Iterator[tuple[str, str]]:
    """Yield the available pieces of evidence."""
    yield from _whose(found)
    if event := found.last_event:
        words = (
            "" if event.type == "run_finished" else f": {cut(describe(event) or '-', _SAID_WIDTH)}"
        )  # the status says it
        yield "last event", f"{event.type}, {_age(found.last_event_age_s)} ago{words}"
    if found.silence_s is not None:
        yield "silence", f"{_age(found.silence_s)} since the tool's last output"
    if used := found.resources:
        now = "" if found.cpu_percent is None else f", {found.cpu_percent:.0f}% right now"
        processes = count_of(used.processes, "process", "processes")
        yield "CPU", f"{used.cpu_s:.1f} s used{now}; {processes}, {size(used.resident_bytes)}"
    if found.permission:
        status = "pending" if found.is_permission_pending else found.permission.get("status")
        title = found.permission.get("title") or ""
        yield "permission", f"{status}, {_age(found.permission_age_s)} ago: {title}"
    elif found.is_locked:
        yield "permission", "none requested"
    if found.heartbeat_age_s is not None and (found.is_locked or found.status in _HAS_HEART):
        yield "heartbeat", f"{_age(found.heartbeat_age_s)} old{_host(found)}"
    if found.cancel_asked is not None:
        yield "cancel", f"requested{f': {found.cancel_asked}' if found.cancel_asked else ''}"


def _whose(found: Evidence) -> Iterator[tuple[str, str]]:
    if found.host:
        yield "host", f"{found.host}, heard of {_age(found.heard_s)} ago; this is its mirror"
        return
    yield "lock", "cannot be read" if found.is_locked is None else "held" if found.is_locked else "free"
    for holder in found.holders:
        yield "", f"by PID {holder.process.pid}: {cut(one_line(holder.command), _COMMAND_WIDTH)}"
    if found.owner:
        yield "run by", _owner(found.owner)
        yield "", _whereabouts(found.owner)


def _owner(evidence: OwnerEvidence) -> str:
    owner = evidence.owner
    who = f"PID {owner.pid} ({_PROCESSES[evidence.process]}), {owner.tool}, {owner.work}"
    since = local_clock(parse_time(owner.since), "%Y-%m-%d %H:%M:%S")
    return f"{who}, since {since}{', detached' if owner.detached else ''}"


_PROCESSES = {
    "running": "verified by its start time",
    "stopped": "verified by its start time, stopped",
    "gone": "gone",
    "reused": "gone; another process has that PID now",
    "out_of_sight": "not visible from here",
}


def _whereabouts(evidence: OwnerEvidence) -> str:
    if not evidence.is_same_boot:
        place = "this machine, before it was rebooted" if evidence.is_same_machine else "another machine"
        return f"host {evidence.owner.host}: {place}"
    namespace = "this" if evidence.is_same_pid_namespace else "another"
    return f"host {evidence.owner.host}: this boot, {namespace} pid namespace"


def _host(found: Evidence) -> str:
    name = found.heartbeat_host or (found.owner.owner.host if found.owner else "")
    return f" ({name})" if name else ""


def _turn(found: Evidence) -> int:
    return found.last_event.turn if found.last_event else found.turns


def _age(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else elapsed(seconds)
