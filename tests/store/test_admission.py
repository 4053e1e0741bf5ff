"""Admission: what the tree's root says now binds all below it, whatever their own records say."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from csa.errors import BusyError, FullError, RefusedError, StateError
from csa.model.config import Layer, combine_layers
from csa.model.limits import Budget, Limits
from csa.model.usage import Usage
from csa.runner.caller import find_caller
from csa.runner.context import Context
from csa.runner.environment import session_environment
from csa.runner.request import RunRequest
from csa.runner.turns.admission import open_admission
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_turn
from csa.store.held import build_session, open_session
from csa.store.locks import is_locked
from csa.store.sessions import Store
from csa.store.slots import SlotHolder, running_turns, take_slot
from csa.store.trees import open_tree
from csa.structs import replace
from tests.store.support import IDS, NOON, PLAIN, finished_session

ROOT, CHILD, NEW, OTHER = IDS[:4]


@pytest.fixture
def family(store: Store) -> Store:
    """A root and its child, made without limits."""
    finished_session(store, ROOT, max_depth=5)
    finished_session(store, CHILD, parent_session_id=ROOT, root_session_id=ROOT, depth=1, max_depth=5)
    return store


def plan_at(
    store: Store, *, inside: str | None = None, session: str | None = None, config: dict[str, Any] | None = None
) -> TurnPlan:
    """Plan a turn: at the top or by the agent of a session, of a new session or another one."""
    environ = dict(os.environ)
    if inside:
        state, paths = store.load(inside), store.paths(inside)
        environ |= session_environment(state, paths, turn=1, tool="codex", root=store.root)
    context = Context(
        store=store,
        environ=environ,
        directory=store.project,
        config=lambda _: combine_layers([Layer("user", config or {})]),
        caller=lambda: find_caller(environ, store.root),
    )
    return plan_turn(context, RunRequest(prompt="do it", tool="codex", session=session), new_id=NEW, now=NOON)


def plan_inside(store: Store, session_id: str) -> TurnPlan:
    """Plan a child that the agent of that session starts."""
    return plan_at(store, inside=session_id)


def change(store: Store, session_id: str, **changes: Any) -> None:
    """Change a session's record, as its next turn does from outside of any session."""
    with open_session(store, session_id, PLAIN, errand="change") as held:
        held.save(replace(held.state, **changes))


def tighten(store: Store, session_id: str, limits: Limits) -> None:
    change(store, session_id, limits=limits)


@contextmanager
def running(store: Store, session_id: str) -> Iterator[None]:
    """Have a turn of a session run: its lock and a slot are held."""
    with open_session(store, session_id, PLAIN), take_slot(store.root, SlotHolder(session_id, "codex"), Limits()):
        yield


def notes(store: Store, plan: TurnPlan) -> list[str]:
    with open_admission(plan) as admission:
        return admission.notes


def admit(store: Store, plan: TurnPlan) -> None:
    with open_admission(plan):
        pass


def test_a_roots_later_limit_on_sessions_binds_its_descendants(family: Store) -> None:
    """A grandchild is refused by what the root has been given since its child began; the record is named."""
    admit(family, plan_inside(family, CHILD))
    tighten(family, ROOT, Limits(max_tree_sessions=2))
    with pytest.raises(RefusedError, match=f"max_tree_sessions is 2: the tree of session {ROOT} has 2 sessions"):
        admit(family, plan_inside(family, CHILD))
    tighten(family, ROOT, Limits(max_tree_sessions=3))
    admit(family, plan_inside(family, CHILD))


def test_a_roots_later_limit_on_running_turns_binds_its_descendants(family: Store) -> None:
    """While the root's turn runs, and one may, its child is full."""
    tighten(family, ROOT, Limits(max_tree_running=1))
    full = f"max_tree_running is 1, and the tree of session {ROOT} has that many"
    with running(family, ROOT), pytest.raises(FullError, match=full):
        admit(family, plan_inside(family, CHILD))
    admit(family, plan_inside(family, CHILD))


def test_the_stricter_of_both_binds(family: Store) -> None:
    """What a child's own record says does not loosen the root's limits, nor they its own."""
    tighten(family, ROOT, Limits(max_tree_sessions=2))
    tighten(family, CHILD, Limits(max_tree_sessions=9))
    with pytest.raises(RefusedError, match="max_tree_sessions is 2"):
        admit(family, plan_inside(family, CHILD))
    tighten(family, ROOT, Limits(max_tree_sessions=9))
    tighten(family, CHILD, Limits(max_tree_sessions=2))
    with pytest.raises(RefusedError, match="max_tree_sessions is 2"):
        admit(family, plan_inside(family, CHILD))


def test_a_limit_on_children_is_each_sessions_own(family: Store) -> None:
    """The root's `max_children` says how many children the root may have, and binds no child of its."""
    tighten(family, ROOT, Limits(max_children=1))
    with pytest.raises(RefusedError, match=f"max_children is 1: session {ROOT} has 1 child,"):
        admit(family, plan_inside(family, ROOT))
    admit(family, plan_inside(family, CHILD))


def test_a_full_tree_goes_on_with_what_it_has(family: Store) -> None:
    """Limits on sessions refuse new ones alone."""
    tighten(family, ROOT, Limits(max_tree_sessions=2, max_children=1))
    with pytest.raises(RefusedError, match="has 1 child, so it may not start another\\.") as caught:
        admit(family, plan_inside(family, ROOT))
    assert "csa run --session ID" in (caught.value.hint or "")
    admit(family, plan_at(family, session=CHILD))
    admit(family, plan_at(family, session=ROOT, config={"max_tree_sessions": 2, "max_children": 1}))


def test_deleted_children_make_room(family: Store) -> None:
    """Of a list of all that ever were only those count that are there; another's children do not."""
    tighten(family, ROOT, Limits(max_children=2))
    with open_tree(family.root, family.load(ROOT)) as tree:
        tree.members()
        for session_id, parent in ((IDS[4], ROOT), (IDS[5], CHILD), (IDS[6], CHILD)):
            finished_session(family, session_id, parent_session_id=parent, root_session_id=ROOT, depth=1)
            tree.add(family.load(session_id))
    with pytest.raises(RefusedError, match=f"max_children is 2: session {ROOT} has 2 children, so"):
        admit(family, plan_inside(family, ROOT))
    family.paths(IDS[4]).root.rename(family.path / "elsewhere")
    admit(family, plan_inside(family, ROOT))


def test_a_place_is_no_running_turn_of_the_tree(family: Store) -> None:
    """A turn that has let go of its session runs no more, though it still has its place."""
    tighten(family, ROOT, Limits(max_tree_running=1))
    with take_slot(family.root, SlotHolder(ROOT, "codex"), Limits()):
        admit(family, plan_inside(family, CHILD))


def test_what_descendants_have_used_counts_in_the_budgets_above(family: Store) -> None:
    """A turn is refused when a budget over it is used up, at exactly its amount; the session that set it is named."""
    change(family, ROOT, budget=Budget(tokens=100))
    change(family, CHILD, usage=Usage(90, 9, cost_usd=0.1))
    admit(family, plan_inside(family, CHILD))
    change(family, CHILD, usage=Usage(90, 10, cost_usd=0.1))
    with pytest.raises(RefusedError, match=f"budget of session {ROOT} is used up: 100 of 100 tokens\\.") as caught:
        admit(family, plan_inside(family, CHILD))
    assert f"csa budget {ROOT}" in (caught.value.hint or "")
    with pytest.raises(RefusedError, match=f"budget of session {ROOT} is used up"):  # its own next turn, too
        admit(family, plan_at(family, session=ROOT))


def test_what_runs_is_told_of_a_budget_that_is_used_up(family: Store) -> None:
    """What it will have used is not known yet."""
    change(family, ROOT, budget=Budget(tokens=100), usage=Usage(100, 0, cost_usd=0.1))
    plan = plan_inside(family, CHILD)
    with running(family, CHILD), pytest.raises(RefusedError, match="100 of 100 tokens, and 1 turn running\\."):
        admit(family, plan)


def test_a_budget_of_a_child_is_of_what_is_below_it(family: Store) -> None:
    """What its parent and its siblings have used is not its."""
    change(family, CHILD, budget=Budget(tokens=100))
    change(family, ROOT, usage=Usage(900, 0, cost_usd=0.1))
    admit(family, plan_inside(family, CHILD))
    change(family, CHILD, usage=Usage(100, 0, cost_usd=0.1))
    with pytest.raises(RefusedError, match=f"budget of session {CHILD} is used up"):
        admit(family, plan_inside(family, CHILD))
    admit(family, plan_inside(family, ROOT))


def test_what_a_budget_cannot_see_is_noted(family: Store) -> None:
    """Turns that did not say what they used, or what that cost, and sessions that are gone: told, each by its count."""
    change(family, ROOT, budget=Budget(tokens=100, usd=5))
    change(family, CHILD, usage=Usage(5, turns_unmeasured=2, turns_unpriced=1))
    begins = f"unknown, and so not counted in the budget of session {ROOT}: "
    assert notes(family, plan_inside(family, CHILD)) == [
        begins + "the tokens of 2 turns",
        begins + "the cost of 1 turn",
    ]
    change(family, ROOT, budget=Budget(tokens=100))
    assert notes(family, plan_inside(family, CHILD)) == [begins + "the tokens of 2 turns"]
    family.paths(CHILD).root.rename(family.path / "elsewhere")
    assert notes(family, plan_inside(family, ROOT)) == [begins + "the usage of 1 deleted session"]


def test_a_new_root_has_no_tree_to_look_at(family: Store) -> None:
    """It is admitted whatever others use, and has a list of members from its beginning."""
    change(family, ROOT, limits=Limits(max_tree_sessions=1), budget=Budget(tokens=1), usage=Usage(5))
    plan = plan_at(family)
    with open_admission(plan) as admission:
        held = build_session(family, plan.state, PLAIN, tool="codex")
        admission.admit(held)
        assert held.slot is not None
        held.close()
    assert not is_locked(held.slot.path)


def test_a_refused_turn_gives_its_place_back(family: Store) -> None:
    """Whatever goes wrong while it is admitted, its slot and its tree's lock are free again."""
    plan = plan_inside(family, CHILD)

    def fail() -> None:
        with open_admission(plan):
            assert is_locked(family.paths(ROOT).tree_lock)
            assert [turn.session_id for turn in running_turns(family.root)] == [NEW]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert not is_locked(family.paths(ROOT).tree_lock)
    assert list(running_turns(family.root)) == []


def test_a_child_that_begins_is_a_member_of_its_tree(family: Store) -> None:
    """It counts from the moment at which it is admitted, and has its place until it is closed."""
    change(family, ROOT, limits=Limits(max_tree_sessions=3))
    plan = plan_inside(family, CHILD)
    with open_admission(plan) as admission:
        held = build_session(family, plan.state, PLAIN, tool="codex")
        admission.admit(held)
    with held:
        with pytest.raises(RefusedError, match="has 3 sessions"):
            admit(family, plan_inside(family, CHILD))
        assert [turn.session_id for turn in running_turns(family.root)] == [NEW]
    assert list(running_turns(family.root)) == []


def test_a_busy_session_is_named_before_limits_are(family: Store) -> None:
    """Who wants a session that runs is told so, and not that there is one turn too many."""
    with running(family, CHILD), pytest.raises(BusyError, match=f"{CHILD} is locked by PID"):
        admit(family, plan_at(family, session=CHILD, config={"max_running": 1}))


def test_waiting_for_a_turn_that_waits_for_oneself_is_futile(family: Store) -> None:
    """What the tree's running turns can make room for is waited for; not where they are the caller and those above."""
    change(family, ROOT, limits=Limits(max_tree_running=1))
    plan = plan_inside(family, CHILD)
    with running(family, ROOT):
        with pytest.raises(FullError) as caught:
            admit(family, plan)
        assert (caught.value.obstacle, "--wait" in (caught.value.hint or "")) == (None, False)
    finished_session(family, OTHER, parent_session_id=ROOT, root_session_id=ROOT, depth=1)
    with open_tree(family.root, family.load(ROOT)) as tree:
        tree.add(family.load(OTHER))
    with running(family, OTHER):
        with pytest.raises(FullError) as caught:
            admit(family, plan)
        obstacle = caught.value.obstacle
        assert obstacle is not None
        assert ("--wait" in (caught.value.hint or ""), obstacle.is_over()) == (True, False)
    assert obstacle.is_over()


def test_a_record_above_that_cannot_be_looked_at(family: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits are not known, so that nothing begins below it: it is not taken for one that is gone."""
    plan, lstat = plan_inside(family, CHILD), os.lstat

    def denied(path: str) -> os.stat_result:
        if path == family.paths(ROOT).pathname:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return lstat(path)

    monkeypatch.setattr("csa.store.genealogy.os.lstat", denied)
    with pytest.raises(StateError, match="cannot be inspected"):
        admit(family, plan)
