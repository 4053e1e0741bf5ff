"""The decoder of an ACP run, fed with what the bridge writes of real agents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from csa_adapters.acp import AcpAdapter
from csa_adapters.acp_stream import AcpDecoder
from hypothesis import given
from hypothesis import strategies as st

from csa.model.adapter import Decoder, Outcome, ToolExit, Update
from tests.unit.adapters.support import EXIT_0, EXIT_1, feed_all, line, make_request, only, types_of

SESSION = "01a1f8d1-0927-7400-9e7b-78153bcfe995"
BOUND = line(type="session", session_id=SESSION, how="new", replayed=0)
END = line(type="finished", result={"stopReason": "end_turn"})


def decode(*lines: bytes, end: ToolExit = EXIT_0, **request: Any) -> tuple[list[Update], Outcome]:
    decoder: Decoder = AcpAdapter("goose").decoder(make_request(**request))
    return feed_all(decoder, lines), decoder.close(end)


def update(kind: str, /, **fields: Any) -> bytes:
    return line(type="update", update={"sessionUpdate": kind, **fields})


def said(text: str, **fields: Any) -> bytes:
    return update("agent_message_chunk", content={"type": "text", "text": text}, **fields)


def failed(**fields: Any) -> bytes:
    return line(type="failed", **fields)


def test_a_turn_that_succeeds() -> None:
    """The session is bound, the chunks are told as chunks, and the answer is the last message, whole."""
    updates, outcome = decode(
        line(type="agent", info={"name": "x"}, capabilities={}),
        BOUND,
        said("Warning: odd model\n"),
        said("Hel", messageId="m1"),
        said("lo.", messageId="m1"),
        END,
    )
    assert types_of(updates) == ["session_bound", "agent_message", "agent_message", "agent_message"]
    assert updates[0].data == {"provider_session_id": SESSION}
    assert updates[1].data == {"text": "Warning: odd model\n", "chunk": True}
    assert (outcome.succeeded, outcome.text, outcome.stop_reason) == (True, "Hello.", "end_turn")


def test_a_message_ends_where_something_else_begins() -> None:
    """Without ids, a tool call or a thought stands between two messages."""
    call = update("tool_call", toolCallId="c", title="ls", kind="execute", status="completed")
    thought = update("agent_thought_chunk", content={"type": "text", "text": "hm"})
    for between in (call, thought):
        assert decode(BOUND, said("first"), between, said("se"), said("cond"), END)[1].text == "second"


def test_output_of_a_running_call_ends_no_message() -> None:
    """It comes between two chunks; only a new call begins another message, and so does no call that is repeated."""
    call = update("tool_call", toolCallId="c", title="make", kind="execute", status="in_progress")
    more = update("tool_call_update", toolCallId="c", status="in_progress", content=_text("x"))
    end = update("tool_call_update", toolCallId="c", status="completed", content=_text("xy"))
    assert decode(BOUND, call, said("in "), more, said("two "), call, said("par"), end, said("ts"), END)[1].text == (
        "in two parts"
    )
    new = update("tool_call_update", toolCallId="d", title="ls", status="completed")
    assert decode(BOUND, call, said("first"), new, said("second"), END)[1].text == "second"


def test_a_message_id_says_what_belongs_together() -> None:
    """Whatever stands between its chunks."""
    call = update("tool_call", toolCallId="c", title="ls", kind="execute", status="completed")
    assert decode(BOUND, said("a", messageId="m"), call, said("b", messageId="m"), END)[1].text == "ab"


@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
def test_a_blank_message_replaces_none(blank: str) -> None:
    """The answer is the last one with text, and a blank chunk in it is part of it."""
    call = update("tool_call", toolCallId="c", title="ls", kind="execute", status="completed")
    assert decode(BOUND, said("the answer"), call, said(blank), END)[1].text == "the answer"
    assert decode(BOUND, said("a"), call, said(blank), said("b"), END)[1].text == f"{blank}b"
    assert decode(BOUND, said(blank), END)[1].text == ""


def test_what_is_no_message_is_kept() -> None:
    """Nothing a tool writes is dropped."""
    updates, outcome = decode(BOUND, line(type="stray", text="a banner"), said("x"), END)
    assert only(updates, "other") == [{"raw": "a banner"}]
    assert outcome.text == "x"


def test_money_is_told_while_it_is_spent() -> None:
    """As the turn's total, each time it grows; it stays when the agent tells no tokens."""
    spend = [update("usage_update", used=1, size=2, cost={"amount": cost, "currency": "USD"}) for cost in (0.5, 0.5, 1)]
    updates, outcome = decode(BOUND, *spend, END, provider_session_id=SESSION, previous_totals={"cost_usd": 0.25})
    assert [found["cost_usd"] for found in only(updates, "usage")] == [0.25, 0.75, 0.75]
    assert outcome.usage
    assert outcome.usage.cost_usd == 0.75


def test_an_error_of_json_rpc_is_not_always_about_authentication() -> None:
    """-32000 is that in the protocol, and any server's error in JSON-RPC: its words say more."""
    for message, kind in (
        ("Authentication required", "auth"),
        ("Rate limit exceeded", "rate_limit"),
        ("You have used up your quota: 429", "quota"),
        ("Something", "auth"),
    ):
        assert decode(BOUND, failed(stage="prompt", code=-32000, message=message))[1].error_kind == kind


def test_a_call_is_told_when_it_is_known_what_it_is() -> None:
    """opencode announces `bash`, names the command next, and repeats the output with every line of it."""
    updates, _ = decode(
        BOUND,
        update("tool_call", toolCallId="c", title="bash", kind="execute", status="pending", rawInput={}),
        update("tool_call_update", toolCallId="c", title="ls; pwd", kind="execute", status="in_progress"),
        update("tool_call_update", toolCallId="c", title="ls; pwd", status="in_progress", content=_text("a\n")),
        update(
            "tool_call_update",
            toolCallId="c",
            status="completed",
            content=_text("a\nb\n"),
            rawOutput={"output": "a\nb\n", "metadata": {"exit": 0}},
        ),
        END,
    )
    assert [(found.type, found.data) for found in updates[1:]] == [
        ("tool_call", {"id": "c", "title": "ls; pwd", "kind": "execute", "status": "in_progress"}),
        ("tool_call_update", {"id": "c", "status": "completed", "content": "a\nb\n", "exit_code": 0}),
    ]


def test_output_that_comes_in_pieces_is_told_in_pieces() -> None:
    """codex-acp has terminals of its own, and sends what they have printed since."""
    terminal = [{"type": "terminal", "terminalId": "c"}]
    first, last = {"terminal_output": {"data": "one\n"}}, {"terminal_output": {"data": "two\n"}}
    updates, _ = decode(
        BOUND,
        update("tool_call", toolCallId="c", title="make", kind="execute", status="in_progress", content=terminal),
        update("tool_call_update", toolCallId="c", _meta=first),
        update("tool_call_update", toolCallId="c", status="failed", _meta={**last, "terminal_exit": {"exit_code": 2}}),
        END,
    )
    assert only(updates, "tool_call_update") == [
        {"id": "c", "status": "in_progress", "content": "one\n"},
        {"id": "c", "status": "failed", "content": "two\n", "exit_code": 2},
    ]


def test_calls_without_beginning_or_end() -> None:
    """An update of an unknown call makes one; a call that never ended is told at the end, with its output so far."""
    updates, _ = decode(
        BOUND,
        update("tool_call_update", toolCallId="a", title="Fetch x", kind="fetch", status="completed"),
        update("tool_call", toolCallId="b", title="Think", kind="strange", status="pending"),
        update("tool_call", toolCallId="c", title="make", kind="execute", status="in_progress"),
        update("tool_call_update", toolCallId="c", content=_text("half")),
        END,
    )
    assert [(found["id"], found["kind"]) for found in only(updates, "tool_call")] == [
        ("a", "fetch"),
        ("c", "execute"),
        ("b", "other"),
    ]
    assert only(updates, "tool_call_update")[-1] == {"id": "c", "status": "in_progress", "content": "half"}


def test_edits_name_their_files() -> None:
    """Of a diff, the transcript has which file was added or changed."""
    changes = [
        {"type": "diff", "path": "/p/new", "oldText": None, "newText": "x"},
        {"type": "diff", "path": "/p/old", "oldText": "y", "newText": "x"},
    ]
    call = update("tool_call", toolCallId="c", title="Edit", kind="edit", status="completed", content=changes)
    updates, _ = decode(BOUND, call, END)
    assert only(updates, "tool_call_update")[0]["content"] == "add /p/new\nupdate /p/old"


def test_permissions_are_recorded() -> None:
    """What was allowed and what was denied; a call that was announced is told before."""
    updates, outcome = decode(
        BOUND,
        update("tool_call", toolCallId="c", title="bash", kind="execute", status="pending"),
        line(type="permission", tool_call={"toolCallId": "c", "title": "rm x"}, allowed=False, option="n"),
        line(type="permission", tool_call={"toolCallId": "d", "title": "csa run"}, allowed=True, option="y"),
        said("I could not."),
        END,
    )
    assert types_of(updates)[1:4] == ["tool_call", "permission", "permission"]
    assert [found["status"] for found in only(updates, "permission")] == ["denied", "allowed"]
    assert (outcome.succeeded, outcome.denied) == (True, ("rm x",))


def test_an_end_without_a_word_after_a_denial_is_no_success() -> None:
    """opencode stops where it is denied something, and calls that the end of the turn."""
    denial = line(type="permission", tool_call={"toolCallId": "c", "title": "rm x"}, allowed=False, option="n")
    refused = update("tool_call_update", toolCallId="c", status="failed", content=_text("rejected"))
    _, outcome = decode(BOUND, said("I will."), denial, refused, END)
    assert (outcome.succeeded, outcome.error_kind, outcome.denied) == (False, "permission", ("rm x",))
    went_on = update("tool_call", toolCallId="d", title="ls", kind="search", status="completed")
    done = update("tool_call_update", toolCallId="d", status="completed")
    assert decode(BOUND, denial, refused, went_on, done, END)[1].succeeded


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"inputTokens": 80, "cachedReadTokens": 20, "outputTokens": 10, "totalTokens": 110}, (100, 10, 20)),
        ({"inputTokens": 100, "cachedReadTokens": 20, "outputTokens": 10, "totalTokens": 110}, (100, 10, 20)),
        ({"inputTokens": 100, "outputTokens": 10, "thoughtTokens": 5, "totalTokens": 115}, (100, 15, 0)),
        ({"inputTokens": 100, "outputTokens": 10, "thoughtTokens": 5, "totalTokens": 110}, (100, 10, 0)),
        ({"inputTokens": 100, "outputTokens": 10, "thoughtTokens": 5}, (100, 15, 0)),
        (
            {"inputTokens": 90, "cachedReadTokens": 20, "outputTokens": 10, "thoughtTokens": 40, "totalTokens": 140},
            (90, 50, 20),
        ),
        ({"inputTokens": 5, "cachedWriteTokens": 50, "outputTokens": 1, "totalTokens": 56}, (55, 1, 0)),
    ],
)
def test_usage_counts_cached_input(result: dict[str, int], expected: tuple[int, int, int]) -> None:
    """Whether the agent tells the cached tokens apart or not, its total shows."""
    updates, outcome = decode(BOUND, line(type="finished", result={"stopReason": "end_turn", "usage": result}))
    assert outcome.usage
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.usage.cached_tokens) == expected
    assert only(updates, "usage")[0]["input_tokens"] == expected[0]


def test_usage_of_gemini_and_of_none() -> None:
    """gemini tells it beside the protocol; an agent that tells nothing has used nothing we know."""
    counts = {"token_count": {"input_tokens": 7, "output_tokens": 3}}
    told = decode(BOUND, line(type="finished", result={"stopReason": "end_turn", "_meta": {"quota": counts}}))[1].usage
    assert told
    assert (told.input_tokens, told.output_tokens) == (7, 3)
    assert decode(BOUND, END)[1].usage is None


def test_cost_is_of_the_turn() -> None:
    """Agents tell the whole conversation's; without a known beginning there is none of this turn."""
    cost = update("usage_update", used=1, size=2, cost={"amount": 0.5, "currency": "USD"})
    end = line(type="finished", result={"stopReason": "end_turn", "usage": {"inputTokens": 1}})
    spent = []
    for request in ({}, {"previous_totals": {"cost_usd": 0.2}}, {"previous_totals": None}):
        resumed: dict[str, Any] = {"provider_session_id": SESSION, **request} if request else {}
        outcome = decode(BOUND, cost, end, **resumed)[1]
        assert outcome.usage
        assert outcome.totals == {"cost_usd": 0.5}
        spent.append(outcome.usage.cost_usd)
    assert spent == [0.5, 0.3, None]


def test_totals_of_the_tools_own_adapter_become_stale() -> None:
    """codex counts a thread's tokens; after a turn by another way those are unknown, and must not be subtracted."""
    known = {"input_tokens": 5.0, "cached_tokens": 0.0, "output_tokens": 1.0}
    assert decode(BOUND, END, provider_session_id=SESSION, previous_totals=known)[1].totals == {}
    assert decode(BOUND, END)[1].totals is None


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("max_tokens", "context_overflow"),
        ("max_turn_requests", "internal"),
        ("refusal", "invalid_request"),
        ("cancelled", "internal"),
        ("brand_new", "protocol"),
        (None, "protocol"),
    ],
)
def test_only_an_end_of_turn_is_a_success(reason: str | None, kind: str) -> None:
    """Whatever else stops the agent is a failure of its kind."""
    _, outcome = decode(BOUND, said("x"), line(type="finished", result={"stopReason": reason}))
    assert (outcome.succeeded, outcome.error_kind) == (False, kind)
    assert outcome.error_message


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"code": -32000, "message": "Authentication required"}, "auth", "Authentication required"),
        ({"code": 401, "message": "mock 401"}, "auth", "mock 401"),
        ({"code": 429, "message": "slow down"}, "rate_limit", "slow down"),
        ({"code": 500, "message": "mock 404"}, "invalid_request", "mock 404"),
        ({"code": 500, "message": "oops"}, "server", "oops"),
        ({"code": -32603, "message": "Oops: mock failure 401", "data": {"errorName": "APIError"}}, "auth", "401"),
        ({"code": -32603, "message": "Internal error", "data": {"statusCode": 503}}, "overloaded", "Internal error"),
        ({"code": -32603, "message": "Internal error", "data": {"details": "fetch failed"}}, "network", "fetch failed"),
        ({"code": -32603, "message": "Internal error", "data": {"details": "quota exceeded (429)"}}, "quota", "quota"),
        ({"code": -32603, "message": "Internal error", "data": "prompt is too long"}, "context_overflow", "too long"),
        ({"code": -32002, "message": "Resource not found", "stage": "session"}, "invalid_request", "Resource"),
        (
            {"code": -32603, "message": "Internal error", "data": {"details": "no rollout found"}, "stage": "session"},
            "invalid_request",
            "no rollout found",
        ),
        ({"code": -32603, "message": "OpenCode service failure", "stage": "session"}, "invalid_request", "service"),
        ({"code": -32602, "message": "Invalid params", "stage": "settings"}, "invalid_request", "Invalid params"),
        ({"code": -32601, "message": "Method not found"}, "protocol", "Method not found"),
        ({"code": -32603, "message": "Internal error"}, "internal", "Internal error"),
        ({"kind": "spawn", "message": "cannot start x: No such file"}, "spawn", "cannot start"),
        ({"kind": "unsupported", "message": "no command /x"}, "invalid_request", "no command"),
        ({"kind": "forgetful", "message": "neither resume nor load"}, "unknown_conversation", "neither"),
        ({"kind": "protocol", "message": "version 2"}, "protocol", "version 2"),
        ({"message": "the agent exited with 3 during session/prompt", "exit": 3}, "internal", "exited with 3"),
        ({}, "internal", "without giving a reason"),
    ],
)  # fmt: skip
def test_what_an_error_means(fields: dict[str, Any], kind: str, words: str) -> None:
    """Codes, statuses and details, wherever the agent puts them."""
    updates, outcome = decode(BOUND, failed(**fields), end=EXIT_1)
    assert (outcome.succeeded, outcome.error_kind) == (False, kind)
    assert words in str(outcome.error_message)
    assert only(updates, "error") == [{"kind": kind, "message": outcome.error_message}]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"code": -32002, "message": "Resource not found"}, "unknown_conversation"),
        (
            {"code": -32603, "message": "x", "data": {"details": "no rollout found for thread id 1"}},
            "unknown_conversation",
        ),
        (
            {"code": -32603, "message": "x", "data": {"details": 'Invalid session identifier "1".'}},
            "unknown_conversation",
        ),
        ({"code": -32602, "message": "Session ses_1 not found"}, "unknown_conversation"),
        ({"code": -32603, "message": "service failure", "listed": False}, "unknown_conversation"),
        ({"code": -32603, "message": "service failure", "listed": True}, "invalid_request"),
        ({"code": -32603, "message": "service failure"}, "invalid_request"),
        ({"code": -32603, "message": "session 1 failed: model x not found"}, "invalid_request"),
        ({"code": -32002, "message": "Resource not found", "listed": True}, "invalid_request"),
        ({"code": -32601, "message": "session/resume: method not found"}, "protocol"),
        ({"code": -32000, "message": "Authentication required: no session found", "listed": False}, "auth"),
        ({"code": -32603, "message": "fetch failed", "listed": False}, "network"),
        ({"code": -32002, "message": "Resource not found", "stage": "prompt"}, "invalid_request"),
    ],
)
def test_a_session_that_the_agent_does_not_have(fields: dict[str, Any], kind: str) -> None:
    """It says so by the code, in words, or by what it lists; only where the session was asked for."""
    said_so = failed(**{"stage": "session", **fields})
    assert decode(said_so, end=EXIT_1, provider_session_id="1")[1].error_kind == kind
    assert decode(said_so, end=EXIT_1)[1].error_kind != "unknown_conversation"


def test_an_agent_that_ends_by_itself_has_told_why_on_stderr() -> None:
    """There its reason stands, and what kind it is of; where the agent has answered, stderr is noise."""
    end = ToolExit(1, None, "starting\nError: not logged in, run goose configure\n    at x\n")
    gone = failed(message="the agent exited with 1 during initialize", exit=1)
    outcome = decode(gone, end=end)[1]
    assert outcome.error_kind == "auth"
    assert outcome.error_message == "the agent exited with 1 during initialize: not logged in, run goose configure"
    answered = decode(failed(code=500, message="oops"), end=end)[1]
    assert (answered.error_kind, answered.error_message) == ("server", "oops")


def _session_failure(severity: str, category: str, title: str) -> dict[str, Any]:
    failure = {"id": "f", "category": category, "severity": severity, "title": title}
    return {"jetbrains": {"air": {"version": 1, "sessionFailure": failure}}}


@pytest.mark.parametrize(
    ("category", "title", "kind"),
    [
        ("limit", "exceeded retry limit, last status: 429 Too Many Requests", "rate_limit"),
        ("limit", "Codex ran out of room in the model's context window.", "context_overflow"),
        ("limit", "no more", "rate_limit"),
        ("service", "We're currently experiencing high demand", "server"),
        ("connection", "gone", "network"),
        ("access", "who are you", "auth"),
        ("request", "no", "invalid_request"),
        ("brand_new", "odd", "internal"),
    ],
)
def test_a_failure_that_calls_itself_an_end(category: str, title: str, kind: str) -> None:
    """codex-acp ends a turn whose provider failed with `end_turn`, and a failure beside it."""
    result = {"stopReason": "end_turn", "usage": None, "_meta": _session_failure("error", category, title)}
    _, outcome = decode(BOUND, line(type="finished", result=result), end=EXIT_0)
    assert (outcome.succeeded, outcome.error_kind, outcome.error_message) == (False, kind, title)


def test_retries_and_notices() -> None:
    """codex-acp's warnings are no message of the agent, and its retries are counted."""
    retry = _session_failure("warning", "connection", "Reconnecting... 2/5")
    updates, outcome = decode(
        BOUND,
        update("notice", severity="warning", title="Odd model", description="be careful"),
        update("session_info_update", _meta=retry),
        update("session_info_update", title="A title"),
        update("compaction_update", compactionId="c", status="in_progress"),
        update("compaction_update", compactionId="c", status="completed"),
        update("compaction_update", compactionId="d", status="failed"),
        END,
    )
    assert types_of(updates)[1:] == ["warning", "retry", "compaction", "warning"]
    assert updates[1].data == {"message": "Odd model: be careful"}
    assert updates[2].data == {"kind": "network", "message": "Reconnecting... 2/5", "attempt": 2, "max": 5}
    assert outcome.succeeded


def test_plans_and_what_is_not_the_transcripts() -> None:
    """A plan is told; commands, modes, options and the echo of the prompt are not; the unknown is kept."""
    entries = [{"content": "a", "status": "in_progress", "priority": "high"}, {"content": "b", "status": "odd"}, 7]
    silent = ["user_message_chunk", "available_commands_update", "current_mode_update", "config_option_update"]
    updates, _ = decode(BOUND, update("plan", entries=entries), *map(update, silent), update("brand_new", x=1), END)
    assert types_of(updates) == ["session_bound", "plan", "other"]
    assert updates[1].data["entries"] == [
        {"content": "a", "status": "in_progress"},
        {"content": "b", "status": "pending"},
    ]


def test_another_sessions_updates_are_not_ours() -> None:
    """What a sub-agent says in a session of its own is kept, and is not the answer."""
    foreign = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "psst"}}
    updates, outcome = decode(BOUND, said("mine"), line(type="update", session_id="sub", update=foreign), END)
    assert types_of(updates) == ["session_bound", "agent_message", "other"]
    assert outcome.text == "mine"


def test_another_conversation_than_asked_for_is_a_fault() -> None:
    """The run is stopped at once."""
    decoder = AcpDecoder(make_request(provider_session_id="asked"))
    feed_all(decoder, [BOUND])
    assert decoder.fault
    assert decoder.close(EXIT_0).error_kind == "protocol"


def test_an_end_that_was_not_announced() -> None:
    """A bridge that died is judged by how; a success with a failing exit is none."""
    assert decode(BOUND, end=ToolExit(None, 9))[1].error_kind == "internal"
    assert decode(BOUND, end=EXIT_1)[1].error_kind == "protocol"
    assert decode(BOUND, END, end=EXIT_1)[1].error_kind == "internal"
    assert decode(BOUND, END, end=ToolExit(None, None))[1].succeeded


def test_is_finished() -> None:
    """Set by the last line alone."""
    for last in (END, failed(message="x")):
        decoder = AcpDecoder(make_request())
        feed_all(decoder, [BOUND, said("x")])
        assert not decoder.is_finished
        feed_all(decoder, [last])
        assert decoder.is_finished


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "content", "content": {"type": "text", "text": text}}]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["completed", "text", "c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KINDS = [
    "agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan", "usage_update", "notice",
    "session_info_update", "compaction_update",
]  # fmt: skip
KEYS = [
    "toolCallId", "title", "kind", "status", "content", "rawOutput", "rawInput", "entries", "cost", "messageId",
    "_meta",
]  # fmt: skip
UPDATES = st.fixed_dictionaries({"sessionUpdate": st.sampled_from(KINDS)}, optional=dict.fromkeys(KEYS, VALUES))
LINES = st.one_of(
    st.builds(lambda found: {"type": "update", "update": found}, UPDATES),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["session", "permission", "notice", "finished", "failed", "brand_new"]) | VALUES},
        optional=dict.fromkeys(
            ["session_id", "tool_call", "allowed", "message", "result", "code", "data", "stage", "kind", "update"],
            VALUES,
        ),
    ),
)


@given(lines=st.lists(LINES, max_size=6), code=st.none() | st.integers(0, 255))
def test_no_line_makes_the_decoder_raise(lines: list[dict[str, Any]], code: int | None) -> None:
    """Nor say what cannot be stored; an outcome is a success or has a reason."""
    decoder = AcpDecoder(make_request())
    updates = feed_all(decoder, [json.dumps(found).encode() for found in lines])
    json.dumps([found.data for found in updates], ensure_ascii=False, allow_nan=False).encode()
    outcome = decoder.close(ToolExit(code, None))
    assert outcome.succeeded is (outcome.error_kind is None)
    assert outcome.succeeded or outcome.error_message
    json.dumps([outcome.totals, outcome.text, outcome.denied], ensure_ascii=False, allow_nan=False).encode()


def test_thoughts_and_notices_are_told() -> None:
    """Thoughts in chunks, as messages are; what the bridge has to say as a warning."""
    thought = update("agent_thought_chunk", content={"type": "text", "text": "hm"})
    empty = update("agent_thought_chunk", content={"type": "text", "text": ""})
    updates, _ = decode(BOUND, thought, empty, line(type="notice", message="no mode"), said("done"), END)
    assert only(updates, "agent_thought") == [{"text": "hm", "chunk": True}]
    assert [data["message"] for data in only(updates, "warning")] == ["no mode"]
