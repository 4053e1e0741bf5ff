"""How a turn ended, from what the tool announced, how it exited, and whether csa ended it. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from csa.model.adapter import Outcome, ToolExit
from csa.structs import Struct

if TYPE_CHECKING:
    from csa.model.result import Status


_FAILURES = {"fault": "protocol", "fenced": "fenced", "budget": "budget"}  # the kind of error of each


class Stop(Struct):
    """Why csa ended the tool before it ended by itself.

    `reaped`: it had announced the end of the turn and did not exit. `fault`: it runs the wrong conversation.
    `fenced`: the session's lock was lost, so another process may be writing it. Nothing else counts then.
    Made by `out_of_time` and `too_silent` when a limit is reached (`kind` says which), and by `out_of_budget`.
    """

    reason: Literal["cancelled", "timed_out", "reaped", "fault", "fenced", "budget"]
    signal_name: str | None = None  # the signal csa was sent, for `cancelled`
    detail: str = ""
    kind: Literal["timeout", "idle_timeout"] | None = None


def out_of_time(limit_s: float | None) -> Stop:
    """The wall time of a turn is up."""
    return Stop("timed_out", detail=f"the turn took longer than {limit_s:g} s", kind="timeout")


def too_silent(limit_s: float) -> Stop:
    """The tool has been idle for the allowed time: no output and no CPU use."""
    return Stop("timed_out", detail=f"no output and no CPU time for {limit_s:g} s", kind="idle_timeout")


def lock_lost() -> Stop:
    """Another process may have the session by now."""
    return Stop("fenced", detail="the session's lock was lost, so another may hold it; nothing more was recorded")


def out_of_budget(session_id: str, used_up: str) -> Stop:
    """A budget that applies to the turn is used up."""
    return Stop("budget", detail=f"the budget of session {session_id} is used up: {used_up}")


_SHELL_KILLED = 128 + signal.SIGKILL  # the exit code of a launcher whose program was killed
_DECISIVE = frozenset({"fault", "fenced"})  # these count whatever the tool reports


class Verdict(Struct):
    """The status of a turn, and the error unless it succeeded."""

    status: Status
    error_kind: str | None = None
    error_message: str | None = None


def judge(outcome: Outcome, end: ToolExit, stop: Stop | None, *, explain: Callable[[], str] | None = None) -> Verdict:
    """Decide. A success that the tool announced, and exited with, stays one, whatever was requested meanwhile.

    `explain` adds details for a tool killed by a SIGKILL that csa did not send.
    """
    if outcome.succeeded and not (stop and stop.reason in _DECISIVE):
        return Verdict("succeeded")
    if stop and stop.reason in _FAILURES:
        return Verdict("failed", _FAILURES[stop.reason], stop.detail)
    if stop and stop.reason == "cancelled":
        by = f" by {stop.signal_name}" if stop.signal_name else ""
        return Verdict("cancelled", None, stop.detail or f"cancelled{by}")
    if stop and stop.reason == "timed_out":
        return Verdict("timed_out", stop.kind, stop.detail)
    if end.signal is not None and not stop and outcome.error_kind in {None, "internal", "protocol"}:
        more = f" ({explain()})" if explain and end.signal == signal.SIGKILL else ""
        return Verdict("killed", "internal", f"the tool died of signal {end.signal}{more}")
    return Verdict("failed", outcome.error_kind or "internal", outcome.error_message or _describe(end, explain))


def _describe(end: ToolExit, explain: Callable[[], str] | None) -> str:
    if end.code is None:
        return "the tool ended without a result"
    was_killed = explain is not None and end.code == _SHELL_KILLED
    more = f": something in it was killed ({explain()})" if explain and was_killed else ""
    return f"the tool exited with code {end.code} without giving a reason{more}"
