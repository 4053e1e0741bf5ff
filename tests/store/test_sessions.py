"""The store for reading: which sessions there are, what a selector means, and that reading leaves no trace."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from csa.errors import AmbiguousError, CsaError, NotFoundError, UsageError
from csa.model.genealogy import walk
from csa.runner.client import Csa
from csa.store.sessions import Store, format_age
from tests.conftest import ForeignWriter
from tests.store.support import IDS, NOON, child, finish, finished_session, publish
from tests.support import snapshot

TREE = """
from csa.store.sessions import Store
from tests.store.support import publish
held = publish(Store(Path(args[0]), Path(args[1])), args[2])
say()
wait()
"""


def test_an_empty_store(store: Store) -> None:
    """Where nothing was ever run there are no sessions, and looking makes no store."""
    assert (store.ids(), list(store.records()), store.has(IDS[0])) == ([], [], False)
    with pytest.raises(NotFoundError):
        store.last_used(None)
    assert not store.root.exists()


def test_only_ulids_are_sessions(store: Store) -> None:
    """Stray files, half-made and removed sessions and lower-case names are no sessions."""
    finished_session(store, IDS[0])
    for name in (".new-" + IDS[1], ".gone-" + IDS[1], IDS[1].lower(), "notes", IDS[1] + ".bak"):
        (Path(store.sessions_dir) / name).mkdir()
    (Path(store.sessions_dir) / "README").touch()
    assert store.ids() == [IDS[0]]
    assert store.resolve("0") == IDS[0]


def test_a_stray_file_named_like_a_session_is_damage_at_most(store: Store) -> None:
    """A file where a directory should be never stops a listing."""
    finished_session(store, IDS[0])
    (Path(store.sessions_dir) / IDS[1]).touch()
    assert {record.session_id: record.status for record in store.records()}[IDS[0]] == "succeeded"
    with pytest.raises(CsaError):
        store.load(IDS[1])


def test_sessions_are_listed_newest_first(store: Store) -> None:
    """The order is that of the ids."""
    for session_id in (IDS[2], IDS[0], IDS[1]):
        finished_session(store, session_id)
    assert [record.session_id for record in store.records()] == [IDS[2], IDS[1], IDS[0]]


def test_selectors(store: Store) -> None:
    """A full id, an exact name, or a unique prefix in any case."""
    finished_session(store, IDS[0], name="auth")
    finished_session(store, "01JH5" + IDS[1][5:], name="authority")
    assert store.resolve(IDS[0]) == IDS[0]
    assert store.resolve(IDS[0].lower()) == IDS[0]
    assert store.resolve(" 01jh4 ") == IDS[0]
    assert store.resolve("auth") == IDS[0]
    for unknown in ("aut", "AUTH", "7", IDS[5], "nobody", "-x", "/etc", "01JH4*"):
        with pytest.raises(NotFoundError, match=r"No session"):
            store.resolve(unknown)
    for empty in ("", "  ", "\n"):
        with pytest.raises(UsageError):
            store.resolve(empty)


@pytest.mark.parametrize("among", [5, 23])
def test_a_prefix_finds_what_a_list_would(store: Store, among: int) -> None:
    """Whatever else is in the directory, and whether few begin so or many."""
    directory = Path(store.sessions_dir)
    for session_id in IDS[:among]:
        (directory / session_id).mkdir(parents=True)
    (directory / IDS[24]).touch()
    (directory / IDS[25]).symlink_to(IDS[0])
    for name in (f"x\n{IDS[26]}", f"{IDS[26]}\n", f".new-{IDS[26]}", IDS[26][:20]):
        (directory / name).mkdir()
    assert store.ids() == sorted(IDS[:among])
    for prefix in (
        "0",
        "7",
        IDS[0],
        IDS[0][:-1],
        IDS[24],
        IDS[25][:-1],
        IDS[26][:-1],
        IDS[26][:20],
        "x",
        ".",
        "0/",
        "/",
    ):
        assert store.ids(prefix) == [each for each in sorted(IDS[:among]) if each.startswith(prefix)]


def test_an_ambiguous_prefix_shows_every_match(store: Store, write_foreign: ForeignWriter) -> None:
    """Each match comes with full id, age, tool and description, damaged ones included."""
    finished_session(store, IDS[0], description="first work")
    write_foreign(IDS[1], text="broken =")
    with pytest.raises(AmbiguousError, match="Session prefix is ambiguous") as caught:
        store.resolve("01jh4")
    assert caught.value.exit_code == 3
    newest, oldest = caught.value.matches
    assert newest.split() == [IDS[1], "damaged"]
    assert oldest.startswith(IDS[0])
    assert "codex" in oldest
    assert "first work" in oldest


def test_a_long_ambiguous_list_says_how_many_more(store: Store, write_foreign: ForeignWriter) -> None:
    """Twenty matches are shown, the newest, and the number of the others."""
    for session_id in IDS[:23]:
        write_foreign(session_id)
    with pytest.raises(AmbiguousError, match="matches 23 sessions") as caught:
        store.resolve("0")
    assert (len(caught.value.matches), caught.value.matches[-1]) == (21, "... and 3 more")


def test_the_session_used_last(store: Store) -> None:
    """Last used is told by last_accessed, among the roots or among one session's children."""
    finished_session(store, IDS[0], last_accessed=NOON + timedelta(hours=2))
    finished_session(store, IDS[1], last_accessed=NOON + timedelta(hours=1))
    finished_session(store, IDS[2], last_accessed=NOON + timedelta(hours=3), parent_session_id=IDS[0], depth=1)
    assert store.last_used(None) == IDS[0]
    assert store.last_used(IDS[0]) == IDS[2]
    with pytest.raises(NotFoundError, match=IDS[1]):
        store.last_used(IDS[1])


@pytest.mark.parametrize(("seconds", "shown"), [(-5, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (86400 * 9, "9d")])
def test_ages(seconds: int, shown: str) -> None:
    """An age has one unit; a clock that went back makes no negative one."""
    assert format_age(NOON + timedelta(seconds=seconds), NOON) == shown


@pytest.fixture
def mixed(store: Store, write_foreign: ForeignWriter) -> Store:
    """A store with sessions of every kind, as readers meet them."""
    finished_session(store, IDS[0], name="auth")
    publish(store, IDS[1], parent_session_id=IDS[0], root_session_id=IDS[0], depth=1).close()
    write_foreign(IDS[2], tools={"codex": {"last_exit_code": 1}})
    write_foreign(IDS[3], text='meta_session_id = "01JH')
    write_foreign(IDS[4], parent="01JH4QWERT000000000000ZZZZ", depth=1)
    (write_foreign(IDS[5]).root / "transcript.jsonl").write_bytes(b'{"v":1,"seq":1,"ts')
    (Path(store.sessions_dir) / "stray").touch()
    (Path(store.sessions_dir) / (".new-" + IDS[6])).mkdir()
    return store


def test_every_kind_has_its_status(mixed: Store) -> None:
    """Damaged sessions are listed as such beside the others."""
    assert {record.session_id: record.status for record in mixed.records()} == {
        IDS[0]: "succeeded",
        IDS[1]: "lost",
        IDS[2]: "failed",
        IDS[3]: "damaged",
        IDS[4]: "idle",
        IDS[5]: "idle",
    }


READERS: dict[str, Callable[[Csa], object]] = {
    "sessions": lambda client: [info.to_json() for info in client.sessions()],
    "tree": lambda client: list(walk(client.tree())),
    "liveness": lambda client: [client.liveness(session_id) for session_id in client.store.ids()],
    "events": lambda client: [list(client.events(session_id)) for session_id in client.store.ids()],
    "tail": lambda client: [list(client.events(session_id, tail=1)) for session_id in client.store.ids()],
    "result": lambda client: client.result("auth"),
    "names": lambda client: client.store.find_name("auth"),
    "resolve": lambda client: client.resolve(IDS[0]),
    "last": lambda client: client.store.last_used(None),
}
FAILING: dict[str, Callable[[Csa], object]] = {
    "damaged": lambda client: client.store.load(IDS[3]),
    "no result": lambda client: client.result(IDS[1]),
    "ambiguous": lambda client: client.resolve("01"),
    "unknown": lambda client: client.resolve("nobody"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_reader_writes(mixed: Store, read: Callable[[Csa], object]) -> None:
    """The whole store is the same after any reading call, times included; the damaged record too."""
    with child(TREE, mixed.root, mixed.project, IDS[7]) as supervisor:
        assert supervisor.hear() == "ready"
        before = snapshot(mixed.root)
        read(Csa(mixed.project, root=mixed.root))
        assert snapshot(mixed.root) == before


@pytest.mark.parametrize("read", FAILING.values(), ids=FAILING)
def test_no_reader_that_fails_writes(mixed: Store, read: Callable[[Csa], object]) -> None:
    """Errors leave the store as it was."""
    before = snapshot(mixed.root)
    with pytest.raises(CsaError):
        read(Csa(mixed.project, root=mixed.root))
    assert snapshot(mixed.root) == before


def test_a_read_only_store_can_be_read(mixed: Store) -> None:
    """Readers need no right to write."""
    names = [path for path in (mixed.root, *mixed.root.rglob("*")) if path.is_dir()]
    for path in names:
        os.chmod(path, 0o500)
    try:
        client = Csa(mixed.project, root=mixed.root)
        for read in READERS.values():
            read(client)
    finally:
        for path in names:
            os.chmod(path, 0o700)


def test_the_list_as_json(mixed: Store) -> None:
    """Every session is an object with the promised keys; a damaged one says why."""
    shown = {str(info.session_id): info.to_json() for info in Csa(mixed.project, root=mixed.root).sessions()}
    promised = """id prefix name description status phase tools depth parent_session_id root_session_id children turns
        branch created_at last_accessed usage"""
    assert set(shown[IDS[0]]) >= set(promised.split())
    assert (shown[IDS[0]]["children"], shown[IDS[0]]["tools"]) == (1, ["codex"])
    assert (shown[IDS[3]]["status"], shown[IDS[3]]["id"]) == ("damaged", IDS[3])
    assert "line 1" in shown[IDS[3]]["error"]
    assert all(IDS[at].startswith(str(shown[IDS[at]]["prefix"])) for at in range(6))


def test_the_tree(mixed: Store) -> None:
    """Children stand below their parents, and below a marked one when it is gone."""
    forest = Csa(mixed.project, root=mixed.root).tree()
    by_id = {node.session_id: node for node in walk(forest)}
    assert [child.session_id for child in by_id[IDS[0]].children] == [IDS[1]]
    assert by_id["01JH4QWERT000000000000ZZZZ"].item is None
    assert [child.session_id for child in by_id["01JH4QWERT000000000000ZZZZ"].children] == [IDS[4]]


@pytest.mark.thorough
def test_a_session_that_vanishes_while_listing_is_passed_over(store: Store) -> None:
    """Removing sessions while others list them is no fault."""
    removing = """
        from csa.store.sessions import Store
        from tests.store.support import finish, publish
        store = Store(Path(args[0]), Path(args[1]))
        say()
        for session_id in args[3:] * 2:
            with publish(store, session_id) as held:
                finish(held)
                held.remove()
        Path(args[2]).touch()
    """
    end = store.project / "end"
    with child(removing, store.root, store.project, end, *IDS) as remover:
        assert remover.hear() == "ready"
        seen: set[str] = set()
        while not end.exists():
            seen.update(record.status for record in store.records())
        assert seen <= {"running", "succeeded", "idle"}  # idle: it went between its state and its transcript
    assert store.ids() == []


def test_projects_have_stores_of_their_own(store: Store, tmp_path: Path) -> None:
    """A session of one project is none of another's."""
    finished_session(store, IDS[0])
    other = Store(store.root, tmp_path / "other")
    assert other.ids() == []
    with pytest.raises(NotFoundError):
        other.load(IDS[0])


def test_a_turn_leaves_its_session_listed(store: Store) -> None:
    """After the end of a turn the record says how many there were."""
    with publish(store, IDS[0]) as held:
        finish(held)
    assert store.load(IDS[0]).turns == 1
