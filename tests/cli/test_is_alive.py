"""The quick way of `session is-alive`: it answers the plain question, and never otherwise than the usual way."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support import Done, Place, Running

USUAL = ("--cd", ".")  # an option, so that the quick way is not taken
SLOW = {"argparse", "dataclasses", "pathlib", "typing", "re", "inspect"}


def ask(place: Place, selector: str, *, cwd: Path | None = None, env: dict[str, str | None] | None = None) -> Done:
    """Ask both ways, and each in both spellings; return the one answer."""
    answers = {
        (done.code, done.out, re.sub(r" \d+s ", " (age) ", done.err))  # time goes on between the questions
        for words in ([selector], ["--session", selector])
        for option in ((), USUAL)
        for done in [place.run("session", "is-alive", *words, *option, cwd=cwd, env=env)]
    }
    assert len(answers) == 1, answers
    return Done(*answers.pop())


@pytest.fixture
def running(place: Place) -> Running:
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    return running


def test_plain_questions_are_answered_quickly(place: Place, running: Running) -> None:
    """The version, and whether a session runs, are told without what takes long to import."""
    session_id = running.session_id
    assert not place.imports("--version") & SLOW
    assert not place.imports("session", "is-alive", "-s", session_id[:12]) & (SLOW - {"re"})  # json brings re
    place.release()
    assert running.wait().code == 0
    assert not place.imports("session", "is-alive", session_id) & SLOW


@pytest.mark.thorough
def test_both_ways_say_the_same(place: Place, running: Running) -> None:
    """While it runs and after; by id, prefix, lower case; from below the project and through a link to it."""
    session_id = running.session_id
    below, link = place.project / "a" / "b", place.tmp / "link"
    below.mkdir(parents=True)
    link.symlink_to(place.project)
    for code, start in ((0, "alive: codex, turn 1, PID "), (1, "not alive\n")):
        for selector in (session_id, session_id[:10], session_id[:12].lower()):
            for cwd in (place.project, below, link):
                done = ask(place, selector, cwd=cwd)
                assert (done.code, done.out[: len(start)]) == (code, start)
        place.release()
        running.wait()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "selector", ["", "0", "01JH4Q", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "nightly", "@last", "@self", "01L"]
)
def test_both_ways_fail_the_same(place: Place, selector: str) -> None:
    """What is ambiguous, missing, no id, or to be looked up otherwise."""
    place.codex("one", "--name", "nightly")
    place.codex("two")
    ask(place, selector)


@pytest.mark.thorough
def test_what_is_not_in_its_place(place: Place) -> None:
    """A record that is damaged, a session without locks, and one that was collected."""
    session_id = place.codex("one").session_id
    assert ask(place, session_id).code == 1
    (place.session(session_id) / "state.toml").write_text("?")
    assert ask(place, session_id).code == 1
    shutil.rmtree(place.session(session_id) / "locks")
    assert ask(place, session_id).code == 1
    retired = place.store / "retired" / session_id
    retired.parent.mkdir()
    os.rename(place.session(session_id), retired)
    assert ask(place, session_id).code == 1


@pytest.mark.parametrize("owner", ["", "?", "{}", '{"pid": 1}', "[]", '{"boot_id": "b", "machine_id": "m"}'])
def test_owners_that_cannot_be_told(place: Place, owner: str) -> None:
    """What a lock file says of somebody else, or nobody."""
    session_id = place.codex("one").session_id
    (place.session(session_id) / "locks" / "session.lock").write_text(owner)
    assert ask(place, session_id).code == 1


@pytest.mark.thorough
def test_a_lock_that_cannot_be_looked_at(place: Place) -> None:
    """Nobody knows whether such a session runs, and a script must not take it for one that does not."""
    session_id = place.codex("one").session_id
    lock = place.session(session_id) / "locks" / "session.lock"
    lock.unlink()
    lock.mkdir()
    done = ask(place, session_id)
    assert (done.code, done.out, done.err) == (4, f"unknown: {lock}: cannot be read (Is a directory).\n", "")
    done = place.run("session", "is-alive", session_id, "--json")
    assert (done.code, done.json["state"]) == (4, "unknown")
    assert str(lock) in done.json["error"]
    lock.rmdir()
    os.mkfifo(lock)
    assert ask(place, session_id).out == f"unknown: {lock}: is not a regular file.\n"
    assert place.run("run", "--session", session_id, "more").code == 6
    shutil.rmtree(lock.parent)
    lock.parent.touch()
    assert ask(place, session_id).out == f"unknown: {lock}: cannot be read (Not a directory).\n"


@pytest.mark.parametrize("name", ["CSA_STATE_DIR", "XDG_STATE_HOME", "HOME"])
def test_state_roots(place: Place, name: str) -> None:
    """The variables that name the state root count in the same order."""
    env: dict[str, str | None] = dict.fromkeys(("CSA_STATE_DIR", "XDG_STATE_HOME"))
    env[name] = str(place.tmp / "root")
    session_id = place.codex("one", env=env).session_id
    assert ask(place, session_id, env=env).code == 1
    assert ask(place, session_id).code == 3
