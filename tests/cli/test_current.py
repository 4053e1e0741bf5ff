"""The current session: who sets it, what continues it, and what is said where there is none."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from csa.errors import RefusedError
from csa.runner.client import Csa
from csa.runner.request import RunRequest
from csa.store.current import choose_current, read_current
from csa.store.parked import save_parked
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
    path = place.store / "current"
    assert f"warning: this session could not be made the current one: {path}: cannot be written (Is a dir" in done.err
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
    done = place.run("run", "--continue", "x", env={"CSA_CURRENT": session_id(1)})
    assert (done.code, "is deleted." in done.err, "; unset CSA_CURRENT" in done.err) == (3, True, True)
    done = place.run("current", env={"CSA_CURRENT": session_id(7)})
    assert (done.code, "which does not exist" in done.err) == (3, True)
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


def test_a_session_made_without_a_turn(place: Place) -> None:
    """`new` prints its id and makes it current; it is idle, and its first turn uses what it was made with."""
    kept = ("--model", "gpt-x", "--permission", "read-only", "--context-window", "3", "--budget-tokens", "100000")
    done = place.run("session", "new", "--name", "api", "--tool", "codex", *kept)
    made = done.out.strip()
    assert (done.code, made in place.published(), current_of(place)) == (0, True, made)
    assert done.err == f"csa: session {'api'} is the current one\n"
    assert place.status(made) == "idle"
    before = place.state(made)
    assert (before["turns"], before["permission"], before["context_window"]) == (0, "read-only", {"turns": 3})
    assert place.run("run", "--continue", "Fix the login").code == 0
    started = next(event["data"] for event in place.events(made) if event["type"] == "run_started")
    assert (started["tool"], started["model"], started["permission"]) == ("codex", "gpt-x", "read-only")
    after = place.state(made)
    assert (after["turns"], after["description"], after["budget"]) == (1, "Fix the login", {"tokens": 100000})


@pytest.mark.thorough
def test_what_is_said_of_a_session_without_a_turn(place: Place) -> None:
    """No command calls it lost, damaged or running; those that need a turn say that there is none."""
    made = place.run("new", "--tool", "codex", "--description", "later", "--json").json["session_id"]
    before = snapshot(place.store)
    for words, code in (
        (("status", made), 0),
        (("show", made), 0),
        (("logs", made), 0),
        (("validate", made), 0),
        (("repair", made, "--dry-run"), 0),
        (("stats",), 0),
        (("context", made), 0),
        (("budget", made), 0),
        (("top", "--once", "--all"), 0),
        (("ls", "--tree"), 0),
        (("gc", "--dry-run", "--days", "1"), 0),
        (("is-alive", made), 1),
        (("result", made), 3),
        (("wait", made), 3),
        (("retry", made), 3),
        (("attach", made), 3),
        (("compress", made), 1),
    ):
        done = place.run(*words)
        assert done.code == code, (words, done)
        assert not any(word in done.out + done.err for word in ("lost", "running (", "cannot be read")), (words, done)
    assert snapshot(place.store) == before
    assert place.run("export", made, "-o", "x.tgz").code == 0
    assert place.run("rm", made, "--purge").code == 0
    assert place.run("import", "x.tgz").code == 0
    assert place.status(made) == "idle"
    assert place.codex("now", "--session", made).session_id == made
    assert place.state(made)["description"] == "later"


@pytest.mark.thorough
def test_a_session_that_an_agent_makes(place: Place) -> None:
    """It is a child, with its parent, depth, permission and limits, and counts as one, but not as a running turn."""
    limits = {"CSA_CONF_MAX_CHILDREN": "2", "CSA_CONF_MAX_RUNNING": "1"}
    root, inside = place.agent("--permission", "read-only", env=limits)
    agent = {**inside, **limits}
    done = place.run("new", "--tool", "codex", "--permission", "edit", env=agent)
    assert (done.code, "is more than the 'read-only'" in done.err) == (5, True)
    children = [place.run("new", "--tool", "codex", env=agent).out.strip() for _ in range(2)]
    for child in children:
        state = place.state(child)
        assert state["genealogy"]["parent_session_id"] == root
        assert (state["genealogy"]["depth"], state["permission"]) == (1, "read-only")
    done = place.run("new", "--tool", "codex", env=agent)
    assert (done.code, "max_children is 2" in done.err) == (5, True)
    assert current_of(place) == root
    assert sorted(place.published()) == sorted([root, *children])
    assert place.run("run", "--session", children[0], "go", env=agent).code == 0
    deep = place.run("new", "--tool", "codex", env={**agent, "CSA_CONF_MAX_DEPTH": "0"})
    assert (deep.code, "max_depth is 0" in deep.err) == (5, True)


@pytest.mark.thorough
def test_a_refused_session_leaves_nothing(place: Place) -> None:
    """A name that is taken, a project that is full, a tool that is missing: no directory, no pointer."""
    place.run("new", "--tool", "codex", "--name", "api")
    before = place.ids()
    for words, environ, code in (
        (("--name", "api"), {}, 2),
        (("--name", "a b"), {}, 2),
        (("--tool", "nope"), {}, 2),
        ((), {"CSA_CONF_MAX_SESSIONS": "1"}, 5),
        ((), {"CSA_CURRENT": "a b"}, 2),
        (("--context-window", "-1"), {}, 2),
    ):
        done = place.run("new", "--tool", "codex", *words, env=environ)
        assert done.code == code, (words, done.err)
    assert (place.ids(), current_of(place)) == (before, before[0])


def test_closing_a_session(place: Place) -> None:
    """`close` makes it no longer current; it is continued only with `--reopen`, which opens it again."""
    first = place.codex("one", "--name", "api").session_id
    assert place.run("close").out == f"{first} is closed  api\n"
    assert (current_of(place), "closed_at" in place.state(first)) == (None, True)
    done = place.run("run", "--session", "api", "x")
    assert (done.code, done.err.splitlines()[0]) == (5, "error: Session api is closed, so nothing runs in it.")
    assert 'hint: csa run --session api --reopen "..." continues it' in done.err
    assert place.codex("two", "--session", "api", "--reopen").session_id == first
    assert (current_of(place), "closed_at" in place.state(first)) == (first, False)


@pytest.mark.thorough
def test_what_closed_means(place: Place) -> None:
    """Every way of continuing it is refused, `--last` passes it over; it is read, edited, forked, deleted as any."""
    other = place.codex("zero", "--name", "web").session_id
    first = place.codex("one", "--name", "api").session_id
    save_parked(store_of(place), first, {}, until=0.0)
    assert place.run("close", "api", "--json").json["session_id"] == first
    assert os.listdir(place.store / "parked") == []
    assert "is closed already" in place.run("close", "api").out
    for words in (
        ("run", "--session-id", "api", "x"),
        ("run", "--detach", "--session", "api", "x"),
        ("run", "--queue", "--session", "api", "x"),
        ("run", "--wait=1", "--session", "api", "x"),
        ("retry", "api"),
        ("compress", "api"),
        ("use", "api"),
        ("chat", "--session", "api"),
    ):
        done = place.run(*words, stdin=b"hello\n" if words[0] == "chat" else None)
        assert (done.code, "Session api is closed," in done.err) == (5, True), (words, done.err)
    assert place.codex("more", "--last").session_id == other
    assert place.codex("more", "--last", "--reopen").session_id == other, "it was used later"
    shown = {item["name"]: item for item in place.run("ls", "--json").json}
    assert [(shown[name]["status"], shown[name]["phase"]) for name in ("api", "web")] == [
        ("succeeded", "closed"),
        ("succeeded", "active"),
    ]
    assert place.run("ls", "--format", "{name} {status}", "--status", "closed").out == "api closed\n"
    assert "api" not in place.run("ls", "--status", "active").out
    assert "closed" in place.run("status", "api").out.splitlines()[1]
    assert "ago); csa run --reopen continues it" in place.run("status", "api").out
    for words in (("show", "api"), ("result", "api"), ("describe", "api", "new"), ("export", "api", "-o", "x.tgz")):
        assert place.run(*words).code == 0, words
    assert place.codex("fork", "--fork-from", "api").session_id != first
    assert place.run("rm", "api").code == 0
    assert place.run("restore", first).code == 0
    assert place.run("retry", "api", "--reopen").code == 0
    place.run("close", "api")
    place.run("close", "web")
    for state in place.published():
        place.run("close", state)
    done = place.run("run", "--last", "x")
    assert (done.code, "Every session that could be continued" in done.err) == (3, True)


@pytest.mark.thorough
def test_who_may_close(place: Place) -> None:
    """Not while it runs; an agent neither its own session nor one above, but its child, and no pointer changes."""
    root, inside = place.agent()
    child = place.codex("part", env=inside).session_id
    for own in (root, "@self"):
        done = place.run("close", own, env=inside)
        assert (done.code, "cannot close itself" in done.err) == (5, True)
    assert place.run("close", child, env=inside).code == 0
    assert place.run("close", env=inside).code == 3
    assert place.run("close", "").code == 2, "a variable that is not set is not the current session"
    assert current_of(place) == root
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "long")
    place.wait_ready()
    done = place.run("close", running.session_id)
    assert (done.code, "is locked by PID" in done.err) == (4, True)
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_a_pointer_of_another_terminal_to_a_closed_session(place: Place) -> None:
    """It is said that the session is closed, and how to go on; a fixed one stays as it is."""
    pane = {"CSA_CURRENT": "pane"}
    first = place.codex("one", "--name", "api", env=pane).session_id
    place.run("close", "api")
    assert current_of(place, "pane") == first
    assert place.run("current", env=pane).out == f"{first}  api (closed)\n"
    done = place.run("run", "--continue", "x", env=pane)
    assert (done.code, "Session api is closed," in done.err) == (5, True)
    assert place.run("close", env=pane).code == 0
    assert current_of(place, "pane") is None
    assert place.run("close", env={"CSA_CURRENT": first}).code == 0


@pytest.mark.thorough
def test_closed_meanwhile(place: Place) -> None:
    """A turn that was planned before its session was closed does not begin."""
    session = place.codex("one").session_id
    client = Csa.from_environment(place.project, environ=place.environment(None))
    plan = client.plan(RunRequest(prompt="two", session=session))
    assert client.close(session).is_change
    with pytest.raises(RefusedError, match="is closed"):
        client.begin(plan)
    assert (place.state(session)["turns"], place.status(session)) == (1, "succeeded")
    assert client.ask_sync("two", session=session, reopen=True).status == "succeeded"


@pytest.mark.thorough
def test_the_library_makes_sessions(place: Place) -> None:
    """`create` makes one without a turn, and leaves the user's current session alone."""
    client = Csa.from_environment(place.project, environ=place.environment(None))
    made = client.create(tool="codex", name="api", permission="read-only")
    assert (made.session_id, made.tool, client.info("api").status) == (client.resolve("api"), "codex", "idle")
    assert client.ask_sync("one", session="api").turn == 1
    assert current_of(place) is None


@pytest.mark.thorough
def test_the_current_session_moves_with_its_project(place: Place) -> None:
    """`adopt` takes the pointers along, and leaves nothing of the old store."""
    session = place.codex("one").session_id
    place.run("use", session, env={"CSA_CURRENT": "pane"})
    moved = place.project.with_name("moved")
    place.project.rename(moved)
    assert place.run("adopt", str(place.project), cwd=moved).code == 0
    assert not place.store.exists()
    for environ in (None, {"CSA_CURRENT": "pane"}):
        assert place.run("current", cwd=moved, env=environ).out.startswith(session)


@pytest.mark.thorough
def test_a_tree_with_a_session_without_a_turn(place: Place) -> None:
    """Waiting for a tree, ending it, its budget, its logs, deleting and restoring it take such a child as it is."""
    root, inside = place.agent("--budget-tokens", "100000")
    child = place.run("new", "--tool", "codex", env=inside).out.strip()
    for words in (("wait", "--tree", root), ("kill", "--tree", root), ("budget", root), ("logs", "--tree", root)):
        done = place.run(*words)
        assert done.code == 0, (words, done)
        assert "lost" not in done.out + done.err, (words, done)
    assert place.run("rm", "--tree", root).code == 0
    assert not place.published()
    assert place.run("restore", "--tree", root).code == 0
    assert place.status(child) == "idle"


def test_new_says_which_session_is_current(place: Place) -> None:
    """Where CSA_CURRENT is a session, that stays the current one, whatever is made."""
    made = place.run("new", "--json").json
    assert made["current"] is True
    fixed = {"CSA_CURRENT": made["session_id"]}
    other = place.run("new", env=fixed)
    assert (other.code, "is the current one" in other.err) == (0, False)
    assert place.run("new", "--json", env=fixed).json["current"] is False
    assert current_of(place) == made["session_id"]
