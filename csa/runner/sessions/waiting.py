"""Waiting until sessions have finished. Any number of processes may wait: waiting takes and writes nothing.

It waits for the lock, which stays held if another turn follows immediately, and is released only when the
turn's whole process tree is gone. Where another process goes on with the queue, it waits for that one too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import CsaError, NotFoundError, StateError
from csa.model.events import Event
from csa.model.result import told_error
from csa.model.usage import number_of
from csa.paths import SessionPaths
from csa.store.atomic import open_regular
from csa.store.family import Family, family_of
from csa.store.liveness import probe
from csa.store.locks import is_locked
from csa.store.queue import count_queued, why_held
from csa.store.sessions import Store, Target
from csa.store.status import settle
from csa.store.transcript import last_turn_event
from csa.structs import Struct, asdict

POLL_S = 0.025
LOOK_FOR_CHILDREN_S = 0.5
HAND_OVER_S = 10.0  # between two turns of a queue that different processes run
EXIT_BUSY = 4  # still running when the time is up, or unknown
_MAX_CODE = 255


class WaitResult(Struct, kw_only=True):
    """How a session finished; `running` if the time was up first. `exit_code` is the waiter's.

    `damaged`, and `idle` of a named session that never ran, have a `fault`. Neither is an end, nor is `unknown`:
    there nobody can know.
    """

    session_id: str
    name: str | None
    project: str
    status: str
    exit_code: int
    tool: str = ""
    turn: int = 0
    duration_s: float | None = None
    error: dict[str, str] | None = None
    queued: int = 0  # prompts that wait: the queue is held, or nobody goes on with it
    fault: CsaError | None = None

    @property
    def is_known(self) -> bool:
        """Whether the session is known to have finished."""
        return self.fault is None and self.status not in {"unknown", "running"}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa wait --json` prints of it; of a fault the `error` tells."""
        known = {name: value for name, value in asdict(self).items() if name != "fault"}
        return {**known, "tool": self.tool or None, "turn": self.turn or None, "error": told_error(self.error)}


def await_endings(
    targets: Sequence[Target],
    *,
    tree: bool = False,
    first_only: bool = False,
    timeout_s: float | None = None,
    on_fault: Callable[[StateError], None] | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[WaitResult]:
    """Yield each session's ending as it happens, and after the timeout those still running.

    A session whose record is damaged, or that never ran, is yielded as such; the wait for the others continues.

    Args:
        targets: the sessions. One that is not running counts as finished.
        tree: wait for their descendants too, also for those that start meanwhile.
        first_only: stop after one known ending.
        timeout_s: how long to wait; for ever when None.
        on_fault: gets, at each look, the directories that cannot be listed, where descendants may be.
        sleep: lets time pass between two looks; what it raises ends the waiting.
    """
    deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    waiting = _Waiting(targets, family_of(targets, on_fault=on_fault) if tree else None)
    try:
        while True:
            began = time.monotonic()
            for ending in waiting.endings():
                yield ending
                if first_only and ending.is_known:
                    return
            if not waiting.pending and not waiting.find_more():
                yield from waiting.unheard()
                return
            if time.monotonic() >= deadline:
                yield from waiting.unfinished()
                return
            waiting.find_more_now_and_then()
            pause = max(POLL_S, time.monotonic() - began)  # at most half a core, however many there are
            sleep(max(0.0, min(pause, deadline - time.monotonic())))
    finally:
        waiting.close()


class _Watch:
    """One session to wait for. Its transcript is kept open: an ephemeral session is deleted with its turn."""

    def __init__(self, store: Store, session_id: str, *, is_named: bool = True) -> None:
        self.store = store
        self.session_id = session_id
        self._is_named = is_named  # by the caller; else found in a tree, where one that never ran is not a mistake
        self.paths = store.find(session_id)
        self._free_since: float | None = None  # the lock, while prompts wait
        self._transcript = -1
        with suppress(OSError):  # there is none yet, or too many files are open: then a deletion hides the ending
            self._transcript = open_regular(self.paths.transcript)

    def runs(self) -> bool:
        if _is_held(self.paths) or probe(self.paths).state == "alive":
            self._free_since = None
            return True
        return self._goes_on()

    def _goes_on(self) -> bool:
        """Say whether another process is about to go on with the queue; it is given a moment."""
        try:
            last = last_turn_event(self.paths.transcript) if count_queued(self.paths) else None
            if last is None or last.type == "run_started" or why_held(self.paths):
                return False
        except StateError:
            return False
        now = time.monotonic()
        self._free_since = self._free_since or now
        return now - self._free_since < HAND_OVER_S

    def ending(self) -> WaitResult | None:
        """Return how it ended; None if it is running again."""
        if not self.paths.root.is_dir():
            return self._ending_of(self._last_of_removed())
        try:
            liveness, last = settle(self.paths)
        except StateError as fault:
            return self._make_faulty(fault.status, fault)
        if liveness.state == "alive":
            return None
        if liveness.state == "unknown":
            return self._make("unknown", EXIT_BUSY)
        return self._ending_of(last) if last else self._without_transcript()

    def unfinished(self) -> WaitResult:
        owner = probe(self.paths).owner
        return self._make("running", EXIT_BUSY, tool=owner.tool if owner else "", turn=owner.turn if owner else 0)

    def unknown(self) -> WaitResult:
        return self._make("unknown", EXIT_BUSY)

    def close(self) -> None:
        if self._transcript >= 0:
            os.close(self._transcript)
            self._transcript = -1

    def _last_of_removed(self) -> Event | None:
        return last_turn_event(Path(f"/proc/self/fd/{self._transcript}")) if self._transcript >= 0 else None

    def _ending_of(self, last: Event | None) -> WaitResult:
        if last is None or last.type != "run_finished":
            tool = str(last.data.get("tool", "")) if last else ""
            return self._make("lost", 1, tool=tool, turn=last.turn if last else 0)
        data = last.data
        duration, error = data.get("duration_s"), data.get("error")
        return self._make(
            str(data.get("status", "failed")),
            waiters_exit_code(last),
            tool=str(data.get("tool", "")),
            turn=last.turn,
            duration_s=number_of(duration),
            error=error if isinstance(error, dict) else None,
        )

    def _without_transcript(self) -> WaitResult:
        """Judge a session of another implementation by its record only."""
        found = self.store.record(self.session_id).examine()
        record, status = found.record, found.status
        if record.fault is not None:
            return self._make_faulty(status, record.fault)
        if status == "idle" and not self._is_named:
            return self._make("idle", 0)
        if status == "idle":
            return self._make_faulty(
                "idle",
                NotFoundError(
                    f"Session {self.session_id} has never run; there is nothing to wait for.",
                    hint=f'csa run --session {self.session_id} "what to do"',
                ),
            )
        assert record.state is not None
        tool, turn = record.state.last_tool or "", record.state.turns
        code = {"succeeded": 0, "unknown": EXIT_BUSY}.get(status, 1)
        return self._make(status, code, tool=tool, turn=turn)

    def _make_faulty(self, status: str, fault: CsaError) -> WaitResult:
        error = {"kind": fault.code, "message": fault.message}
        return self._make(status, fault.exit_code, error=error, fault=fault)

    def _make(self, status: str, exit_code: int, **known: Any) -> WaitResult:
        return WaitResult(
            session_id=self.session_id,
            name=self.store.record(self.session_id).name,
            project=str(self.store.project),
            status=status,
            exit_code=exit_code,
            queued=count_queued(self.paths),
            **known,
        )


class _Waiting:
    """The sessions to wait for, and those that have finished so far."""

    def __init__(self, targets: Sequence[Target], family: Family | None) -> None:
        self._founders = {store.key(session_id): (store, session_id) for store, session_id in targets}
        self.pending = {key: _Watch(*target) for key, target in self._founders.items()}
        self._ended = set[tuple[str, str]]()
        self._family = family
        self._look_at = 0.0

    def endings(self) -> Iterator[WaitResult]:
        """Yield those that have finished since the last look."""
        for key, watch in list(self.pending.items()):
            if watch.runs() or (ending := watch.ending()) is None:
                continue
            watch.close()
            del self.pending[key]
            self._ended.add(key)
            yield ending

    def unfinished(self) -> list[WaitResult]:
        return [watch.unfinished() for watch in self.pending.values()]

    def unheard(self) -> list[WaitResult]:
        """Return those on other hosts that nobody here can know anything of."""
        found = self._family.unheard() if self._family else []
        return [_Watch(*target).unknown() for target in found]

    def find_more_now_and_then(self) -> None:
        if time.monotonic() >= self._look_at:
            self.find_more()
            self._look_at = time.monotonic() + LOOK_FOR_CHILDREN_S

    def find_more(self) -> bool:
        """Add new descendants, and members of the tree that are running again; say whether there are any."""
        if self._family is None:
            return False
        more = {
            key: _Watch(store, session_id, is_named=key in self._founders)
            for store, session_id in (*self._founders.values(), *self._family.look())
            for key in [store.key(session_id)]
            if key not in self.pending and (key not in self._ended or _is_held(store.paths(session_id)))
        }
        self.pending.update(more)
        return bool(more)

    def close(self) -> None:
        for watch in self.pending.values():
            watch.close()


def _is_held(paths: SessionPaths) -> bool:
    """Say whether a session's lock is held; one that cannot be inspected counts as ended, with its fault."""
    try:
        return is_locked(paths.session_lock)
    except StateError:
        return False


def waiters_exit_code(finished: Event) -> int:
    """Return the waiter's exit code for a `run_finished`: as `csa run` did, but 1 for a cancelled turn."""
    if finished.data.get("status") == "cancelled":
        return 1
    code = finished.data.get("exit_code")
    return code if type(code) is int and 0 <= code <= _MAX_CODE else 1
