"""Ending running turns: requested through the `cancel` file, so that it works across pid namespaces; then verified.

The turn's own supervisor ends the tool (TERM, a grace, KILL) and writes the outcome. One that does not react is killed,
if its identity is certain; its guardian, continued if stopped, then ends the tree. Ended means that the lock is free.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.errors import BusyError, CsaError, StateError
from csa.process.guardian import SWEPT_WITHIN_S
from csa.procfs import is_zombie, send_signal
from csa.runner.caller import owner_name, refuse_own_lineage
from csa.runner.sessions.acting import record_act
from csa.store.atomic import write_atomically
from csa.store.family import family_of
from csa.store.liveness import probe
from csa.store.lockholders import lock_holders
from csa.store.parked import forget_parked
from csa.store.queue import count_queued, hold
from csa.store.sessions import Store, Target
from csa.structs import Struct

if TYPE_CHECKING:
    from csa.runner.context import Context
    from csa.runner.session import Session
    from csa.store.flocks import Stranger
    from csa.store.owner import Owner
from csa.store.taking import way_to_steal

GRACE_S = 10.0
POLL_S = 0.02


class KillResult(Struct, kw_only=True):
    """The result of ending one session. `forced`: its supervisor had to be killed, and wrote no outcome."""

    session_id: str
    name: str | None
    project: str
    outcome: str  # "killed", "not_running" or "failed"
    status: str  # of the session, afterwards
    tool: str = ""
    turn: int = 0
    forced: bool = False
    queued: int = 0  # prompts that wait, and are held
    host: str | None = None  # if it is on another one
    heard: str = ""  # how long ago that was heard of last, if it cannot be reached
    error: CsaError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session kill --json` prints of it."""
        names = ("session_id", "name", "project", "outcome", "status", "tool", "turn", "forced", "queued")
        known = {**{name: getattr(self, name) for name in names}, "mirror": self.host}
        error = self.error and self.error.to_json()
        return {**known, "tool": self.tool or None, "turn": self.turn or None, "error": error}


class _Asked(Struct, frozen=False):
    """A turn that was asked to end."""

    store: Store
    session_id: str
    owner: Owner | None
    ask_fault: OSError | None = None
    deadline: float = 0.0

    @property
    def lock(self) -> Path:
        return self.store.paths(self.session_id).session_lock

    def runs(self) -> bool:
        """Say whether that turn is still running; another one that has begun since is not ours to end."""
        liveness = probe(self.store.paths(self.session_id))
        if liveness.fault is not None:  # it was asked while its lock could be read
            return True
        return liveness.state != "not_alive" and _identity(liveness.owner) == _identity(self.owner)


def who_asks(what: str, environ: Mapping[str, str]) -> str:
    """Return the words that the transcript will give as the reason."""
    return f"{what} by {owner_name(environ)}, PID {os.getpid()}"


def kill_sessions(
    sessions: Sequence[Session],
    *,
    tree: bool = False,
    grace_s: float = GRACE_S,
    force: bool = False,
    on_fault: Callable[[StateError], None] | None = None,
    on_loss: Callable[[str], None] = lambda _: None,
) -> Iterator[KillResult]:
    """End sessions on behalf of the caller, and record each in its project's audit.jsonl, as it happens.

    Arguments as for `end_trees`; `on_loss` gets what could not be recorded. RefusedError if one of the sessions is the
    calling one or an ancestor of it; nothing has been ended then.
    """
    context = sessions[0].context
    for session in sessions:
        refuse_own_lineage(context.caller, session.session_id, verb="kill")
    end = partial(end_trees, on_fault=on_fault) if tree else end_sessions
    targets = [session.target for session in sessions]
    found = end(targets, words=who_asks("session kill", context.environ), grace_s=grace_s, force=force)
    return note_kills(context, "session kill", found, on_loss=on_loss)


def note_kills(
    context: Context, command: str, found: Iterable[KillResult], *, on_loss: Callable[[str], None]
) -> Iterator[KillResult]:
    """Record what was ended in its project's audit.jsonl, as it happens."""
    for ended in found:
        if ended.outcome == "killed":
            store = Store(context.store.root, Path(ended.project))
            loss = record_act(context, command, ended.session_id, store=store, what="killed", forced=ended.forced)
            if loss:
                on_loss(loss)
        yield ended


def end_sessions(
    targets: Sequence[Target], *, words: str, grace_s: float = GRACE_S, force: bool = False
) -> Iterator[KillResult]:
    """End running turns; yield the result of each, in the order given. All are asked before csa waits for any.

    Args:
        targets: the sessions.
        words: who asks, in one line.
        grace_s: how long a supervisor may take before it is killed.
        force: kill the supervisors at once; their turns will be `lost`.
    """
    for store, session_id in targets:
        forget_parked(store, session_id)  # nor does it continue after its supervisor has died
        _hold_queue(store, session_id, words)
    asked = [_ask_to_end(store, session_id, words, force=force, grace_s=grace_s) for store, session_id in targets]
    for (store, session_id), each in zip(targets, asked, strict=True):
        if isinstance(each, StateError):
            yield _result_unreadable(store, session_id, each)
        elif isinstance(each, BusyError):
            yield _result_of_stranger(store, session_id, each)
        else:
            yield _see_off(each, force=force, grace_s=grace_s) if each else _result_not_running(store, session_id)
            _hold_queue(store, session_id, words)  # again: a turn that has begun meanwhile had lifted it


def _hold_queue(store: Store, session_id: str, words: str) -> None:
    """Have no queued prompt follow. If that cannot be written, the turn that is cancelled holds the queue."""
    paths = store.paths(session_id)
    with suppress(OSError):
        if not probe(paths).stranger and paths.queue.is_dir():
            hold(paths, words)


def end_trees(
    targets: Sequence[Target],
    *,
    words: str,
    grace_s: float = GRACE_S,
    force: bool = False,
    on_fault: Callable[[StateError], None] | None = None,
) -> Iterator[KillResult]:
    """End sessions and all their descendants here: parents first, who could start more, and again until nothing runs.

    What ended with a parent is yielded last. At each look `on_fault` gets the directories that cannot be
    listed, where descendants may be running.
    """
    family = family_of(targets, on_fault=on_fault)
    unreadable = set[tuple[str, str]]()

    def look() -> list[Target]:
        return [(s, each) for s, each in (*targets, *family.look()) if s.key(each) not in unreadable and not s.host]

    running = {turn.store.key(turn.session_id): turn for turn in map(_running_turn, look()[len(targets) :]) if turn}

    for ended in chain(
        end_sessions(targets, words=words, grace_s=grace_s, force=force),
        end_all(look, words=words, grace_s=grace_s, force=force),
    ):
        if isinstance(ended.error, StateError):
            unreadable.add((ended.project, ended.session_id))
        running.pop((ended.project, ended.session_id), None)
        yield ended
    yield from map(_result_of_kill, running.values())


def end_all(
    look: Callable[[], Sequence[Target]], *, words: str, grace_s: float = GRACE_S, force: bool = False
) -> Iterator[KillResult]:
    """End what `look` finds, and look again until nothing is running except what could not be ended.

    That, and sessions whose lock cannot be read, are yielded with their error.
    """
    failed = set[tuple[str, str]]()
    while running := [
        (store, each) for store, each in look() if store.key(each) not in failed and _may_run(store, each)
    ]:
        for ended in end_sessions(running, words=words, grace_s=grace_s, force=force):
            if ended.outcome == "failed":
                failed.add((ended.project, ended.session_id))
            yield ended


def _running_turn(target: Target) -> _Asked | None:
    store, session_id = target
    liveness = probe(store.paths(session_id))
    return _Asked(store, session_id, liveness.owner) if liveness.state == "alive" else None


def _may_run(store: Store, session_id: str) -> bool:
    liveness = probe(store.paths(session_id))
    return liveness.state == "alive" or liveness.fault is not None


def _ask_to_end(
    store: Store, session_id: str, words: str, *, force: bool, grace_s: float
) -> _Asked | StateError | BusyError | None:
    """Ask a turn to end; None if there is none, and the fault if that is unknown, or it is another program's."""
    paths = store.paths(session_id)
    liveness = probe(paths)
    if liveness.fault is not None:
        return liveness.fault
    if liveness.state == "not_alive":
        return None
    if liveness.stranger is not None:
        return _not_ours(session_id, liveness.stranger)
    asked = _Asked(store, session_id, liveness.owner, deadline=time.monotonic() + grace_s)
    if force and asked.owner and asked.owner.is_local:
        return asked
    try:
        write_atomically(paths.cancel, f"{words}\n".encode())
    except OSError as error:
        asked.ask_fault = error
    if asked.owner and asked.owner.is_local:
        if asked.ask_fault:  # the disk is full, for example
            send_signal(asked.owner.process, signal.SIGTERM)
        _continue(asked)
    return asked


def _continue(asked: _Asked) -> None:
    """Continue a stopped process so that it can obey: the supervisor, or the guardian it has left behind."""
    assert asked.owner is not None
    owner = asked.owner.process
    if is_zombie(owner.pid) or not send_signal(owner, signal.SIGCONT):
        _continue_holders(asked.lock)


def _continue_holders(lock: Path) -> None:
    for holder in lock_holders(lock):
        send_signal(holder.process, signal.SIGCONT)


def _see_off(asked: _Asked, *, force: bool, grace_s: float) -> KillResult:
    """Wait for the end of a turn, and enforce it if it does not come."""
    owner = asked.owner
    is_local = owner is not None and owner.is_local
    if not (force and is_local) and _ends_within(asked, asked.deadline):
        return _result_of_kill(asked)
    if owner is None or not is_local:
        return _result_of_kill(asked, error=_unreachable(asked, grace_s))
    send_signal(owner.process, signal.SIGKILL)
    _continue_holders(asked.lock)
    if _ends_within(asked, time.monotonic() + SWEPT_WITHIN_S):
        return _result_of_kill(asked, forced=True)
    return _result_of_kill(asked, forced=True, error=_still_held(asked))


def _ends_within(asked: _Asked, deadline: float) -> bool:
    while asked.runs():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _result_of_kill(asked: _Asked, *, forced: bool = False, error: CsaError | None = None) -> KillResult:
    record = asked.store.record(asked.session_id)
    return KillResult(
        session_id=asked.session_id,
        name=record.name,
        project=str(asked.store.project),
        outcome="failed" if error else "killed",
        status=record.status if record.paths.root.exists() else "removed",
        tool=asked.owner.tool if asked.owner else "",
        turn=asked.owner.turn if asked.owner else 0,
        forced=forced,
        queued=count_queued(record.paths),
        error=error,
    )


def _result_not_running(store: Store, session_id: str) -> KillResult:
    return _result_without_turn(store, session_id, outcome="not_running", status=store.record(session_id).status)


def _result_unreadable(store: Store, session_id: str, fault: StateError) -> KillResult:
    return _result_without_turn(store, session_id, outcome="failed", status=fault.status, error=fault)


def _result_of_stranger(store: Store, session_id: str, error: BusyError) -> KillResult:
    return _result_without_turn(store, session_id, outcome="failed", status="running", error=error)


def _result_without_turn(store: Store, session_id: str, **known: Any) -> KillResult:
    name, queued = store.record(session_id).name, count_queued(store.paths(session_id))
    return KillResult(session_id=session_id, name=name, project=str(store.project), queued=queued, **known)


def _not_ours(session_id: str, stranger: Stranger) -> BusyError:
    """Return the error for a turn csa did not start: its program does not know the `cancel` file."""
    is_there = "is" if stranger.is_seen else "may be"
    return BusyError(
        f"Session {session_id} {is_there} in use by {stranger.in_words}, which csa does not end.",
        hint=f"end it with that program, or: kill {stranger.pid}" if stranger.pid else "end it with that program",
    )


def _identity(owner: Owner | None) -> tuple[object, ...] | None:
    return (owner.pid, owner.start_time, owner.boot_id, owner.turn) if owner else None


def _unreachable(asked: _Asked, grace_s: float) -> CsaError:
    owner = asked.owner
    if asked.ask_fault:
        return CsaError(
            f"Cannot ask session {asked.session_id} to end: {asked.ask_fault.strerror}.",
            hint="do it as the user who started it",
        )
    if owner is None:
        return BusyError(
            f"Session {asked.session_id} is held by another program, which did not end within {grace_s:g} s.",
            hint=f"csa status {asked.session_id}",
        )
    if probe(asked.store.paths(asked.session_id)).state == "unknown":
        return BusyError(
            f"Session {asked.session_id} was running on {owner.host} (PID {owner.pid} there), not heard from "
            f"lately; it did not end within {grace_s:g} s of being asked.",
            hint=f"if you know that it is not running: {way_to_steal(asked.session_id)}",
        )
    place = "in another pid namespace" if owner.is_same_boot else f"on {owner.host}"
    return BusyError(
        f"Session {asked.session_id} is running {place} (PID {owner.pid} there) and did not end within {grace_s:g} s "
        "of being asked.",
        hint="the request stays; `csa kill` can kill its supervisor from there",
    )


def _still_held(asked: _Asked) -> CsaError:
    found = [each.in_words for each in lock_holders(asked.lock)]
    by = ", ".join(found) or "a process that csa cannot inspect"
    return CsaError(
        f"The supervisor of session {asked.session_id} was killed, but its lock is still held by {by}.",
        hint=f"csa status {asked.session_id}",
    )
