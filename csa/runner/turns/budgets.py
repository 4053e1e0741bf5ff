"""The budgets that apply to a running turn: its session's and those of ancestors, watched while it runs.

Each turn of a tree watches by itself, in its own process: it reads what the others have spent from their records and
transcripts, and knows its own usage at once. When a budget is used up the turn is ended. Watching takes at most a
twentieth of a core, however large the tree is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio import to_thread

from csa.errors import StateError
from csa.model.limits import Spent
from csa.model.state import SessionState
from csa.model.usage import Usage
from csa.runner.turns.recorder import Recorder
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import out_of_budget
from csa.store.genealogy import ancestors
from csa.store.spending import Ledger, below, total
from csa.store.trees import read_members
from csa.structs import Struct

LOOK_S = 2.0  # between two looks at the rest of the tree
REST = 20  # ... but at least this many times as long as a look takes
OWN_LOOK_S = 0.2  # between two looks at the turn's own usage
WARN_AT = 0.8
_SHORTEST_S = 0.01


class _Bound(Struct):
    """A budget, what all others than the watching session have spent of it, and how many of them are running."""

    state: SessionState
    others: Spent
    running: int
    at: float


class BudgetWatch:
    """Ends the turn of `recorder`, begun at `began_s` (monotonic), when a budget that applies to it is used up."""

    def __init__(self, recorder: Recorder, *, began_s: float) -> None:
        self._root = root = recorder.held.store.root
        self._recorder = recorder
        self._began_s = began_s
        self._ledger = Ledger(root)
        self._warned: set[tuple[str, str]] = set()

    async def keep(self, stopping: Stopping, warn: Callable[[str], None]) -> None:
        """Watch until a budget is used up; `warn` is called once for each that nearly is."""
        state = self._recorder.held.state
        if state.parent_session_id is None and not state.budget:
            return  # and it cannot get one while it runs
        bounds: list[_Bound] = []
        while True:
            began = time.monotonic()
            with suppress(StateError, OSError):  # damaged meanwhile: the last known values count
                bounds = await to_thread.run_sync(self._look, abandon_on_cancel=True)
            now = time.monotonic()
            next_look = now + max(LOOK_S, REST * (now - began))
            while now < next_look:
                left_s = min((self._judge(bound, now, stopping, warn) for bound in bounds), default=LOOK_S)
                if stopping.stop:
                    return
                pause_s = min(OWN_LOOK_S if bounds else LOOK_S, left_s, next_look - now)
                await anyio.sleep(max(_SHORTEST_S, pause_s))
                now = time.monotonic()

    def _judge(self, bound: _Bound, now: float, stopping: Stopping, warn: Callable[[str], None]) -> float:
        """End the turn, or warn, if necessary; return the seconds until a time budget is used up."""
        session_id, budget = bound.state.session_id, bound.state.budget
        spent = bound.others + Spent(time_s=bound.running * (now - bound.at)) + self._own(now)
        if used_up := budget.exhausted_by(spent):
            stopping.request(out_of_budget(session_id, used_up))
            return 0.0
        for amount, words in budget.used_beyond(WARN_AT, spent).items():
            if (session_id, amount) not in self._warned:
                self._warned.add((session_id, amount))
                warn(f"the budget of session {session_id} is nearly used up: {words}")
        return (budget.time_s - spent.time_s) / (1 + bound.running) if budget.time_s else LOOK_S

    def _own(self, now: float) -> Spent:
        """Return what the session has used, this turn included."""
        so_far = Spent(self._recorder.meter.total or Usage(), now - self._began_s)
        return self._recorder.held.state.spent + so_far

    def _look(self) -> list[_Bound]:
        """Read which budgets apply to the turn now, and what the other sessions have spent of them."""
        state = self._recorder.held.state
        above = list(ancestors(self._root, state))
        binding = [each for each in (state, *above) if each.budget]
        if not binding:
            return []
        accounts = self._ledger.accounts(*read_members(self._root, above[-1] if above else state))
        at = time.monotonic()
        bounds = []
        for each in binding:
            family = below(accounts, each.session_id)
            others = [account for account in family if account.member.session_id != state.session_id]
            bounds.append(_Bound(each, total(others), sum(account.is_running for account in others), at))
        return bounds
