"""Compacting the real CLIs' conversations, and forking them."""

import json
import random
import string

import pytest

from fixtures.mock_provider import Recorded, slow, status, text
from tests.real.workplace import OPENCODE, RealTool, Workplace, finish

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

SUMMARY = "<state_snapshot>the harbour is in the north</state_snapshot>"
# How each tool asks its provider for the summary.
ASKS = ("CONTEXT CHECKPOINT", "<state_snapshot>", "CRITICAL: Respond with TEXT ONLY", "Here is the conversation so far")


def _words(count: int, seed: int) -> str:
    """Return words that do not repeat: repetition is taken for a loop by gemini."""
    letters = random.Random(seed)
    return " ".join("".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(count))


def _converse(place: Workplace, tool: RealTool) -> str:
    """Have three long turns; return the session."""
    for number in range(3):
        place.provider.on(f"question {number}", text(f"answer {number}: {_words(1500, number)}"))
    session_id = str(place.run(tool, f"question 0 {_words(60, 10)}")["session_id"])
    for number in (1, 2):
        place.resume(session_id, f"question {number} {_words(60, 10 + number)}")
    for needle in ASKS:
        place.provider.on(needle, text(SUMMARY))
    return session_id


def _size(request: Recorded) -> int:
    return len(json.dumps(request.body))


@pytest.mark.long
def test_one_that_fails_and_one_that_succeeds(place: Workplace, tool: RealTool) -> None:
    """While the provider is down it exits 1, and state.toml and result.toml are byte for byte what they were.

    After one that succeeds the conversation goes on, under its id, from a summary instead of what was said.
    """
    session_id = _converse(place, tool)
    last = _fail_to_compact(place, session_id)
    for needle in ASKS:
        place.provider.on(needle, text(SUMMARY))
    before = place.state(session_id)
    done = place.csa("session", "compress", "-s", session_id, "--json")
    assert done.code == 0, (done, place.events(session_id, "error"))
    told = done.json
    assert (told["status"], told["tool"], told["error"]) == ("succeeded", tool.name, None)
    assert told["proof"]
    state = place.state(session_id)
    assert state["context_status"] == {"is_compacted": True, "last_compacted_at": told["last_compacted_at"]}
    assert (state["phase"], state["turns"]) == ("available", before["turns"])
    events = place.events(session_id, "compaction")
    assert [event["status"] for event in events[-2:]] == ["started", "succeeded"]
    assert events[-1]["proof"] == told["proof"]
    after = place.resume(session_id, "And then?")
    (request,) = place.asked("And then?")
    assert _size(request) < _size(last) - 10_000
    assert "the harbour is in the north" in json.dumps(request.body)
    assert after["provider_session_id"] == before["tools"][tool.name]["provider_session_id"]
    assert (after["turn"], place.state(session_id)["phase"]) == (5, "active")


def _fail_to_compact(place: Workplace, session_id: str) -> Recorded:
    """Have the provider fail, and the conversation go on as a whole; return the last request before."""
    directory = place.session_dir(session_id)
    before = {name: (directory / name).read_bytes() for name in ("state.toml", "result.toml")}
    for needle in ASKS:
        place.provider.on(needle, status(500))
    done = place.csa("session", "compress", "-s", session_id, "--json")
    assert done.code == 1, done
    assert done.json["status"] == "failed"
    assert done.json["error"]["kind"] in {"server", "network", "overloaded", "internal"}, done.json
    assert {name: (directory / name).read_bytes() for name in before} == before
    assert place.events(session_id, "compaction")[-1]["status"] == "failed"
    last = place.asked("question 2")[0]  # a request for a summary may quote it
    place.resume(session_id, "And now?")
    (request,) = place.asked("And now?")
    assert _size(request) > _size(last)
    return last


@pytest.mark.long
def test_a_timeout_ends_a_compaction(place: Workplace, tool: RealTool) -> None:
    """A compaction that takes too long is ended, exits 124, and leaves no process and no claim."""
    session_id = _converse(place, tool)
    before = place.state(session_id)
    for needle in ASKS:
        place.provider.on(needle, slow(60, text(SUMMARY)))
    process = place.start("session", "compress", "-s", session_id, "--timeout", "15")
    done = finish(process)
    assert done.code == 124, done
    after = place.state(session_id)
    used, unknown = before.pop("usage"), after.pop("usage")  # nobody knows what the provider has charged
    assert after == before
    assert unknown["turns_unpriced"] == used.get("turns_unpriced", 0) + 1
    assert place.gone_after() == {}


def test_a_fork_knows_what_was_said(place: Workplace, tool: RealTool) -> None:
    """The first request of a fork has the source's conversation; the source's record stays as it is."""
    place.provider.on("capital", text("It is Ulm.", usage=(1000, 100, 0)))
    place.provider.on("river", text("The Danube.", usage=(2000, 200, 0)))
    source = place.run(tool, "Name the capital.")
    directory = place.session_dir(source["session_id"])
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    fork = place.run(tool, "Name the river.", "--fork-from", source["session_id"])
    assert fork["session_id"] != source["session_id"]
    assert fork["provider_session_id"] != source["provider_session_id"]
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    (request,) = place.asked("Name the river.")
    assert "It is Ulm." in json.dumps(request.body)
    (event,) = place.events(fork["session_id"], "fork")
    is_native = tool.name != "gemini-cli"
    assert (event["from"], event["how"]) == (source["session_id"], "native" if is_native else "handoff")
    assert len(request.user_texts) == (2 if is_native else 1)
    assert fork["usage"]["input_tokens"] == 2000
    if tool.tells_cost and tool is not OPENCODE:
        assert fork["usage"]["cost_usd"] == pytest.approx(2 * source["usage"]["cost_usd"])
    genealogy = place.state(fork["session_id"])["genealogy"]
    assert genealogy["fork_of"] == source["session_id"]
    assert "parent_session_id" not in genealogy
    back = place.resume(source["session_id"], "Thank you.")
    (request,) = place.asked("Thank you.")
    assert "The Danube." not in json.dumps(request.body)
    assert back["provider_session_id"] == source["provider_session_id"]


def test_codex_acp_compacts_by_its_command(place: Workplace) -> None:
    """An agent that tells of `/compact` is given it, and its typed update is the proof."""
    config = place.home / ".config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[tools.codex-acp]\ntransport = "acp"\ncommand = ["codex-acp"]\n')
    for number in range(2):
        place.provider.on(f"question {number}", text(f"answer {number}: {_words(1500, number)}"))
    done = place.csa("run", "--json", "--tool", "codex-acp", "question 0")
    assert done.code == 0, done
    session_id = done.json["session_id"]
    place.resume(session_id, "question 1")
    (last,) = place.asked("question 1")
    place.provider.on(ASKS[0], text(SUMMARY))
    compacted = place.csa("session", "compress", session_id, "--json")
    assert compacted.code == 0, (compacted, place.events(session_id, "error"))
    assert compacted.json["proof"] == "compaction_update completed"
    place.resume(session_id, "And now?")
    (request,) = place.asked("And now?")
    assert _size(request) < _size(last)
    assert "the harbour is in the north" in json.dumps(request.body)


def test_a_tool_spoken_to_through_acp_is_compacted_its_own_way(place: Workplace) -> None:
    """A conversation that gemini began over ACP, where it has no `/compress`, is compacted as any other."""
    for number in range(2):
        place.provider.on(f"question {number}", text(f"answer {number}: {_words(1500, number)}"))
    done = place.csa("run", "--json", "--tool", "gemini-cli", "--transport", "acp", "question 0")
    assert done.code == 0, done
    place.resume(done.json["session_id"], "question 1")
    for needle in ASKS:
        place.provider.on(needle, text(SUMMARY))
    compacted = place.csa("session", "compress", done.json["session_id"], "--json")
    assert compacted.code == 0, compacted
    assert compacted.json["proof"] == "state snapshot in the conversation's file"
