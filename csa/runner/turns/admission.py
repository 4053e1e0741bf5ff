"""Whether a turn may begin: the limits and budgets of its tree, checked under the tree's lock, and a slot for it.

The checks use records and held locks: no counter that could leak, and no variable that an
agent could unset. The lock is held until the session is created or opened, so that of two turns that would exceed a
limit together, one is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from csa.errors import BusyError, FullError, Obstacle, RefusedError
from csa.model.limits import PLAN, Limits
from csa.model.permission import Permission
from csa.model.state import SessionState
from csa.runner.turns.plan import TurnPlan
from csa.store.genealogy import ancestors
from csa.store.held import HeldSession
from csa.store.locks import Lock, is_locked
from csa.store.project import git_top
from csa.store.slots import WAITING_IS_FUTILE, SlotHolder, running_turns, take_slot
from csa.store.spending import Account, Ledger, below, total
from csa.store.taking import RETRY_OR_WAIT, refuse_busy
from csa.store.trees import Member, Tree, begin_members, open_tree

Warn = dict[str, str]  # the data of a `warning` event


class Admission:
    """A turn that may begin now. `notes` are of its budgets; `warnings` are all for its transcript."""

    def __init__(self, plan: TurnPlan, tree: Tree | None, notes: list[str]) -> None:
        self.plan = plan
        self.notes = notes
        self.beside: list[str] = []  # the other sessions that edit where it does
        self._slot: Lock | None = None
        self._tree = tree

    @property
    def warnings(self) -> list[Warn]:
        """The data of `warning` events."""
        return _warnings("budget", self.notes) + _warnings("checkout", map(_beside, self.beside))

    def admit(self, held: HeldSession) -> None:
        """Give the slot to the session, and list a new one as a member of its tree."""
        try:
            if self.plan.is_new and self._tree:
                self._tree.add(held.state)
            elif self.plan.is_new:
                begin_members(held.paths)
        except BaseException:
            held.close()
            raise
        held.slot = self._slot

    def take_slot(self) -> Lock:
        """Take a slot, which shows where the turn edits; raises as `open_admission`."""
        plan = self.plan

        def check(running: list[SlotHolder]) -> None:
            self.beside = find_writers(plan, running)

        root, limits = plan.context.store.root, plan.state.limits
        self._slot = take_slot(root, holder_of(plan), limits, callers=plan.callers, check=check)
        return self._slot


@contextmanager
def open_admission(plan: TurnPlan, *, runs: bool = True) -> Iterator[Admission]:
    """Check everything that limits this turn, and keep it valid until the end of the block, which takes the session.

    Unless it `runs`, it is only a session without a turn, which takes no slot.

    Raises:
        RefusedError: a limit on sessions is reached, or a budget used up.
        FullError: a limit on running turns is reached.
        BusyError: another turn edits where this one would, and `one_writer` is set.
        StateError: a record that must be known is damaged.
    """
    store = plan.context.store
    above = list(ancestors(store.root, plan.state))
    with ExitStack() as stack:
        tree, budgeted, notes = None, list[SessionState](), list[str]()
        ledger = Ledger(store.root)
        if above or _is_limited(plan):
            tree = stack.enter_context(open_tree(store.root, above[-1] if above else plan.state))
        if not plan.is_new:
            paths = store.paths(plan.state.session_id)
            refuse_busy(paths, advice=RETRY_OR_WAIT, steal=plan.request.steal)  # before it counts as one turn too many
        if tree:
            budgeted = [state for state in (above if plan.is_new else (plan.state, *above)) if state.budget]
            _check_turns(tree, plan, above, runs=runs)
            _check_budgets(tree, ledger, budgeted)
        admission = Admission(plan, tree, notes)
        slot = admission.take_slot() if runs else None
        try:
            if tree:  # again: a turn that has just ended freed its slot, perhaps for us, and its usage counts now
                admission.notes = _check_budgets(tree, ledger, budgeted)
            yield admission
        except BaseException:
            if slot:
                slot.close()
            raise


def check_again(plan: TurnPlan) -> list[Warn]:
    """Check the budgets for another turn of a session that is held, with its slot; return warnings for its transcript.

    RefusedError if one is used up; BusyError as `open_admission`.
    """
    store = plan.context.store
    beside = find_writers(plan, running_turns(store.root))
    return _warnings("checkout", map(_beside, beside)) + _warnings("budget", _budgets_again(plan))


def _budgets_again(plan: TurnPlan) -> list[str]:
    store = plan.context.store
    above = list(ancestors(store.root, plan.state))
    budgeted = [state for state in (plan.state, *above) if state.budget]
    if not budgeted:
        return []
    with open_tree(store.root, above[-1] if above else plan.state) as tree:
        return _check_budgets(tree, Ledger(store.root), budgeted)


def holder_of(plan: TurnPlan) -> SlotHolder:
    """Return what the slot of a turn says: among other things the work tree in which its agent may edit."""
    may_edit = plan.permission is not Permission.READ_ONLY and not (plan.compacts or plan.replay)
    tree = plan.state.worktree
    top = (tree.path if tree else git_top(os.path.realpath(plan.cwd))) if may_edit else None
    return SlotHolder(plan.state.session_id, plan.adapter.name, top or "")


def find_writers(plan: TurnPlan, running: Iterable[SlotHolder]) -> list[str]:
    """Return the other sessions that edit where a turn would; those that wait for it do not count.

    BusyError with `one_writer`, which waiting resolves.
    """
    own, root = holder_of(plan), plan.context.store.root

    def find(running: Iterable[SlotHolder]) -> list[str]:
        sessions = (held.session_id for held in running if own.edits and held.edits == own.edits)
        return [found for found in sessions if found != own.session_id and found not in plan.callers]

    found = find(running)
    if found and plan.context.config.one_writer:
        words = f"session {found[0]} edits in {own.edits}, and one_writer is set"
        raise BusyError(
            f"{words[0].upper()}{words[1:]}.",
            hint="csa run --worktree works in a checkout of its own; --wait waits",
            obstacle=Obstacle(words, lambda: not find(running_turns(root))),
        )
    return found


def _beside(session_id: str) -> str:
    return f"session {session_id} edits in the same checkout: csa run --worktree gives each one of its own"


def _warnings(kind: str, messages: Iterable[str]) -> list[Warn]:
    return [{"kind": kind, "message": message} for message in messages]


def _is_limited(plan: TurnPlan) -> bool:
    """Say whether a root's turn has to check its tree; a new root has none."""
    return not plan.is_new and bool(plan.state.budget or plan.state.limits.max_tree_running)


def _check_turns(tree: Tree, plan: TurnPlan, above: list[SessionState], *, runs: bool) -> None:
    limits = plan.state.limits.tightened_by(tree.top.limits.of_tree())
    if plan.is_new and (limits.max_children or limits.max_tree_sessions):
        check_sessions(tree, limits, above[0])
    if limits.max_tree_running and runs and plan.adapter.name != PLAN:
        _check_running(tree, plan, limits)


def _check_budgets(tree: Tree, ledger: Ledger, budgeted: list[SessionState]) -> list[str]:
    """Refuse the turn if a budget is used up; return what the budgets cannot see."""
    if not budgeted:
        return []
    accounts = ledger.accounts(tree.members(), tree.gone())
    return [note for state in budgeted for note in _check_budget(state, below(accounts, state.session_id))]


def check_sessions(tree: Tree, limits: Limits, parent: SessionState) -> None:
    """Raise RefusedError if a session may not have another child, or its tree not another session, on any host."""
    may_have = not limits.max_children or tree.most(parent.session_id) < limits.max_children
    if may_have and (not limits.max_tree_sessions or tree.most() < limits.max_tree_sessions):
        return
    there = [member for member in tree.members() if member.is_there(tree.root)]
    children = sum(member.parent == parent.session_id for member in there)
    if limits.max_children and children >= limits.max_children:
        raise RefusedError(
            f"max_children is {limits.max_children}: session {parent.session_id} has {_count(children, 'child')}, "
            "so it may not start another.",
            hint="continue one of them (csa run --session ID), or do the work in this session",
        )
    if limits.max_tree_sessions and len(there) >= limits.max_tree_sessions:
        raise RefusedError(
            f"max_tree_sessions is {limits.max_tree_sessions}: the tree of session {tree.top.session_id} has "
            f"{_count(len(there), 'session')}, so {parent.session_id} may not start another.",
            hint="continue one of them (csa run --session ID), or do the work in this session",
        )


def _check_running(tree: Tree, plan: TurnPlan, limits: Limits) -> None:
    turns = running_turns(tree.root)  # every turn has a slot
    left_out = {plan.state.session_id, *(turn.session_id for turn in turns if turn.tool == PLAN)}
    candidates = {turn.session_id for turn in turns} - left_out
    if len(tree.listed(candidates)) < limits.max_tree_running:
        return
    running = [
        member for member in tree.members() if member.session_id not in left_out and member.is_running(tree.root)
    ]
    if len(running) < limits.max_tree_running:
        return
    can_end = any(member.session_id not in plan.callers for member in running)
    words = (
        f"max_tree_running is {limits.max_tree_running}, and the tree of session "
        f"{tree.top.session_id} has that many running turns"
    )
    raise FullError(
        f"{words}.",
        hint=RETRY_OR_WAIT if can_end else WAITING_IS_FUTILE,
        obstacle=Obstacle(words, _fewer_running(tree, running, limits.max_tree_running)) if can_end else None,
    )


def _fewer_running(tree: Tree, running: list[Member], limit: int) -> Callable[[], bool]:
    locks = [paths.session_lock for member in running if (paths := member.paths(tree.root))]
    return lambda: sum(map(is_locked, locks)) < limit


def _check_budget(state: SessionState, accounts: list[Account]) -> list[str]:
    """Refuse the turn if a budget is used up; return what it cannot see."""
    used_up = state.budget.exhausted_by(total(accounts))
    if used_up:
        raise RefusedError(
            f"The budget of session {state.session_id} is used up: {used_up}{_running_words(accounts)}.",
            hint=f"csa budget {state.session_id} shows who used it; from outside of any session, "
            f"csa budget {state.session_id} --tokens N (--usd, --time) sets another",
        )
    return _unknown(state, accounts)


def _running_words(accounts: list[Account]) -> str:
    running = sum(account.is_running for account in accounts)
    reserved = sum(account.is_reserved for account in accounts)
    words = f", with what is reserved for {_count(reserved, 'session')} on other hosts" if reserved else ""
    return words + (f", and {_count(running, 'turn')} running" if running else "")


def _unknown(state: SessionState, accounts: list[Account]) -> list[str]:
    """Return what a budget cannot see, as text."""
    said = []
    ended = total(account for account in accounts if not account.is_running)
    if state.budget.tokens and ended.usage.turns_unmeasured:
        said.append(f"the tokens of {_count(ended.usage.turns_unmeasured, 'turn')}")
    if state.budget.usd and ended.usage.turns_unpriced:
        said.append(f"the cost of {_count(ended.usage.turns_unpriced, 'turn')}")
    if lost := sum(not account.is_known for account in accounts):
        said.append(f"the usage of {_count(lost, 'deleted session')}")
    return [f"unknown, and so not counted in the budget of session {state.session_id}: {words}" for words in said]


def _count(count: int, what: str) -> str:
    plural = "children" if what == "child" else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
