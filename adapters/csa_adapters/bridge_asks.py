"""How a bridge asks a person before it denies something, and waits for the answer: a file in the turn's directory.

Whoever may write there, such as the agent, cannot allow anything: answers are signed with a token that only csa and
the bridge know (`csa.model.permission`). csa keeps the time, too; the limit here is for when it is stopped.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_ID_BYTES = 8
_LOOK_S = 0.1
_GRACE_S = 30.0


def new_ask() -> str:
    """Return the id of something that is asked."""
    return os.urandom(_ID_BYTES).hex()


def await_answer(asks: Mapping[str, Any], ask: str, *, is_stopped: Callable[[], bool]) -> tuple[bool, dict[str, str]]:
    """Return whether it is allowed, and for the report who decided (`by`: user, timeout or end) and `via` which door.

    `asks` is the order's (see `asks_order`).
    """
    if asks["root"] not in sys.path:
        sys.path.append(asks["root"])
    from csa.model.permission import read_answer  # noqa: PLC0415  # only found there

    path = os.path.join(asks["directory"], f"permission-{ask}")
    limit = math.inf if asks["limit_s"] is None else time.monotonic() + asks["limit_s"] + _GRACE_S
    line = ""
    while time.monotonic() < limit and not is_stopped():
        before, line = line, _read(path)
        if line.endswith("\n") or (line and line == before):  # what is not whole after that is no answer of csa's
            allowed, by = read_answer(asks["token"], ask, line)
            who, _, door = by.partition(" ")
            return allowed, {"ask": ask, "by": who or "nobody", **({"via": door} if door else {})}
        time.sleep(_LOOK_S)
    return False, {"ask": ask, "by": "end" if is_stopped() else "timeout"}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""
