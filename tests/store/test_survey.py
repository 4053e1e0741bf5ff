"""The whole state root at a glance."""

from __future__ import annotations

from pathlib import Path

from csa.store.stores import find_stores
from csa.store.survey import measure, survey
from tests.conftest import ForeignWriter

FIRST, SECOND, THIRD = (f"01JH4QWERT000000000000000{n}" for n in "123")


def test_stores_are_found_wherever_projects_are(tmp_path: Path, state_root: Path, write_foreign: ForeignWriter) -> None:
    """Projects in projects, and projects whose path holds `sessions`, are all found; other directories are none."""
    places = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "sessions", tmp_path / "sessions" / "deep"]
    for number, place in enumerate(places):
        write_foreign(f"01JH4QWERT000000000000000{number}", place=place)
    (state_root / "sessions" / "stray").mkdir(parents=True)
    assert {store.project for store in find_stores(state_root)} == set(places)


def test_damage_is_listed_newest_first(state_root: Path, write_foreign: ForeignWriter) -> None:
    """Every damaged session is listed, and the rest are counted."""
    write_foreign(FIRST, text="x = [\n")
    write_foreign(SECOND)
    write_foreign(THIRD, text="")
    found = survey(state_root, limit_s=10)
    assert (found.projects, found.sessions, found.looked_at) == (1, 3, 3)
    assert [session_id for session_id, _ in found.damaged] == [THIRD, FIRST]
    assert found.size_bytes > 0
    assert found.is_size_whole


def test_remains_that_are_links(state_root: Path, write_foreign: ForeignWriter) -> None:
    """They count as remains, whatever they lead to, and take no room."""
    sessions = write_foreign(FIRST).root.parent
    (sessions / f".gone-{SECOND}").symlink_to("/nowhere")
    (sessions / f".gone-{THIRD}").symlink_to("/usr")
    found = survey(state_root, limit_s=10)
    assert [path.name for path in found.remains] == [f".gone-{SECOND}", f".gone-{THIRD}"]
    assert found.sessions == 1
    assert measure(sessions / f".gone-{THIRD}", limit_s=10) == (0, True)


def test_looks_end_in_time(state_root: Path, write_foreign: ForeignWriter) -> None:
    """When the time is up it says how far it came."""
    write_foreign(FIRST)
    found = survey(state_root, limit_s=-1)
    assert (found.sessions, found.looked_at, found.is_size_whole) == (1, 0, False)


def test_nothing_there(state_root: Path) -> None:
    """A state root that does not exist is empty."""
    assert survey(state_root, limit_s=1).sessions == 0
    assert measure(state_root, limit_s=1) == (0, True)
