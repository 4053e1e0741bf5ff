"""Permission levels, usage, and the events' wire form."""

import pytest

from csa.model.events import Event
from csa.model.permission import Permission
from csa.model.usage import Usage, counted, counted_once


def test_levels_are_ordered() -> None:
    """read-only is least and full is most, and a ceiling only lowers."""
    assert sorted(Permission, key=lambda level: level.rank) == [Permission.READ_ONLY, Permission.EDIT, Permission.FULL]
    assert Permission.FULL.at_most(Permission.EDIT) is Permission.EDIT
    assert Permission.READ_ONLY.at_most(Permission.FULL) is Permission.READ_ONLY
    assert Permission("read-only") is Permission.READ_ONLY


def test_usage_adds_up() -> None:
    """Tokens add, and money is known as soon as one of the turns knows it."""
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)
    assert (Usage(cost_usd=0.1) + Usage(cost_usd=0.2)).cost_usd == 0.3
    assert (Usage(cost_usd=0.1) + Usage()).cost_usd == 0.1
    assert (Usage() + Usage()).cost_usd is None
    assert (counted(Usage(cost_usd=0.1)) + counted(Usage(5)) + counted(None)) == Usage(5, 0, 0, 0.1, 1, 2)
    assert (counted(Usage(cost_usd=0.0)) + counted(None)).cost_usd is None


def test_one_session_in_two_projects_counts_once() -> None:
    """Of copies the one that has used most counts."""
    assert counted_once([("a", Usage(5)), ("b", Usage(1)), ("a", Usage(7)), ("a", Usage(6))]) == Usage(8)


def test_usage_says_money_only_where_known() -> None:
    """An unknown price is null, and a price of nothing 0."""
    assert Usage(1).to_dict() == {"input_tokens": 1, "output_tokens": 0, "cached_tokens": 0, "cost_usd": None}
    assert Usage(cost_usd=0.0).to_dict()["cost_usd"] == 0.0
    assert Usage(1, turns_unpriced=1).to_dict()["turns_unpriced"] == 1
    assert Usage.from_dict({"cost_usd": 0.0, "turns_unpriced": 1}).cost_usd is None
    assert Usage.from_dict(Usage(1, 2, 3, 0.5).to_dict()) == Usage(1, 2, 3, 0.5)
    assert Usage.from_dict({}) == Usage()


@pytest.mark.parametrize("odd", [None, "5", True, -1, float("nan"), float("inf"), 10**400, [], {}])
def test_usage_of_what_is_no_number(odd: object) -> None:
    """What a record says of numbers, and is none, counts as nothing; money then is unknown."""
    assert Usage.from_dict({"input_tokens": odd, "output_tokens": 7, "cost_usd": odd}) == Usage(0, 7)


def test_an_event_survives_its_line() -> None:
    """An event is the same after its wire form."""
    event = Event(3, "2026-01-01T00:00:00.000Z", "agent_message", 1, {"text": "hi"})
    assert Event.from_dict(event.to_dict()) == event
    assert event.to_dict()["v"] == 1


@pytest.mark.parametrize(
    "line",
    [{}, {"seq": 1, "ts": "", "type": "x", "turn": 1, "data": []}, {"seq": "x", "ts": "", "type": "", "turn": 1}],
)
def test_what_is_no_event(line: dict[str, object]) -> None:
    """Missing keys and data that is no object are refused."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        Event.from_dict(line)
