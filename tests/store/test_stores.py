"""Finding all stores below a state root."""

from __future__ import annotations

import os
from pathlib import Path

from csa.store.sessions import Store
from csa.store.stores import find_stores
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
