"""`shared = off`: what was said in a session goes to its own tool only; and who is told where it goes to another."""

from __future__ import annotations

import pytest

from tests.cli.test_context import talk
from tests.cli.test_lost_conversations import of_type
from tests.support import Place


@pytest.mark.thorough
def test_another_vendor_is_named(place: Place) -> None:
    """One line says who gets what was said, and about how much; a tool of the same vendor, or its own, is no news."""
    session_id = talk(place, "prompt-one", "prompt-two")
    done = place.run("run", "--session", session_id, "--tool", "gemini-cli", "prompt-three")
    (told,) = of_type(place, session_id, "handoff")
    size = told["characters"] // 4
    assert told["vendor"] == "Google"
    (line,) = [line for line in done.err.splitlines() if "summary" in line]
    assert line == f"csa: gave gemini-cli (Google) a summary of 2 earlier turns, about {size} tokens"
    done = place.run("run", "--session", session_id, "--context-window", "1", "prompt-four")
    assert "vendor" not in of_type(place, session_id, "handoff")[-1]
    assert "(Google)" not in done.err


@pytest.mark.thorough
def test_a_session_that_is_not_shared_keeps_to_its_tool(place: Place) -> None:
    """No second tool, fork or fallback gets its history, until the user says otherwise; its own tool goes on."""
    session_id = place.codex("prompt-one", "--shared", "off").session_id
    for words in (["--session", session_id], ["--fork-from", session_id]):
        done = place.run("run", *words, "--tool", "gemini-cli", "go on")
        assert (done.code, "is not shared: only codex may work in it" in done.err) == (5, True), done
    assert place.run("run", "--session", session_id, "prompt-two").code == 0
    fork = place.run("run", "--fork-from", session_id, "prompt-three").session_id
    assert [place.state(each)["shared"] for each in (session_id, fork)] == [False, False]
    assert "shared      off" in place.run("status", fork).out
    place.script({"match": "", "tool": "codex", "do": [["fail", "quota"]]})
    done = place.run("run", "--session", session_id, "--fallback", "gemini-cli", "prompt-four")
    assert (done.code, "gemini-cli cannot take over: " in done.err) == (8, True), done
    del place.env["FAKE_TOOL_SCRIPT"]
    done = place.run("run", "--session", session_id, "--shared", "on", "--tool", "gemini-cli", "prompt-five")
    assert done.code == 0, done.err


@pytest.mark.thorough
def test_sharing_is_configured(place: Place) -> None:
    """A project's file may switch it off, not on; a session can differ; a merge is for a tool that may have all."""
    place.env["CSA_CONF_SHARED"] = "off"
    one = talk(place, "prompt-one")
    two = talk(place, "prompt-two", tool="claude-code")
    other = talk(place, "prompt-three")
    assert place.run("merge", one, two).code == 5
    merged = place.run("merge", one, other)
    assert merged.code == 0, merged.err
    assert place.run("run", "--session", merged.out.strip(), "--tool", "claude-code", "x").code == 5
    del place.env["CSA_CONF_SHARED"]
    assert place.run("run", "--session", merged.out.strip(), "--tool", "claude-code", "x").code == 5
    (place.project / ".csa").mkdir(exist_ok=True)
    (place.project / ".csa/config.toml").write_text('shared = "off"\n')
    assert place.run("run", "--session", one, "--tool", "claude-code", "x").code == 5
    (place.project / ".csa/config.toml").write_text('shared = "on"\n')
    done = place.run("run", "--session", one, "--tool", "claude-code", "x", env={"CSA_CONF_SHARED": "off"})
    assert done.code == 5


@pytest.mark.thorough
def test_an_agent_cannot_open_what_is_not_shared(place: Place) -> None:
    """It may close it, though. What was off as configured stays off for an agent with another configuration."""
    configured = place.codex("prompt-zero", env={"CSA_CONF_SHARED": "off"}).session_id
    session_id = place.codex("prompt-one", "--shared", "off").session_id
    _, env = place.agent()
    words = ("run", "--session", session_id, "--tool", "gemini-cli", "--shared")
    assert place.run(*words, "on", "x", env=env).code == 5
    opened = {**env, "CSA_CONF_SHARED": "on"}
    assert place.run("run", "--session", configured, "--tool", "gemini-cli", "x", env=opened).code == 5
    assert place.run("run", "--tool", "codex", "--shared", "off", "x", env=env).code == 0
