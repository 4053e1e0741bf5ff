"""What a bridge is told so that it asks a person before it denies something: `asks` of its order."""

from __future__ import annotations

import posixpath
import sys
from typing import Any

from csa.model.adapter import TurnRequest

ROOT = posixpath.dirname(posixpath.dirname(sys.modules["csa.structs"].__file__ or ""))  # the directory of csa


def asks_order(request: TurnRequest) -> dict[str, Any]:
    """Return where answers will be, how they are signed and for how long to wait, for `bridge_asks.await_answer`."""
    where = {"token": request.asks, "directory": request.run_directory, "root": ROOT}
    return {**where, "limit_s": request.ask_timeout_s}
