"""What proves a compaction, tool by tool: the typed event or the tool's record, and never a good exit alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.acp import AcpAdapter
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_bridge import count_snapshots
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter
from hypothesis import given
from hypothesis import strategies as st

from csa.errors import UsageError
from csa.model.adapter import Adapter, CompactionDecoder, CompactionOutcome, Compactor, ToolExit
from tests.unit.adapters.support import EXIT_0, EXIT_1, OTHER_THREAD, RECORDINGS, THREAD, feed_all, line, make_request

SESSION = "ses_e07c585ecffeThK3BujpvIZVPV"
CLAUDES = "5b0c2a54-6a2e-4b34-9a53-0d1f4f6f7a11"  # of the recordings
ADAPTERS: dict[str, tuple[Callable[[], Any], str]] = {
    "codex": (CodexAdapter, THREAD),
    "claude-code": (ClaudeCodeAdapter, CLAUDES),
    "gemini-cli": (GeminiCliAdapter, THREAD),
    "opencode": (OpencodeAdapter, SESSION),
    "acp": (lambda: AcpAdapter("goose"), THREAD),
}


def compactor(tool: str) -> Compactor:
    adapter = ADAPTERS[tool][0]()
    assert isinstance(adapter, Compactor)
    return adapter


def decoder(tool: str, **fields: Any) -> CompactionDecoder:
    request = make_request(**{"provider_session_id": ADAPTERS[tool][1], "prompt": "", **fields})
    return compactor(tool).compaction_decoder(request)


def judge(tool: str, *lines: bytes, end: ToolExit = EXIT_0, **fields: Any) -> CompactionOutcome:
    reader = decoder(tool, **fields)
    feed_all(reader, lines)
    return reader.close(end)


def notify(method: str, **params: Any) -> bytes:
    return line(method=method, params={"threadId": THREAD, **params})


def context(tokens: int, total: int = 200) -> bytes:
    totals = {"inputTokens": total, "cachedInputTokens": 0, "outputTokens": 20, "totalTokens": total + 20}
    return notify("thread/tokenUsage/updated", tokenUsage={"total": totals, "last": {"totalTokens": tokens}})


RESUMED = line(id=2, result={"thread": {"id": THREAD}})
COMPACTED = notify("item/completed", item={"type": "contextCompaction", "id": "x"})
ELSEWHERE = COMPACTED.replace(THREAD.encode(), OTHER_THREAD.encode())
COMPLETED = notify("turn/completed", turn={"status": "completed", "error": None})


def recording(name: str) -> list[bytes]:
    return (RECORDINGS / "claude-code" / name).read_bytes().splitlines()


# The real claude


def test_the_recorded_compaction_of_claude_is_proven() -> None:
    """Its boundary tells how large the context was and is; the summary is no answer of the agent."""
    reader = decoder("claude-code")
    updates = feed_all(reader, recording("compact.jsonl"))
    outcome = reader.close(EXIT_0)
    assert (outcome.succeeded, outcome.proof, outcome.tokens_before) == (True, "compact_boundary event", 110)
    assert outcome.tokens_after is not None
    assert not {"compaction", "session_bound", "agent_message"} & {update.type for update in updates}


def test_the_recorded_failure_of_claude_is_one() -> None:
    """It ends with exit 0, `is_error` false and `subtype` success."""
    outcome = judge("claude-code", *recording("compact-failed.jsonl"))
    assert (outcome.succeeded, outcome.proof) == (False, None)
    assert outcome.error_message


def test_a_turn_of_claude_is_no_compaction() -> None:
    """A result line without a boundary: the command was taken for text."""
    success = line(type="result", subtype="success", is_error=False, session_id=CLAUDES, result="Compacted!")
    outcome = judge("claude-code", success)
    assert (outcome.succeeded, outcome.error_message) == (False, "Compacted!")


# codex


def test_codex_proves_by_its_item_and_its_turn() -> None:
    """Tokens: the last request's before, the estimate after; usage and totals have grown by the summary's."""
    lines = [
        RESUMED,
        context(110),
        line(id=3, result={}),
        context(5050, 5200),
        context(7876, 5200),
        COMPACTED,
        COMPLETED,
    ]
    totals = {"input_tokens": 200, "cached_tokens": 0, "output_tokens": 20}
    outcome = judge("codex", *lines, previous_totals=totals)
    assert (outcome.succeeded, outcome.tokens_before, outcome.tokens_after) == (True, 110, 7876)
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.totals) == (5000, {**totals, "input_tokens": 5200})


@pytest.mark.parametrize(
    "lines",
    [
        [RESUMED, line(id=3, result={}), COMPLETED],
        [RESUMED, COMPACTED],
        [RESUMED, COMPACTED, notify("turn/completed", turn={"status": "failed", "error": {"message": "no"}})],
        [RESUMED, COMPACTED, notify("turn/completed", turn={"status": "interrupted"})],
        [RESUMED, ELSEWHERE, COMPLETED],
        [line(id=2, result={"thread": {"id": OTHER_THREAD}}), COMPACTED, COMPLETED],
        [],
    ],
    ids=["acknowledged only", "no end", "failed", "interrupted", "another's item", "another thread", "nothing"],
)
def test_less_is_no_proof_of_codex(lines: list[bytes]) -> None:
    """The answer to the request comes before anything has happened; item and turn must both be completed, and ours."""
    outcome = judge("codex", *lines)
    assert (outcome.succeeded, outcome.proof) == (False, None)
    assert outcome.error_kind
    assert outcome.error_message


def test_codex_says_why() -> None:
    """A refused request and a failed turn are told in codex's own words, with their kind."""
    busy = judge("codex", line(id=2, error={"code": -32600, "message": "already has an active writer"}), end=EXIT_1)
    assert (busy.error_kind, busy.error_message) == ("invalid_request", "thread/resume: already has an active writer")
    error = notify("error", error={"message": "Connection failed: error sending request"}, willRetry=False)
    down = judge("codex", RESUMED, error, notify("turn/completed", turn={"status": "failed"}), end=EXIT_1)
    assert (down.error_kind, down.error_message) == ("network", "Connection failed: error sending request")


# opencode, gemini, ACP


def test_opencode_proves_by_its_record() -> None:
    """Only the bridge's last word counts, which it says when the session's own record ends with a summary."""
    begun = line(type="session", sessionID=SESSION)
    compacted = line(type="compacted", sessionID=SESSION, messageID="msg_1", tokensBefore=900)
    step = line(type="step_finish", sessionID=SESSION, summary=True, part={"reason": "stop", "tokens": {"input": 5}})
    outcome = judge("opencode", begun, step, compacted)
    assert (outcome.succeeded, outcome.proof, outcome.tokens_before) == (True, "summary message msg_1", 900)
    assert not judge("opencode", begun, step).succeeded
    assert not judge("opencode", begun, step, compacted, end=EXIT_1).succeeded
    error = line(
        type="error", sessionID=SESSION, error={"name": "APIError", "data": {"message": "x", "statusCode": 500}}
    )
    failed = judge("opencode", begun, error, end=EXIT_1)
    assert (failed.succeeded, failed.error_kind) == (False, "server")


def test_gemini_proves_by_its_file() -> None:
    """The bridge has seen the file; what it says of a failure has the provider's status."""
    outcome = judge("gemini-cli", line(type="compressed", session=THREAD, tokens_before=9645, tokens_after=199))
    assert (outcome.succeeded, outcome.tokens_before, outcome.tokens_after) == (True, 9645, 199)
    assert not judge("gemini-cli", line(type="compressed", session=OTHER_THREAD)).succeeded
    failed = judge("gemini-cli", line(type="failed", why="failed", message="no", status=503), end=EXIT_1)
    assert (failed.succeeded, failed.error_kind) == (False, "overloaded")
    nothing = judge("gemini-cli", line(type="failed", why="nothing", message="Not beneficial", status=None), end=EXIT_1)
    assert nothing.error_message == "there is nothing to compact (Not beneficial)"


def test_an_agent_proves_by_its_update_or_its_call() -> None:
    """A compaction that is completed, or the call that agents show for it; a turn that ended well is none."""
    session = line(type="session", session_id=THREAD, how="resume", replayed=0)
    end = line(type="finished", result={"stopReason": "end_turn"})
    update = line(type="update", update={"sessionUpdate": "compaction_update", "status": "completed"})
    assert judge("acp", session, update, end).proof == "compaction_update completed"
    told = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "Compact conversation", "status": "completed"}
    assert judge("acp", session, line(type="update", update=told), end).proof is not None
    words = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "I compacted it."}}
    assert not judge("acp", session, line(type="update", update=words), end).succeeded
    assert not judge("acp", session, line(type="update", update={**told, "status": "failed"}), end).succeeded


def test_snapshots_are_counted(tmp_path: Path) -> None:
    """Histories that begin with a snapshot count, in any file of the conversation; a model's words do not."""
    history = [{"content": [{"text": "<session>"}]}, {"content": [{"text": "<state_snapshot>x"}]}]
    snapshot = {"$set": {"messages": history}}
    quoted = {"id": "1", "type": "gemini", "content": "look: <state_snapshot>"}
    inside = {"$set": {"messages": [{"content": "what is a <state_snapshot>?"}]}}
    others: list[Any] = [quoted, inside, {"$set": {}}, ["<state_snapshot>"]]
    lines = [json.dumps(each) for each in (snapshot, *others)]
    (tmp_path / "session-1-abc.jsonl").write_text("\n".join([*lines, '{"<state_snapshot>']))
    another = {"$set": {"messages": [{"content": "<state_snapshot>y"}]}}
    (tmp_path / "session-2-abc.jsonl").write_text(json.dumps(another))
    assert count_snapshots(str(tmp_path / "session-*-abc.jsonl")) == 2
    assert count_snapshots(str(tmp_path / "other-*")) == 0


# The command lines


@pytest.mark.parametrize("tool", ADAPTERS)
def test_the_conversation_is_named(tool: str) -> None:
    """Each is told which conversation to compact, on its command line or by its bridge."""
    adapter, conversation = compactor(tool), ADAPTERS[tool][1]
    found = adapter.compaction(make_request(prompt="", provider_session_id=conversation, run_directory="/run"))
    assert conversation in " ".join([*found.argv, found.stdin.decode()])
    assert (found.argv[0] == sys.executable) == (tool != "claude-code")
    assert (found.stdin == b"/compact") == (tool == "claude-code")


@pytest.mark.parametrize("tool", ["codex", "claude-code", "gemini-cli", "opencode"])
@pytest.mark.parametrize("wrong", ["no-id", "--continue", ""])
def test_what_is_no_conversation_is_refused(tool: str, wrong: str) -> None:
    """Nothing is compacted by a name that may mean another conversation, and nothing forked."""
    with pytest.raises(UsageError):
        compactor(tool).compaction(make_request(prompt="", provider_session_id=wrong))
    adapter: Adapter = ADAPTERS[tool][0]()
    if adapter.capabilities.fork:
        with pytest.raises(UsageError):
            adapter.invocation(make_request(fork_of=wrong))


@given(st.sampled_from(sorted(ADAPTERS)), st.lists(st.binary(max_size=60) | st.from_type(dict).map(lambda _: b"{}")))
def test_no_line_is_a_proof(tool: str, lines: list[bytes]) -> None:
    """Whatever bytes come, nothing raises, and nothing is compacted."""
    assert not judge(tool, *lines).succeeded
