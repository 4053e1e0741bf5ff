"""What is known about a session right now, and the status that follows. Nothing is written, no lock is taken."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from csa.errors import StateError
from csa.model.events import Event
from csa.model.state import SessionState, ToolState, parse_time
from csa.paths import SessionPaths
from csa.procfs import identify, is_stopped, is_zombie, machine_id, pid_namespace
from csa.runner.sessions.inspection import conversations_in_use
from csa.runner.sessions.resources import Resources, measure_trees
from csa.store.atomic import read_regular
from csa.store.flocks import Stranger
from csa.store.liveness import probe
from csa.store.lockholders import LockHolder, lock_holders
from csa.store.locks import probe_lock
from csa.store.mirrors import Away, mirror_with
from csa.store.owner import Owner, parse_owner
from csa.store.sessions import Record, Store
from csa.store.transcript import read_events_backwards
from csa.store.turns import ConversationRecord, newest_of_turn
from csa.structs import Struct, asdict

SAMPLE_S = 0.2
_MAX_LOOKS = 3
_MAX_LOOK_BACK = 2000  # events, to the last permission of the turn
_ANSWERED = {"denied", "allowed", "granted", "cancelled"}


class OwnerEvidence(Struct, kw_only=True):
    """What the lock file says about who took the lock, compared with this machine.

    process: `running`, `stopped`, `gone`, `reused` (another process has the pid now), or `out_of_sight`.
    """

    owner: Owner
    process: str
    is_same_boot: bool
    is_same_machine: bool
    is_same_pid_namespace: bool


class Conversation(Struct):
    """The conversation of its tool in which a session continues; `known` is what the transcript says about it."""

    tool: str
    provider_session_id: str
    known: ConversationRecord | None


class Evidence(Struct, kw_only=True):
    """All findings. Ages are in seconds; what does not apply, or is unknown, is None."""

    session_id: str
    name: str | None
    project: str
    status: str
    fault: StateError | None  # why the record is damaged
    is_locked: bool | None  # None: unknown
    holders: tuple[LockHolder, ...]
    owner: OwnerEvidence | None
    stranger: Stranger | None  # another program that is, or may be, using it
    last_event: Event | None  # of the last turn
    last_event_age_s: float | None
    silence_s: float | None
    resources: Resources | None
    cpu_percent: float | None  # right now; of one core
    permission: Mapping[str, Any] | None
    is_permission_pending: bool
    permission_age_s: float | None
    heartbeat_age_s: float | None
    heartbeat_host: str
    cancel_asked: str | None
    conversation: Conversation | None  # of the last turn's tool
    turns: int
    host: str | None = None  # where it is, if this is from a mirror
    heard_s: float | None = None  # ago, when that host was heard of last
    away: Away | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session why --json` prints."""
        owner, event, used = self.owner, self.last_event, self.resources
        return {
            "session_id": self.session_id,
            "name": self.name,
            "project": self.project,
            "mirror": self.host,
            "heard_s": _rounded(self.heard_s),
            "status": self.status,
            "fault": self.fault and self.fault.to_json(),
            "error": self.fault and str(self.fault),
            "lock": {
                "held": self.is_locked,
                "holders": [{"pid": each.process.pid, "command": each.command} for each in self.holders],
            },
            "another_program": self.stranger and asdict(self.stranger),
            "owner": owner
            and {
                **asdict(owner.owner),
                "errand": owner.owner.errand or None,
                "parked_until": owner.owner.parked_until or None,
                "asking": owner.owner.asking or None,
                "asks": owner.owner.asks.split(),
                "process": owner.process,
                "verified": owner.process in {"running", "stopped"},
                "same_boot": owner.is_same_boot,
                "same_machine": owner.is_same_machine,
                "same_pid_namespace": owner.is_same_pid_namespace,
            },
            "last_event": event
            and {"seq": event.seq, "type": event.type, "turn": event.turn, "at": event.ts, "ts": event.ts}
            | {"age_s": _rounded(self.last_event_age_s)},
            "silence_s": _rounded(self.silence_s),
            "processes": used and used.processes,
            "cpu_s": used and round(used.cpu_s, 2),
            "cpu_percent": _rounded(self.cpu_percent),
            "rss_bytes": used and used.resident_bytes,
            "permission": self.permission
            and {**self.permission, "pending": self.is_permission_pending, "age_s": _rounded(self.permission_age_s)},
            "heartbeat": {"age_s": _rounded(self.heartbeat_age_s), "host": self.heartbeat_host}
            if self.heartbeat_age_s is not None
            else None,
            "cancel_asked": self.cancel_asked,
            "conversation": self.conversation
            and {
                "tool": self.conversation.tool,
                "provider_session_id": self.conversation.provider_session_id,
                "since_turn": known.since_turn if (known := self.conversation.known) else None,
                "replaces": known.replaces if known else None,
            },
        }


def gather_evidence(store: Store, session_id: str) -> Evidence:
    """Gather everything that shows whether, and how, a session is running. Takes a moment: it samples the CPU."""
    paths = store.record(session_id).paths
    now = time.time()
    held, owner, record, status = _settled(store.record(session_id))
    holders = tuple(lock_holders(paths.session_lock)) if held else ()
    is_running = status == "running" or bool(held and not (owner and owner.errand))
    last = _last_event(paths)
    permission = _last_permission(paths) if is_running else None
    resources, percent = _sample(holders, owner) if held else (None, None)
    heartbeat_age = _age(paths.heartbeat, now)
    mirror, liveness = mirror_with(paths.pathname), probe(paths)
    if mirror:
        held, owner = None, liveness.owner
    return Evidence(
        session_id=session_id,
        name=record.name,
        project=str(store.project),
        status=status,
        fault=record.fault,
        is_locked=held,
        holders=holders,
        owner=_look_at(owner) if owner else None,
        stranger=None if held else liveness.stranger,
        last_event=last,
        last_event_age_s=_event_age(last, now),
        silence_s=_silence_s(paths, owner, now) if is_running else None,
        resources=resources,
        cpu_percent=percent,
        permission=permission.data if permission else None,
        is_permission_pending=bool(permission and str(permission.data.get("status")) not in _ANSWERED),
        permission_age_s=_event_age(permission, now),
        heartbeat_age_s=heartbeat_age,
        heartbeat_host=_text(paths.heartbeat) or "",
        cancel_asked=_text(paths.cancel),
        conversation=_conversation(paths, record.state) if record.state else None,
        turns=record.state.turns if record.state else (last.turn if last else 0),
        host=mirror.host if mirror else None,
        heard_s=mirror.heard_s() if mirror else None,
        away=liveness.away,
    )


def _settled(record: Record) -> tuple[bool | None, Owner | None, Record, str]:
    """Read lock and status until they agree: a turn may begin or end in between."""
    held, owner, examined = False, None, None
    for _ in range(_MAX_LOOKS):
        try:
            held, content = probe_lock(record.paths.session_lock)
        except StateError:
            examined = record.examine()
            return None, None, examined.record, examined.status
        owner = parse_owner(content)
        examined = record.examine()
        if held == (examined.status == "running") or (held and owner and owner.errand):
            break
    assert examined
    return held, owner, examined.record, examined.status


def _last_event(paths: SessionPaths) -> Event | None:
    try:
        return next(iter(newest_of_turn(paths.transcript)), None)
    except StateError:  # the status says so
        return None


def _conversation(paths: SessionPaths, state: SessionState) -> Conversation | None:
    tool = state.last_tool or ""
    provider_session_id = state.tools.get(tool, ToolState()).provider_session_id
    if provider_session_id is None:
        return None
    try:
        known = conversations_in_use(paths.transcript, state).get(tool)
    except StateError:  # the status says so
        known = None
    return Conversation(tool, provider_session_id, known)


def _look_at(owner: Owner) -> OwnerEvidence:
    return OwnerEvidence(
        owner=owner,
        process=_process_of(owner),
        is_same_boot=owner.is_same_boot,
        is_same_machine=bool(owner.machine_id) and owner.machine_id == machine_id(),
        is_same_pid_namespace=owner.pid_namespace == pid_namespace(),
    )


def _process_of(owner: Owner) -> str:
    if not owner.is_local:
        return "out_of_sight"
    found = identify(owner.pid)
    if found is None or is_zombie(owner.pid):
        return "gone"
    if found != owner.process:
        return "reused"
    return "stopped" if is_stopped(owner.pid) else "running"


def _sample(holders: tuple[LockHolder, ...], owner: Owner | None) -> tuple[Resources | None, float | None]:
    """Measure the turn's processes twice, a moment apart."""
    roots = [each.process for each in holders]
    if owner and owner.is_local:
        roots.append(owner.process)
    before = measure_trees(roots)
    if before is None:
        return None, None
    time.sleep(SAMPLE_S)
    after = measure_trees(roots)
    return after or before, 100 * max(0.0, after.cpu_s - before.cpu_s) / SAMPLE_S if after else None


def _last_permission(paths: SessionPaths) -> Event | None:
    """Return the last permission that was requested, or denied, in the last turn."""
    events = islice(read_events_backwards(paths.transcript), _MAX_LOOK_BACK)
    in_turn = takewhile(lambda event: event.type not in {"run_started", "run_finished"}, events)
    with suppress(StateError):
        return next((event for event in in_turn if event.type == "permission"), None)
    return None


def _silence_s(paths: SessionPaths, owner: Owner | None, now: float) -> float | None:
    """Return how long ago the running turn's tool last wrote anything."""
    if owner is None:
        return None
    output = paths.turn_output(owner.turn)
    ages = [age for name in ("stdout.log", "stderr.log") if (age := _age(output / name, now)) is not None]
    return min(ages, default=None)


def _event_age(event: Event | None, now: float) -> float | None:
    moment = parse_time(event.ts) if event else None
    return max(0.0, now - moment.timestamp()) if moment else None


def _age(path: Path, now: float) -> float | None:
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return None


def _text(path: Path) -> str | None:
    """Return the first line of a small file; None if it does not exist."""
    try:
        return next(iter(read_regular(path).decode(errors="replace").splitlines()), "").strip()
    except OSError:
        return None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
