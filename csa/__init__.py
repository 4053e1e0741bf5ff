"""Run trees of AI coding agents as supervised, durable, resumable sessions.

import csa

client = csa.Csa.from_environment()
async with client.run(csa.RunRequest(prompt="...", tool="codex")) as turn:
async for event in turn:
...
print(turn.result.text)
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing would take longer than `csa --version`
if TYPE_CHECKING:
    from csa.errors import (
        AmbiguousError,
        BusyError,
        ConfigError,
        CsaError,
        NotFoundError,
        RefusedError,
        StateError,
        ToolUnavailableError,
        UsageError,
    )
    from csa.model.adapter import Adapter
    from csa.model.config import Config
    from csa.model.events import Event
    from csa.model.permission import Permission
    from csa.model.result import RunResult
    from csa.model.state import SessionState
    from csa.model.usage import Usage
    from csa.runner.client import Csa
    from csa.runner.request import RunRequest
    from csa.runner.session import Session
    from csa.runner.turns.turn import Turn
    from csa.store.sessions import Store
    from csa.store.shown import SessionInfo

_HOME = {
    **dict.fromkeys(
        (
            "AmbiguousError",
            "BusyError",
            "ConfigError",
            "CsaError",
            "NotFoundError",
            "RefusedError",
            "StateError",
            "ToolUnavailableError",
            "UsageError",
        ),
        "csa.errors",
    ),
    "Adapter": "csa.model.adapter",
    "Config": "csa.model.config",
    "Event": "csa.model.events",
    "Permission": "csa.model.permission",
    "RunResult": "csa.model.result",
    "SessionState": "csa.model.state",
    "Usage": "csa.model.usage",
    "Csa": "csa.runner.client",
    "SessionInfo": "csa.store.shown",
    "RunRequest": "csa.runner.request",
    "Session": "csa.runner.session",
    "Turn": "csa.runner.turns.turn",
    "Store": "csa.store.sessions",
}

__all__ = [
    "Adapter",
    "AmbiguousError",
    "BusyError",
    "Config",
    "ConfigError",
    "Csa",
    "CsaError",
    "Event",
    "NotFoundError",
    "Permission",
    "RefusedError",
    "RunRequest",
    "RunResult",
    "Session",
    "SessionInfo",
    "SessionState",
    "StateError",
    "Store",
    "ToolUnavailableError",
    "Turn",
    "Usage",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `import csa` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'csa' has no attribute '{name}'")
    from importlib import import_module  # noqa: PLC0415  # as above

    return getattr(import_module(_HOME[name]), name)
