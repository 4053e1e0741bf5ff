"""Waiting for a session that is busy, or for a place among the turns that may run at once.

Nothing is taken while waiting, and nothing kept: whoever waits looks at the locks, and then tries again from the
beginning, since the session may be another than it was. Who comes first is served first only by chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from csa.errors import BusyError, FullError

POLL_S = 0.05
_T = TypeVar("_T")


def try_until_free(attempt: Callable[[], _T], *, limit_s: float, tell: Callable[[str], None]) -> _T:
    """Return what `attempt` returns, trying again as long as it meets what will be over.

    Args:
        attempt: what raises BusyError or FullError before it has done anything.
        limit_s: how long to wait in all; may be infinite.
        tell: is told what is waited for, each time that is something else.

    Raises:
        BusyError: the time is up.
        FullError: waiting cannot help.
    """
    deadline, told = time.monotonic() + limit_s, ""
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
            if not _wait(obstacle.is_over if obstacle else None, deadline):
                raise BusyError(f"{words}, still after {limit_s:g} s of waiting.", hint="retry later") from error


def _wait(is_over: Callable[[], bool] | None, deadline: float) -> bool:
    """Sleep until it is over, or once where only another try can tell; return whether there was time."""
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left) if math.isfinite(left) else POLL_S)
        if is_over is None or is_over():
            return True
    return False
