"""A chat with real tools on a terminal: a conversation, a turn that is ended, another tool, a fork."""

from __future__ import annotations

import pytest

from fixtures.mock_provider import slow, text, tool_call
from tests.cli.terminal import Terminal
from tests.real.workplace import Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
PATIENCE_S = 40.0
STALL_S = 30.0


def test_conversation(place: Workplace) -> None:
    """claude-code answers in Markdown and is ended by Ctrl-C, what was queued is sent, and codex gets a summary."""
    place.provider.on("about Ulm", text("Ulm is **old**.\n\n- on the Danube\n- a tall church\n"))
    place.provider.on("about Linz", slow(STALL_S, text("Linz is late.")))
    place.provider.on("about Bonn", text("Bonn is small."))
    place.provider.on("which towns", text("Ulm and Bonn."))
    with Terminal(place, "chat", "--tool", "claude-code", "--name", "towns") as terminal:
        terminal.patience_s = PATIENCE_S
        terminal.wait_for("new session towns: claude-code")
        terminal.type("about Ulm\r")
        terminal.wait_for("succeeded in")
        terminal.wait_for_frame("Ulm is old.", " • on the Danube", "claude-code>")
        terminal.type("about Linz\r")
        terminal.wait(lambda: place.asked("about Linz"), "the provider is asked")
        terminal.type("about Bonn\r")
        terminal.wait_for_frame("queued: about Bonn")
        terminal.type("\x03")
        terminal.wait_for("Bonn is small.")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 1, "its turn ends")
        terminal.type("/tool codex\r")
        terminal.wait_for("next: codex")
        terminal.type("which towns\r")
        terminal.wait_for("Ulm and Bonn.")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 2, "its turn ends")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "to go on: csa chat --session towns" in terminal.text
    session_id = place.only_session()["session_id"]
    turns = [event["status"] for event in place.events(session_id, "run_finished")]
    assert turns == ["succeeded", "cancelled", "succeeded", "succeeded"]
    (request,) = place.asked("which towns")
    assert "Bonn is small." in request.prompt


def test_asked(place: Workplace) -> None:
    """gemini-cli over ACP asks for commands; what is allowed once runs, and what is denied does not."""
    commands = [tool_call(name="run_shell_command", arguments={"command": f"touch {name}"}) for name in ("a", "b")]
    place.provider.on("make files", *commands, text("tried"))
    with Terminal(place, "chat", "--tool", "gemini-cli", "--transport", "acp") as terminal:
        terminal.patience_s = PATIENCE_S
        terminal.wait_for("gemini-cli>")
        terminal.type("make files\r")
        terminal.wait_for("/allow or /deny")
        assert not (place.project / "a").exists()
        terminal.type("/allow\r")
        terminal.wait(lambda: terminal.text.count("/allow or /deny") > 1, "it asks again")
        terminal.type("/deny\r")
        terminal.wait_for("1 action was denied")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert (place.project / "a").exists()
    assert not (place.project / "b").exists()
