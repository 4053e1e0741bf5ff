"""What a session is called: its name comes first wherever a person reads of it; scripts find the id where it was."""

from __future__ import annotations

import re

import pytest

from csa.cli.output import display_width
from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place

HOSTILE = "\x1b[2J\x1b]0;title\x07\u202eevil\tname"
WIDE = "日本語の名前はこのように長くてもよい"
LISTS = (("ls",), ("ls", "--tree"), ("ps", "--all"))
OTHERS = (("status", "api"), ("budget", "api"), ("stats", "--by", "tree"), ("checkpoints",), ("wait", session_id(1)))


@pytest.fixture
def store(place: Place) -> Store:
    """A tree: api, with a child without a name, and one whose name was made elsewhere."""
    made = store_of(place)
    write_session(made, 1, name="api", description="Add rate limiting")
    write_session(made, 2, parent_session_id=session_id(1), root_session_id=session_id(1), depth=1)
    write_session(made, 3, name=WIDE, description=HOSTILE, status="failed", fork_of=session_id(1))
    return made


@pytest.fixture
def terminals(place: Place, store: Store) -> None:
    """Something to show for each view."""
    assert store.ids()
    assert place.run("checkpoint", "api", "--label", "before the change " * 5).code == 0


def shown(place: Place, *words: str, columns: int) -> str:
    with Terminal(place, *words, size=(columns, 50), env={"NO_COLOR": "1"}) as terminal:
        terminal.end()
    return terminal.output.replace("\r\n", "\n")


@pytest.mark.thorough
@pytest.mark.usefixtures("terminals")
@pytest.mark.parametrize("columns", [40, 50, 80, 160])
def test_every_view(place: Place, columns: int) -> None:
    """It says api, and no whole id but in a card; it fits, and obeys nothing that a record holds."""
    for words in (*LISTS, *OTHERS):
        text = shown(place, *words, columns=columns)
        lines = text.splitlines()
        assert all(display_width(line) <= columns for line in lines), (words, text)
        assert "\x1b" not in text, words
        assert "\u202e" not in text, words
        assert re.search(r"\bapi\b", text), (words, text)
        in_card = ("id ", "directory", " ") if words[0] == "status" else ()
        assert not any(session_id(1)[:20] in line for line in lines if not line.startswith(in_card)), (words, text)
        if words in LISTS:
            assert WIDE[:4] in text, (words, text)
            assert session_id(2)[:10] in text, (words, text)


@pytest.mark.thorough
@pytest.mark.usefixtures("store")
def test_scripts_find_the_id(place: Place) -> None:
    """In a pipe ids are whole and stand first; the name is beside them."""
    lines = place.run("ls").out.splitlines()
    assert lines[0].split()[0] == "ID"
    assert [line.split()[0] for line in lines[1:4]] == [session_id(number) for number in (3, 2, 1)]
    assert lines[3].endswith("  1.1k [api] Add rate limiting")
    assert place.run("ps", "--all").out.splitlines()[3].split()[0] == session_id(1)
    assert place.run("wait", "api").out == f"{session_id(1)}: succeeded (api, codex, turn 1, 1m00s)\n"
    assert place.run("kill", "api").out == f"{session_id(1)}: not running (api, succeeded)\n"
    assert place.run("wait", session_id(2)).out == f"{session_id(2)}: succeeded (codex, turn 1, 1m00s)\n"
    for command in ("ps", "top"):
        found = {each["id"]: (each["name"], each["description"]) for each in place.run(command, "--all", "--json").json}
        assert found[session_id(1)] == ("api", "Add rate limiting")
        assert found[session_id(2)] == (None, "work 2")


def test_messages_and_hints_say_the_name(place: Place, store: Store) -> None:
    """Where it can be typed; from another project a hint has the id. In JSON, messages keep it."""
    write_session(store, 4, name="web")
    retire(store, session_id(4))
    done = place.run("kill", "web")
    assert done.err == f"error: Session web is deleted; it can only be read.\nhint: csa restore {session_id(4)}\n"
    assert session_id(4) in place.run("kill", "web", "--json").json["error"]["message"]
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    done = place.run("result", "-s", session_id(1), "--turn", "7", cwd=other)
    assert done.err == f"error: Session api has no turn 7.\nhint: csa status {session_id(1)}\n"
    done = place.run("result", "--cd", str(place.project), "api", "--turn", "7", cwd=other)
    assert done.err.endswith(f"hint: csa status {session_id(1)}\n")
    taken = 'hint: csa run --session {} "..." continues it\n'
    words = ("run", "--tool", "codex", "--name", "api", "hi")
    assert place.run(*words).err.endswith(taken.format("api"))
    assert place.run(*words, "--cd", str(place.project), cwd=other).err.endswith(taken.format(session_id(1)))
    assert place.run("rename", session_id(2), "api").err.endswith("hint: csa rename api --clear\n")


@pytest.mark.thorough
def test_deleted_ones_of_one_name(place: Place, store: Store) -> None:
    """A hint to restore one of them has its id; on a terminal a prefix that no other deleted one has."""
    for number in (4, 5):
        write_session(store, number, name="dup")
    retire(store, session_id(4))
    with Terminal(place, "rm", "dup", size=(200, 24)) as terminal:
        assert terminal.end() == 0
    (hint,) = (line for line in terminal.text.splitlines() if line.startswith("hint: "))
    assert hint == f"hint: csa restore {session_id(5)[:10]}"
    assert place.run("kill", session_id(4)).err.endswith(f"hint: csa restore {session_id(4)}\n")
    assert place.run(*hint.split()[2:]).out == f"restored {session_id(5)}\n"
    with Terminal(place, "rm", "dup", "api", size=(200, 24)) as terminal:
        assert terminal.end() == 0
    assert "hint: csa restore SESSION" in terminal.text


@pytest.mark.usefixtures("store")
def test_an_id_that_was_typed_stays(place: Place) -> None:
    """In quotes it is what the user wrote, not what csa says of a session."""
    typed = f"fix it as in {session_id(1)}"
    assert place.run(typed).err.endswith(f"hint: to run a prompt: csa run '{typed}'\n")
    assert f"'{session_id(9)}'" in place.run("status", session_id(9)).err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("typed", ["apii", "API", "aip"])
def test_a_mistyped_name(place: Place, typed: str) -> None:
    """It is answered with the name that was meant."""
    done = place.run("wait", typed)
    assert (done.code, done.err.splitlines()[1]) == (3, "hint: did you mean 'api'?")


@pytest.mark.thorough
def test_a_turn_is_announced_by_name(place: Place) -> None:
    """On a terminal; in a log the id is there as well."""
    place.play(["say", "the answer"])
    done = place.codex("hello", "--name", "api")
    assert done.err.startswith(f"csa: api: session {done.session_id}, turn 1, codex (asked for)\n")
    with Terminal(place, "run", "--session", "api", "go on") as terminal:
        assert terminal.end() == 0
    assert terminal.text.startswith("csa: continuing session api, turn 2, codex")
    detached = place.run("run", "--detach", "--session", "api", "go on")
    assert "csa: session api is running in the background (codex, turn 3, PID " in detached.err
    assert detached.err.endswith("\nhint: csa wait api\n")
    assert place.run("wait", "api").code == 0
