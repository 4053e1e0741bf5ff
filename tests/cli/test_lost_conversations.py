"""A session outlives what its tool keeps of it: the tool then begins a new conversation, told what was said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.support import Json, Place

TOOLS = ("codex", "claude-code", "gemini-cli", "opencode")
NATIVE_FORKS = ("codex", "claude-code", "opencode")
ACP = """
[tools.goose]
transport = "acp"
command = ["fake-acp"%s]
"""


def forget(place: Place) -> None:
    """Remove what all tools keep of their conversations."""
    roots = (place.home, Path(os.environ["XDG_DATA_HOME"]))
    kept = {path for root in roots for path in root.rglob("*.json") if path.parent.name == "fake"}
    assert kept
    for path in kept:
        path.unlink()


def begin(place: Place, tool: str, *words: str) -> tuple[str, str]:
    """Run a session whose tool forgets it; return its id and the conversation's."""
    session_id = place.run("run", "--tool", tool, *words, "the capital is Ulm").session_id
    conversation = conversation_of(place, session_id, tool)
    forget(place)
    return session_id, conversation


def conversation_of(place: Place, session_id: str, tool: str) -> str:
    found: str = place.state(session_id)["tools"][tool]["provider_session_id"]
    return found


def of_type(place: Place, session_id: str, kind: str) -> list[Json]:
    return [event["data"] for event in place.events(session_id) if event["type"] == kind]


@pytest.mark.parametrize("tool", TOOLS)
def test_it_goes_on_in_a_new_one_within_the_turn(place: Place, tool: str) -> None:
    """The tool is told what was said; no turn is added, and all who ask are told which conversation it is."""
    session_id, gone = begin(place, tool, "--model", "a/model")
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    done = place.run("run", "--session", session_id, "which one?")
    assert (done.code, done.out) == (0, "I know\n"), done.err
    assert f"warning: {tool} no longer knows its conversation {gone}" in done.err
    asked = (place.tmp / "stdin").read_text()
    assert all(words in asked for words in ("the capital is Ulm", "which one?"))
    new = conversation_of(place, session_id, tool)
    state = place.state(session_id)
    assert (new != gone, state["turns"], state["tools"][tool]["model"]) == (True, 2, "a/model")
    (told,) = of_type(place, session_id, "handoff")
    assert (told["to"], told["turns"], told["replaces"]) == (tool, [1], gone)
    assert told["reason"] == "unknown_conversation"
    assert [data["provider_session_id"] for data in of_type(place, session_id, "session_bound")] == [gone, new]
    assert [data["status"] for data in of_type(place, session_id, "run_finished")] == ["succeeded"] * 2
    of_tool = place.run("session", "info", session_id, "--json").json["tools"][tool]
    why = place.run("session", "why", session_id, "--json").json["conversation"]
    expected = {"provider_session_id": new, "since_turn": 2, "replaces": gone}
    assert {key: of_tool[key] for key in expected} == expected
    assert why == {"tool": tool, **expected}
    for command in ("info", "why"):
        said = place.run("session", command, session_id).out
        assert f"conversation {new}, since turn 2, in place of {gone}, which it no longer knew" in said
    del place.env["FAKE_TOOL_SCRIPT"]
    assert place.run("run", "--session", session_id, "more").out.endswith("[turns=2]\n")
    assert place.run("session", "validate", session_id).code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "claude-code"])
def test_running_totals_begin_anew(place: Place, tool: str) -> None:
    """What the old conversation had used is not taken from what the new one uses, in this turn or the next."""
    place.play(["usage", 1000, 100])
    session_id, _ = begin(place, tool)
    for used in (200, 3000):
        place.play(["usage", used, 20])
        done = place.run("run", "--session", session_id, "--json", "x")
        assert done.json["usage"]["input_tokens"] == used
    assert place.state(session_id)["usage"]["input_tokens"] == 4200
    assert "turns_unmeasured" not in place.state(session_id)["usage"]


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_without_a_handoff_it_is_refused(place: Place, tool: str) -> None:
    """The tool is asked nothing, the recorded conversation stays, and the hint is a command that works."""
    session_id, gone = begin(place, tool)
    refused = place.run("run", "--session", session_id, "--no-handoff", "--json", "x")
    assert (refused.code, refused.json["error"]["kind"]) == (1, "unknown_conversation")
    assert (refused.json["usage"], conversation_of(place, session_id, tool)) == (None, gone)
    hint = refused.err.partition("hint: ")[2]
    assert hint.startswith(f'CSA_CONF_HANDOFF=on csa run --session {session_id} "go on"')
    place.env["CSA_CONF_HANDOFF"] = "off"
    assert place.run("run", "--session", session_id, "x").code == 1
    place.env["CSA_CONF_HANDOFF"] = "on"
    done = place.run("run", "--session", session_id, "go on")
    assert done.code == 0, done.err
    (told,) = of_type(place, session_id, "handoff")
    assert told["turns"] == [1]  # nobody was asked anything in the others


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_fork_becomes_a_handoff(place: Place, tool: str) -> None:
    """A fork of what is gone is told a digest, as one is that the tool cannot copy; and so is the fork when its is."""
    source, gone = begin(place, tool)
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    done = place.run("run", "--fork-from", source, "which one?")
    assert done.code == 0, done.err
    assert "the capital is Ulm" in (place.tmp / "stdin").read_text()
    last = of_type(place, done.session_id, "fork")[-1]
    assert (last["how"], last["of"]) == ("handoff", None)
    if tool in NATIVE_FORKS:
        assert of_type(place, done.session_id, "handoff")[-1]["replaces"] == gone
    assert place.state(done.session_id)["turns"] == 1
    assert len(of_type(place, source, "run_started")) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("tool", NATIVE_FORKS)
def test_a_fork_that_is_gone_is_told_of_its_source(place: Place, tool: str) -> None:
    """Its own transcript has only what was said since; the source's has the beginning, up to the fork."""
    source = place.run("run", "--tool", tool, "the capital is Ulm").session_id
    fork = place.run("run", "--fork-from", source, "and the river?").session_id
    place.run("run", "--session", source, "said later")
    forget(place)
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    assert place.run("run", "--session", fork, "which ones?").code == 0
    asked = (place.tmp / "stdin").read_text()
    assert asked.index("the capital is Ulm") < asked.index("and the river?") < asked.index("which ones?")
    assert "said later" not in asked


@pytest.mark.thorough
@pytest.mark.parametrize("tool", NATIVE_FORKS)
def test_a_fork_that_was_refused_can_go_on(place: Place, tool: str) -> None:
    """Its hint works as well: it is told of its source."""
    source, _ = begin(place, tool)
    refused = place.run("run", "--fork-from", source, "--no-handoff", "x")
    assert (refused.code, "CSA_CONF_HANDOFF=on csa run --session" in refused.err) == (1, True), refused.err
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "I know"])
    assert place.run("run", "--session", refused.session_id, "go on").code == 0
    assert "the capital is Ulm" in (place.tmp / "stdin").read_text()


@pytest.mark.thorough
def test_the_new_one_is_tried_again(place: Place) -> None:
    """A provider that fails in passing does so in the new conversation too; it is the same turn, told of once."""
    session_id, _ = begin(place, "codex")
    place.play(["fail", "503"], times=1)
    done = place.run("run", "--session", session_id, "go on")
    assert done.code == 0, done.err
    assert [data["attempt"] for data in of_type(place, session_id, "retry") if data.get("by") == "csa"] == [1]
    assert len(of_type(place, session_id, "handoff")) == 1
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_what_csa_has_no_transcript_of_is_not_begun_anew(place: Place) -> None:
    """A record of another program's: there is nothing to tell, and it is said each time."""
    session_id, gone = begin(place, "codex")
    (place.session(session_id) / "transcript.jsonl").write_text("")
    for _ in range(2):
        done = place.run("run", "--session", session_id, "x")
        assert done.code == 1
        assert "no new one could be started: csa has no transcript of it" in done.err
        assert 'hint: csa run --tool codex "..."' in done.err
    assert conversation_of(place, session_id, "codex") == gone


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_provider_that_fails_is_no_such_case(place: Place, tool: str) -> None:
    """A 404 of the provider and a lost connection leave the conversation what it is; so does an answer in its words."""
    session_id = place.run("run", "--tool", tool, "hello").session_id
    known = conversation_of(place, session_id, tool)
    for failure in ("404", "network"):
        place.play(["fail", failure])
        assert place.run("run", "--session", session_id, "--retries", "0", "x").code == 1
    words = f"No conversation found with session ID: {known}. no rollout found for thread id {known}"
    place.play(["say", f"{words} Session not found: {known} Invalid session identifier"])
    assert place.run("run", "--session", session_id, "x").out.startswith("No conversation found")
    assert conversation_of(place, session_id, tool) == known
    assert of_type(place, session_id, "handoff") == []


@pytest.mark.thorough
@pytest.mark.parametrize("flags", ["", ', "--only-load"', ', "--vague"', ', "--forgetful"'])
def test_an_acp_agent(place: Place, flags: str) -> None:
    """By the protocol's code, or, where it does not say why, by what it lists."""
    config = place.tmp / "config.toml"
    config.write_text(ACP % flags)
    place.env["CSA_CONFIG"] = str(config)
    session_id, gone = begin(place, "goose")
    place.run("run", "--tool", "goose", "another one")
    done = place.run("run", "--session", session_id, "which one?")
    assert done.code == 0, done.err
    assert of_type(place, session_id, "handoff")[0]["replaces"] == gone
    assert conversation_of(place, session_id, "goose") != gone


@pytest.mark.thorough
def test_an_imported_session_goes_on(place: Place) -> None:
    """An archive has no tool's own copy: what is taken in on another machine goes on all the same."""
    session_id = place.codex("the capital is Ulm").session_id
    archive = str(place.tmp / "a.tar.gz")
    assert place.run("session", "export", session_id, "-o", archive).code == 0
    assert place.run("session", "delete", session_id, "--purge").code == 0
    forget(place)
    assert place.run("session", "import", archive).code == 0
    done = place.run("run", "--session", session_id, "go on")
    assert done.code == 0, done.err


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_there_is_nothing_to_compact(place: Place, tool: str) -> None:
    """It says so, changes nothing, and its hint works."""
    session_id, gone = begin(place, tool)
    done = place.run("session", "compress", session_id)
    assert (done.code, "(unknown_conversation)" in done.err) == (1, True), done.err
    assert f'hint: csa run --session {session_id} --tool {tool} "go on"' in done.err
    assert conversation_of(place, session_id, tool) == gone
    assert place.run("run", "--session", session_id, "--tool", tool, "go on").code == 0
    assert place.run("session", "compress", session_id).code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_the_interface_has_nothing_to_open(place: Place, tool: str) -> None:
    """When the tool's own interface leaves because of that, csa says so, and what helps."""
    session_id, gone = begin(place, tool)
    with Terminal(place, "session", "attach", "--interactive", "-s", session_id, size=(200, 30)) as terminal:
        assert terminal.end() == 1
        assert f"{tool} does not know conversation {gone} of session {session_id[:10]} any more" in terminal.text
        assert f'csa run --session {session_id[:10]} --tool {tool} "continue"' in terminal.text


@pytest.mark.thorough
def test_another_account_is_another_matter(place: Place) -> None:
    """It is refused as before, with a hint that works."""
    session_id = place.codex("the capital is Ulm").session_id
    other = place.tmp / "other"
    other.mkdir()
    place.env["CODEX_HOME"] = str(other)
    done = place.run("run", "--session", session_id, "go on")
    assert (done.code, f"csa run --fork-from {session_id}" in done.err) == (5, True), done.err
    assert place.run("run", "--fork-from", session_id, "go on").code == 0
