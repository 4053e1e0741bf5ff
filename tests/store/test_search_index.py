"""The search index: whatever becomes of it, searches answer as without it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csa.paths import INDEX, SEALED_FILE
from csa.runner.doctor.store_checks import check_index
from csa.runner.sessions.indexing import keep_up, tidy_up, update_index
from csa.runner.sessions.searching import Query, search
from csa.store.atomic import stamp_of
from csa.store.locks import acquire_lock
from csa.store.searchindex import (
    SearchIndexError,
    forget,
    has_index,
    index_name,
    open_sieve,
    remove_index,
    writing,
)
from csa.store.sessions import Store
from tests.cli.prepared import session_id, write_session
from tests.schemas import check
from tests.support import Place, wait_for

PARTS = (
    "deploy",
    "Bucket",
    "ÜBER",
    "straße",
    "İstanbul",
    "ΣΑΣ",
    "日本語の",
    '"x" y',
    "a",
    "\0z",
    "\ud800q",
    "ab\ncd",
    "lo",
)
TEXT = st.lists(st.sampled_from((*PARTS, " ", ".")), max_size=6).map("".join)
WORD = st.one_of(TEXT, st.sampled_from(PARTS), st.text(max_size=4)).map(str.lower).filter(str.strip)
SAID = st.lists(st.tuples(st.sampled_from(("say", "piece", "think", "call", "end")), TEXT), max_size=6)


def _events(said: list[tuple[str, str]]) -> tuple[tuple[str, dict[str, Any]], ...]:
    kinds: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
        "say": lambda text: ("agent_message", {"text": text}),
        "piece": lambda text: ("agent_message", {"text": text, "chunk": True}),
        "think": lambda text: ("agent_thought", {"text": text}),
        "call": lambda text: ("tool_call", {"id": "c", "title": text, "status": "in_progress"}),
        "end": lambda text: ("tool_call_update", {"id": "c", "status": "completed", "content": text}),
    }
    return tuple(kinds[kind](text) for kind, text in said)


def _found(store: Store, *words: str, **more: Any) -> list[Any]:
    return [hit.to_json() for hit in search([store], Query(words=words, **more))]


@pytest.fixture(params=["state", pytest.param("state/.mirrors/n1", marks=pytest.mark.thorough)])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A few sessions, here or in a mirror, of which one has a rare word."""
    made = Store(tmp_path / request.param, tmp_path / "project")
    for number in range(5):
        rare = "the rarest quokka" if number == 3 else "nothing"
        write_session(made, number, events=(("agent_message", {"text": f"{rare} of {number}"}),))
    return made


@pytest.mark.thorough
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sessions=st.lists(SAID, min_size=1, max_size=4),
    queries=st.lists(st.lists(WORD, min_size=1, max_size=3), max_size=12),
)
def test_answers_are_the_same_with_and_without(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[Any], queries: list[list[str]]
) -> None:
    """Whatever the words: parts of words, in any case and script, phrases, of messages in pieces and of calls."""
    root = tmp_path_factory.mktemp("index")
    store = Store(root / "state", root / "project")
    for number, said in enumerate(sessions):
        write_session(store, number, tools=("codex", "claude-code")[: 1 + number % 2], events=_events(said))
    asked = [(tuple(dict.fromkeys(words)), more) for words in queries for more in ({}, {"tools": frozenset({"codex"})})]
    before = [_found(store, *words, **more) for words, more in asked]
    update_index(store.root, [store])
    assert [_found(store, *words, **more) for words, more in asked] == before


def test_what_the_index_rules_out_is_not_read(store: Store) -> None:
    """Only sessions that may have the words are left; what has changed since, or is new, is read."""
    update_index(store.home, [store])
    unknown: list[str] = []
    place = store.home / INDEX
    assert [stat.S_IMODE(os.stat(each).st_mode) for each in (place, place / "search.db")] == [0o700, 0o600]
    assert [hit.session_id for hit in search([store], Query(words=("quokka",)), on_unknown=unknown.append)] == [
        session_id(3)
    ]
    assert unknown == []
    sieve = open_sieve(store.home, ["quokka"])
    assert sieve
    assert [n for n in range(5) if sieve.may_fit(*_stamped(store, n))] == [3]
    with store.paths(session_id(1)).transcript.open("a") as file:
        file.write(
            '{"v": 1, "seq": 90, "ts": "2026-01-01T00:00:00Z", "type": "agent_message", "data": {"text": "quokka"}}\n'
        )
    write_session(store, 7, events=(("agent_message", {"text": "a new quokka"}),))
    hits = list(search([store], Query(words=("quokka",)), on_unknown=unknown.append))
    assert {hit.session_id for hit in hits} == {session_id(n) for n in (1, 3, 7)}
    assert {*unknown} == {index_name(store, session_id(n)) for n in (1, 7)}
    keep_up(store.home, [store], unknown)
    assert list(search([store], Query(words=("quokka",)), on_unknown=pytest.fail)) == hits


def _stamped(store: Store, number: int) -> tuple[str, str]:
    return index_name(store, session_id(number)), stamp_of(os.stat(store.paths(session_id(number)).transcript))


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _zero(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:12288] = bytes(8192)
    file.write_bytes(content)


def _flip(file: Path) -> None:
    """Change single bits of the index, which SQLite does not notice."""
    content = bytearray(file.read_bytes())
    for at in random.Random(1).sample(range(len(content)), 2000):
        content[at] ^= 1
    file.write_bytes(content)


def _old(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM words")
    database.close()


def _other_version(file: Path) -> None:
    seal = file.with_name("seal.json")
    seal.write_text(json.dumps({**json.loads(seal.read_text()), "version": 0}))


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "cut": _cut,
    "zero": _zero,
    "flip": _flip,
    "changed": _old,
    "text": lambda file: file.write_text("no database"),
    "no seal": lambda file: file.with_name("seal.json").unlink(),
    "bad seal": lambda file: file.with_name("seal.json").write_text("[" * 9999),
    "other version": _other_version,
    "a directory": _directory,
    "a pipe": _pipe,
}


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_changes_no_answer(store: Store, damage: str) -> None:
    """Nor does it stop the next one from being built."""
    expected = _found(store, "quokka")
    update_index(store.home, [store])
    file = store.home / INDEX / "search.db"
    DAMAGES[damage](file)
    assert open_sieve(store.home, ["quokka"]) is None
    assert _found(store, "quokka") == expected
    assert damage in {"deleted", "no seal"} or [check.name for check in check_index(store.home)] == ["search index"]
    keep_up(store.home, [store], [index_name(store, session_id(3))])
    assert _found(store, "quokka") == expected
    if file.is_dir():
        file.rmdir()
    update_index(store.home, [store])
    assert open_sieve(store.home, ["quokka"])
    assert _found(store, "quokka") == expected


@pytest.mark.thorough
def test_while_it_is_written(store: Store) -> None:
    """Searches read everything, and a second writer does not wait."""
    update_index(store.home, [store])
    with writing(store.home):
        assert open_sieve(store.home, ["quokka"]) is None
        assert len(_found(store, "quokka")) == 1
        with pytest.raises(BlockingIOError):
            update_index(store.home, [store])
        tidy_up(store.home, [store])
        with pytest.raises(BlockingIOError):
            remove_index(store.home)
    assert open_sieve(store.home, ["quokka"])
    with pytest.raises(ZeroDivisionError):
        _fail_in_the_middle(store)
    assert open_sieve(store.home, ["quokka"])  # nothing of that was saved
    assert remove_index(store.home)
    assert not (store.home / INDEX).exists()
    assert not remove_index(store.home)


def _fail_in_the_middle(store: Store) -> None:
    with writing(store.home) as writer:
        writer.remove(list(writer.stamps))
        raise ZeroDivisionError


KILLED = """
import os, signal, sys
from pathlib import Path
from csa.store.searchindex import writing
with writing(Path(sys.argv[1])) as writer:
    for name in list(writer.stamps):
        writer.put(name, "1 2 3 4", "quokka " * 100_000)
    print("ready", flush=True)
    signal.pause()
"""


@pytest.mark.thorough
def test_a_writer_that_is_killed(store: Store) -> None:
    """What it has left is not believed, and goes with the next change; it is used again when it was built anew."""
    expected = _found(store, "quokka")
    update_index(store.home, [store])
    with subprocess.Popen([sys.executable, "-c", KILLED, str(store.home)], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        assert _found(store, "quokka") == expected
        child.send_signal(signal.SIGKILL)
    wait_for(lambda: _found(store, "quokka") == expected, "the answer is the same")
    assert open_sieve(store.home, ["quokka"]) is None
    forget(store.home, ["anything"])
    assert not (store.home / INDEX / "search.db").exists()
    assert "could not be believed" in check_index(store.home)[0].detail
    update_index(store.home, [store])
    assert open_sieve(store.home, ["quokka"])
    assert check_index(store.home) == []
    assert _found(store, "quokka") == expected


@pytest.mark.thorough
def test_without_sqlite(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without the module searches by reading, and says so where an index is wanted."""
    update_index(store.home, [store])
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    assert len(_found(store, "quokka")) == 1
    assert "SQLite" in check_index(store.home)[0].detail
    with pytest.raises(SearchIndexError):
        update_index(store.home, [store])


@pytest.mark.thorough
def test_what_is_gone_is_not_in_it(store: Store) -> None:
    """What was purged leaves no trace; what was moved to the trash is found there only."""
    update_index(store.home, [store])
    file = store.home / INDEX / "search.db"
    assert b"rarest quokka" in file.read_bytes()

    shutil.rmtree(store.paths(session_id(3)).root)
    assert _found(store, "quokka") == []
    tidy_up(store.home, [store])
    assert b"quokka" not in file.read_bytes()
    assert has_index(store.home)


@pytest.mark.parametrize("how", ["a search", "csa gc", "csa index update"])
def test_what_is_encrypted_leaves_it_whoever_looks(store: Store, how: str) -> None:
    """Where a crash, or another writer, has kept it from leaving at once: the text, and with csa gc the trigrams."""
    update_index(store.home, [store])
    database = store.home / INDEX / "search.db"
    assert b"rarest quokka" in database.read_bytes()
    (store.paths(session_id(3)).root / SEALED_FILE).touch()
    unknown: list[str] = []
    list(search([store], Query(words=("nothing",)), on_unknown=unknown.append))
    assert unknown == [index_name(store, session_id(3))]
    if how == "a search":
        keep_up(store.home, [store], unknown)
    elif how == "csa gc":
        tidy_up(store.home, [store])
    else:
        assert update_index(store.home, [store]).removed == 1
    assert b"rarest quokka" not in database.read_bytes()
    assert (b"quo" in database.read_bytes()) is (how != "csa gc")
    keep_up(store.home, [store], unknown)
    assert b"rarest quokka" not in database.read_bytes()
    assert list(search([store], Query(words=("nothing",)), on_unknown=pytest.fail))


def test_who_encrypts_waits_for_another_writer(store: Store) -> None:
    """Two turns that end at once, say: what has to leave the index does, as soon as the other one is done."""
    update_index(store.home, [store])
    others, looked = acquire_lock(store.home / INDEX / "lock"), threading.Event()
    names = _noting([index_name(store, session_id(3))], looked)
    thread = threading.Thread(target=forget, args=(store.home, names), kwargs={"within_s": 60})
    thread.start()
    assert not looked.wait(0.1)
    others.close()
    thread.join(20)
    assert looked.is_set()
    assert b"rarest quokka" not in (store.home / INDEX / "search.db").read_bytes()


def _noting(names: list[str], looked: threading.Event) -> Iterator[str]:
    looked.set()
    yield from names


@pytest.mark.thorough
def test_the_commands(place: Place) -> None:
    """Build, status, update and delete; a search by itself adds what is new."""
    place.codex("find the quokka")
    assert place.run("index", "status").code == 1
    assert place.run("index", "build").err == "csa: 1 added, 0 removed\n"
    second = place.codex("another quokka").session_id
    status = place.run("index", "status", "--json")
    check("index status", status.json)
    assert (status.code, status.json["sessions"], status.json["stale"]) == (0, 1, 1)
    hits = place.run("search", "quokka", "--json").json
    assert place.run("index", "status", "--json").json["stale"] == 0
    assert place.run("search", "QUOKKA", "--json").json == hits
    place.run("delete", second, "--purge")
    assert place.run("index", "status", "--json").json["sessions"] == 1
    assert len(place.run("search", "quokka", "--json").json) < len(hits)
    assert place.run("index", "update").err == "csa: 0 added, 0 removed\n"
    place.run("gc")
    assert place.run("index", "delete").code == 0
    assert place.run("search", "quokka").code == 0


@pytest.mark.thorough
def test_a_full_disk(place: Place) -> None:
    """Building fails with csa's own error, and searches answer as before."""
    place.codex("find the quokka")
    place.run("index", "build")
    done = place.shell(
        ["sh", "-c", "ulimit -f 8; trap '' XFSZ; exec csa index build"], env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.code == 1
    assert "Traceback" not in done.err
    assert place.run("search", "quokka").code == 0
