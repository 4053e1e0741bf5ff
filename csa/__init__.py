"""Run AI coding agents (codex, claude-code, gemini-cli, opencode) as supervised processes with durable sessions.

    import csa

    client = csa.Csa.from_environment()
    result = client.ask_sync("Explain this project", tool="codex", permission="read-only")
    print(result.text)

In async code `await client.ask(...)` does the same, and `client.run(...)` yields what the agent does as it happens:

    async with client.run("Fix the login test", tool="codex") as turn:
        print("session", turn.session_id)
        async for event in turn:
            print(event.type)
    print(turn.result.text)

Sessions that exist are named by their id, a unique prefix of it, their name, or `@last`: `client.result("api")`,
`client.show("api")`, `client.wait("api")`, `client.kill("api")`. See help(csa.Csa), and docs/library.md.
All errors are a `csa.CsaError`.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing would take longer than `csa --version`
if TYPE_CHECKING:
    from csa.errors import (
        AmbiguousError,
        ArchiveError,
        BusyError,
        ConfigError,
        CsaError,
        DeniedError,
        FullError,
        NotFoundError,
        RefusedError,
        RetiredError,
        StateError,
        ToolUnavailableError,
        UnfinishedError,
        UsageError,
    )
    from csa.model.adapter import Adapter
    from csa.model.config import Config
    from csa.model.conversation import Message, ToolCall
    from csa.model.events import Event
    from csa.model.genealogy import Node
    from csa.model.permission import Permission
    from csa.model.result import RunResult
    from csa.model.state import SessionState
    from csa.model.usage import Usage
    from csa.runner.attached import Attached
    from csa.runner.client import Csa
    from csa.runner.detach import Detached
    from csa.runner.on_finish import FollowUp
    from csa.runner.request import RunRequest
    from csa.runner.session import Session
    from csa.runner.sessions.budget import BudgetReport, BudgetState
    from csa.runner.sessions.editing import Edit
    from csa.runner.sessions.ending import KillResult
    from csa.runner.sessions.landing_outcome import Landed, LandError
    from csa.runner.sessions.removal import Removed, Restored
    from csa.runner.sessions.searching import Hit
    from csa.runner.sessions.waiting import WaitResult
    from csa.runner.turns.compaction import CompactionResult
    from csa.runner.turns.turn import Turn
    from csa.store.liveness import Liveness
    from csa.store.sessions import Store
    from csa.store.shown import SessionInfo

_HOMES = {
    "csa.errors": (
        "AmbiguousError",
        "ArchiveError",
        "BusyError",
        "ConfigError",
        "CsaError",
        "DeniedError",
        "FullError",
        "NotFoundError",
        "RefusedError",
        "RetiredError",
        "StateError",
        "ToolUnavailableError",
        "UnfinishedError",
        "UsageError",
    ),
    "csa.model.adapter": ("Adapter",),
    "csa.model.config": ("Config",),
    "csa.model.conversation": ("Message", "ToolCall"),
    "csa.model.events": ("Event",),
    "csa.model.genealogy": ("Node",),
    "csa.model.permission": ("Permission",),
    "csa.model.result": ("RunResult",),
    "csa.model.state": ("SessionState",),
    "csa.model.usage": ("Usage",),
    "csa.runner.attached": ("Attached",),
    "csa.runner.client": ("Csa",),
    "csa.runner.detach": ("Detached",),
    "csa.runner.on_finish": ("FollowUp",),
    "csa.runner.request": ("RunRequest",),
    "csa.runner.session": ("Session",),
    "csa.runner.sessions.budget": ("BudgetReport", "BudgetState"),
    "csa.runner.sessions.editing": ("Edit",),
    "csa.runner.sessions.ending": ("KillResult",),
    "csa.runner.sessions.landing_outcome": ("LandError", "Landed"),
    "csa.runner.sessions.removal": ("Removed", "Restored"),
    "csa.runner.sessions.searching": ("Hit",),
    "csa.runner.sessions.waiting": ("WaitResult",),
    "csa.runner.turns.compaction": ("CompactionResult",),
    "csa.runner.turns.turn": ("Turn",),
    "csa.store.liveness": ("Liveness",),
    "csa.store.sessions": ("Store",),
    "csa.store.shown": ("SessionInfo",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Adapter",
    "AmbiguousError",
    "ArchiveError",
    "Attached",
    "BudgetReport",
    "BudgetState",
    "BusyError",
    "CompactionResult",
    "Config",
    "ConfigError",
    "Csa",
    "CsaError",
    "DeniedError",
    "Detached",
    "Edit",
    "Event",
    "FollowUp",
    "FullError",
    "Hit",
    "KillResult",
    "LandError",
    "Landed",
    "Liveness",
    "Message",
    "Node",
    "NotFoundError",
    "Permission",
    "RefusedError",
    "Removed",
    "Restored",
    "RetiredError",
    "RunRequest",
    "RunResult",
    "Session",
    "SessionInfo",
    "SessionState",
    "StateError",
    "Store",
    "ToolCall",
    "ToolUnavailableError",
    "Turn",
    "UnfinishedError",
    "Usage",
    "UsageError",
    "WaitResult",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `import csa` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'csa' has no attribute '{name}'")
    from importlib import import_module  # noqa: PLC0415  # as above

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Name what there is to import, too: `help(csa)` and completion show it."""
    return sorted({*globals(), *__all__})
