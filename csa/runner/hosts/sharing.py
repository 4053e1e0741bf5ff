"""How much of the budgets above it a session takes along to another host, where nobody has said it: an equal part."""

from __future__ import annotations

from csa.model.limits import Budget
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.turns.grants import asked_budget
from csa.store.genealogy import ancestors
from csa.store.spending import Ledger, below, total
from csa.store.trees import read_members
from csa.structs import asdict

_LEAST = {"tokens": 1, "usd": 0.01, "time_s": 1.0}  # to ask for, and to leave for whoever waits here


def allowance_for(request: RunRequest) -> Budget:
    """Return the allowance that a request's own budget is, where that goes along."""
    tokens, usd, time_s = asked_budget(request)
    return Budget(tokens=tokens or 0, usd=usd or 0.0, time_s=time_s or 0.0)


def part_of_budgets(context: Context, given: Budget, parts: int) -> Budget:
    """Return an allowance with `1/parts` of each budget above, for amounts that are not given.

    It is no more than is left, without a little for whoever waits here. Of a budget that is used up the least amount is
    asked for, which is then refused as what it is. StateError if a record of the tree is damaged.
    """
    caller = context.caller
    above = [caller.state, *ancestors(context.store.root, caller.state)] if caller and not caller.host else []
    limits = [
        (state.session_id, name, limit) for state in above for name, limit in asdict(state.budget).items() if limit
    ]
    if not limits:
        return given
    root = context.store.root
    accounts = Ledger(root).accounts(*read_members(root, above[-1]))
    found: dict[str, float] = {}
    for session_id, name, limit in limits:
        left = limit - (getattr(total(below(accounts, session_id)), name) or 0)
        part = max(_LEAST[name], min(limit / parts, left - _LEAST[name]))
        part = int(part) if name == "tokens" else round(part, 2)
        found[name] = min(found.get(name, part), part)
    own = {name: amount for name, amount in asdict(given).items() if amount}
    return Budget(**{**found, **own})
