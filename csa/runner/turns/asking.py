"""Answers to the permission requests of an agent, from a person who watches its turn.

A plan with a token (`TurnPlan.asks`) has the bridge of an ACP agent ask before it denies something: as a `permission`
event with the status `pending` and an `ask`. The answer is a file in the turn's directory. Whoever may write there,
such as the agent itself, cannot allow anything: the token is known to csa and to the bridge alone.
"""

from __future__ import annotations

import os

from csa.model.permission import grant
from csa.paths import SessionPaths
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.runfiles import run_directory
from csa.store.atomic import make_private_directory, write_atomically
from csa.structs import replace

_TOKEN_BYTES = 32


def asking(plan: TurnPlan) -> TurnPlan:
    """Return the plan with somebody who answers; unchanged for an agent's turns, and where no tool asks."""
    if plan.callers or plan.context.caller or plan.transport != "acp":
        return plan
    return replace(plan, asks=os.urandom(_TOKEN_BYTES).hex())


def answer_ask(paths: SessionPaths, token: str, ask: str, *, allow: bool) -> None:
    """Allow once what was asked for, or deny it. Raises OSError."""
    directory = run_directory(paths)
    make_private_directory(directory)
    write_atomically(directory / f"permission-{ask}", (grant(token, ask) if allow else "denied").encode())
