"""The current session: who sets it, what continues it, and what is said where there is none."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from csa.store.current import choose_current, read_current
from csa.store.sessions import Store
from tests.cli.prepared import HOUR, session_id, store_of, write_session
from tests.support import Place, snapshot, wait_for


def current_of(place: Place, word: str = "") -> str | None:
    return read_current(store_of(place), word)


def test_a_run_makes_its_session_the_current_one(place: Place) -> None:
    """`--continue` goes on with it, `--new` does not, and an ephemeral or a refused run changes nothing."""
    first = place.codex("one").session_id
    assert current_of(place) == first
    assert place.codex("two", "--continue").session_id == first
    assert place.run("run", "--ephemeral", "--tool", "codex", "gone").code == 0
    assert place.run("run", "--tool", "codex", "--session", "nobody", "x").code == 3
    assert place.run("run", "--tool", "codex", "--new", "--dry-run", "x").code == 0
    assert current_of(place) == first
    second = place.codex("three", "--new").session_id
    assert second != first
    assert current_of(place) == second


@pytest.mark.thorough
def test_a_detached_run_makes_its_session_the_current_one(place: Place) -> None:
    """So that `--continue` goes on with what runs in the background, once it has ended."""
    first = place.run("run", "--detach", "--tool", "codex", "one").out.strip()
    assert current_of(place) == first
    assert place.run("wait", first).code == 0
    assert place.codex("two", "--continue").session_id == first


@pytest.mark.thorough
def test_the_pointer_is_written_only_when_it_changes(place: Place) -> None:
    """A session that goes on costs no write."""
    place.codex("one")
    before = (place.store / "current").stat()
    place.codex("two", "--continue")
    after = (place.store / "current").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.thorough
def test_a_pointer_that_cannot_be_written_costs_no_turn(place: Place) -> None:
    """The turn succeeds, and a warning says what it could not note."""
    (place.store / "current").mkdir(parents=True)
    done = place.codex("one")
    assert "warning: this session could not be made the current one: Is a directory" in done.err
    done = place.run("current")
    assert (done.code, "Is a directory" in done.err) == (6, True)


def test_without_a_current_session(place: Place) -> None:
    """The error names those used last, and how to choose one or to start one."""
    done = place.run("run", "--continue", "x")
    assert (done.code, done.err.splitlines()) == (
        3,
        [f"error: No active session in {place.project}.", 'hint: csa run "..." starts one'],
    )
    store = store_of(place)
    for number in range(5):
        write_session(store, number, name=f"n{number}", age=HOUR * (number + 1))
    write_session(store, 9, parent_session_id=session_id(1), root_session_id=session_id(1), depth=1)
    done = place.run("run", "--continue", "x")
    assert done.code == 3
    assert [line.split()[0] for line in done.err.splitlines()] == ["error:", "n0", "n1", "n2", "hint:"]
    assert "hint: csa switch n0 makes it the current one" in done.err
    error = place.run("run", "--continue", "--json", "x").json["error"]
    assert (error["kind"], error["message"].startswith("No active session in ")) == ("not_found", True)


@pytest.mark.thorough
def test_a_stale_pointer(place: Place) -> None:
    """That the current session was deleted, or is gone, is said with the next step; lists pass over it."""
    store = store_of(place)
    write_session(store, 1, name="api")
    write_session(store, 2, name="web")
    place.run("use", "api")
    assert place.run("rm", "api").code == 0
    done = place.run("run", "--continue", "x")
    assert (done.code, "error: The current session api is deleted." in done.err) == (3, True)
    assert f"hint: csa restore {session_id(1)} brings it back" in done.err
    shutil.rmtree(store.retired_paths(session_id(1)).root)
    done = place.run("run", "--continue", "x")
    assert (done.code, f"The current session {session_id(1)} no longer exists" in done.err) == (3, True)
    assert "hint: csa switch web makes it the current one" in done.err
    assert " * " not in place.run("ls").out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--continue", "--last"), "--continue and --last cannot be combined"),
        (("--continue", "--session", "api"), "--continue and --session cannot be combined"),
        (("--continue", "--session", ""), "--continue and --session cannot be combined"),
        (("--continue", "--session-id", "api"), "--continue and --session-id cannot be combined"),
        (("--continue", "--fork-from", "api"), "--continue and --fork-from cannot be combined"),
        (("--new", "--continue"), "cannot be combined with --continue"),
        (("--new", "--session", "api"), "cannot be combined with --session"),
        (("--new", "-c"), "cannot be combined with --last"),
        (("--new", "--session-id", "api"), "cannot be combined with --session-id"),
        (("--continue", "--ephemeral"), "--ephemeral always starts a new session"),
    ],
)
@pytest.mark.thorough
def test_ways_that_exclude_each_other(place: Place, words: tuple[str, ...], complaint: str) -> None:
    """Continuing the current session, starting one, and naming another are one choice."""
    write_session(store_of(place), 1, name="api")
    place.run("use", "api")
    done = place.run("run", *words, "x")
    assert (done.code, complaint in done.err) == (2, True), done.err


@pytest.mark.thorough
def test_each_terminal_has_its_own(place: Place) -> None:
    """A word in CSA_CURRENT names a pointer of its own: runs, `use`, `--continue` and lists go by it."""
    pane = {"CSA_CURRENT": "pane-1.a_b"}
    ours = place.codex("ours").session_id
    assert place.run("run", "--continue", "x", env=pane).code == 3
    theirs = place.codex("theirs", env=pane).session_id
    assert (current_of(place), current_of(place, pane["CSA_CURRENT"])) == (ours, theirs)
    assert place.codex("more", "--continue").session_id == ours
    assert place.codex("more", "--continue", env=pane).session_id == theirs
    for environ, current in ((None, ours), (pane, theirs)):
        marked = [line.split()[0] for line in place.run("ls", env=environ).out.splitlines() if " * " in line]
        assert marked == [current]
        assert place.run("status", current, "--json", env=environ).json["current"] is True
    assert place.run("current", "--clear", env=pane).code == 0
    assert (current_of(place), current_of(place, pane["CSA_CURRENT"])) == (ours, None)


@pytest.mark.thorough
def test_a_terminal_with_one_session(place: Place) -> None:
    """A full id in CSA_CURRENT is the current session, in any case and whatever runs, and cannot be changed."""
    first, second = place.codex("one").session_id, place.codex("two").session_id
    for text in (first, first.lower()):
        fixed = {"CSA_CURRENT": text}
        assert place.run("current", env=fixed).out.startswith(first)
        assert place.codex("more", "--continue", env=fixed).session_id == first
        other = place.codex("new", env=fixed).session_id
        assert place.run("current", env=fixed).out.startswith(first)
        done = place.run("use", other, env=fixed)
        assert (done.code, "unset CSA_CURRENT" in done.err) == (2, True)
    assert current_of(place) == second
    assert not (place.store / "current.d").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("text", ["a b", "../x", ".hidden", "..", "a/b", "ä", "x" * 65])
def test_what_csa_current_cannot_be(place: Place, text: str) -> None:
    """Neither an id nor a word is refused before anything begins, and no file is made of it; lists go on."""
    done = place.run("run", "--tool", "codex", "x", env={"CSA_CURRENT": text})
    assert (done.code, "neither a full session id nor a word" in done.err) == (2, True)
    assert not place.ids()
    assert place.run("ls", env={"CSA_CURRENT": text}).code == 0
    assert place.run("run", "--tool", "codex", "x", env={"CSA_CURRENT": ""}).code == 0


@pytest.mark.thorough
def test_agents_have_no_current_session(place: Place) -> None:
    """What an agent runs changes no pointer of the user, whose CSA_CURRENT it does not get; it is refused @current."""
    user = {"CSA_CURRENT": "pane"}
    root, inside = place.agent(env=user)
    assert "CSA_CURRENT" not in inside
    before = snapshot(place.store / "current.d")
    for extra in ({}, user, {"CSA_CURRENT": root}):
        agent = {**inside, **extra}
        child = place.codex("part", env=agent).session_id
        assert place.run("result", child, env=agent).code == 0
        for words in (("current",), ("result", "@current"), ("run", "--continue", "x"), ("run", "-s", "@current", "x")):
            done = place.run(*words, env=agent)
            assert (done.code, "belongs to the user's shell" in done.err) == (3, True), words
        for words in (("use", child), ("switch", child), ("current", "--clear")):
            done = place.run(*words, env=agent)
            assert (done.code, "an agent cannot change it" in done.err) == (5, True), words
        assert " * " not in place.run("ls", env=agent).out
        assert place.run("current", "--json", env=agent).code == 3
    assert snapshot(place.store / "current.d") == before
    assert not (place.store / "current").exists()


@pytest.mark.thorough
def test_a_run_in_another_project(place: Place) -> None:
    """The current session of a place is the one that was used from there, wherever it is."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    there = place.codex("there", "--cd", str(other)).session_id
    assert current_of(place) is None
    place.codex("here")
    assert place.codex("more", "--session", there).session_id == there
    assert place.codex("again", "--continue").session_id == there


@pytest.mark.thorough
def test_what_waits_keeps_its_session(place: Place) -> None:
    """`--continue --wait` goes on with what was current when it began, whatever another terminal does meanwhile."""
    place.play(*place.hold())
    busy = place.start("run", "--tool", "codex", "long")
    place.wait_ready()
    waiting = place.start("run", "--continue", "--wait", "then")
    first = busy.session_id
    wait_for(lambda: "waiting: " in waiting.err, "it waits")
    del place.env["FAKE_TOOL_SCRIPT"]
    second = place.codex("another").session_id
    place.release()
    assert (busy.wait().code, waiting.wait().code) == (0, 0)
    assert (waiting.session_id, current_of(place)) == (first, first)
    assert second != first


@pytest.mark.thorough
def test_pointers_of_closed_terminals_are_swept(place: Place) -> None:
    """`gc` removes one that is a month old, unless its session is in use; a dry run does not."""
    store = store_of(place)
    write_session(store, 1)
    write_session(store, 2, age=HOUR * 9000)
    old = time.time() - 40 * 86400
    for word, session in (("young", 2), ("used", 1), ("old", 2), ("gone", 3), (".old.1.tmp", 2)):
        choose_current(store, session_id(session), word)
        if word != "young":
            os.utime(place.store / "current.d" / word, (old, old))
    assert place.run("gc", "--dry-run", "--days", "9000").code == 0
    assert len(os.listdir(place.store / "current.d")) == 5
    assert place.run("gc", "--days", "9000").code == 0
    assert sorted(os.listdir(place.store / "current.d")) == ["used", "young"]


def test_an_interrupted_write_is_no_choice(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pointer that a power cut has left empty is none, and the next choice replaces it, and garbage too."""
    store = Store(tmp_path_factory.mktemp("state"), "/p")
    for text in ("", "garbage"):
        choose_current(store, session_id(1))
        (store.path / "current").write_text(text)
        if not text:
            assert read_current(store) is None
        choose_current(store, session_id(2))
        assert read_current(store) == session_id(2)
    assert os.listdir(store.path) == ["current"]
