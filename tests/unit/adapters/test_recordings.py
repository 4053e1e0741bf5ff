"""Every recording of the real CLIs, replayed to the verdict csa must reach."""

from __future__ import annotations

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.model.adapter import Adapter, Outcome
from csa.model.usage import Usage
from tests.unit.adapters.support import FRESH, THREAD, judge, make_request, only, recordings, session_of

ADAPTERS: dict[str, Adapter] = {
    "codex": CodexAdapter(),
    "claude-code": ClaudeCodeAdapter(),
    "gemini-cli": GeminiCliAdapter(),
    "opencode": OpencodeAdapter(),
}
# Recordings of turns that did not succeed; all others did.
FAILED = {
    "codex": {
        "fail-401": "auth",
        "fail-403": "auth",
        "fail-404": "invalid_request",
        "fail-429": "rate_limit",
        "fail-500": "server",
        "fail-503": "overloaded",
        "fail-529": "overloaded",
        "fail-context": "context_overflow",
        "fail-cut": "network",
        "fail-no-key": "auth",
        "fail-no-prompt": "invalid_request",
        "fail-quota": "quota",
        "fail-unreachable": "network",
        "fail-usage": "invalid_request",
        "hook-blocks-prompt": "permission",
        "resume-unknown": "unknown_conversation",
        "sigint-mid-model": "protocol",
        "sigint-mid-tool": "protocol",
        "sigterm-mid-tool": "internal",
    },
    "claude-code": {
        "fail-401": "auth",
        "fail-403": "auth",
        "fail-404": "invalid_request",
        "fail-429": "rate_limit",
        "fail-500": "server",
        "fail-503": "overloaded",
        "fail-529": "overloaded",
        "fail-cut": "network",
        "fail-long": "context_overflow",
        "fail-no-key": "auth",
        "fail-no-prompt": "invalid_request",
        "fail-quota": "quota",
        "fail-unreachable": "network",
        "hook-stopped": "permission",
        "max-budget": "internal",
        "prompt-blocked": "permission",
        "structured-never": "invalid_output",
        "resume-unknown": "unknown_conversation",
        "session-id-in-use": "invalid_request",
        "sigint-mid-model": "protocol",
        "sigint-mid-tool": "internal",
        "sigterm-mid-tool": "protocol",
    },
    "gemini-cli": {
        "fail-400": "invalid_request",
        "fail-401": "auth",
        "fail-403": "auth",
        "fail-404": "invalid_request",
        "fail-429": "rate_limit",
        "fail-500": "server",
        "fail-503": "overloaded",
        "fail-cut": "network",
        "fail-gateway": "auth",
        "fail-long": "context_overflow",
        "fail-no-key": "auth",
        "fail-no-prompt": "invalid_request",
        "fail-quota": "quota",
        "fail-unreachable": "network",
        "fail-untrusted": "permission",
        "fail-usage": "invalid_request",
        "hook-blocks-prompt": "permission",
        "hook-stops-tool": "permission",
        "hook-stops-turn": "permission",
        "loop": "internal",
        "resume-none": "unknown_conversation",
        "resume-unknown": "unknown_conversation",
        "session-id-in-use": "invalid_request",
        "sigint-mid-tool": "protocol",
        "sigterm-mid-model": "protocol",
    },
    "opencode": {
        "fail-401": "auth",
        "fail-403": "auth",
        "fail-404": "invalid_request",
        "fail-429": "rate_limit",
        "fail-500": "server",
        "fail-503": "overloaded",
        "fail-529": "overloaded",
        "fail-config": "spawn",
        "fail-context": "context_overflow",
        "fail-cut": "network",
        "fail-later": "rate_limit",
        "fail-model": "invalid_request",
        "fail-quota": "quota",
        "fail-unreachable": "network",
        "resume-unknown": "unknown_conversation",
        "content-filter": "invalid_request",
        "length": "context_overflow",
        "run-fail-401": "auth",
        "sigkill-mid-tool": "internal",
        "unfinished": "protocol",
        "sigterm-mid-model": "protocol",
        "sigterm-mid-tool": "protocol",
    },
}
ALL = [
    pytest.param(tool, name, marks=[pytest.mark.thorough] if number % 4 else [])  # the quick suite reads a quarter
    for tool in ADAPTERS
    for number, name in enumerate(sorted(recordings(tool)))
]


# What was asked for in the recordings of resumes that found nothing.
UNKNOWN = {
    "codex": "01a1f83a-accd-7db1-ada4-435d9ff915d3",
    "claude-code": "11111111-2222-4333-8444-555555555555",
    "gemini-cli": "00000000-0000-4000-8000-000000000000",
    "opencode": "ses_e072d4ba1ffebBlWdt2CHPjKfj",
}


def replay(tool: str, name: str, **asked: str | None) -> Outcome:
    recording = recordings(tool)[name]
    if FAILED[tool].get(name) == "unknown_conversation" and not asked:
        asked["provider_session_id"] = UNKNOWN[tool]
    request = make_request(new_provider_id=session_of(recording) or FRESH, **asked)
    return judge(ADAPTERS[tool].decoder(request), recording)[1]


@pytest.mark.parametrize(("tool", "name"), ALL)
def test_verdict_on_every_recording(tool: str, name: str) -> None:
    """Success only where the real CLI succeeded; else the right kind and a message."""
    outcome = replay(tool, name)
    assert (outcome.succeeded, outcome.error_kind) == (name not in FAILED[tool], FAILED[tool].get(name))
    assert bool(outcome.error_message) is (name in FAILED[tool])


@pytest.mark.parametrize("tool", ADAPTERS)
def test_what_a_tool_does_not_know_is_what_was_asked_for(tool: str) -> None:
    """A source of a fork counts as well; another conversation does not, nor does a new one, whatever the tool says."""
    assert replay(tool, "resume-unknown", fork_of=UNKNOWN[tool]).error_kind == (
        "unknown_conversation" if tool != "gemini-cli" else "invalid_request"  # which cannot fork
    )
    assert replay(tool, "resume-unknown", provider_session_id=FRESH).error_kind != "unknown_conversation"
    assert replay(tool, "resume-unknown", fork_of=None).error_kind != "unknown_conversation"


@pytest.mark.parametrize("tool", ADAPTERS)
def test_every_failure_expected_was_recorded(tool: str) -> None:
    """A recording that is renamed must not leave its expectation behind."""
    assert FAILED[tool].keys() <= recordings(tool).keys()


@pytest.mark.parametrize(("tool", "name"), ALL)
def test_every_recording_is_understood(tool: str, name: str) -> None:
    """One session at most is bound, every call that ended had begun, and the usage told last is that of the turn."""
    recording = recordings(tool)[name]
    updates, outcome = judge(
        ADAPTERS[tool].decoder(make_request(new_provider_id=session_of(recording) or FRESH)), recording
    )
    assert [data["provider_session_id"] for data in only(updates, "session_bound")] in ([], [session_of(recording)])
    begun = {data["id"] for data in only(updates, "tool_call")}
    assert {data["id"] for data in only(updates, "tool_call_update")} <= begun
    told = only(updates, "usage")
    assert told[-1:] == ([outcome.usage.to_dict()] if outcome.usage else [])
    assert told == sorted(told, key=lambda used: (used["input_tokens"], used["output_tokens"]))  # sums so far


@pytest.mark.parametrize(
    ("tool", "name", "text"),
    [
        ("codex", "new-text", "MOCK ECHO: Say hello.\n [users=1]"),
        ("codex", "parallel-tools", "Both ran."),
        ("codex", "subagent", "parent answer"),
        ("claude-code", "subagent", "The sub-agent answered."),
        ("claude-code", "background", "waiting"),
        ("claude-code", "orphans", "did the second"),
        ("claude-code", "partial-messages", "MOCK ECHO: Say hello again. [users=1]"),
        ("claude-code", "retry-cut", "a text that is cut once, then whole"),
        ("gemini-cli", "new-text", "MOCK ECHO: Say hello. [users=1]"),
        ("gemini-cli", "parallel-tools", "Both ran."),
        ("gemini-cli", "hook-asks-for-more", "second answer"),
        ("gemini-cli", "retry-cut", "an answer threcovered"),
        ("opencode", "new-text", "MOCK ECHO: Say hello. [users=1]"),
        ("opencode", "parallel", "Both ran."),
        ("opencode", "subagent", "The sub-agent answered."),
        ("opencode", "background", "It is found."),
        ("opencode", "retry", "recovered"),
        ("opencode", "run-tool-call", "It is the project."),
    ],
)
def test_the_answer_of_a_recording(tool: str, name: str, text: str) -> None:
    """The last message of the agent itself, whole and once."""
    assert replay(tool, name).text == text


def test_codex_resume_of_a_non_uuid_is_a_fault_when_another_id_was_asked_for() -> None:
    """The recorded run exits 0 on a brand-new thread."""
    read = CodexAdapter().decoder(make_request(provider_session_id=THREAD))
    outcome = judge(read, recordings("codex")["resume-not-a-uuid"])[1]
    assert read.fault is not None
    assert outcome.error_kind == "protocol"


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("claude-code", "permission-denied"),
        ("codex", "mcp-tool-denied"),
        ("gemini-cli", "permission-denied"),
        ("opencode", "permission-denied"),
        ("opencode", "outside"),
    ],
)
def test_denied_tools_of_a_recording_are_listed(tool: str, name: str) -> None:
    """All exit 0."""
    outcome = replay(tool, name)
    assert outcome.succeeded
    assert len(outcome.denied) == 1


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("background", Usage(3400, 190, 600, 0.01512)),  # three results
        ("background-agent", Usage(4300, 220, 700, 0.01894)),  # two, of which the first states all
        ("orphans", Usage(200, 20, 0, 0.0012)),
    ],
)
def test_claudes_usage_is_what_the_provider_counted(name: str, usage: Usage) -> None:
    """The recorded provider gave these numbers, of sub-agents too; a resume of unknown costs knows its own."""
    assert replay("claude-code", name).usage == usage
