"""The interactive list of `top` and `--watch`: every key, in a real terminal."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csa.cli.views.live import REFRESH_S
from tests.cli.prepared import store_of, write_session
from tests.cli.terminal import ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR, Terminal
from tests.support import Place, Running, wait_for

UP, DOWN, HOME, END, PAGE_DOWN, ESCAPE = "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[6~", "\x1b"
KEYS_SHOWN = "? keys"


@contextmanager
def three_running(place: Place, other: Path) -> Iterator[dict[str, Running]]:
    """Run `alpha` and `beta` here, and `gamma` elsewhere; they have said a little, and wait."""
    (other / ".csa").mkdir(parents=True)
    place.play(["say", "first words"], ["call", "make"], *place.hold(), ["say", "last words"])
    runs = {}
    for name, words in {"alpha": [], "beta": [], "gamma": ["--cd", str(other)]}.items():
        runs[name] = place.start("run", "--tool", "codex", "--name", name, *words, f"work of {name}")
        place.wait_ready()
        place.ready.unlink()
    for name in ("alpha", "beta"):
        place.wait_noted(runs[name].session_id, "make")
    yield runs
    place.release()
    for run in runs.values():
        run.wait()


def select(terminal: Terminal, name: str) -> None:
    """Move down from the top until a session is marked."""
    terminal.type(HOME)
    for _ in range(8):
        settled_at = time.monotonic() + 2 * REFRESH_S
        terminal.wait(lambda at=settled_at: time.monotonic() > at, "what was typed is obeyed")  # type: ignore[misc]
        if name in terminal.marked:
            return
        terminal.type(DOWN)
    raise AssertionError(terminal.frame)


def is_given_back(terminal: Terminal) -> bool:
    """Say whether the terminal is as it was: the screen, the cursor, the settings."""
    entered, left = terminal.output.count(ENTER_SCREEN), terminal.output.count(LEAVE_SCREEN)
    is_shown = terminal.output.endswith(SHOW_CURSOR) or SHOW_CURSOR in terminal.output.rpartition(LEAVE_SCREEN)[2]
    return entered == left > 0 and is_shown and termios.tcgetattr(terminal.theirs) == terminal.before


@pytest.mark.thorough
def test_looking(place: Place, tmp_path: Path) -> None:
    """Select, show, log, keys, filter, attach; q goes back, and in the end leaves nothing on the screen."""
    with three_running(place, tmp_path / "elsewhere"), Terminal(place, "top", size=(100, 24)) as terminal:
        terminal.wait_for_frame("alpha", "beta", "gamma", "3 sessions, 3 running", KEYS_SHOWN)
        assert "gamma" in terminal.marked  # the newest, whose project comes first
        terminal.type(END)
        terminal.wait(lambda: "alpha" in terminal.marked, "the last is marked")
        terminal.type(UP)
        terminal.wait(lambda: "beta" in terminal.marked, "the one before")
        terminal.type(HOME + "j")
        terminal.wait(lambda: "beta" in terminal.marked, "the second")

        terminal.type("\r")
        terminal.wait_for_frame("beta  conversation", "> work of beta", "first words", "$ make", "follows")
        terminal.type("q" + "l")
        terminal.wait_for_frame("beta  log", "started codex: work of beta", "first words")
        terminal.type(ESCAPE)
        terminal.wait_for_frame("3 sessions, 3 running")
        terminal.type("?")
        terminal.wait_for_frame("Keys", "kill its turn", "Ctrl-Z suspends")
        terminal.type("q")

        terminal.type("/elsewhere")
        terminal.wait_for_frame("/elsewhere", "2 hidden, 2 of them running", "1 session, 1 running")
        terminal.type("\r")
        terminal.wait_for_frame("/elsewhere", KEYS_SHOWN)
        terminal.type(ESCAPE)
        terminal.wait_for_frame("3 sessions, 3 running")
        terminal.type("/codex alphX\x7fa")
        terminal.wait_for_frame("/codex alpha", "2 hidden")
        assert "alpha" in terminal.marked
        terminal.type(ESCAPE)

        select(terminal, "alpha")
        terminal.type("a")
        terminal.wait_for("csa: attached to session")
        assert terminal.output.count(LEAVE_SCREEN) == 1
        terminal.type("\x03")
        terminal.wait_for("Enter goes back")
        terminal.type("\r")
        terminal.wait(lambda: terminal.output.count(ENTER_SCREEN) == 2, "the screen is taken again")
        terminal.wait_for_frame("alpha", KEYS_SHOWN)
        terminal.type("\r")
        terminal.wait_for_frame("alpha  conversation")
        place.release()
        terminal.wait_for_frame("last words")  # it follows
        terminal.type("q")
        terminal.wait_for_frame("3 sessions, 0 running")
        terminal.type("q")
        assert terminal.end() == 0
        assert is_given_back(terminal)


@pytest.mark.thorough
def test_killing(place: Place, tmp_path: Path) -> None:
    """One is asked first; what was killed stays in the list, and selected; leaving does not stop it."""
    with three_running(place, tmp_path / "elsewhere") as runs, Terminal(place, "top", size=(100, 24)) as terminal:
        terminal.wait_for_frame("3 sessions, 3 running")
        select(terminal, "beta")
        terminal.type("k")
        terminal.wait_for_frame("Kill beta (codex, turn 1)? y/N")
        terminal.type("n")
        terminal.wait_for_frame("Nothing was killed")
        assert runs["beta"].process.poll() is None
        terminal.type("ky")
        terminal.wait_for_frame("beta: cancelled", "3 sessions, 2 running")
        assert runs["beta"].wait().code == 130
        assert place.last_event(runs["beta"].session_id)["status"] == "cancelled"
        assert "beta" in terminal.marked
        terminal.type("k")
        terminal.wait_for_frame("beta is not running")
        select(terminal, "alpha")
        terminal.type("kyq")  # it is waited for
        assert terminal.end() == 0
        assert runs["alpha"].wait().code == 130
        assert is_given_back(terminal)


@pytest.mark.thorough
def test_it_follows_the_size(place: Place) -> None:
    """Wider, narrower, lower and higher: nothing of an earlier size stays, wide characters included."""
    for number in range(12):
        write_session(store_of(place), number, description=f"日本語の仕事 {number}")
    with Terminal(place, "session", "list", "--watch", size=(80, 24)) as terminal:
        terminal.wait_for_frame("12 sessions", KEYS_SHOWN)
        for columns, lines in ((40, 10), (132, 40), (60, 8), (100, 24), (30, 5), (80, 24)):
            terminal.resize(columns, lines)
            terminal.wait(
                lambda columns=columns, lines=lines: (  # type: ignore[misc]
                    len(terminal.frame) == lines
                    and len(terminal.frame[0]) == columns
                    and KEYS_SHOWN in terminal.frame[-1]
                ),
                f"drawn for {columns}x{lines}",
            )
            frame = terminal.frame
            assert sum(line.startswith("12 sessions") for line in frame) == 1
            assert sum("TIME" in line for line in frame) == 1
            assert sum("仕事" in line for line in frame) <= 12
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.thorough
def test_more_than_the_screen_holds(place: Place) -> None:
    """The selection scrolls the rows, and which are shown is said; it stays on its session when others come."""
    for number in range(12):
        place.codex(f"task-{number}.")
    with Terminal(place, "top", "--all", size=(80, 10)) as terminal:
        terminal.wait_for_frame("... and ", "12 sessions")
        terminal.type(END)
        terminal.wait_for_frame("task-0.", "rows 8 to 13 of 13")
        assert "task-0." in terminal.marked
        place.codex("one more")
        terminal.wait_for_frame("13 sessions", "rows 9 to 14 of 14")
        assert "task-0." in terminal.marked
        terminal.type(HOME)
        terminal.wait_for_frame("one more", "rows 1 to 6 of 14")
        terminal.type(PAGE_DOWN + PAGE_DOWN)
        terminal.wait(lambda: "one more" not in "\n".join(terminal.frame), "a page on")
        terminal.type(ESCAPE)
        terminal.wait_for_frame("... and ")
        terminal.type("\x03")
        assert terminal.end() == 0
        assert is_given_back(terminal)


@pytest.mark.thorough
def test_an_agent_cannot_kill_its_own(place: Place) -> None:
    """What `csa kill` refuses is refused here, and so is attaching; the status line says why."""
    place.play(*place.hold(), ["say", "x"])
    run = place.start("run", "--tool", "codex", "--name", "outer", "go")
    place.wait_ready()
    env: dict[str, str | None] = {
        "CSA_SESSION_ID": run.session_id,
        "CSA_SESSION_DIR": str(place.session(run.session_id)),
    }
    with Terminal(place, "top", size=(120, 12), env=env) as terminal:
        terminal.wait_for_frame("outer", "1 running")
        terminal.type("k")
        terminal.wait_for_frame("cannot kill itself")
        terminal.type("y")
        terminal.type("a")
        terminal.wait_for_frame("cannot attach to")
        terminal.type("q")
        assert terminal.end() == 0
        assert is_given_back(terminal)
    assert run.process.poll() is None
    place.release()
    assert run.wait().code == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("keys", "shown", "number", "code"),
    [
        ("", KEYS_SHOWN, signal.SIGTERM, 143),
        ("", KEYS_SHOWN, signal.SIGINT, 0),
        ("\r", "conversation", signal.SIGTERM, 143),
        ("l", "log", signal.SIGHUP, 129),
        ("/zzz", "No match", signal.SIGHUP, 129),
    ],
    ids=["list", "list-int", "conversation", "log", "filter"],
)
def test_signals_end_every_view(place: Place, keys: str, shown: str, number: signal.Signals, code: int) -> None:
    """Wherever one is, a signal gives the terminal back, and ends csa as it ends others."""
    place.codex("one")
    with Terminal(place, "top", "--all") as terminal:
        terminal.wait_for_frame(KEYS_SHOWN)
        terminal.type(keys)
        terminal.wait_for_frame(shown)
        terminal.process.send_signal(number)
        assert terminal.end() == code
        assert is_given_back(terminal)


@pytest.mark.thorough
def test_it_ends_with_its_terminal(place: Place) -> None:
    """When the terminal vanishes csa ends, and does not spin; also where SIGHUP is ignored."""
    place.codex("one")
    for ignored in ("", "trap '' HUP; "):
        terminal = Terminal(place, "bash", "-c", f"{ignored}csa top --all; echo $? > {place.tmp}/code")
        terminal.wait_for_frame(KEYS_SHOWN)
        os.close(terminal.theirs)
        terminal.theirs = os.open(os.devnull, os.O_RDONLY)
        os.close(terminal._ours)  # noqa: SLF001  # it vanishes
        terminal._ours = os.open(os.devnull, os.O_RDONLY)  # noqa: SLF001  # as above
        wait_for(lambda: not place.processes(), "csa has ended")
        terminal.__exit__()


@pytest.mark.thorough
def test_a_store_that_goes_and_comes(place: Place) -> None:
    """What is not there for a moment ends nothing."""
    place.codex("one")
    with Terminal(place, "top", "--all") as terminal:
        terminal.wait_for_frame(KEYS_SHOWN)
        sessions = place.session(place.ids()[0]).parent
        (sessions.parent / "sessions").rename(sessions.parent / "gone")
        terminal.wait_for_frame("No sessions found")
        (sessions.parent / "gone").rename(sessions)
        terminal.wait_for_frame("FAKE ECHO: one")
        terminal.type("q")
        assert terminal.end() == 0
        assert is_given_back(terminal)


def test_once_is_ps(place: Place) -> None:
    """`top --once` prints what `ps` does."""
    place.codex("one")
    assert place.run("top", "--once", "--all").out == place.run("ps", "--all").out
