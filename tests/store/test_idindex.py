"""The index of a mirror's ids: with it, without it, and whatever was done to it, the answers are those of a listing."""

from __future__ import annotations

import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.runner.hosts.frames import write_frame
from csa.runner.hosts.intake import Intake
from csa.runner.sessions.listing import select_sessions
from csa.store import idindex, idkeeping
from csa.store.idindex import IDS_FILE, PLACES_FILE, IndexedIds, open_index
from csa.store.listed import by_use, list_directory, walk, written_at
from csa.store.mirrors import HOST_FILE, Mirror, mirror_for
from csa.store.sessions import Store
from tests.effort import examples

PROJECTS = ("/srv/app", "/srv/app/sessions", "/lib.git")
FILES = (IDS_FILE, PLACES_FILE)


def session_id(number: int) -> str:
    return f"01JH4QWE1T{number:016d}"


def record(number: int) -> bytes:
    then = "2026-01-01T00:00:00Z"
    return (
        f'meta_session_id = "{session_id(number)}"\nschema = 1\ncreated_at = {then}\nlast_accessed = {then}\n'.encode()
    )


def take(mirror: Mirror, sessions: list[int], *, at: float, kinds: str = "new", is_killed: bool = False) -> None:
    """Take what a host says of sessions: that they are new, or used, at a moment, or gone."""
    stream = io.BytesIO()
    for number in sessions:
        names = {"p": PROJECTS[number % len(PROJECTS)], "s": session_id(number)}
        if kinds == "gone":
            write_frame(stream, "gone", **names)
        else:
            write_frame(stream, "file", record(number), name="state.toml", at=at, **names)
            write_frame(stream, "whole", **names)
    if not is_killed:
        write_frame(stream, "beat")
    stream.seek(0)
    with Intake(mirror) as intake:
        intake.greet({"time": 0.0})
        intake.take(stream)


def answers(mirror: Mirror) -> object:
    """Return what readers find."""
    found = {}
    for store in mirror.stores():
        for directory, ids in ((store.sessions_dir, store.ids), (store.retired_dir, store.retired_ids)):
            every = ids()
            used = list(by_use(every, lambda each, place=directory: written_at(f"{place}/{each}")))  # type: ignore[misc]
            prefixes = {prefix: list(ids(prefix)) for prefix in ("01JH4QWE", session_id(2)[:-1], "7", session_id(2))}
            ends = [*every[:2], *every[-2:], *reversed(every)]
            found[directory] = list(every), used, prefixes, ends, len(every)
    return found


def listing(mirror: Mirror) -> object:
    """Return what is there."""
    found = {}
    stores = {os.path.dirname(place) for place, listed in walk(mirror.pathname) if listed.has_session}
    for directory in (f"{store}/{name}" for store in stores for name in ("sessions", "retired")):
        every = list_directory(directory).ids if os.path.isdir(directory) else []
        used = sorted(((written_at(f"{directory}/{each}"), each) for each in every), reverse=True)
        prefixes = {
            p: [e for e in every if e.startswith(p)] for p in ("01JH4QWE", session_id(2)[:-1], "7", session_id(2))
        }
        found[directory] = list(every), used, prefixes, [*every[:2], *every[-2:], *reversed(every)], len(every)
    return found


def place_of(mirror: Mirror, number: int) -> Path:
    return Path(Store(mirror.pathname, PROJECTS[number % len(PROJECTS)]).paths(session_id(number)).pathname)


def _of_old_csa(mirror: Mirror, number: int, at: float) -> None:
    """Do what an intake does that knows of no index."""
    new = Path(mirror.pathname, f"{HOST_FILE}.new")
    new.write_text("{}")
    new.replace(f"{mirror.pathname}/{HOST_FILE}")
    if (state := place_of(mirror, number) / "state.toml").parent.is_dir():
        state.write_bytes(record(number))
        os.utime(state, (at, at))


def _flip(mirror: Mirror, number: int) -> None:
    """Change a byte of one of the files where it is."""
    path = Path(mirror.pathname, FILES[number % 2])
    with suppress(FileNotFoundError), path.open("r+b") as file:
        at = random.Random(number).randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ (1 << number % 7)]))


def _truncate(mirror: Mirror, number: int) -> None:
    path = Path(mirror.pathname, FILES[number % 2])
    with suppress(FileNotFoundError):
        os.truncate(path, path.stat().st_size * (number % 5) // 5)


def _older(mirror: Mirror, kept: Path) -> None:
    """Put back what was there before, with its times."""
    for name in FILES:
        if (kept / os.path.basename(name)).exists():
            shutil.copy2(kept / os.path.basename(name), f"{mirror.pathname}/{name}")


def _keep(mirror: Mirror, kept: Path) -> None:
    kept.mkdir(exist_ok=True)
    for name in FILES:
        with suppress(FileNotFoundError):
            shutil.copy2(f"{mirror.pathname}/{name}", kept / os.path.basename(name))


def _look(mirror: Mirror) -> None:
    assert answers(mirror)


def _made_by_hand(mirror: Mirror, number: int) -> None:
    with suppress(FileExistsError):
        place_of(mirror, number).mkdir(parents=True)


def _deleted_by_hand(mirror: Mirror, number: int) -> None:
    shutil.rmtree(place_of(mirror, number), ignore_errors=True)


DEEDS: tuple[Callable[[Mirror, int, float, Path], None], ...] = (
    lambda mirror, number, at, _: take(mirror, [number], at=at),
    lambda mirror, number, at, _: take(mirror, [*range(number, number + 9)], at=at),
    lambda mirror, number, at, _: take(mirror, [number, number + 1], at=at, is_killed=True),
    lambda mirror, number, at, _: take(mirror, [number], at=at, kinds="gone"),
    lambda mirror, number, at, _: take(mirror, [number], at=at, kinds="gone", is_killed=True),
    lambda mirror, number, at, _: _of_old_csa(mirror, number, at),
    lambda mirror, number, *_: _flip(mirror, number),
    lambda mirror, number, *_: _truncate(mirror, number),
    lambda mirror, number, *_: Path(mirror.pathname, FILES[number % 2]).unlink(missing_ok=True),
    lambda mirror, number, *_: _made_by_hand(mirror, number),
    lambda mirror, number, *_: _deleted_by_hand(mirror, number),
    lambda mirror, _number, _at, kept: _keep(mirror, kept),
    lambda mirror, _number, _at, kept: _older(mirror, kept),
    lambda mirror, *_: _look(mirror),
)


@examples(80)
@given(st.lists(st.tuples(st.integers(0, len(DEEDS) - 1), st.integers(0, 40)), max_size=14))
def test_whatever_happens_to_an_index_or_a_mirror_the_answers_are_those_of_a_listing(
    deeds: list[tuple[int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(idindex, "WORTH", 4)
        patch.setattr(idkeeping, "WORTH", 4)
        patch.setattr(idkeeping, "_MOST_NOTED", 5)
        patch.setattr(idindex, "_BLOCK", 3)
        patch.setattr(idindex, "_FIRST_BLOCK", 2)
        patch.setattr(idindex, "_SMALL_BYTES", 0)
        mirror = mirror_for(place, "n1")
        take(mirror, list(range(12)), at=1e9)
        for moment, (deed, number) in enumerate(deeds):
            DEEDS[deed](mirror, number, 1e9 + moment - 10 * (number % 2), Path(place, "kept"))
            assert answers(mirror) == listing(mirror)


def test_what_an_intake_has_written_is_found_without_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what it has added since, and which sessions were used last."""
    mirror = mirror_for(str(tmp_path), "n1")
    began = time.time()
    take(mirror, list(range(150)), at=1e9)
    take(mirror, [151], at=1e9 + 1)
    take(mirror, [3], at=1e9 + 2)
    assert os.stat(Store(mirror.pathname, PROJECTS[0]).sessions_dir).st_mtime < began  # a change makes it another
    expected = listing(mirror)
    for room in (idindex, idkeeping):
        monkeypatch.setattr(room, "list_directory", pytest.fail)
    assert answers(mirror) == expected
    index = open_index(mirror.pathname)
    assert index
    assert index.has_times
    found = select_sessions(list(mirror.stores()), limit=3, by_use=True)
    assert [info.session_id for info in found.infos] == [session_id(each) for each in (3, 151, 149)]
    assert found.more == 148


def test_a_reader_writes_what_is_missing_unless_an_intake_runs(tmp_path: Path) -> None:
    """An intake writes it by itself, and one of an older csa would not know what readers write."""
    mirror = mirror_for(str(tmp_path), "n1")
    take(mirror, list(range(120)), at=1e9)
    places = Path(mirror.pathname, PLACES_FILE)
    places.unlink()
    with Intake(mirror):
        assert answers(mirror) == listing(mirror)
        assert not places.exists()
    assert answers(mirror) == listing(mirror)
    assert isinstance(Store(mirror.pathname, PROJECTS[0]).ids(), IndexedIds)


def test_a_small_mirror_has_no_index(tmp_path: Path) -> None:
    mirror = mirror_for(str(tmp_path), "n1")
    take(mirror, list(range(20)), at=1e9)
    assert answers(mirror) == listing(mirror)
    assert open_index(mirror.pathname) is None
    assert not list(Path(mirror.pathname).glob(".mirror/*ids*"))


def test_ids_stay_as_they_were_found_when_the_index_changes(tmp_path: Path) -> None:
    """Whoever goes through a list is not disturbed by an intake."""
    mirror = mirror_for(str(tmp_path), "n1")
    take(mirror, list(range(0, 300, 3)), at=1e9)
    ids = Store(mirror.pathname, PROJECTS[0]).ids()
    assert isinstance(ids, IndexedIds)
    before = iter(ids)
    assert next(before) == session_id(0)
    take(mirror, list(range(300, 600, 3)), at=1e9)
    assert [*before] == [session_id(each) for each in range(3, 300, 3)]
    assert ids[-1] == session_id(297) in ids
    assert session_id(300) not in ids
    assert ids[::-50] == [session_id(297), session_id(147)]
    with pytest.raises(IndexError):
        ids[len(ids)]


def test_a_flipped_bit_anywhere_in_what_is_said_of_directories_is_seen(tmp_path: Path) -> None:
    """Also where it would only be another id, or another number."""
    mirror = mirror_for(str(tmp_path), "n1")
    take(mirror, list(range(100)), at=1e9)
    take(mirror, [7, 100], at=1e9)
    places = Path(mirror.pathname, PLACES_FILE)
    content = places.read_bytes()
    for at in range(0, len(content), 7):
        places.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert open_index(mirror.pathname) is None
    places.write_bytes(content)
    assert open_index(mirror.pathname)


def test_threads_find_at_once_that_an_index_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a server do; whoever comes second opens what the first one did."""
    mirror = mirror_for(str(tmp_path), "n1")
    take(mirror, list(range(3 * idindex.WORTH)), at=1e9)
    known = open_index(mirror.pathname)
    assert known

    def look(_: object) -> bool:  # meanwhile the other thread has seen it, too
        idindex._opened.pop(mirror.pathname, None)  # noqa: SLF001
        return False

    monkeypatch.setattr(idindex.IdsFile, "is_as_written", property(look))
    assert open_index(mirror.pathname) is None
    monkeypatch.undo()
    assert open_index(mirror.pathname)
