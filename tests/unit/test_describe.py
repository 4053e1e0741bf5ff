"""Events in words, and lines that are shortened."""

from __future__ import annotations

import pytest

from csa.cli.output import cut, cut_behind
from csa.model.events import Event
from csa.model.wording import describe

LINE = {"seq": 1, "ts": "2026-01-01T00:00:00.000Z", "type": "usage", "turn": 1, "data": {}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"status": "lost", "summary": "lost"}, "lost"),
        ({"status": "failed", "summary": ""}, "failed"),
        ({"status": "failed"}, "failed"),
        ({"status": "succeeded", "summary": "It\nworks"}, "succeeded: It works"),
        ({"status": "failed", "summary": "so far", "error": {"message": "no more"}}, "failed: no more"),
        ({"status": "failed", "summary": "so far", "error": "odd"}, "failed: so far"),
    ],
)
def test_the_end_of_a_turn(data: dict[str, object], words: str) -> None:
    """The reason goes before the answer, and nothing is said twice."""
    assert describe(Event(1, "", "run_finished", 1, data)) == words


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"data": None}, "data is not an object"),
        ({"seq": "one"}, "seq is not a whole number"),
        ({"turn": float("inf")}, "turn is not a whole number"),
    ],
)
def test_what_is_no_event(changes: dict[str, object], fault: str) -> None:
    """What is wrong with a line is told in words."""
    line = {**LINE, **changes}
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Event.from_dict(line)
    assert Event.fault_of(line) == fault


def test_what_an_event_lacks() -> None:
    """Missing keys are named."""
    assert Event.fault_of({"seq": 1, "turn": 1, "type": "usage"}) == "it has no ts and no data"


def test_a_head_that_stays_whole() -> None:
    """An id is never shortened; what is behind it is, down to nothing."""
    head = "01JH4QWERT0000000000000000"
    assert cut_behind(head, "  some text", None) == f"{head}  some text"
    assert cut_behind(head, "  some text", 32) == f"{head}  som…"
    assert cut_behind(head, "  some text", 26) == cut_behind(head, "  some text", 5) == head
    assert cut("text", 0) == ""
