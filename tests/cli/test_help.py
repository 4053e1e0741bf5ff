"""What `--help` and `help` say."""

from __future__ import annotations

import shutil
import time

import pytest

from csa.cli.commands import COMMANDS, EVERYDAY, GROUPS, command_names
from tests.cli.prepared import store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place

MARKING = "sed 's/^/> /'"  # a pager
NAMES = [tuple(command.name.split()) for command in COMMANDS]


def test_overview_names_every_command_by_purpose(place: Place) -> None:
    """`csa help --all` fits 80 columns, names every command once, in groups, and gives examples."""
    done = place.run("help", "--all", env={"COLUMNS": "80"})
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for command in COMMANDS:
        assert done.out.count(f"\n  {command.name:<15} {command.summary}\n") == 1
    assert "run agents:\n" in done.out
    assert "examples:\n" in done.out
    assert "csa --version" in done.out
    assert "\nShort names: ls for list, rm for delete, " in done.out
    assert place.run("--help", "--all").out == done.out


def test_the_commands_of_every_day_fit_a_screen(place: Place) -> None:
    """`csa`, `csa help` and `csa --help` leave room for the prompt on 24 lines, and name the way to all commands."""
    done = place.run(env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) < 24
    assert max(map(len, done.out.splitlines())) <= 80
    assert all(f"\n  {name:<10} " in done.out for name in EVERYDAY)
    assert "csa help --all" in done.out
    assert place.run("help").out == place.run("--help").out == done.out


def test_the_word_session_may_be_left_out() -> None:
    """Every command about sessions, and each of their other names, is there with the word and without."""
    names = command_names()
    for name, command in names.items():
        is_of_session = command.full_name != command.name
        assert names.get(f"session {name}", command) is command
        assert (f"session {name}" in names) is (is_of_session and not name.startswith("session "))
    assert names["rm"] is names["session delete"]
    assert names["ls"] is names["session ls"] is names["list"]


@pytest.mark.parametrize("words", NAMES, ids=" ".join)
def test_help_of_a_command(place: Place, words: tuple[str, ...]) -> None:
    """`csa help COMMAND` is `csa COMMAND --help`, and fits 80 columns; a usage line has the short name."""
    done = place.run("help", *words, env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out == place.run(*words, "--help", env={"COLUMNS": "80"}).out
    assert done.out.startswith(f"usage: csa {' '.join(words)} [-h]")
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("words", [(), ("session",), *NAMES], ids=" ".join)
def test_help_on_a_narrow_terminal(place: Place, words: tuple[str, ...]) -> None:
    """Help is written to the width of the terminal, from 40 columns on, and says the same."""
    narrow, wide = (place.run(*words, "--help", env={"COLUMNS": str(width)}) for width in (40, 300))
    assert (narrow.code, wide.code) == (0, 0), narrow.err
    assert max(map(len, narrow.out.splitlines())) <= 40
    assert "".join(narrow.out.replace("\\\n", "").split()) == "".join(wide.out.split())


@pytest.mark.parametrize("columns", ["\u00b2", "\u0664", "-5", "0", "1", "9" * 5000, "wide", ""])
def test_a_width_that_is_none(place: Place, columns: str) -> None:
    """Whatever COLUMNS holds, there is help, and a list."""
    write_session(store_of(place), 1)
    env: dict[str, str | None] = {"COLUMNS": columns}
    assert place.run("run", "--help", env=env).code == place.run("--help", env=env).code == 0
    with Terminal(place, "session", "list", "--tree", env=env) as terminal:
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group(place: Place, group: str) -> None:
    """`csa help GROUP` lists the group's commands."""
    done = place.run("help", group)
    assert done.code == 0
    assert done.out == place.run(group, "--help").out == place.run(group, "help").out == place.run(group).out
    assert place.run("session", "help", "kill").out == place.run("help", "kill").out
    assert place.run("help", "help").code == 0


def test_help_of_what_there_is_not(place: Place) -> None:
    """A command that does not exist is an error with a suggestion here too."""
    done = place.run("help", "runn")
    assert done.code == 2
    assert "did you mean 'csa run'?" in done.err


@pytest.mark.parametrize("words", [("fix the thing",), ("a b", "list")], ids=" ".join)
def test_a_prompt_in_place_of_a_command(place: Place, words: tuple[str, ...]) -> None:
    """In quotes it is one word; the hint is how to run it."""
    done = place.run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[1:] == [f"hint: to run a prompt: csa run '{' '.join(words)}'"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("run --permission edti hi", "did you mean 'edit'?"),
        ("run --permission=wrte hi", "csa run --help"),
        ("run --timeout abc hi", "csa run --help"),
        ("run --wait=abc hi", "csa run --help"),
        ("run --tool", "csa run --help"),
        ("run --print-id --stream-json hi", "csa run --help"),
        ("run --timeot 5 hi", "did you mean '--timeout'?"),
        ("run --tool codex hello big world", "quote the prompt: 'hello big world'"),
        ("run --wait 5 hi", "--wait=5"),
        ("session clean --days 1.5", "csa clean --help"),
        ("session info a b", "csa info --help"),
        ("stats --by foo", "csa stats --help"),
        ("stats --by tol", "did you mean 'tool'?"),
        ("completion bsh", "did you mean 'bash'?"),
        ("session run", "did you mean 'csa run'?"),
        ("reslt", "did you mean 'csa result'?"),
        ("sessoin list", "did you mean 'csa session list'?"),
        ("session lst", "did you mean 'csa list'?"),
        ("session sho x", "did you mean 'csa show x'?"),
        ("kil api", "did you mean 'csa kill api'?"),
        ("rum", "did you mean 'csa run' or 'csa rm'?"),
        ("doc", "did you mean 'csa doctor'?"),
        ("version", "did you mean 'csa --version'?"),
        ("--verison", "did you mean 'csa --version'?"),
        ("sessions", "did you mean 'csa ls'?"),
        ("--tool codex hi", "csa run --tool codex hi"),
        ("--modl=gpt-5 hi", "csa run --model=gpt-5 hi"),
        ("run --modl gpt-5 hi", "did you mean '--model'?"),
        ("fix the tests", "to run a prompt: csa run 'fix the tests'"),
        ("login", "csa help --all"),
        ("halp", "csa help --all"),
        ("-x", "csa help"),
    ],
)
def test_hints_for_words_that_are_off(place: Place, words: str, hint: str) -> None:
    """What is wrong is named, and the hint is what was meant, never what was typed."""
    done = place.run(*words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[1:] == [f"hint: {hint}"]
    assert not place.state_root.exists()


def paged(place: Place, *words: str, keys: str = "", lines: int = 24, pager: str | None = None) -> Terminal:
    """Return the ended terminal in which csa has printed."""
    terminal = Terminal(place, *words, size=(80, lines), env={"PAGER": pager, "LESS": None})
    with terminal:
        for key in keys:
            terminal.wait_for("run agents:")
            terminal.type(key)
            time.sleep(0.3)  # after Ctrl-C the terminal forgets what was typed at once
        assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    return terminal


@pytest.mark.parametrize(
    ("pager", "first"),
    [(MARKING, "> usage"), *dict.fromkeys(("no-such-pager", "false", "", "cat"), "usage").items()],
)
def test_long_help_goes_through_the_pager(place: Place, pager: str, first: str) -> None:
    """On a terminal that is too low; a broken pager loses nothing."""
    terminal = paged(place, "help", "--all", pager=pager)
    assert terminal.text.startswith(first) or f"\n{first}" in terminal.text
    assert terminal.text.count("First time here?") == 1


def test_what_has_room_is_not_paged(place: Place) -> None:
    """Nor is what goes into a pipe; and CSA_PAGER goes before PAGER."""
    assert "> " not in paged(place, "help", "--all", lines=120, pager=MARKING).text
    assert "> " not in paged(place, "help", "ps", pager=MARKING).text
    assert "> usage" not in place.run("help", "--all", env={"PAGER": MARKING}).out
    place.env["CSA_PAGER"] = MARKING
    assert "> usage" in paged(place, "help", "--all", pager="false").text


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("less"), reason="there is no less")
@pytest.mark.parametrize("keys", ["q", "\x03q", " q"])
def test_leaving_less(place: Place, keys: str) -> None:
    """Less is the pager where nothing is set; q leaves it, Ctrl-C is its own, and neither is told of."""
    terminal = paged(place, "help", "--all", keys=keys)
    assert terminal.text.endswith("\x1b>"), "nothing follows what less has sent to leave"
    assert "KeyboardInterrupt" not in terminal.text


@pytest.mark.thorough
def test_a_pager_that_is_interrupted(place: Place) -> None:
    """One that Ctrl-C ends, ends; the text is not printed once more."""
    terminal = Terminal(place, "help", "--all", env={"CSA_PAGER": "echo is up; exec sleep 60"})
    with terminal:
        terminal.wait_for("is up")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert "usage" not in terminal.text
    assert "Traceback" not in terminal.text
