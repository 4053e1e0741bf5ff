"""Finding all stores below a state root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csa.model.limits import Limits
from csa.store.audit import append_audit
from csa.store.current import choose_current, read_current
from csa.store.gitplumbing import ensure_bare
from csa.store.sessions import Store
from csa.store.slots import SlotHolder, take_slot
from csa.store.stores import find_stores
from csa.store.usage_stats import load_usage_stats, note_turn
from tests.store.support import IDS, finished_session


def projects(root: Path) -> list[str]:
    return sorted(str(store.project) for store in find_stores(root))


def test_every_store_is_found(state_root: Path) -> None:
    """Also one below another project, below a directory called `sessions`, and that of the root directory."""
    names = ["/", "/home/user/api", "/home/user/api/sub", "/home/user/sessions", "/home/user/sessions/app"]
    for name in names:
        finished_session(Store(state_root, Path(name)), IDS[0])
    assert projects(state_root) == names
    for store in find_stores(state_root):
        assert store.ids() == [IDS[0]]


STORE_NAMES = ("store.lock", "current", "current.d", "audit.jsonl", "audit.git", "usage_stats.toml", "usage_stats.lock")


@pytest.mark.parametrize(
    "name",
    [
        "sessions",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in (*STORE_NAMES, "retired", "parked", ".slots", "=current", "code.git")
        ),
    ],
)
@pytest.mark.parametrize("top", ["/home/user", pytest.param("/", marks=pytest.mark.thorough)])
def test_a_directory_named_like_a_file_of_the_store(state_root: Path, top: str, name: str) -> None:
    """A project of that name, below another, has a store of its own that no file of the other's is in the way of."""
    below = f"{top.rstrip('/')}/{name}"
    names = [top, below, f"{below}/sessions/{IDS[2]}"]
    for each in names:
        store = Store(state_root, each)
        finished_session(store, IDS[0])
        choose_current(store, IDS[0])
        choose_current(store, IDS[0], "sessions")
        note_turn(store, "codex", peak_rss_bytes=1, duration_s=1.0)
        append_audit(store, "session pin", session_id=IDS[0], what={}, who="me", caller=None)
        (store.path / "parked").mkdir(exist_ok=True)
        ensure_bare(store.path / "audit.git", {"PATH": os.environ["PATH"]})
    take_slot(state_root, SlotHolder(IDS[0], "codex"), Limits()).close()
    assert projects(state_root) == sorted(names)
    for each in names:
        store = Store(state_root, each)
        assert (store.ids(), read_current(store), read_current(store, "sessions")) == ([IDS[0]], IDS[0], IDS[0])
        assert list(load_usage_stats(store)) == ["codex"]
        assert (store.path / "audit.git" / "HEAD").is_file()


def test_a_store_of_an_older_csa_stays_where_it_is(state_root: Path) -> None:
    """It was made in the place of a file of the store above, which had none as yet."""
    old = state_root / "home" / "user" / "current" / "sessions"
    old.mkdir(parents=True)
    store = Store(state_root, "/home/user/current")
    finished_session(store, IDS[0])
    assert [path.name for path in old.iterdir() if not path.name.startswith(".")] == [IDS[0]]
    assert projects(state_root) == ["/home/user/current"]


def test_what_is_no_store_is_passed_over(state_root: Path, tmp_path: Path) -> None:
    """No sessions, files named like sessions, links, what agents left in a session, and what cannot be listed."""
    assert projects(state_root) == []
    finished_session(Store(state_root, Path("/real")), IDS[0])
    inside = state_root / "real" / "sessions" / IDS[0] / "output" / "sessions" / IDS[1]
    inside.mkdir(parents=True)
    (state_root / "real" / "sessions" / f".new-{IDS[2]}" / "sessions" / IDS[1]).mkdir(parents=True)
    (state_root / "empty" / "sessions").mkdir(parents=True)
    (state_root / "file" / "sessions").mkdir(parents=True)
    (state_root / "file" / "sessions" / IDS[1]).touch()
    (state_root / "link").symlink_to(state_root / "real")
    (tmp_path / "sessions" / IDS[3]).mkdir(parents=True)
    (state_root / "away").mkdir()
    (state_root / "away" / "sessions").symlink_to(tmp_path / "sessions")
    os.mkfifo(state_root / "fifo")
    assert projects(state_root) == ["/real"]
