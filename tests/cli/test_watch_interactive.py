"""The tool's own interface on a session: `csa session attach --interactive`."""

from __future__ import annotations

import os
import re
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from csa.paths import SessionPaths
from csa.store.heartbeat import journalled_processes
from tests.cli.terminal import ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR, Terminal
from tests.conftest import ForeignWriter
from tests.support import CSA, Place, children_of, is_running, kill_all, wait_for

FOREIGN = "01JH4QWERT1234567890ABCDEF"
TOOLS = ("codex", "claude-code", "gemini-cli", "opencode")


def open_on(place: Place, session_id: str, *words: str) -> Terminal:
    """Open a session's tool on a terminal of 100 columns."""
    return Terminal(place, "session", "attach", "--interactive", "-s", session_id, *words, size=(100, 30))


def is_as_before(terminal: Terminal) -> bool:
    """Say whether the terminal's settings are what they were."""
    return termios.tcgetattr(terminal.theirs) == terminal.before


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_itself(place: Place, tool: str) -> None:
    """Each tool is opened on its conversation, in the session's environment and directory, on a terminal of its own."""
    session_id = place.run("run", "--tool", tool, "hello").session_id
    conversation = place.state(session_id)["tools"][tool]["provider_session_id"]
    with open_on(place, session_id) as terminal:
        terminal.wait_for(f"resumes {conversation}")
        terminal.type("size\rcwd\renv CSA_SESSION_ID\renv CSA_TOOL\r")
        terminal.wait_for(f"CSA_TOOL={tool}")
        assert "size 100x30" in terminal.text
        assert f"in {place.project}" in terminal.text
        assert f"CSA_SESSION_ID={session_id}" in terminal.text
        terminal.type("exit\r")
        assert terminal.end() == 0
        assert is_as_before(terminal)
        assert terminal.text.endswith(f"csa: left session {session_id[:10]}\r\n")
    attached, detached = place.events(session_id)[-2:]
    assert (attached["type"], attached["data"]["what"]) == ("session_updated", "attached")
    assert attached["data"]["provider_session_id"] == conversation
    assert (detached["data"]["what"], detached["data"]["exit_code"]) == ("detached", 0)
    assert place.status(session_id) == "succeeded"
    place.run("run", "--session", session_id, "go on")
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_it_is_locked_meanwhile(place: Place) -> None:
    """While it is open the session runs, and is busy for everyone else; while a turn runs it cannot be opened."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        assert place.run("session", "is-alive", session_id).code == 0
        assert place.run("run", "--session", session_id, "x").code == 4
        paths = SessionPaths(place.session(session_id))
        terminal.wait(lambda: journalled_processes(paths), "the heartbeat names the tool")
        with open_on(place, session_id) as other:
            assert other.end() == 4
            assert "is locked by PID" in other.text
        terminal.type("exit 3\r")
        assert terminal.end() == 1
    assert place.run("session", "is-alive", session_id).code == 1
    place.play(*place.hold())
    run = place.start("run", "--session", session_id, "again")
    place.wait_ready()
    with open_on(place, session_id) as other:
        assert other.end() == 4
    place.release()
    run.wait()


@pytest.mark.thorough
def test_the_size_follows(place: Place) -> None:
    """A change of the window's size reaches the tool."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        terminal.resize(60, 20)
        terminal.wait_for("size 60x20")
        terminal.type("exit\r")
        assert terminal.end() == 0


@pytest.mark.thorough
def test_much_is_pasted(place: Place) -> None:
    """More than a terminal takes at once arrives whole, and what comes back is shown whole."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        for number in range(300):
            terminal.type(f"line-{number} {'x' * 60}\r")
        terminal.wait_for("you said line-299 ")
        terminal.type("exit\r")
        assert terminal.end() == 0
        assert re.findall(r"you said line-(\d+) ", terminal.text) == [str(number) for number in range(300)]


@pytest.mark.thorough
def test_nothing_is_left(place: Place) -> None:
    """What the tool leaves behind goes with it, though it holds the terminal open."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        terminal.type("background\r")
        terminal.wait(lambda: re.search(r"started \d+\r", terminal.text), "the process is started")
        found = re.search(r"started (\d+)", terminal.text)
        assert found
        pid = int(found[1])
        assert is_running(pid)
        terminal.type("exit\r")
        assert terminal.end() == 0
        assert not is_running(pid)
    assert place.processes() == {}


@pytest.mark.thorough
@pytest.mark.parametrize("is_killed", [False, True], ids=["the tool ends", "the guardian is killed"])
def test_what_ran_before_is_spared(place: Place, *, is_killed: bool) -> None:
    """A job of the shell that has become csa outlives the tool, and what the tool leaves behind does not."""
    session_id = place.codex("hello").session_id
    attach = f"exec {CSA} session attach --interactive {session_id}"
    with Terminal(place, "bash", "-c", f"nohup sleep 600 & echo other $!; {attach}", size=(100, 30)) as terminal:
        terminal.wait_for("resumes")
        terminal.type("background\r")
        terminal.wait(lambda: re.search(r"started \d+\r", terminal.text), "the process is started")
        other, left = (int(re.findall(rf"{word} (\d+)", terminal.text)[0]) for word in ("other", "started"))
        if is_killed:
            (guardian,) = set(children_of(terminal.process.pid)) - {other}
            os.kill(guardian, signal.SIGKILL)
        else:
            terminal.type("exit\r")
        assert terminal.end() == (1 if is_killed else 0)
        running = is_running(other), is_running(left)
        kill_all({other: ""})
        assert running == (True, False)
        assert is_as_before(terminal)


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_it_is_ended_by_a_signal(place: Place, number: signal.Signals, code: int) -> None:
    """A signal ends the tool; the screen and the terminal's settings are given back although the tool did not."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        terminal.type("screen\r")
        terminal.wait_for("whole screen")
        os.kill(terminal.process.pid, number)
        assert terminal.end() == code
        assert is_as_before(terminal)
        left = terminal.output.partition("whole screen")[2]
        assert LEAVE_SCREEN in left
        assert SHOW_CURSOR in left
    assert place.events(session_id)[-1]["data"]["stopped_by"] == number.name
    assert place.processes() == {}


@pytest.mark.thorough
def test_it_is_killed(place: Place) -> None:
    """`session kill` ends it from elsewhere; SIGKILL of csa leaves no process and no lock."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        done = place.run("session", "kill", session_id)
        assert (done.code, done.out) == (0, f"{session_id}: ended (codex, turn 1): succeeded\n")
        assert terminal.end() == 1
        assert is_as_before(terminal)
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        terminal.type("screen\r")
        terminal.wait_for("whole screen")
        terminal.process.kill()
        terminal.process.wait()
        wait_for(lambda: place.run("session", "is-alive", session_id).code == 1, "the lock is free")
        assert place.processes() == {}
        assert is_as_before(terminal)
        terminal.wait_for(LEAVE_SCREEN)


@pytest.mark.thorough
def test_it_is_killed_with_its_guardian_stopped(place: Place) -> None:
    """A guardian that somebody has stopped is made to go on."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        (guardian,) = children_of(terminal.process.pid)
        os.kill(guardian, signal.SIGSTOP)
        assert place.run("session", "kill", session_id, "--json").json[0]["forced"] is False
        assert terminal.end() == 1
        assert is_as_before(terminal)
    assert place.processes() == {}


@pytest.mark.thorough
def test_a_killed_csa_disturbs_no_shell(place: Place) -> None:
    """A terminal to which somebody has given settings of his own meanwhile keeps them when csa is killed."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        own = [*terminal.before]
        own[3] &= ~(termios.ECHO | termios.ICANON)  # as a shell that edits its line does
        termios.tcsetattr(terminal.theirs, termios.TCSANOW, own)
        own = termios.tcgetattr(terminal.theirs)
        terminal.process.kill()
        terminal.process.wait()
        wait_for(lambda: place.run("session", "is-alive", session_id).code == 1, "the lock is free")
        assert termios.tcgetattr(terminal.theirs) == own


@contextmanager
def suspended(place: Place) -> Iterator[tuple[Terminal, str]]:
    """Yield a shell's terminal in which a tool that was opened on a session has suspended itself, and that session."""
    session_id = place.codex("hello").session_id
    with Terminal(place, "bash", "--norc", "--noediting", "-i") as terminal:
        terminal.type(f"csa session attach --interactive {session_id}\r")
        terminal.wait_for("resumes")
        terminal.type("suspend\r")
        terminal.wait_for("Stopped")
        yield terminal, session_id


def test_it_is_suspended(place: Place) -> None:
    """A tool that suspends itself gives the terminal back to the shell, which continues it."""
    with suspended(place) as (terminal, session_id):
        assert termios.tcgetattr(terminal.theirs)[3] & termios.ICANON
        assert place.run("session", "is-alive", session_id).code == 0
        terminal.resize(60, 20)
        terminal.type("fg\r")
        terminal.wait_for("continued")
        terminal.type("size\r")
        terminal.wait_for("size 60x20")
        terminal.type("exit\r")
        terminal.wait_for(f"left session {session_id[:10]}")
        terminal.type("exit\r")
        assert terminal.end() == 0


@pytest.mark.thorough
def test_one_that_is_suspended_can_be_killed(place: Place) -> None:
    """`session kill` ends it though csa itself is stopped; the terminal stays the shell's, and nothing is left."""
    with suspended(place) as (terminal, session_id):
        done = place.run("session", "kill", session_id)
        assert done.code == 0, done.err
        assert place.events(session_id)[-1]["data"]["stopped_by"] == "cancel"
        assert termios.tcgetattr(terminal.theirs)[3] & termios.ICANON
        terminal.type("exit\r")
        terminal.end()
        assert ENTER_SCREEN not in terminal.output
        assert LEAVE_SCREEN not in terminal.output


@pytest.mark.thorough
def test_in_the_background_it_stays_suspended(place: Place) -> None:
    """`bg` does not let it take the terminal from the shell; SIGTERM ends it there."""
    with suspended(place) as (terminal, session_id):
        terminal.type("bg; wait; echo still $?\r")
        terminal.wait_for("still 0")
        terminal.type("kill %1; wait; echo done $?\r")
        terminal.wait(lambda: place.run("session", "is-alive", session_id).code == 1, "it has ended")
        assert place.events(session_id)[-1]["data"]["stopped_by"] == "SIGTERM"
        terminal.type("exit\r")
        terminal.end()


@pytest.mark.thorough
def test_what_nobody_could_continue_goes_on(place: Place) -> None:
    """Without a shell that has jobs, a tool that suspends itself is continued at once."""
    session_id = place.codex("hello").session_id
    with open_on(place, session_id) as terminal:
        terminal.wait_for("resumes")
        terminal.type("suspend\r")
        terminal.wait_for("continued")
        terminal.type("exit\r")
        assert terminal.end() == 0


@pytest.mark.thorough
def test_what_cannot_be_opened(place: Place, write_foreign: ForeignWriter) -> None:
    """Without a terminal, a conversation or a tool there is nothing to open; each is said, and nothing written."""
    session_id = place.codex("hello").session_id
    events = place.events(session_id)
    done = place.run("session", "attach", "--interactive", session_id)
    assert (done.code, "This needs a terminal" in done.err) == (2, True)
    with open_on(place, session_id, "--tool", "claude-code") as terminal:
        assert terminal.end() == 3
        assert "has no conversation with claude-code" in terminal.text
    write_foreign(FOREIGN)
    with open_on(place, FOREIGN, "--tool", "codex") as terminal:
        assert terminal.end() == 3
    assert place.run("session", "attach", "--tool", "codex", session_id).code == 2
    assert place.events(session_id) == events
