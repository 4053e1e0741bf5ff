"""The members of a tree: listed under its lock, found where they are not, and paid for when they are gone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from csa.errors import RefusedError, StateError
from csa.model.limits import Spent
from csa.model.state import SessionState
from csa.store.genealogy import ancestors
from csa.store.locks import is_locked
from csa.store.sessions import Store
from csa.store.spending import Ledger, below, total
from csa.store.trees import begin_members, leave_tree, open_tree, read_members
from tests.conftest import ForeignWriter
from tests.store.support import IDS, finish, finished_session, make_state, publish
from tests.support import snapshot

ROOT, CHILD, GRANDCHILD, OTHER = IDS[:4]


@pytest.fixture
def top(store: Store) -> SessionState:
    """A root with a child and a grandchild, which an older csa made: without a list."""
    finished_session(store, ROOT)
    finished_session(store, CHILD, parent_session_id=ROOT, root_session_id=ROOT, depth=1)
    finished_session(store, GRANDCHILD, parent_session_id=CHILD, root_session_id=ROOT, depth=2)
    finished_session(store, OTHER)
    return store.load(ROOT)


def names(store: Store, top: SessionState) -> list[str]:
    with open_tree(store.root, top) as tree:
        return [member.session_id for member in tree.members()]


def test_members_of_an_older_csa_are_found_and_listed(store: Store, top: SessionState) -> None:
    """They are looked for once; from then on the list is believed."""
    assert names(store, top) == [ROOT, CHILD, GRANDCHILD]
    finished_session(store, IDS[5], parent_session_id=ROOT, root_session_id=ROOT, depth=1)
    assert names(store, top) == [ROOT, CHILD, GRANDCHILD]


def test_a_reader_finds_the_same_and_writes_nothing(store: Store, top: SessionState) -> None:
    """Without the lock, and without a list."""
    before = snapshot(store.root)
    members, gone = read_members(store.root, top)
    assert [member.session_id for member in members] == [ROOT, CHILD, GRANDCHILD]
    assert gone == {}
    assert snapshot(store.root) == before


def test_records_of_other_implementations(store: Store, write_foreign: ForeignWriter) -> None:
    """A foreign root without locks/ can have members, its foreign children among them."""
    write_foreign(ROOT)
    write_foreign(CHILD, parent=ROOT, depth=1)
    assert names(store, store.load(ROOT)) == [ROOT, CHILD]


def test_what_is_no_line_is_passed_over(store: Store, top: SessionState) -> None:
    """Garbage and partial lines cost no member, and the next line stands on its own."""
    paths = store.paths(ROOT)
    begin_members(paths)
    with paths.tree_lock.open("ab") as file:
        file.write(b'null\n[1]\n{"id":3}\n{"id":"x","gone":5}\n{"id":"01JH4')
    with open_tree(store.root, top) as tree:
        tree.add(store.load(CHILD))
        assert [member.session_id for member in tree.members()] == [ROOT, CHILD]
    assert paths.tree_lock.read_bytes().splitlines()[-2] == b'{"id":"01JH4'


def test_the_tree_is_locked_meanwhile(store: Store, top: SessionState) -> None:
    """One at a time; the lock ends with the block."""
    with open_tree(store.root, top):
        assert is_locked(store.paths(ROOT).tree_lock)
    assert not is_locked(store.paths(ROOT).tree_lock)


def test_a_root_that_has_just_gone(store: Store, top: SessionState, tmp_path: Path) -> None:
    """Its tree can have no lock, and nothing is made in its place."""
    store.paths(ROOT).root.rename(tmp_path / "aside")
    with pytest.raises(RefusedError), open_tree(store.root, top):
        pass
    assert not store.paths(ROOT).root.exists()


def test_running_and_building_members(store: Store, top: SessionState) -> None:
    """A member counts from before it is published until it is gone; it runs while its lock is held."""
    held = publish(store, IDS[5], parent_session_id=ROOT, root_session_id=ROOT, depth=1)
    with open_tree(store.root, top) as tree:
        member = next(each for each in tree.members() if each.session_id == IDS[5])
    assert member.is_running(store.root)
    finish(held)
    held.close()
    assert not member.is_running(store.root)
    assert member.paths(store.root)
    held.paths.root.rename(Path(store.sessions_dir) / ".gone")
    assert member.paths(store.root) is None


def test_what_the_gone_have_spent(store: Store, top: SessionState) -> None:
    """A session says what it spent before it goes; of one that did not, nothing is known."""
    names(store, top)
    state = store.load(CHILD)
    leave_tree(store.root, state)
    for session_id in (CHILD, GRANDCHILD):
        store.paths(session_id).root.rename(store.path / session_id)
    members, gone = read_members(store.root, top)
    accounts = Ledger(store.root).accounts(members, gone)
    assert [(account.state is None, account.is_known) for account in accounts] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert [account.member.session_id for account in below(accounts, CHILD)] == [CHILD, GRANDCHILD]
    assert total(accounts) == Spent()


def test_retired_members_are_still_paid_for(store: Store, top: SessionState) -> None:
    """A collected session counts as long as its record is kept."""
    names(store, top)
    (store.path / "retired").mkdir()
    store.paths(CHILD).root.rename(store.path / "retired" / CHILD)
    members, gone = read_members(store.root, top)
    account = Ledger(store.root).accounts(members, gone)[1]
    assert account.is_known
    assert account.state


def test_a_collected_root_still_binds(store: Store, top: SessionState) -> None:
    """As long as its record is kept, its tree is counted and locked where it now is."""
    names(store, top)
    (store.path / "retired").mkdir()
    moved = store.paths(ROOT).root.rename(store.path / "retired" / ROOT)
    (found,) = ancestors(store.root, store.load(CHILD))
    assert found.session_id == ROOT
    assert names(store, found) == [ROOT, CHILD, GRANDCHILD]
    with open_tree(store.root, found):
        assert is_locked(moved / "locks" / "tree.lock")
    assert not store.paths(ROOT).root.exists()


def test_ancestors_end_where_records_end(store: Store, top: SessionState, tmp_path: Path) -> None:
    """Nearest first; a missing record ends them, a damaged one is an error, a circle does not hang."""
    leaf = store.load(GRANDCHILD)
    assert [state.session_id for state in ancestors(store.root, leaf)] == [CHILD, ROOT]
    store.paths(ROOT).state.write_text("broken =")
    with pytest.raises(StateError):
        list(ancestors(store.root, leaf))
    store.paths(ROOT).root.rename(tmp_path / "aside")
    assert [state.session_id for state in ancestors(store.root, leaf)] == [CHILD]
    finished_session(store, ROOT, parent_session_id=GRANDCHILD, depth=3)
    assert [state.session_id for state in ancestors(store.root, leaf)] == [CHILD, ROOT]


def test_counting_without_reading(store: Store, top: SessionState) -> None:
    """What a list says at most is never less than what there is, and it tells who is a member."""
    with open_tree(store.root, top) as tree:
        tree.members()
        for at in range(5, 9):
            parent = ROOT if at < 8 else IDS[5]
            tree.add(make_state(IDS[at], store.project, parent_session_id=parent, root_session_id=ROOT, depth=1))
        members = tree.members()
        assert tree.most() >= len(members)
        for parent in (ROOT, IDS[5], IDS[6]):
            children = sum(member.parent == parent for member in members)
            assert children <= tree.most(parent) <= children + 1 + (parent == ROOT) * len(members)
        assert tree.listed([IDS[7], IDS[30], ROOT]) == [IDS[7], ROOT]
        tree.leave(IDS[7], Spent())
        assert tree.gone().keys() == {IDS[7]}  # what was read once is read again when it has changed


def test_an_incomplete_list_bounds_nothing(store: Store, top: SessionState) -> None:
    """Of an older csa's tree it is not known how many there are until they were looked for."""
    store.paths(ROOT).tree_lock.write_bytes(b"")
    with open_tree(store.root, top) as tree:
        assert tree.most() == sys.maxsize
        assert tree.listed([ROOT, IDS[30]]) == [ROOT]
        assert tree.most() < sys.maxsize
