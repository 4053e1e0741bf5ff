"""All sessions at a glance: what has changed is seen at the next look, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from csa.errors import AmbiguousError, NotFoundError
from csa.model.limits import Limits
from csa.runner.client import Csa
from csa.runner.sessions.fleet import Fleet
from csa.store.held import open_session
from csa.store.sessions import Store
from csa.store.slots import SlotHolder, take_slot
from tests.store.support import IDS, PLAIN, finish, finished_session, publish
from tests.support import snapshot


def names(changes: Mapping[tuple[str, str], object]) -> set[str]:
    return {session_id for _, session_id in changes}


def test_each_change_is_seen_at_the_next_look(store: Store, state_root: Path) -> None:
    """A new session, the end of a turn, a renaming, a short turn in between, a deletion: one look each."""
    finished_session(store, IDS[0])
    fleet, project = Fleet(str(state_root)), store.project_pathname
    assert names(fleet.look()) == {IDS[0]}
    assert fleet.look() == {}
    with publish(store, IDS[1]) as held, take_slot(state_root, SlotHolder(IDS[1], "codex"), Limits()):
        seen = fleet.look()[project, IDS[1]]
        assert seen
        assert (seen.status, seen.doing) == ("running", "started codex: hello")
        assert fleet.look() == {}
        finish(held, text="all is well")
        assert names(fleet.look()) == {IDS[1]}
    seen = fleet.look()[project, IDS[1]]
    assert seen
    assert seen.status == "succeeded"
    client = Csa(store.project, root=state_root)
    client.rename(IDS[0], "api")
    seen = fleet.look()[project, IDS[0]]
    assert seen
    assert seen.name == "api"
    with open_session(store, IDS[0], PLAIN) as held, take_slot(state_root, SlotHolder(IDS[0], "codex"), Limits()):
        finish(held, turn=2)
    assert names(fleet.look()) == {IDS[0]}
    client.delete(IDS[0])
    assert fleet.look() == {(project, IDS[0]): None}
    assert {info.session_id for info in fleet.infos} == {IDS[1]}


@pytest.mark.thorough
def test_a_project_appears_with_its_first_turn(store: Store, state_root: Path, tmp_path: Path) -> None:
    """A turn in a project that had no store is seen at once; one that is not served never is."""
    finished_session(store, IDS[0])
    other, hidden = (Store(state_root, tmp_path / name) for name in ("other", "hidden"))
    fleet = Fleet(str(state_root), served=lambda project: project != hidden.project_pathname)
    fleet.look()
    with publish(other, IDS[1]), take_slot(state_root, SlotHolder(IDS[1], "codex"), Limits()):
        assert names(fleet.look()) == {IDS[1]}
        with publish(hidden, IDS[2]), take_slot(state_root, SlotHolder(IDS[2], "codex"), Limits()):
            assert names(fleet.look()) == set()
    assert [each.project_pathname for each in fleet.stores] == sorted([other.project_pathname, store.project_pathname])


@pytest.mark.thorough
def test_looking_writes_nothing(store: Store, state_root: Path) -> None:
    """The store is byte-identical after a look, with a running turn."""
    finished_session(store, IDS[0])
    with publish(store, IDS[1]), take_slot(state_root, SlotHolder(IDS[1], "codex"), Limits()):
        before = snapshot(state_root)
        Fleet(str(state_root)).look()
        assert snapshot(state_root) == before


@pytest.mark.thorough
def test_what_nobody_has_announced_is_seen_in_the_round(store: Store, state_root: Path) -> None:
    """A turn without a slot, as of another machine on a shared disk, is noticed when its session's time comes."""
    for session_id in IDS[:30]:
        finished_session(store, session_id)
    fleet = Fleet(str(state_root))
    fleet.look()
    with publish(store, IDS[30]):
        fleet.look()
    with open_session(store, IDS[5], PLAIN) as held:
        finish(held, turn=2, text="from elsewhere")
    seen = next(found for _ in range(30) for found in fleet.look().values() if found and found.session_id == IDS[5])
    assert seen.doing.endswith("from elsewhere")


@pytest.mark.thorough
def test_a_session_is_found_in_any_project(store: Store, state_root: Path, tmp_path: Path) -> None:
    """By id, by a short prefix and by name, wherever csa is called; what means two sessions is ambiguous."""
    other = Store(state_root, tmp_path / "other")
    finished_session(store, IDS[0], name="api")
    finished_session(other, IDS[1], name="web")
    finished_session(other, IDS[2], name="api")
    client = Csa(tmp_path, root=state_root)
    assert client.find(IDS[1][:26]).store == other
    assert client.find("web").session_id == IDS[1]
    with pytest.raises(AmbiguousError):
        client.find("api")
    with pytest.raises(AmbiguousError):
        client.find(IDS[0][:12])
    with pytest.raises(NotFoundError):
        client.find("nothing")
