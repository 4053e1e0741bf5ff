"""Who calls csa: found through the records, and refused where the variables lead nowhere."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from csa.errors import RefusedError
from csa.model.permission import Permission
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.caller import find_caller
from csa.runner.environment import session_environment
from csa.store.sessions import Store
from tests.conftest import ForeignWriter
from tests.store.support import IDS, finished_session

PARENT, CHILD, OTHER = IDS[0], IDS[1], IDS[2]


@pytest.fixture
def family(store: Store) -> Store:
    """A root, its child, and a stranger."""
    finished_session(store, PARENT, permission="edit")
    finished_session(store, CHILD, parent_session_id=PARENT, root_session_id=PARENT, depth=1, permission="read-only")
    finished_session(store, OTHER)
    return store


def inside(store: Store, session_id: str) -> dict[str, str]:
    """Return the variables of an agent in that session."""
    state = store.load(session_id)
    return session_environment(state, store.paths(session_id), turn=1, tool="codex", root=store.root)


def test_outside_of_any_session_there_is_no_caller(family: Store) -> None:
    """Variables that only configure csa make no caller."""
    assert find_caller({}, family.root) is None
    assert find_caller({"CSA_STATE_DIR": str(family.root), "CSA_TOOL": "codex"}, family.root) is None


def test_the_caller_is_the_recorded_session(family: Store) -> None:
    """Depth, parent and permission come from the record."""
    caller = find_caller(inside(family, CHILD), family.root)
    assert caller is not None
    assert (caller.session_id, caller.state.depth, caller.permission) == (CHILD, 1, Permission.READ_ONLY)
    assert list(caller.lineage()) == [CHILD, PARENT]


def test_the_depth_variable_is_never_read(family: Store) -> None:
    """Whatever CSA_DEPTH and CSA_PARENT_SESSION say, the record counts."""
    for depth in ("0", "-5", "garbage", ""):
        environ = {**inside(family, CHILD), "CSA_DEPTH": depth, "CSA_PARENT_SESSION": OTHER}
        caller = find_caller(environ, family.root)
        assert caller is not None
        assert (caller.state.depth, caller.state.parent_session_id) == (1, PARENT)


@pytest.mark.parametrize(
    "kept",
    [
        kept
        for count in (1, 2, 3)
        for kept in itertools.combinations(IDENTITY_VARIABLES, count)
        if not {"CSA_SESSION_ID", "CSA_SESSION_DIR"} <= set(kept)
    ],
    ids="+".join,
)
def test_a_part_of_the_variables_is_refused(family: Store, kept: tuple[str, ...]) -> None:
    """Unsetting some variables does not make a new root."""
    whole = inside(family, CHILD)
    with pytest.raises(RefusedError) as caught:
        find_caller({name: whole[name] for name in kept}, family.root)
    assert caught.value.exit_code == 5
    assert "unset" in (caught.value.hint or "")


def test_values_that_lead_nowhere_are_refused(family: Store, tmp_path: Path) -> None:
    """Garbled ids, other directories, and directories outside the state root are refused."""
    good = inside(family, CHILD)
    elsewhere = tmp_path / CHILD
    elsewhere.mkdir()
    (elsewhere / "state.toml").write_bytes(family.paths(CHILD).state.read_bytes())
    bad: list[Mapping[str, str]] = [
        {"CSA_SESSION_ID": ""},
        {"CSA_SESSION_ID": "garbage"},
        {"CSA_SESSION_ID": CHILD.lower()},
        {"CSA_SESSION_ID": CHILD + " "},
        {"CSA_SESSION_ID": OTHER},
        {"CSA_SESSION_DIR": ""},
        {"CSA_SESSION_DIR": "."},
        {"CSA_SESSION_DIR": CHILD},
        {"CSA_SESSION_DIR": str(family.paths(OTHER).root)},
        {"CSA_SESSION_DIR": str(family.paths(CHILD).root / "output")},
        {"CSA_SESSION_DIR": str(family.root)},
        {"CSA_SESSION_DIR": str(elsewhere)},
        {"CSA_SESSION_DIR": str(family.root / ".." / ".." / elsewhere)},
        {"CSA_SESSION_DIR": str(Path(family.sessions_dir) / IDS[9]), "CSA_SESSION_ID": IDS[9]},
    ]
    for changes in bad:
        with pytest.raises(RefusedError, match="record it cannot find"):
            find_caller({**good, **changes}, family.root)
    link = Path(family.sessions_dir) / IDS[9]
    link.symlink_to(elsewhere)
    with pytest.raises(RefusedError):
        find_caller({"CSA_SESSION_ID": IDS[9], "CSA_SESSION_DIR": str(link)}, family.root)


@pytest.mark.parametrize("content", ["", "broken =", "schema = 99", f'meta_session_id = "{OTHER}"'])
def test_a_damaged_record_is_refused(family: Store, content: str) -> None:
    """A caller whose record cannot be read has no depth, so it starts nothing."""
    environ = inside(family, CHILD)
    family.paths(CHILD).state.write_text(content)
    with pytest.raises(RefusedError, match="cannot be read"):
        find_caller(environ, family.root)


def test_a_linked_state_root_is_the_same(family: Store, tmp_path: Path) -> None:
    """A state root that is reached through a link is found."""
    (tmp_path / "link").symlink_to(family.root)
    assert find_caller(inside(family, CHILD), tmp_path / "link") is not None


def test_a_record_that_does_not_say_allows_least(store: Store, write_foreign: ForeignWriter) -> None:
    """A caller without a recorded permission may give its children read-only."""
    write_foreign(OTHER)
    caller = find_caller({"CSA_SESSION_ID": OTHER, "CSA_SESSION_DIR": str(store.paths(OTHER).root)}, store.root)
    assert caller is not None
    assert caller.permission is Permission.READ_ONLY


def test_a_lineage_over_projects(store: Store, tmp_path: Path) -> None:
    """A parent in another project is found, and what is above a missing one is not guessed."""
    other = Store(store.root, tmp_path / "other")
    finished_session(other, PARENT, parent_session_id=IDS[9], depth=1)
    finished_session(store, CHILD, parent_session_id=PARENT, parent_project=str(other.project), depth=2)
    caller = find_caller(inside(store, CHILD), store.root)
    assert caller is not None
    assert list(caller.lineage()) == [CHILD, PARENT, IDS[9]]


@pytest.mark.parametrize("becomes", ["retired", "damaged", "purged"])
def test_a_lineage_through_one_that_is_gone(store: Store, becomes: str) -> None:
    """A session that was collected, while those below and above it go on, hides nobody; the root is always known."""
    finished_session(store, PARENT)
    finished_session(store, OTHER, parent_session_id=PARENT, root_session_id=PARENT, depth=1)
    finished_session(store, IDS[3], parent_session_id=OTHER, root_session_id=PARENT, depth=2)
    finished_session(store, CHILD, parent_session_id=IDS[3], root_session_id=PARENT, depth=3)
    if becomes == "damaged":
        store.paths(IDS[3]).state.write_text("x = [")
    elif becomes == "purged":
        shutil.rmtree(store.paths(IDS[3]).root)
    else:
        (store.path / "retired").mkdir()
        store.paths(IDS[3]).root.rename(store.path / "retired" / IDS[3])
    caller = find_caller(inside(store, CHILD), store.root)
    assert caller is not None
    between = [OTHER] if becomes == "retired" else []
    assert list(caller.lineage()) == [CHILD, IDS[3], *between, PARENT]


def test_a_lineage_that_is_a_circle_ends(store: Store) -> None:
    """Forged records that name each other as parents do not hang."""
    finished_session(store, PARENT, parent_session_id=CHILD, depth=1)
    finished_session(store, CHILD, parent_session_id=PARENT, depth=2)
    caller = find_caller(inside(store, CHILD), store.root)
    assert caller is not None
    assert list(caller.lineage()) == [CHILD, PARENT]
