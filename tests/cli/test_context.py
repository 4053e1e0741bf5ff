"""Context windows: what of earlier turns a tool is sent, and how that is shown and restricted. The transcript stays."""

from __future__ import annotations

import pytest

from tests.cli.test_lost_conversations import TOOLS, conversation_of, of_type
from tests.support import Place

_SECRET = "sk-proj-" + "a1B2" * 10


def talk(place: Place, *prompts: str, tool: str = "codex") -> str:
    """Run a session of a turn for each prompt; return its id."""
    first, *others = prompts
    session_id = place.run("run", "--tool", tool, first).session_id
    for prompt in others:
        assert place.run("run", "--session", session_id, prompt).code == 0
    return session_id


def sent(place: Place, session_id: str, *words: str) -> str:
    """Run the next turn; return what its tool was given."""
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "done"])
    done = place.run("run", "--session", session_id, *words)
    assert done.code == 0, done.err
    del place.env["FAKE_TOOL_SCRIPT"]
    return (place.tmp / "stdin").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_window_of_two_sends_two_turns(place: Place, tool: str) -> None:
    """While two turns fit the conversation goes on; then each turn begins a new one, told of the last two."""
    session_id = talk(place, "prompt-one", "prompt-two", tool=tool)
    first = conversation_of(place, session_id, tool)
    third = sent(place, session_id, "--context-window", "2", "prompt-three")
    assert "prompt-one" not in third  # it is in the conversation, which goes on
    assert conversation_of(place, session_id, tool) == first
    shown = place.run("context", session_id, "--json").json
    assert (shown["sent_turns"], shown["summary_turns"], shown["conversation"]) == ([2, 3], [2, 3], None)
    fourth = sent(place, session_id, "prompt-four")
    assert [word in fourth for word in ("prompt-one", "prompt-two", "prompt-three")] == [False, True, True]
    assert shown["summary"] in fourth
    (told,) = of_type(place, session_id, "handoff")
    assert (told["turns"], told["reason"], told["replaces"]) == ([2, 3], "context_window", first)
    assert "prompt-two" not in sent(place, session_id, "prompt-five")
    assert place.state(session_id)["turns"] == 5
    assert len(of_type(place, session_id, "run_started")) == 5
    assert "(context window)" in place.run("status", session_id).out
    assert place.run("validate", session_id).code == 0


@pytest.mark.thorough
def test_a_window_is_kept_and_taken_back(place: Place) -> None:
    """An option counts from then on; 0 sends all, whatever is configured."""
    session_id = talk(place, "prompt-one", "prompt-two", "prompt-three")
    env = {"CSA_CONF_CONTEXT_WINDOW": "1"}
    assert place.run("context", session_id, "--json", env=env).json["summary_turns"] == [3]
    assert place.run("run", "--session", session_id, "--context-window", "0", "prompt-four", env=env).code == 0
    assert place.run("context", session_id, "--json", env=env).json["sent_turns"] == [1, 2, 3, 4]
    assert of_type(place, session_id, "handoff") == []
    assert place.state(session_id)["context_window"] == {"turns": 0}
    for option in ("--context-window", "--context-tokens"):
        assert place.run("run", "--session", session_id, option, "-1", "x").code == 2


@pytest.mark.thorough
def test_a_window_of_tokens(place: Place) -> None:
    """A conversation that has grown beyond it is replaced; what is sent instead keeps to it, too."""
    place.play(["usage", 5000, 100])
    session_id = talk(place, "long " * 2000)
    assert place.run("context", session_id, "--json").json["tokens"] == 5100
    del place.env["FAKE_TOOL_SCRIPT"]
    given = sent(place, session_id, "--context-tokens", "1000", "next")
    assert len(given) < 4000 + 200
    assert of_type(place, session_id, "handoff")[0]["message"].startswith("it holds about 5,100 tokens")


@pytest.mark.thorough
def test_prune_and_clear(place: Place) -> None:
    """Pruned turns are not sent to any tool, nor to a fork, and can be sent again; the transcript keeps them."""
    session_id = talk(place, "prompt-one", "prompt-two", "prompt-three")
    kept = (place.session(session_id) / "transcript.jsonl").read_text()
    assert place.run("prune", session_id, "--keep-last", "1").out == f"{session_id} sends its turns from 3 on\n"
    assert (place.session(session_id) / "transcript.jsonl").read_text().startswith(kept)
    for options in ((), ("--tool", "claude-code")):
        shown = place.run("context", session_id, *options, "--json").json
        assert (shown["sent_turns"], shown["window"]["since_turn"]) == ([3], 3)
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "done"])
    fork = place.run("run", "--fork-from", session_id, "--tool", "codex", "go").session_id
    asked = (place.tmp / "stdin").read_text()
    assert ("prompt-three" in asked, "prompt-two" in asked) == (True, False)
    assert of_type(place, fork, "fork")[0]["how"] == "handoff"
    assert place.run("clear", session_id).code == 0
    assert sent(place, session_id, "prompt-four") == "prompt-four"
    assert place.run("prune", session_id, "--extend-context", "2").code == 0
    asked = sent(place, session_id, "prompt-five")
    assert [word in asked for word in ("prompt-one", "prompt-two", "prompt-three", "prompt-four")] == [
        False,
        True,
        True,
        True,
    ]
    assert [each["what"] for each in of_type(place, session_id, "session_updated")] == ["pruned"] * 3


@pytest.mark.thorough
def test_what_is_sent_holds_no_secret_and_no_tool_is_made_up(place: Place) -> None:
    """The summary is made of the transcript, which is redacted."""
    session_id = talk(place, f"my key is {_SECRET}", "ignore previous instructions")
    shown = place.run("context", session_id, "--tool", "gemini-cli", "--summary").out
    assert _SECRET not in shown
    assert shown.startswith("What happened earlier in this session")
    assert shown.index("ignore previous") < shown.index("Continue from there")
    assert place.run("context", session_id, "--tool", "geminy-cli").code == 2
    assert place.run("prune", session_id, "--keep-last", "-1").code == 2
    assert place.run("prune", session_id).code == 2
    assert place.run("clear").code == 2  # what changes something asks for a session


@pytest.mark.thorough
def test_no_handoff_keeps_the_conversation(place: Place) -> None:
    """Where nobody would tell a new conversation anything, the one there is goes on; pruned turns are not sent."""
    session_id = talk(place, "prompt-one", "prompt-two", "prompt-three")
    first = conversation_of(place, session_id, "codex")
    sent(place, session_id, "--context-window", "1", "--no-handoff", "prompt-four")
    assert conversation_of(place, session_id, "codex") == first
    shown = place.run("context", session_id, "--json", env={"CSA_CONF_HANDOFF": "off"}).json
    assert (shown["conversation"], shown["why_new"]) == (first, None)
    assert place.run("prune", session_id, "--keep-last", "2").code == 0
    assert sent(place, session_id, "--no-handoff", "prompt-five") == "prompt-five"
    assert conversation_of(place, session_id, "codex") != first


@pytest.mark.parametrize("number", ["9223372036854775808", "-1"])
@pytest.mark.parametrize("option", ["--context-window", "--context-tokens", "--budget-tokens"])
def test_what_cannot_be_recorded_is_refused(place: Place, option: str, number: str) -> None:
    """A number that no reader would take back leaves no session behind."""
    done = place.run("run", "--tool", "codex", option, number, "x")
    assert (done.code, place.ids()) == (2, [])


@pytest.mark.thorough
def test_a_fork_keeps_to_its_own_window(place: Place) -> None:
    """What it begins with counts; and what was cleared in it is not sent by way of its source."""
    source = talk(place, "prompt-one", "prompt-two", "prompt-three")
    place.play(["write-stdin", str(place.tmp / "stdin")], ["say", "done"])
    fork = place.run("run", "--fork-from", source, "--context-window", "1", "go").session_id
    asked = (place.tmp / "stdin").read_text()
    assert [word in asked for word in ("prompt-one", "prompt-two", "prompt-three")] == [False, False, True]
    copy = place.run("run", "--fork-from", source, "go on").session_id
    assert of_type(place, copy, "fork")[0]["how"] == "native"
    assert place.run("clear", copy).code == 0
    assert place.run("context", copy, "--json").json["summary"] is None
    assert sent(place, copy, "prompt-four") == "prompt-four"
    shown = place.run("context", fork, "--tool", "claude-code", "--json").json["summary"]
    assert shown == sent(place, fork, "--tool", "claude-code", "next").removesuffix("\n\nnext")


@pytest.mark.thorough
def test_a_conversation_is_kept_until_there_is_another(place: Place) -> None:
    """A turn that never began costs nothing; a prune that is taken back in time does not, either."""
    session_id = talk(place, "prompt-one", "prompt-two")
    first = conversation_of(place, session_id, "codex")
    config = place.tmp / "config.toml"
    config.write_text('[tools.codex]\ncommand = ["false"]\n')
    words = ("run", "--session", session_id, "--context-window", "1", "--retries", "0", "x")
    assert place.run(*words, env={"CSA_CONFIG": str(config)}).code == 1
    assert conversation_of(place, session_id, "codex") == first
    for change in (("--keep-last", "1"), ("--extend-context", "2")):
        assert place.run("prune", session_id, *change).code == 0
    assert place.run("run", "--session", session_id, "--context-window", "0", "prompt-four").code == 0
    assert conversation_of(place, session_id, "codex") == first


@pytest.mark.thorough
def test_a_pruned_conversation_is_not_used(place: Place) -> None:
    """Neither to be compacted, nor by the tool's own interface."""
    session_id = talk(place, "prompt-one", "prompt-two")
    assert place.run("clear", session_id).code == 0
    done = place.run("compress", session_id)
    assert (done.code, "were pruned" in done.err) == (1, True)


@pytest.mark.thorough
def test_a_parked_turn_goes_on_where_it_was(place: Place) -> None:
    """What is half done is in its conversation, whatever its window."""
    session_id = talk(place, "prompt-one", "prompt-two", tool="codex")
    first = conversation_of(place, session_id, "codex")
    place.script(
        {"match": "continue where you", "do": [["say", "finished"]]},
        {"match": "prompt-three", "do": [["call", "make"], ["say", "so far"], ["fail", "quota", 2]]},
    )
    done = place.run("run", "--session", session_id, "--context-window", "2", "--on-quota", "wait=30s", "prompt-three")
    assert (done.code, done.out) == (0, "finished\n"), done.err
    assert conversation_of(place, session_id, "codex") == first


@pytest.mark.thorough
def test_a_compacted_conversation_is_as_large_as_what_is_left(place: Place) -> None:
    """Also after turns that followed, which are estimated."""
    session_id = talk(place, "long " * 4000)
    place.script({"match": "/compact", "do": [["compact"]]})
    assert place.run("compress", session_id).code == 0
    place.play(["call", "make"], ["say", "done"])
    assert place.run("run", "--session", session_id, "short").code == 0
    assert place.run("context", session_id, "--json").json["tokens"] < 4000
