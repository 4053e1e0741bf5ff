"""Places for running turns: counted by held locks, and given back however their holder ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from csa.errors import FullError
from csa.model.limits import Limits
from csa.store.slots import SlotHolder, running_turns, take_slot
from tests.store.support import IDS, child
from tests.support import snapshot

TAKE = """
from csa.errors import FullError
from csa.model.limits import Limits
from csa.store.slots import SlotHolder, take_slot
root, limit, session_id = Path(args[0]), int(args[1]), args[2]
say("ready")
wait()
try:
    slot = take_slot(root, SlotHolder(session_id, "codex"), Limits(max_running=limit))
    say("taken")
except FullError:
    say("full")
wait()
"""


def test_slots_are_numbered_and_used_again(state_root: Path) -> None:
    """The lowest free slot is taken; a slot that was given back is the next one's."""
    first, second = (take_slot(state_root, SlotHolder(session_id, "codex"), Limits()) for session_id in IDS[:2])
    assert [first.path.name, second.path.name] == ["0001.lock", "0002.lock"]
    first.close()
    third = take_slot(state_root, SlotHolder(IDS[2], "claude-code"), Limits())
    assert third.path.name == "0001.lock"
    assert running_turns(state_root) == [SlotHolder(IDS[2], "claude-code"), SlotHolder(IDS[1], "codex")]


def test_limits_of_host_and_tool(state_root: Path) -> None:
    """Both count what runs just now; which one is reached is named, with its value and the holders."""
    slot = take_slot(state_root, SlotHolder(IDS[0], "codex"), Limits())
    with pytest.raises(
        FullError, match=rf"max_running is 1, and that many turns are running on this host: {IDS[0]}"
    ) as caught:
        take_slot(state_root, SlotHolder(IDS[1], "claude-code"), Limits(max_running=1))
    with pytest.raises(FullError, match=r"tools\.codex\.max_running is 1"):
        take_slot(state_root, SlotHolder(IDS[1], "codex"), Limits(tools={"codex": 1}))
    take_slot(state_root, SlotHolder(IDS[1], "claude-code"), Limits(max_running=2, tools={"codex": 1})).close()
    assert caught.value.obstacle
    assert not caught.value.obstacle.is_over()
    slot.close()
    assert caught.value.obstacle.is_over()


def test_waiting_for_those_above_is_futile(state_root: Path) -> None:
    """Where all that run are above the caller there is nothing to wait for."""
    slots = [take_slot(state_root, SlotHolder(session_id, "codex"), Limits()) for session_id in IDS[:2]]
    for callers, can_wait in ((IDS[:1], True), (IDS[:2], False)):
        with pytest.raises(FullError) as caught:
            take_slot(state_root, SlotHolder(IDS[3], "codex"), Limits(max_running=2), callers=callers)
        assert bool(caught.value.obstacle) is can_wait
    assert len(slots) == 2


@pytest.mark.thorough
@pytest.mark.parametrize("limit", [1, 3])
def test_racing_processes(state_root: Path, limit: int) -> None:
    """Of five processes that ask at once, exactly as many get a slot as there are."""
    from contextlib import ExitStack  # noqa: PLC0415  # only this needs it

    for _ in range(5):
        with ExitStack() as stack:
            children = [stack.enter_context(child(TAKE, state_root, limit, IDS[at])) for at in range(5)]
            assert {each.hear() for each in children} == {"ready"}
            for each in children:
                each.tell()
            assert sorted(each.hear() for each in children) == ["full"] * (5 - limit) + ["taken"] * limit
        assert running_turns(state_root) == []


def test_a_killed_holder_leaves_nothing(state_root: Path) -> None:
    """SIGKILL gives the slot back at once."""
    with child(TAKE, state_root, 1, IDS[0]) as holder:
        holder.hear()
        holder.tell()
        assert holder.hear() == "taken"
        assert running_turns(state_root) == [SlotHolder(IDS[0], "codex")]
        holder.kill()
        take_slot(state_root, SlotHolder(IDS[1], "codex"), Limits(max_running=1)).close()


def test_counting_only_reads(state_root: Path) -> None:
    """Looking at the slots changes nothing; damaged content is a holder without a name."""
    assert running_turns(state_root) == []
    assert not state_root.exists()
    slot = take_slot(state_root, SlotHolder(IDS[0], "codex"), Limits())
    slot.write(b"{")
    before = snapshot(state_root)
    assert running_turns(state_root) == [SlotHolder("an unknown session", "")]
    assert snapshot(state_root) == before
    slot.close()
