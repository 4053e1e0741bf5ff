"""Permission requests of an agent: whether a turn has any, and the answers, of which the first counts.

A plan with a token (`TurnPlan.asks`) has the bridge of an agent ask before it denies something: as a `permission`
event with the status `pending` and an `ask`. The answer is a file in the turn's directory, signed with the token, which
is known to csa and to the bridge alone: whoever may write there, such as the agent itself, cannot allow anything.
Whoever creates that file has decided. Other processes send theirs to the supervisor (`askdesk.py`).
"""

from __future__ import annotations

import os
from pathlib import Path

from csa.errors import UsageError
from csa.model.permission import Permission, write_answer
from csa.paths import SessionPaths
from csa.runner.turns.runfiles import run_directory
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.adapter import Adapter
    from csa.runner.context import Context
    from csa.runner.request import RunRequest
    from csa.runner.toolbox import ToolChoice
    from csa.runner.turns.plan import TurnPlan

SOCKET = "asks.sock"  # in the turn's directory
MAX_BYTES = 4096  # of a request to it, and of what it says
_TOKEN_BYTES = 32


def asks_token(
    context: Context, request: RunRequest, choice: ToolChoice, permission: Permission, *, kept: bool | None
) -> str | None:
    """Return the token of a turn whose agent may ask: as requested, else as the session keeps it, else as configured.

    None where nobody is asked, the tool cannot ask, or nothing is denied.

    Raises:
        UsageError: the request wants it, and the tool cannot.
    """
    wanted = request.ask if request.ask is not None else context.config.ask if kept is None else kept
    if not wanted or permission is Permission.FULL:
        return None
    if _can_ask(choice.adapter):
        return _new_token()
    if request.ask and not choice.is_fallback:
        raise UsageError(
            f"{choice.adapter.name} cannot ask for permission with the {choice.transport} transport.",
            hint="use --transport acp, if its agent speaks ACP" if choice.transport == "native" else None,
        )
    return None


def asking(plan: TurnPlan) -> TurnPlan:
    """Return the plan with somebody who answers; unchanged for an agent's turns, and where no tool asks."""
    if plan.asks or plan.callers or plan.permission is Permission.FULL or not _can_ask(plan.adapter):
        return plan
    return replace(plan, asks=_new_token())


def is_mute(plan: TurnPlan) -> bool:
    """Say whether the session's agents may ask, and this one cannot."""
    wanted = plan.context.config.ask if plan.state.ask is None else plan.state.ask
    return wanted and plan.asks is None and plan.permission is not Permission.FULL


def _can_ask(adapter: Adapter) -> bool:
    return adapter.capabilities.asks


def _new_token() -> str:
    return os.urandom(_TOKEN_BYTES).hex()


def put_answer(paths: SessionPaths, token: str, ask: str, *, allow: bool, by: str) -> bool:
    """Allow once what was asked for, or deny it; return whether that counts, because nobody was first. OSError."""
    path = Path(run_directory(paths), f"permission-{ask}")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return False
    with open(fd, "w", encoding="utf-8") as file:
        file.write(write_answer(token, ask, allow=allow, by=by))
    return True
