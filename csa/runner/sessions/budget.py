"""What a session and everything below it have used, and what their budgets leave. Only reads, and takes no lock."""

from __future__ import annotations

from typing import Any

from csa.errors import NotFoundError
from csa.model.limits import Budget, Spent
from csa.runner.session import Session
from csa.store.genealogy import ancestors
from csa.store.spending import Account, Ledger, below, total
from csa.store.trees import read_members
from csa.structs import Struct, field

AMOUNTS = ("tokens", "usd", "time_s")


class BudgetState(Struct):
    """One session's budget, and what it and everything below it have used of it.

    `reserved` is for sessions on other hosts, until it is settled what they have used.
    """

    session_id: str
    budget: Budget
    used: Spent
    reserved: Spent = field(default_factory=Spent)

    def left(self, amount: str) -> float | None:
        """Return what is left of one amount; None where it has no limit."""
        limit: float = getattr(self.budget, amount)
        return max(0, round(limit - (getattr(self.used + self.reserved, amount) or 0), 6)) if limit else None

    def to_json(self) -> dict[str, Any]:
        """Return the object for `session budget --json`."""
        return {
            "session_id": self.session_id,
            "budget": {amount: getattr(self.budget, amount) or None for amount in AMOUNTS},
            "used": self.used.to_dict(),
            "reserved": {amount: getattr(self.reserved, amount) or None for amount in AMOUNTS},
            "left": {amount: self.left(amount) for amount in AMOUNTS},
        }


class BudgetReport(Struct):
    """`own` is the session's, whether it has a budget or not; `above` are those of ancestors, which apply to it too."""

    own: BudgetState
    above: list[BudgetState]
    accounts: list[Account]

    def left(self, amount: str) -> float | None:
        """Return what a turn that starts now may use: the least that any of the budgets leaves."""
        amounts = [left for state in (self.own, *self.above) if (left := state.left(amount)) is not None]
        return min(amounts, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the object for `session budget --json`."""
        return {
            **self.own.to_json(),
            "left": {amount: self.left(amount) for amount in AMOUNTS},
            "above": [state.to_json() for state in self.above],
            "sessions": [_account_json(account) for account in self.accounts],
        }


def report_budget(session: Session) -> BudgetReport:
    """Add up what a session and everything below it have used; StateError if a record of the tree is damaged."""
    root, record = session.store.root, session.record
    if (state := record.state) is None:
        raise record.fault or NotFoundError(f"Session {record.session_id} has just been deleted.")
    above = list(ancestors(root, state))
    members, gone = read_members(root, above[-1] if above else state)
    accounts = Ledger(root).accounts(members, gone)

    def of(session_id: str, budget: Budget) -> BudgetState:
        family = below(accounts, session_id)
        used = total(each for each in family if not each.is_reserved)
        return BudgetState(session_id, budget, used, total(each for each in family if each.is_reserved))

    return BudgetReport(
        of(state.session_id, state.budget),
        [of(each.session_id, each.budget) for each in above if each.budget],
        [account for account in below(accounts, state.session_id) if not account.is_void],
    )


def _account_json(account: Account) -> dict[str, Any]:
    return {
        "session_id": account.member.session_id,
        "project": account.member.project,
        "mirror": account.member.host,
        "parent_session_id": account.member.parent,
        "state": _state_of(account),
        "known": account.is_known,
        **(account.spent.to_dict() if account.is_known else dict.fromkeys(account.spent.to_dict())),
    }


def _state_of(account: Account) -> str:
    if account.is_reserved:
        return "reserved"
    if account.state is None and not account.member.host:
        return "gone"
    return "running" if account.is_running else "at_rest"
