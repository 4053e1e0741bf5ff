"""Limits and budgets as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.model.limits import Budget, Limits, Spent, spent_by_turn
from csa.model.usage import Usage

counts = st.integers(0, 9)
limits = st.builds(
    Limits,
    max_children=counts,
    max_tree_sessions=counts,
    max_tree_running=counts,
    max_running=counts,
    tools=st.dictionaries(st.sampled_from(["codex", "x"]), counts),
)


@given(limits, limits)
def test_the_stricter_wins(one: Limits, other: Limits) -> None:
    """In either order; 0 is no limit, and never stricter than a number."""
    both = one.tightened_by(other)
    assert both == other.tightened_by(one)
    assert both.max_children == min((n for n in (one.max_children, other.max_children) if n), default=0)
    assert both.tightened_by(one) == both.tightened_by(other) == both


def test_lifted_limits_are_named() -> None:
    """What is written over an old record removes what no longer holds."""
    old, new = Limits(max_children=1, tools={"codex": 2}), Limits(max_running=3)
    assert new.replacing(old).to_record() == {
        "max_children": None,
        "max_tree_sessions": None,
        "max_tree_running": None,
        "max_running": 3,
        "tools": {"codex": None},
    }
    assert not any(Limits().to_record().values())
    assert Limits(max_children=2, max_tree_running=1).of_tree() == Limits(max_tree_running=1)


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (Budget(), Spent(Usage(10**9, 0, 0, 99), 99), None),
        (Budget(tokens=100), Spent(Usage(90, 9)), None),
        (Budget(tokens=100), Spent(Usage(90, 10)), "100 of 100 tokens"),
        (Budget(usd=1.5), Spent(Usage(cost_usd=1.5)), "$1.50 of $1.50"),
        (Budget(tokens=5, time_s=60), Spent(Usage(), 61), "61 of 60 seconds"),
    ],
)
def test_what_is_used_up(budget: Budget, spent: Spent, words: str | None) -> None:
    """A budget is used up when nothing is left of one of its amounts."""
    assert budget.exhausted_by(spent) == words


def test_unknown_is_not_nothing() -> None:
    """A turn that did not say what it used, or what it cost, is counted as such."""
    assert spent_by_turn(None, 2.0) == Spent(Usage(turns_unmeasured=1, turns_unpriced=1), 2.0)
    assert spent_by_turn(Usage(10, 5), 1.0) == Spent(Usage(10, 5, turns_unpriced=1), 1.0)
    whole = spent_by_turn(Usage(10, 5, 3, 0.5), 1.0)
    assert (whole.tokens, whole.usd, whole.time_s) == (15, 0.5, 1.0)
    twice = (whole + whole + spent_by_turn(None, 0.0)).to_dict()
    assert twice == {"tokens": 30, "usd": 1.0, "time_s": 2.0, "turns_unmeasured": 1, "turns_unpriced": 1}
    assert Spent.from_dict(twice).to_dict() == twice
    assert Spent.from_dict({"tokens": 5, "usd": 0.0, "turns_unpriced": 1}).usd is None


def test_what_is_nearly_used_up() -> None:
    """Each amount that is used to some share, in words."""
    budget, spent = Budget(tokens=100, usd=5, time_s=60), Spent(Usage(70, 10, 0, 3.9), 59)
    assert budget.used_beyond(0.8, spent) == {"tokens": "80 of 100 tokens", "time_s": "59 of 60 seconds"}
    assert budget.exhausted_by(spent) is None
