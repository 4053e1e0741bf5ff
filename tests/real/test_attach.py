"""The real CLIs' own interfaces, opened on a session: `csa session attach --interactive`."""

import json
import signal
import termios
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fixtures.mock_provider import text
from tests.real.terminal import AnsweringTerminal
from tests.real.workplace import CLAUDE_CODE, CODEX, GEMINI_CLI, KEY, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

CTRL_Z = "\x1a"


@dataclass(frozen=True)
class Interface:
    """What a person sees of a tool's interface, and does to leave it."""

    ready: str  # what it shows when it takes a prompt
    leave: str
    offers: str  # what it shows of that command
    suspends_at_once: bool = True  # else it wants a second Ctrl-Z


INTERFACES = {
    CODEX: Interface(ready="Ask Codex to do anything", leave="/quit", offers="exit Codex"),
    CLAUDE_CODE: Interface(ready="shift+tab to cycle", leave="/exit", offers="Exit the CLI"),
    GEMINI_CLI: Interface(ready="Type your message", leave="/quit", offers="Exit the cli", suspends_at_once=False),
    OPENCODE: Interface(ready="ctrl+p commands", leave="/exit", offers="Exit the app"),
}


@pytest.fixture
def place(place: Workplace) -> Workplace:
    """Answer what the tools ask a new user: whether the directory is trusted and the key used; keep them silent."""
    claude = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "projects": {str(place.project): {"hasTrustDialogAccepted": True}},
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
    }
    (place.home / ".claude.json").write_text(json.dumps(claude))
    gemini = place.home / ".gemini" / "settings.json"
    gemini.parent.mkdir()
    gemini.write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    with (place.home / ".codex" / "config.toml").open("a") as file:
        file.write(f'[projects."{place.project}"]\ntrust_level = "trusted"\n')
    return place


def begin(place: Workplace, tool: RealTool) -> str:
    """Run the turn that makes the session; return its id."""
    place.provider.on("zebra", text("it is a quagga"))
    session_id: str = place.run(tool, "which animal is the zebra?")["session_id"]
    return session_id


def open_on(place: Workplace, session_id: str) -> AnsweringTerminal:
    """Open a session's tool on a terminal of its own."""
    return open_terminal(place, "session", "attach", "--interactive", session_id)


def open_terminal(place: Workplace, *words: str) -> AnsweringTerminal:
    return AnsweringTerminal(place, *words, size=(120, 40))


def wait_until_ready(terminal: AnsweringTerminal, place: Workplace, tool: RealTool) -> None:
    """Wait until what was said before is shown, and a prompt is taken."""
    terminal.wait_for_words("which animal is the zebra?")
    terminal.wait_for_words("it is a quagga")
    terminal.wait_for_words(INTERFACES[tool].ready)
    if tool is GEMINI_CLI:
        # It begins its record anew, and repeats there what was said after it is shown; killed before, it forgets it.
        terminal.wait(lambda: gemini_records(place) == 2, "gemini has recorded the history again")


def leave(terminal: AnsweringTerminal, tool: RealTool, is_over: Callable[[], bool]) -> None:
    terminal.leave(INTERFACES[tool].leave, shows=INTERFACES[tool].offers, is_over=is_over)


def gemini_records(place: Workplace) -> int:
    return sum(file.read_text().count("which animal is the zebra?") for file in place.conversations(GEMINI_CLI))


def test_a_conversation_goes_on_in_the_tools_interface(place: Workplace, tool: RealTool) -> None:
    """The tool shows what was said in csa, is told more by its user, and a later turn of csa knows all of it."""
    place.provider.on("okapi", text("it is a giraffe"))
    place.provider.on("tapir", text("it is a rhinoceros"))
    session_id = begin(place, tool)
    said = ["which animal is the zebra?", "which animal is the okapi?", "which animal is the tapir?"]
    with open_on(place, session_id) as terminal:
        wait_until_ready(terminal, place, tool)
        assert place.csa("session", "is-alive", session_id).code == 0
        refused = place.csa("run", "--session", session_id, "may I?")
        assert refused.code == 4, refused
        terminal.enter(said[1])
        terminal.wait_for_words("it is a giraffe")
        assert said[:2] in [request.user_texts for request in place.provider.requests]
        leave(terminal, tool, lambda: terminal.process.poll() is not None)
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert place.processes() == {}
    assert place.csa("session", "is-alive", session_id).code == 1
    assert place.only_session()["status"] == "succeeded"
    attached, detached = place.events(session_id, "session_updated")
    assert (attached["what"], attached["tool"]) == ("attached", tool.name)
    assert (detached["what"], detached["exit_code"], detached["stopped_by"]) == ("detached", 0, None)
    assert place.resume(session_id, said[2])["turn"] == 2
    assert [request.user_texts for request in place.asked("tapir")] == [said]


@pytest.mark.parametrize(  # what csa does is the same for all: each tool once
    ("tool", "way"),
    [(CODEX, "kill"), (CLAUDE_CODE, "TERM"), (GEMINI_CLI, "kill"), (OPENCODE, "TERM")],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_interface_is_ended_from_outside(place: Workplace, tool: RealTool, way: str) -> None:
    """`session kill` and SIGTERM end the tool and all it started; the terminal is as before, the session usable."""
    session_id = begin(place, tool)
    with open_on(place, session_id) as terminal:
        wait_until_ready(terminal, place, tool)
        assert termios.tcgetattr(terminal.theirs) != terminal.before
        if way == "kill":
            killed = place.csa("session", "kill", session_id)
            assert killed.code == 0, killed
        else:
            terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == (1 if way == "kill" else 143)
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert place.processes() == {}
    detached = place.events(session_id, "session_updated")[-1]
    assert (detached["what"], detached["stopped_by"]) == ("detached", "cancel" if way == "kill" else "SIGTERM")
    assert place.resume(session_id, "and the okapi?")["turn"] == 2
    assert place.asked("okapi")[0].user_texts == ["which animal is the zebra?", "and the okapi?"]


def test_a_killed_csa_leaves_nothing(place: Workplace, tool: RealTool) -> None:
    """After SIGKILL of csa the tool is gone, the terminal as before, and the session can be gone on with."""
    session_id = begin(place, tool)
    with open_on(place, session_id) as terminal:
        wait_until_ready(terminal, place, tool)
        terminal.process.kill()
        assert terminal.end() == -signal.SIGKILL
        assert place.gone_after() == {}
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert place.resume(session_id, "and the okapi?")["turn"] == 2
    assert place.asked("okapi")[0].user_texts == ["which animal is the zebra?", "and the okapi?"]


def test_an_interface_is_suspended(place: Workplace, tool: RealTool) -> None:
    """Ctrl-Z gives the terminal back to the shell; `fg` goes on with the same interface."""
    place.provider.on("okapi", text("it is a giraffe"))
    session_id = begin(place, tool)
    with open_terminal(place, "bash", "--norc", "--noediting", "-i") as terminal:
        terminal.type(f"csa session attach --interactive {session_id}\r")
        wait_until_ready(terminal, place, tool)
        terminal.type(CTRL_Z)
        if not INTERFACES[tool].suspends_at_once:
            terminal.wait_for_words("Press Ctrl+Z again to suspend")
            terminal.type(CTRL_Z)
        terminal.wait_for("Stopped")
        assert termios.tcgetattr(terminal.theirs)[3] & termios.ICANON
        since = len(terminal.output)
        terminal.type("fg\r")
        terminal.wait_for_words(INTERFACES[tool].ready, since=since)
        terminal.enter("and the okapi?")
        terminal.wait_for_words("it is a giraffe")
        assert ["which animal is the zebra?", "and the okapi?"] in [asked.user_texts for asked in place.asked("okapi")]
        leave(terminal, tool, lambda: f"left session {session_id[:10]}" in terminal.words_since(0))
        terminal.type("exit\r")
        assert terminal.end() == 0
