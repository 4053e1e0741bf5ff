"""When a turn of opencode is over, whatever order the server's events come in."""

from __future__ import annotations

from typing import Any

from csa_adapters.opencode_family import Family
from hypothesis import given
from hypothesis import strategies as st

ROOT, CHILD = "ses_root", "ses_child"


def call(status: str, **metadata: Any) -> dict[str, Any]:
    state = {"status": status, "metadata": {"sessionId": CHILD, **metadata}}
    return {"type": "tool", "tool": "task", "sessionID": ROOT, "messageID": "msg_1", "state": state}


def notification(state: str = "completed") -> dict[str, Any]:
    text = f'<task id="{CHILD}" state="{state}">\n...'
    return {"type": "text", "synthetic": True, "text": text, "sessionID": ROOT, "messageID": "msg_2"}


def launched() -> Family:
    """Return a family whose session is idle while a sub-agent works."""
    family = Family(ROOT)
    family.take_status(ROOT, "busy")
    family.take_session({"id": CHILD, "parentID": ROOT})
    family.take_part(call("running", background=True))
    family.take_status(CHILD, "busy")
    family.take_status(ROOT, "idle")
    return family


def test_an_idle_session_is_the_end_where_nobody_else_works() -> None:
    family = Family(ROOT)
    family.take_status(ROOT, "busy")
    assert not family.is_at_rest
    family.take_status(ROOT, "idle")
    assert family.is_at_rest


@given(st.permutations(["idle", "told"]))
def test_background_work_keeps_the_end_open_until_it_is_taken_up(order: list[str]) -> None:
    """Between a sub-agent's end and the step that its result begins, nobody works and all is not over."""
    family = launched()
    for event in order:
        assert not family.is_at_rest
        if event == "idle":
            family.take_status(CHILD, "idle")
        else:
            family.take_part(notification())
    assert not family.is_at_rest
    family.take_status(ROOT, "busy")
    family.take_status(ROOT, "idle")
    assert family.is_at_rest


def test_history_is_no_work() -> None:
    """What is told again of a call that has ended, or of a notification that was taken up, keeps nothing open."""
    family = Family(ROOT)
    family.take_status(ROOT, "busy")
    family.take_part(call("completed", background=True))
    family.take_part(notification())
    family.take_status(ROOT, "idle")
    assert family.is_at_rest


def test_a_sub_agent_of_an_earlier_turn_is_one_of_ours() -> None:
    family = Family(ROOT)
    family.take_part(call("running"))
    assert CHILD in family


def test_the_server_is_believed_when_it_says_twice_that_nobody_works() -> None:
    """Once may be the moment between two; anything that works in between begins the count anew."""
    family = launched()
    told = [family.take_truth(busy) for busy in ([], [CHILD], [], [])]
    assert told == [False, False, False, True]
    assert not launched().take_truth(["ses_of_another"])


def test_trouble_long_after_another_is_its_own() -> None:
    """A step that ends is progress, in the session that it is of."""
    family = launched()
    step = {"sessionID": CHILD, "messageID": "msg_3", "reason": "tool-calls"}
    assert family.failing_since(CHILD, 10.0) == 10.0
    assert family.failing_since(ROOT, 20.0) == 20.0
    family.take_step(step, is_summary=False)
    assert (family.failing_since(CHILD, 30.0), family.failing_since(ROOT, 30.0)) == (30.0, 20.0)


def test_summaries_without_progress_are_counted() -> None:
    """A summary and an answer are what a compaction takes; over and over they lead nowhere."""
    family = Family(ROOT)
    said = [
        family.take_step(
            {"sessionID": ROOT, "messageID": f"msg_{number}", "reason": "stop"}, is_summary=number % 2 == 1
        )
        for number in range(8)
    ]
    assert [bool(each) for each in said] == [False] * 5 + [True, False, True]
