"""Waiting for a busy session, or for a slot among the running turns.

Waiting takes and keeps nothing: it looks at the locks, and then starts again from the
beginning, since the session may have changed. Of many that wait for one slot all but one try in vain; each
of these waits a random moment longer the next time, so that a crowd does not spend its time planning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from csa.errors import BusyError, FullError

POLL_S = 0.05
MAX_PAUSE_S = 1.0
_MAX_DOUBLINGS = 10
_T = TypeVar("_T")


def try_until_free(
    attempt: Callable[[], _T], *, limit_s: float, tell: Callable[[str], None], check: Callable[[], None] = lambda: None
) -> _T:
    """Return what `attempt` returns, retrying while it meets something that waiting can resolve.

    Args:
        attempt: what raises BusyError or FullError before it has done anything.
        limit_s: how long to wait in total; may be infinite.
        tell: gets what is being waited for, each time it changes.
        check: is called at each look; an exception from it ends the wait.

    Raises:
        BusyError: the time is up.
        FullError: waiting cannot help.
    """
    deadline, told, failures = time.monotonic() + limit_s, "", 0
    while True:
        try:
            return attempt()
        except (BusyError, FullError) as error:
            obstacle = error.obstacle
            if obstacle is None and isinstance(error, FullError):
                raise
            words = obstacle.words if obstacle else error.message.rstrip(".")
            if words != told:
                tell(words)
                told = words
            if not _wait(obstacle.is_over if obstacle else None, deadline, failures=failures, check=check):
                raise BusyError(f"{words}, even after waiting {limit_s:g} s.", hint="retry later") from error
            failures += 1


def _wait(is_over: Callable[[], bool] | None, deadline: float, *, failures: int, check: Callable[[], None]) -> bool:
    """Sleep until it is over, or once if only another try can tell; return whether there was time."""
    window_s = min(POLL_S * 2 ** min(failures, _MAX_DOUBLINGS), MAX_PAUSE_S) if failures else 0.0
    while _sleep(POLL_S, deadline):
        check()
        if is_over is None:
            return True
        if is_over() and _sleep(window_s * _fraction(), deadline) and is_over():
            return True
    return False


def _sleep(seconds: float, deadline: float) -> bool:
    """Sleep, but not beyond the deadline; return whether there is time left."""
    time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))
    return time.monotonic() < deadline


def _fraction() -> float:
    return int.from_bytes(os.urandom(2), "big") / (1 << 16)
