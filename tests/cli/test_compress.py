"""`csa session compress`: what counts as compacted, and that nothing else changes a session."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import ForeignWriter
from tests.support import Json, Place

TOOLS = ("codex", "claude-code", "gemini-cli", "opencode")
COMMANDS = {"gemini-cli": "/compress"}
PROOFS = {
    "codex": "contextCompaction item completed",
    "claude-code": "compact_boundary event",
    "gemini-cli": "state snapshot in the conversation's file",
    "opencode": "summary message msg_s",
}
ACP = '[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"{}]\n'


def _session(place: Place, tool: str, *words: str) -> str:
    done = place.run("run", "--tool", tool, *words, "hello")
    assert done.code == 0, done.err
    return done.session_id


def _rule(tool: str, *steps: list[object]) -> Json:
    """What the fake does when it is to compact."""
    return {"match": COMMANDS.get(tool, "/compact"), "do": list(steps)}


def _kept(place: Place, session_id: str) -> dict[str, bytes]:
    return {name: (place.session(session_id) / name).read_bytes() for name in ("state.toml", "result.toml")}


def _kept_but_usage(place: Place, session_id: str) -> dict[str, bytes]:
    """What stays of an attempt that the provider may have charged: all but its use, and the tool's running totals."""
    kept = _kept(place, session_id)
    return {**kept, "state.toml": re.sub(rb"\[usage\]\n([^\[]+\n)*|totals = .*\n", b"", kept["state.toml"])}


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_proven_compaction_is_recorded(place: Place, tool: str) -> None:
    """The state says it and when, the transcript has the proof, and a resume makes the session active again."""
    session_id = _session(place, tool)
    before = place.state(session_id)
    done = place.run("session", "compress", "-s", session_id, "--json")
    assert done.code == 0, done
    told = done.json
    assert (told["session_id"], told["status"], told["proof"]) == (session_id, "succeeded", PROOFS[tool])
    state = place.state(session_id)
    assert state["context_status"] == {"is_compacted": True, "last_compacted_at": told["last_compacted_at"]}
    assert (state["phase"], state["turns"], state["last_accessed"]) == ("available", 1, before["last_accessed"])
    assert state["tools"][tool]["provider_session_id"] == before["tools"][tool]["provider_session_id"]
    events = [event for event in place.events(session_id) if event["type"] == "compaction"]
    assert [(event["turn"], event["data"]["status"]) for event in events] == [(1, "started"), (1, "succeeded")]
    assert events[1]["data"]["proof"] == PROOFS[tool]
    assert place.status(session_id) == "succeeded"
    resumed = place.run("run", "--session", session_id, "more")
    assert (resumed.code, "turns=2" in resumed.out) == (0, True), resumed
    state = place.state(session_id)
    assert (state["phase"], state["turns"], state["context_status"]["is_compacted"]) == ("active", 2, True)


@pytest.mark.thorough
def test_sizes_are_told_where_they_are_known(place: Place) -> None:
    """claude and gemini tell how large the context was and is; the line for people has it too."""
    session_id = _session(place, "claude-code")
    done = place.run("session", "compress", session_id)
    assert done.out == f"{session_id}: claude-code has compacted its conversation from 2.8k to 2.6k tokens\n"
    event = place.events(session_id)[-1]["data"]
    assert (event["tokens_before"], event["tokens_after"]) == (2837, 2598)


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_failure_leaves_the_state_as_it_was(place: Place, tool: str) -> None:
    """A provider that is down: exit 1, a clear error, state and result byte for byte, the attempt on record."""
    session_id = _session(place, tool)
    before = _kept(place, session_id)
    place.script(_rule(tool, ["compact", "Connection failed: the provider is down"]))
    done = place.run("session", "compress", "-s", session_id)
    assert (done.code, done.out) == (1, "")
    assert f"error: {tool}'s compaction failed" in done.err
    assert "the provider is down. The session's state is unchanged." in done.err
    assert _kept(place, session_id) == before
    last = place.events(session_id)[-1]
    assert (last["type"], last["data"]["status"], last["data"]["proof"]) == ("compaction", "failed", None)
    assert place.status(session_id) == "succeeded"


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["claude-code", "gemini-cli", "opencode"])
def test_nothing_new_to_compact(place: Place, tool: str) -> None:
    """A conversation that was just compacted is refused by the tool; codex compacts again."""
    session_id = _session(place, tool)
    assert place.run("session", "compress", session_id).code == 0
    before = _kept(place, session_id)
    done = place.run("session", "compress", session_id, "--json")
    assert (done.code, done.json["status"], done.json["last_compacted_at"]) == (1, "failed", None)
    assert "there is nothing to compact" in done.json["error"]["message"]
    assert _kept(place, session_id) == before


@pytest.mark.thorough
def test_a_success_without_proof_is_none(place: Place) -> None:
    """claude that ends well without a boundary, as it does when /compact was taken for text, has compacted nothing."""
    session_id = _session(place, "claude-code")
    before = _kept_but_usage(place, session_id)
    place.script({"match": "/compact", "do": [["say", "I have compacted everything, compact_boundary and all."]]})
    done = place.run("session", "compress", session_id)
    assert done.code == 1
    assert _kept_but_usage(place, session_id) == before


@pytest.mark.thorough
def test_a_busy_session_is_refused(place: Place) -> None:
    """A session whose turn runs cannot be compacted: exit 4, and the turn goes on."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    done = place.run("session", "compress", "-s", running.session_id)
    assert done.code == 4
    assert "is locked by PID" in done.err
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_a_timeout_ends_it(place: Place, tool: str) -> None:
    """It exits 124, no process is left, and the state stays."""
    session_id = _session(place, tool)
    before = _kept_but_usage(place, session_id)
    place.script(_rule(tool, ["sleep", 30]))
    done = place.run("session", "compress", session_id, "--timeout", "3")
    assert done.code == 124, done
    assert "ran out of time: it took longer than 3 s. " in done.err
    assert _kept_but_usage(place, session_id) == before
    assert place.state(session_id)["usage"]["turns_unmeasured"] == 1  # nobody knows what it has used
    assert place.run("stats", "--json").json["total"]["usage"]["turns_unmeasured"] == 1
    assert place.processes() == {}


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(place: Place, number: signal.Signals) -> None:
    """Ctrl-C and TERM end a compaction with 130 and 143; meanwhile the session counts as running."""
    session_id = _session(place, "codex")
    before = _kept_but_usage(place, session_id)
    place.script(_rule("codex", *place.hold()))
    running = place.start("session", "compress", session_id)
    place.wait_ready()
    assert place.run("session", "is-alive", session_id).code == 0
    running.signal(number)
    assert running.wait().code == 128 + number
    assert _kept_but_usage(place, session_id) == before
    assert place.events(session_id)[-1]["data"]["status"] == "cancelled"


@pytest.mark.thorough
def test_the_cancel_file_ends_it(place: Place) -> None:
    """Another process can ask for the end as it does for a turn's."""
    session_id = _session(place, "codex")
    place.script(_rule("codex", *place.hold()))
    running = place.start("session", "compress", session_id)
    place.wait_ready()
    (place.session(session_id) / "cancel").touch()
    assert running.wait().code == 130
    assert not (place.session(session_id) / "cancel").exists()


@pytest.mark.thorough
def test_a_killed_compaction_leaves_nothing_running(place: Place) -> None:
    """SIGKILL of csa takes the tool with it; the session is as before, and can be compacted."""
    session_id = _session(place, "codex")
    before = _kept(place, session_id)
    place.script(_rule("codex", *place.hold()))
    running = place.start("session", "compress", session_id)
    place.wait_ready()
    running.kill()
    place.wait_until_empty(within_s=5)
    assert _kept(place, session_id) == before
    assert place.status(session_id) == "succeeded"
    del place.env["FAKE_TOOL_SCRIPT"]
    assert place.run("session", "compress", session_id).code == 0


@pytest.mark.thorough
def test_an_agent_cannot_compress_itself_or_an_ancestor(place: Place) -> None:
    """Its own session and those above it are refused with exit 5; another one is not."""
    session_id, env = place.agent()
    done = place.run("session", "compress", "@self", env=env)
    assert (done.code, "cannot compress itself" in done.err) == (5, True), done.err
    child = place.codex("child", env=env).session_id
    assert place.run("session", "compress", child, env=env).code == 0
    _, nested = place.agent(env=env)
    done = place.run("session", "compress", session_id, env=nested)
    assert (done.code, "is an ancestor of the calling session" in done.err) == (5, True), done.err


@pytest.mark.thorough
def test_another_tool_of_the_session(place: Place) -> None:
    """--tool names whose conversation is meant; without it, it is the last tool's, which it stays."""
    session_id = _session(place, "claude-code")
    assert place.run("run", "--session", session_id, "--tool", "codex", "more").code == 0
    assert place.run("session", "compress", session_id, "--tool", "claude-code", "--json").json["tool"] == "claude-code"
    assert place.run("session", "compress", session_id, "--json").json["tool"] == "codex"
    done = place.run("session", "compress", session_id, "--tool", "opencode")
    assert done.code == 1
    assert "has no conversation with opencode" in done.err
    assert "it has conversations with claude-code, codex" in done.err


def test_what_has_no_conversation(place: Place) -> None:
    """An unknown session is exit 3; one whose tool never began a conversation has nothing to compact: exit 1."""
    assert place.run("session", "compress", "nobody").code == 3
    place.play(["exit", 3], start=False)
    done = place.run("run", "--tool", "codex", "hello")
    before = _kept(place, done.session_id)
    failed = place.run("session", "compress", done.session_id, "--json")
    assert (failed.code, failed.json["error"]["code"]) == (1, "error")
    assert "Nothing to compact" in failed.json["error"]["message"]
    assert _kept(place, done.session_id) == before


@pytest.mark.thorough
def test_an_acp_agent_that_has_the_command(place: Place) -> None:
    """Its typed update is the proof."""
    _configure(place, ACP.format(""))
    session_id = _session(place, "goose")
    done = place.run("session", "compress", session_id, "--json")
    assert (done.code, done.json["proof"]) == (0, "compaction_update completed"), done
    assert place.state(session_id)["phase"] == "available"


@pytest.mark.thorough
def test_an_acp_agent_that_lacks_the_command(place: Place) -> None:
    """It is not sent to the model as text; the error says what is missing."""
    _configure(place, ACP.format(', "--no-commands"'))
    session_id = _session(place, "goose")
    before = _kept(place, session_id)
    done = place.run("session", "compress", session_id)
    assert done.code == 1
    assert "the agent has no command /compact" in done.err
    assert _kept(place, session_id) == before


@pytest.mark.thorough
def test_an_acp_agent_that_fails_at_it(place: Place) -> None:
    """A compaction that is told as failed is no success, though its turn ends well."""
    _configure(place, ACP.format(""))
    session_id = _session(place, "goose")
    place.script(_rule("goose", ["compact", "no"]))
    done = place.run("session", "compress", session_id)
    assert (done.code, "the compaction failed" in done.err) == (1, True), done


@pytest.mark.thorough
def test_a_tool_known_to_csa_is_compacted_its_own_way(place: Place) -> None:
    """opencode and gemini-cli, spoken to through ACP, are compacted as they are natively."""
    done = place.run("run", "--tool", "opencode", "hello")
    place.env["CSA_CONFIG"] = str(place.tmp / "config.toml")
    (place.tmp / "config.toml").write_text('[tools.opencode]\ntransport = "acp"\n')
    told = place.run("session", "compress", done.session_id, "--json")
    assert (told.code, told.json["proof"]) == (0, PROOFS["opencode"]), told


@pytest.mark.thorough
def test_its_files_are_private_and_no_artifacts(place: Place) -> None:
    """What the tool said is kept in logs of mode 0600, which are not listed as what the agent made."""
    session_id = _session(place, "codex")
    assert place.run("session", "compress", session_id).code == 0
    directory = place.session(session_id) / "output" / "compaction-0001"
    assert sorted(path.name for path in directory.iterdir()) == ["stderr.log", "stdout.log"]
    assert [path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())] == [0o700, 0o600, 0o600]
    assert "contextCompaction" in (directory / "stdout.log").read_text()
    assert place.run("session", "result", session_id, "--json").json["artifacts"] == []
    assert str(directory) not in place.run("session", "artifacts", session_id).out
    assert place.run("session", "show", session_id).out.count("was compacted") == 1


@pytest.mark.thorough
def test_one_that_cannot_begin_leaves_no_trace(place: Place) -> None:
    """Where there is no room for its logs nothing is noted, and the next turn finds no compaction that was lost."""
    session_id = _session(place, "codex")
    (place.session(session_id) / "output" / "compaction-0002").touch()
    done = place.run("session", "compress", session_id)
    assert (done.code, "nothing was compacted" in done.err) == (1, True), done
    assert place.run("run", "--session", session_id, "more").code == 0
    assert "compaction" not in [event["type"] for event in place.events(session_id)]


@pytest.mark.thorough
def test_a_foreign_record_can_be_compacted(place: Place, write_foreign: object) -> None:
    """A session another implementation has written keeps what csa does not know."""
    conversation = place.state(_session(place, "codex"))["tools"]["codex"]["provider_session_id"]
    assert callable(write_foreign)
    paths = write_foreign("01JH4QWERT1234567890ABCDEF", tools={"codex": {"provider_session_id": conversation}})
    paths.state.write_text(paths.state.read_text() + "\n[their_own]\nkey = 1\n")
    done = place.run("session", "compress", "-s", "01JH4QWERT1234567890ABCDEF")
    assert done.code == 0, done
    state = place.state("01JH4QWERT1234567890ABCDEF")
    assert (state["phase"], state["their_own"]) == ("available", {"key": 1})


def test_what_is_noted_bears_the_records_turn(place: Place, write_foreign: ForeignWriter) -> None:
    """Where another implementation has kept no transcript, its record says which turn was the last."""
    paths = write_foreign("01JH4QWERT1234567890ABCDEF", tools={"codex": {}})
    paths.state.write_text("turn_count = 3\n" + paths.state.read_text())
    assert place.run("session", "rename", "01JH4QWERT1234567890ABCDEF", "theirs").code == 0
    (event,) = place.events("01JH4QWERT1234567890ABCDEF")
    assert event["turn"] == 3


def test_a_missing_tool_is_exit_7(place: Place) -> None:
    """A tool that is not installed any more is said so; nothing changes."""
    session_id = _session(place, "codex")
    before = _kept(place, session_id)
    done = place.run("session", "compress", session_id, env={"PATH": str(Path(sys.executable).parent)})
    assert (done.code, "not installed" in done.err) == (7, True)
    assert _kept(place, session_id) == before


def _configure(place: Place, text: str) -> None:
    config = place.tmp / "config.toml"
    config.write_text(text)
    place.env["CSA_CONFIG"] = str(config)
