"""`csa run --fork-from`: a new session that knows what was said in another."""

from __future__ import annotations

import pytest

from tests.support import Json, Place, snapshot

TOOLS = ("codex", "claude-code", "gemini-cli", "opencode")
NATIVE = ("codex", "claude-code", "opencode")
UNUSED = "01JH4QWERT1234567890ABCDEF"


def _fork_event(place: Place, session_id: str) -> Json:
    (event,) = [event for event in place.events(session_id) if event["type"] == "fork"]
    data: Json = event["data"]
    return data


@pytest.mark.parametrize("tool", TOOLS)
def test_a_fork_of_the_same_tool(place: Place, tool: str) -> None:
    """It is a session of its own, with the source's conversation or a digest of it; the source is not written."""
    source = place.run("run", "--tool", tool, "the capital is Ulm").session_id
    before = snapshot(place.session(source))
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    done = place.run("run", "--fork-from", source[:20], "go on")
    assert done.code == 0, done.err
    assert snapshot(place.session(source)) == before
    state = place.state(done.session_id)
    assert (state["genealogy"]["fork_of"], state["genealogy"]["depth"]) == (source, 0)
    assert "parent_session_id" not in state["genealogy"]
    is_native = tool in NATIVE
    old, new = (place.state(each)["tools"][tool]["provider_session_id"] for each in (source, done.session_id))
    assert old != new
    event = _fork_event(place, done.session_id)
    assert event == {
        "from": source,
        "turns": 1,
        "how": "native" if is_native else "handoff",
        "of": old if is_native else None,
    }
    asked = (place.tmp / "stdin").read_text()
    assert ("the capital is Ulm" in asked) != is_native
    del place.env["FAKE_TOOL_SCRIPT"]
    again = place.run("run", "--session", done.session_id, "more")
    assert again.out.endswith(f"[turns={3 if is_native else 2}]\n"), again
    assert place.run("run", "--session", source, "more").out.endswith("[turns=2]\n")


@pytest.mark.thorough
def test_usage_is_of_the_fork_alone(place: Place) -> None:
    """codex counts a fork's tokens from its source's on; csa counts only the new ones."""
    place.play(["usage", 1000, 10])
    source = place.codex("one").session_id
    place.play(["usage", 200, 20])
    done = place.run("run", "--fork-from", source, "two", "--json")
    assert (done.json["usage"]["input_tokens"], done.json["usage"]["output_tokens"]) == (200, 20)


@pytest.mark.thorough
def test_a_fork_with_another_tool(place: Place) -> None:
    """Another tool is told a digest; later turns are its own conversation."""
    source = place.codex("the capital is Ulm").session_id
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    done = place.run("run", "--fork-from", source, "--tool", "claude-code", "which capital?")
    assert done.code == 0, done.err
    asked = (place.tmp / "stdin").read_text()
    assert asked.startswith("This conversation began in another session.")
    assert "the capital is Ulm" in asked
    assert asked.endswith("which capital?")
    assert _fork_event(place, done.session_id)["how"] == "handoff"
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "still"])
    place.run("run", "--session", done.session_id, "and now?")
    assert (place.tmp / "stdin").read_text() == "and now?"


@pytest.mark.thorough
def test_a_native_fork_hears_of_other_tools_turns(place: Place) -> None:
    """What another tool did since the copied conversation's last turn is told before the prompt."""
    source = place.codex("the capital is Ulm").session_id
    place.play(["say", "noted"])
    place.run("run", "--session", source, "--tool", "claude-code", "the river is the Danube")
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "ok"])
    done = place.run("run", "--fork-from", source, "--tool", "codex", "go on")
    assert done.code == 0, done.err
    asked = (place.tmp / "stdin").read_text()
    assert "the river is the Danube" in asked
    assert "the capital is Ulm" not in asked
    assert _fork_event(place, done.session_id)["how"] == "native"


@pytest.mark.thorough
def test_a_running_session_cannot_be_forked(place: Place) -> None:
    """What it has said is not whole: exit 4, nothing is created, the turn goes on."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = running.session_id
    done = place.run("run", "--fork-from", session_id, "go on")
    assert (done.code, "is running" in done.err, "hint: csa is-alive" in done.err) == (4, True, True)
    assert place.ids() == [session_id]
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_an_agent_forks_into_a_child(place: Place) -> None:
    """The parent of a fork is the caller, as of any session; where it forks from says nothing of that."""
    source = place.codex("a root").session_id
    parent, env = place.agent()
    done = place.run("run", "--fork-from", source, "go on", env=env)
    assert done.code == 0, done.err
    genealogy = place.state(done.session_id)["genealogy"]
    assert (genealogy["parent_session_id"], genealogy["fork_of"], genealogy["depth"]) == (parent, source, 1)


@pytest.mark.thorough
def test_what_cannot_be_forked(place: Place) -> None:
    """Refusals leave nothing behind: unknown sessions, continuing and forking at once, no conversation yet."""
    assert place.run("run", "--fork-from", UNUSED, "x").code == 3
    source = place.codex("one").session_id
    for words in (["--session", source], ["--last"]):
        assert place.run("run", "--fork-from", source, *words, "x").code == 2
    assert place.ids() == [source]
    done = place.run("run", "--fork-from", source, "--dry-run", "--json", "x")
    assert (done.json["session"], done.json["fork_of"], done.json["tool"]) == ("new", source, "codex")
    assert place.ids() == [source]


@pytest.mark.thorough
def test_a_fork_with_an_id_is_idempotent(place: Place) -> None:
    """--session-id makes it once; the second call continues what the first has made."""
    source = place.codex("one").session_id
    words = ("run", "--fork-from", source, "--session-id", "experiment")
    first = place.run(*words, "two")
    second = place.run(*words, "three")
    assert (first.session_id, second.out) == (second.session_id, "FAKE ECHO: three [turns=3]\n"), second
    assert len(place.ids()) == 2


@pytest.mark.thorough
def test_an_ephemeral_fork_is_told_a_digest(place: Place) -> None:
    """It leaves nothing, and its conversation is nobody's copy."""
    source = place.codex("the capital is Ulm").session_id
    place.play(["write-stdin", str(place.tmp / "stdin")], ["expect-no-arg", "fork"], ["say", "ok"])
    done = place.run("run", "--fork-from", source, "--ephemeral", "go on")
    assert done.code == 0, done.err
    assert "the capital is Ulm" in (place.tmp / "stdin").read_text()
    assert place.ids() == [source]


@pytest.mark.thorough
def test_a_fork_has_the_permission_of_its_source(place: Place) -> None:
    """Unless another is asked for."""
    source = place.codex("one", "--permission", "read-only").session_id
    forked = place.run("run", "--fork-from", source, "two").session_id
    assert place.state(forked)["permission"] == "read-only"
    other = place.run("run", "--fork-from", source, "--permission", "edit", "two").session_id
    assert place.state(other)["permission"] == "edit"


@pytest.mark.thorough
def test_a_lost_conversation_is_forked_by_digest(place: Place) -> None:
    """Where its directory is gone, or the account is another, the tool's own copy cannot be had."""
    source = place.codex("the capital is Ulm").session_id
    home = place.tmp / "other codex"
    home.mkdir()
    done = place.run("run", "--fork-from", source, "go on", env={"CODEX_HOME": str(home)})
    assert done.code == 0, done.err
    assert _fork_event(place, done.session_id)["how"] == "handoff"


@pytest.mark.thorough
def test_a_fork_whose_tool_fails_goes_on_with_another(place: Place) -> None:
    """The fallback cannot have the copy; it is told what was said in the source."""
    source = place.codex("the capital is Ulm").session_id
    path = place.tmp / "stdin"
    place.script(
        {"match": "", "tool": "codex", "do": [["fail", "quota"]]},
        {"match": "", "tool": "claude-code", "do": [["write-stdin", str(path)], ["say", "I know"]]},
    )
    done = place.run("run", "--fork-from", source, "--fallback", "claude-code", "which capital?")
    assert (done.code, done.out) == (0, "I know\n"), done
    assert "the capital is Ulm" in path.read_text()
    ways = [event["data"]["how"] for event in place.events(done.session_id) if event["type"] == "fork"]
    assert ways == ["native", "handoff"]
