"""What a turn may: its permission, the session's limits and budget, how deep its tree may be.

From inside a session a record is only tightened, never loosened.
"""

from __future__ import annotations

from csa.errors import RefusedError, UsageError
from csa.model.config import Config
from csa.model.limits import LARGEST_COUNT, Budget, Limits, is_count
from csa.model.permission import Permission
from csa.model.state import SessionState
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.store.genealogy import ancestors

AskedBudget = tuple[int | None, float | None, float | None]  # tokens, US dollars, seconds; None as it is, 0 is none


def refuse_too_deep(config: Config, parent: SessionState | None) -> int:
    """Return how deep below it a new session's tree may be: its parent's record limits it, whatever is configured.

    RefusedError if the session itself would be deeper.
    """
    own = parent.max_depth if parent else None
    max_depth: int = config.max_depth if own is None else min(config.max_depth, own)
    if parent is not None and parent.depth >= max_depth:
        raise RefusedError(
            f"max_depth is {max_depth}: session {parent.session_id} has depth {parent.depth}, "
            "so it may not start another.",
            hint="do the work in this session, or have an ancestor start the new one",
        )
    return max_depth


def limits_on_resume(context: Context, state: SessionState) -> Limits:
    """From outside any session the configuration applies again; from inside, a record is never loosened."""
    limits = context.config.limits
    if context.caller is not None:
        return limits.tightened_by(state.limits).tightened_by(context.caller.state.limits)
    parent = next(ancestors(context.store.root, state), None)
    if state.parent_session_id is not None:
        limits = limits.tightened_by(parent.limits if parent else state.limits)
    return limits.replacing(state.limits)


def asked_budget(request: RunRequest) -> AskedBudget:
    """Return the budget that a request asks for."""
    return request.budget_tokens, request.budget_usd, request.budget_time_s


def changed_budget(context: Context, state: SessionState, asked: AskedBudget) -> Budget:
    """Return the budget of a session with what is asked for; RefusedError where an agent asks for another."""
    budget = with_budget(state.budget, asked)
    if budget != state.budget and context.caller is not None and not _is_placed_by(state, context.caller):
        raise is_not_agents(state.session_id, context.caller)
    return budget


def _is_placed_by(state: SessionState, caller: Caller) -> bool:
    """Say whether a session came from another host, in the tree of a caller there: that host has booked its budget."""
    root = caller.state.root_session_id or caller.session_id
    return caller.host is not None and state.parent_host is not None and state.root_session_id == root


def is_not_agents(session_id: str, caller: Caller) -> RefusedError:
    """Return the error for an agent that would change the budget of a session that exists."""
    return RefusedError(
        f"The budget of session {session_id} cannot be changed from inside session {caller.session_id}.",
        hint="give a budget to a new session, or leave it to whoever started this tree",
    )


def asked_window(request: RunRequest) -> tuple[int | None, int | None]:
    """Return the turns and tokens of the context window that a request asks for; UsageError if they are none."""
    asked = request.context_window, request.context_tokens
    if any(limit is not None and not is_count(limit) for limit in asked):
        raise UsageError("A context window is a whole number, 0 or more; 0 sends all turns.")
    return asked


def with_budget(budget: Budget, asked: AskedBudget) -> Budget:
    """Return a budget with what is asked for; UsageError if that is none."""
    tokens, usd, time_s = asked
    if any(amount is not None and not 0 <= amount <= LARGEST_COUNT for amount in asked):
        raise UsageError("A budget is a number, 0 or more, and not too large to record; 0 means none.")
    if tokens is not None and not is_count(tokens):
        raise UsageError("A budget of tokens is a whole number.")
    return Budget(
        tokens=budget.tokens if tokens is None else tokens,
        usd=budget.usd if usd is None else usd,
        time_s=budget.time_s if time_s is None else time_s,
    )


def permission_of(context: Context, request: RunRequest, state: SessionState) -> Permission:
    """Asked for, else the session's last, else configured; never more than the caller's.

    A template of the project may only lower it.
    """
    recorded = state.permission if state.permission in {level.value for level in Permission} else None
    asked = asked_permission(request)
    kept = Permission(recorded) if recorded else context.config.permission
    wanted = asked or kept
    if request.template and request.template.is_project and request.is_templates("permission"):
        asked = wanted = wanted.at_most(kept)
    if context.caller is None:
        return wanted
    ceiling = context.caller.permission
    if asked and asked.rank > ceiling.rank:
        raise RefusedError(
            f"Permission '{asked.value}' is more than the '{ceiling.value}' of session {context.caller.session_id}.",
            hint=f"ask for --permission {ceiling.value} or less",
        )
    return wanted.at_most(ceiling)


def asked_permission(request: RunRequest) -> Permission | None:
    """Return the permission that a request asks for; UsageError if it is none."""
    if request.permission is None:
        return None
    try:
        return Permission(request.permission)
    except ValueError as error:
        levels = ", ".join(level.value for level in Permission)
        raise UsageError(f"'{request.permission}' is not a permission.", hint=f"the levels are {levels}") from error
