"""What csa makes of the bridge's lines, and of `opencode run --format json`."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.opencode_stream import OpencodeDecoder

from csa.model.adapter import ToolExit
from csa.model.usage import Usage
from tests.unit.adapters.support import EXIT_0, EXIT_1, feed_all, line, make_request, only, types_of

SESSION = "ses_e0732aa96ffeK2K4Q3cO4JZASX"
OTHER = "ses_e0724e402ffe10ZLZYHtSsCrdR"
TOKENS = {"total": 147, "input": 100, "output": 7, "reasoning": 3, "cache": {"write": 7, "read": 30}}


def decoder(**fields: Any) -> OpencodeDecoder:
    return OpencodeDecoder(make_request(**fields))


def said(kind: str, **fields: Any) -> bytes:
    return line(**{"type": kind, "timestamp": 1, "sessionID": SESSION, **fields})


def session() -> bytes:
    return said("session", directory="/project", version="1.18.33")


def text(words: str, message: str = "msg_1") -> bytes:
    return said("text", part={"type": "text", "text": words, "messageID": message})


def finish(reason: str = "stop", **fields: Any) -> bytes:
    part = {"type": "step-finish", "reason": reason, "tokens": TOKENS, "cost": 0.25}
    return said("step_finish", **{"part": part, **fields})


def tool(status: str, name: str = "bash", **state: Any) -> bytes:
    held = {"status": status, "input": {"command": "ls"}, **state}
    return said("tool_use", part={"type": "tool", "tool": name, "callID": "call_1", "state": held})


def error(name: str, **data: Any) -> bytes:
    return said("error", error={"name": name, "data": data})


def test_success_is_a_last_step_that_stopped_and_exit_0() -> None:
    """The id is told once, before anything else."""
    read = decoder()
    updates = feed_all(read, [session(), said("step_start", part={}), text("done"), finish()])
    assert types_of(updates) == ["session_bound", "agent_message", "usage"]
    assert updates[0].data == {"provider_session_id": SESSION}
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.text, outcome.stop_reason) == (True, "done", "stop")


@pytest.mark.parametrize("end", [EXIT_1, ToolExit(143, None), ToolExit(None, 9)])
def test_a_good_step_with_a_bad_exit_is_no_success(end: ToolExit) -> None:
    """There is no line that ends a turn, so the exit must agree."""
    read = decoder()
    feed_all(read, [session(), finish()])
    assert not read.close(end).succeeded


def test_a_step_that_stopped_does_not_finish_the_turn() -> None:
    """After a compaction opencode goes on by itself; csa must not reap it."""
    read = decoder()
    feed_all(read, [session(), finish()])
    assert not read.is_finished


@pytest.mark.parametrize("lines", [[], [session()], [session(), finish("tool-calls")]])
def test_exit_0_without_a_stop_is_a_failure(lines: list[bytes]) -> None:
    """As `run --attach` without --dir ends: with exit 0 and nothing said."""
    read = decoder()
    feed_all(read, lines)
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind) == (False, "protocol")
    assert outcome.error_message


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("length", "context_overflow"),
        ("content-filter", "invalid_request"),
        ("unknown", "protocol"),
        ("error", "protocol"),
        ("tool-calls", "protocol"),
    ],
)
def test_an_answer_that_was_broken_off_is_a_failure(reason: str, kind: str) -> None:
    """The last step's reason says why, in opencode's word; the text so far is kept."""
    read = decoder()
    feed_all(read, [session(), text("so f"), finish(reason)])
    outcome = read.close(EXIT_1)
    assert (outcome.error_kind, outcome.text, outcome.stop_reason) == (kind, "so f", reason)
    assert reason in (outcome.error_message or "")


@pytest.mark.parametrize("asked", [None, SESSION])
def test_a_line_of_another_session_stops_the_run(asked: str | None) -> None:
    """The id asked for binds, else the first one named."""
    read = decoder(provider_session_id=asked)
    feed_all(read, [session()])
    assert not read.fault
    assert types_of(read.feed(said("text", sessionID=OTHER, part={"text": "hi"}))) == ["error"]
    assert read.fault is not None
    feed_all(read, [text("hi"), finish()])
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind, outcome.text) == (False, "protocol", "")


def test_a_resume_that_runs_another_session_is_never_bound() -> None:
    """A resume that found another conversation."""
    read = decoder(provider_session_id=OTHER)
    assert types_of(read.feed(session())) == ["error"]


def test_only_the_lines_own_id_counts() -> None:
    """Parts name sessions too, and a tool may print anything."""
    read = decoder()
    held = {"sessionID": OTHER, "output": f'{{"sessionID":"{OTHER}"}}'}
    feed_all(read, [session(), tool("completed", metadata={"exit": 0}, **held), finish()])
    assert read.fault is None


def test_the_answer_is_the_text_of_the_last_message_that_had_any() -> None:
    """A message may have several blocks."""
    read = decoder()
    feed_all(read, [session(), text("first"), text("one", "msg_2"), text("two", "msg_2"), finish()])
    assert read.close(EXIT_0).text == "one\ntwo"


def test_usage_is_the_sum_of_steps_with_the_cached_and_the_reasoning() -> None:
    """`input` lacks what was cached, `output` what was thought; each step tells the sum so far."""
    read = decoder()
    updates = feed_all(read, [session(), finish("tool-calls"), finish()])
    assert [data["input_tokens"] for data in only(updates, "usage")] == [137, 274]
    assert read.close(EXIT_0).usage == Usage(274, 20, 60, 0.5)


def test_a_sub_agents_steps_count_and_decide_nothing() -> None:
    """Their usage is the turn's, which is told as it grows; how they end is theirs."""
    read = decoder()
    inner = finish("length", child=OTHER)
    updates = feed_all(read, [session(), finish("tool-calls"), inner, text("done"), finish()])
    assert [data["input_tokens"] for data in only(updates, "usage")] == [137, 274, 411]
    assert [data["cost_usd"] for data in only(updates, "usage")] == [0.25, 0.5, 0.75]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.stop_reason, outcome.text) == (True, "stop", "done")


def test_a_sub_agents_step_overcomes_no_error() -> None:
    """It may end after the session's own last one."""
    read = decoder()
    feed_all(read, [session(), error("APIError", message="no", statusCode=400), finish(child=OTHER)])
    assert read.close(EXIT_1).error_kind == "invalid_request"


def test_a_price_of_nothing_is_no_price() -> None:
    """opencode says 0 of a model whose price it does not know."""
    read = decoder()
    feed_all(read, [session(), finish(part={"reason": "stop", "tokens": TOKENS, "cost": 0})])
    usage = read.close(EXIT_0).usage
    assert usage is not None
    assert usage.cost_usd is None


def test_a_tool_is_told_when_it_starts_and_when_it_ends() -> None:
    """The bridge tells both, `run` only the end."""
    read = decoder()
    begun = feed_all(read, [session(), tool("running")])
    ended = read.feed(tool("completed", output="a\n", metadata={"exit": 0}))
    assert only(begun, "tool_call") == [{"id": "call_1", "title": "ls", "kind": "execute", "status": "in_progress"}]
    assert [update.data for update in ended] == [
        {"id": "call_1", "status": "completed", "content": "a\n", "exit_code": 0}
    ]
    of_run = decoder().feed(tool("completed", output="a\n"))
    assert types_of(of_run) == ["session_bound", "tool_call", "tool_call_update"]


def test_a_failed_command_is_failed() -> None:
    """opencode calls it completed."""
    read = decoder()
    (data,) = only(read.feed(tool("completed", output="no", metadata={"exit": 2})), "tool_call_update")
    assert (data["status"], data["exit_code"]) == ("failed", 2)


@pytest.mark.parametrize(
    "problem",
    [
        "The user has specified a rule which prevents you from using this specific tool call. Here are some rules []",
        "The user rejected permission to use this specific tool call.",
        "The user rejected permission to use this specific tool call with the following feedback: no",
    ],
)
def test_a_refused_call_is_denied(problem: str) -> None:
    """The turn succeeds nevertheless; `run` exits 0."""
    read = decoder()
    updates = feed_all(read, [session(), tool("running"), tool("error", error=problem), finish()])
    assert only(updates, "permission") == [{"id": "call_1", "title": "ls", "status": "denied"}]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.denied) == (True, ("ls",))


def test_a_call_the_bridge_refused_is_denied_once() -> None:
    """The request and the end of the call both tell."""
    read = decoder()
    refusal = said("permission", permission="external_directory", patterns=["/etc/*"], tool={"callID": "call_1"})
    feed_all(read, [session(), refusal, tool("error", error="The user rejected permission to use this ...")])
    assert read.close(EXIT_1).denied == ("external_directory /etc/*",)


def test_a_tools_own_error_is_no_refusal() -> None:
    """Also when it writes about permission."""
    read = decoder()
    feed_all(read, [session(), tool("error", error="EACCES: permission denied"), finish()])
    assert read.close(EXIT_0).denied == ()


def test_a_plan_is_a_plan() -> None:
    """Told when it was taken."""
    todos = [{"content": "Look", "status": "completed"}, {"content": "Write", "status": "odd"}]
    read = decoder()
    updates = feed_all(read, [tool(status, "todowrite", input={"todos": todos}) for status in ("running", "completed")])
    assert types_of(updates) == ["session_bound", "plan"]
    assert [entry["status"] for entry in updates[1].data["entries"]] == ["completed", "pending"]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("APIError", {"message": "no", "statusCode": 401}, "auth"),
        ("APIError", {"message": "no", "statusCode": 403}, "auth"),
        ("APIError", {"message": "no", "statusCode": 404}, "invalid_request"),
        ("APIError", {"message": "no", "statusCode": 429}, "rate_limit"),
        ("APIError", {"message": "You exceeded your current quota", "statusCode": 429}, "quota"),
        ("APIError", {"message": "no", "statusCode": 429, "responseBody": '{"code":"insufficient_quota"}'}, "quota"),
        ("APIError", {"message": "no", "statusCode": 500}, "server"),
        ("APIError", {"message": "no", "statusCode": 503}, "overloaded"),
        ("APIError", {"message": "Cannot connect to API: Unable to connect."}, "network"),
        ("ProviderAuthError", {"message": "no"}, "auth"),
        ("ContextOverflowError", {"message": "too much"}, "context_overflow"),
        ("NotFoundError", {"message": "Session not found: ses_x"}, "invalid_request"),
        ("UnknownError", {"message": "Model not found: mock/none."}, "invalid_request"),
        ("UnknownError", {"message": 'Agent not found: "none".'}, "invalid_request"),
        ("UnknownError", {"message": "odd"}, "internal"),
        ("ServerStartError", {"message": "opencode's server did not start"}, "spawn"),
        ("ServerError", {"message": "opencode's server ended"}, "protocol"),
        (
            "ContentFilterError",
            {"message": "The response was blocked by the provider's content filter"},
            "invalid_request",
        ),
        ("UnfinishedStepsError", {"message": "5 steps in a row called no tool"}, "protocol"),
        ("APIError", {"message": "Monthly usage limit reached", "statusCode": 429}, "quota"),
        ("APIError", {"message": "Quota exceeded for metric: requests", "statusCode": 429}, "quota"),
        ("APIError", {"message": "x", "responseBody": '{"code":"insufficient_quota"}', "statusCode": 429}, "quota"),
        ("APIError", {"message": "Insufficient balance", "statusCode": 402}, "quota"),
        ("APIError", {"message": "You've hit your weekly limit", "statusCode": 429}, "quota"),
        ("APIError", {"message": "Too many tokens", "statusCode": 429}, "rate_limit"),
        ("APIError", {"message": "no permission to use the quota project", "statusCode": 403}, "auth"),
        (
            "APIError",
            {
                "message": "Rate limit reached for gpt-9 on tokens per min (TPM). Visit /account/billing",
                "statusCode": 429,
            },
            "rate_limit",
        ),
        ("APIError", {"message": "The model's context window is full", "statusCode": 400}, "context_overflow"),
        ("RetriesEndedError", {"message": "Usage limit reached", "limit": "account_rate_limit"}, "quota"),
        ("RetriesEndedError", {"message": "Subscribe to go on", "limit": "free_tier_limit"}, "quota"),
        ("RetriesEndedError", {"message": "Your credit balance is too low"}, "quota"),
        ("RetriesEndedError", {"message": "Insufficient credits"}, "quota"),
        ("RetriesEndedError", {"message": "Too Many Requests"}, "rate_limit"),
        ("RetriesEndedError", {"message": "Provider is overloaded"}, "overloaded"),
        ("RetriesEndedError", {"message": "mock 500"}, "server"),
        ("RetriesEndedError", {"message": "Cannot connect to API: Unable to connect."}, "network"),
        ("RetriesEndedError", {"message": "Connection reset by server"}, "network"),
        ("RetriesEndedError", {"message": "what no table has"}, "server"),
        ("", {}, "internal"),
    ],
)
def test_kinds_of_errors(name: str, data: dict[str, Any], kind: str) -> None:
    """The name of the error decides, then what the message says of limits, then the status, then the words."""
    read = decoder()
    updates = feed_all(read, [session(), error(name, **data)])
    assert updates[-1].data["kind"] == kind
    outcome = read.close(EXIT_1)
    assert (outcome.succeeded, outcome.error_kind) == (False, kind)
    assert outcome.error_message


def test_an_error_that_was_overcome_is_none() -> None:
    """A context that overflowed is told as an error, compacted, and the turn goes on."""
    read = decoder()
    overflow = error("ContextOverflowError", message="too long")
    compaction = said("compaction", part={"type": "compaction", "auto": True, "overflow": True})
    updates = feed_all(read, [session(), overflow, compaction, finish(summary=True), text("done"), finish()])
    assert only(updates, "compaction") == [{"auto": True, "overflow": True}]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.text) == (True, "done")
    assert outcome.usage is not None
    assert outcome.usage.output_tokens == 20


def test_a_summary_that_stopped_is_no_success() -> None:
    """A compaction has a step of its own, which ends like an answer's."""
    read = decoder()
    feed_all(read, [session(), finish(summary=True)])
    assert not read.close(EXIT_0).succeeded


def test_retries_are_told_with_their_kind_and_delay() -> None:
    """The real `run` says nothing of them."""
    read = decoder()
    retry = said("retry", attempt=2, max=5, message="Rate limit reached for gpt", retry_after_s=4.5)
    (data,) = only(feed_all(read, [session(), retry]), "retry")
    assert data == {
        "kind": "rate_limit",
        "message": "Rate limit reached for gpt",
        "attempt": 2,
        "max": 5,
        "retry_after_s": 4.5,
    }


def test_an_answer_about_errors_is_an_answer() -> None:
    """Only typed events are evidence."""
    read = decoder()
    feed_all(read, [session(), text("Error: 429 rate limit. API key invalid."), finish()])
    assert read.close(EXIT_0).succeeded


def test_a_start_that_failed_says_what_stderr_said() -> None:
    """The server's own complaint is there, in colour; the bridge only knows that it did not start."""
    read = decoder()
    read.feed(error("ServerStartError", message="the server did not start").replace(SESSION.encode(), b""))
    stderr = "\x1b[91m\x1b[1mError: \x1b[0mConfiguration is invalid at /x/opencode.json\n> Expected string\n"
    outcome = read.close(ToolExit(1, None, stderr))
    assert outcome.error_kind == "spawn"
    assert outcome.error_message == "the server did not start: Configuration is invalid at /x/opencode.json"


def test_a_bridge_that_said_nothing_is_a_failure() -> None:
    """What it wrote to stderr is the only hint."""
    outcome = decoder().close(ToolExit(1, None, "FileNotFoundError: opencode\n"))
    assert outcome.error_kind == "protocol"
    assert "FileNotFoundError: opencode" in (outcome.error_message or "")


def test_a_killed_turn_is_internal() -> None:
    """The runner makes `killed` of that."""
    read = decoder()
    feed_all(read, [session(), finish("tool-calls")])
    assert read.close(ToolExit(None, 9)).error_kind == "internal"


@pytest.mark.parametrize("raw", [b"plain words", b'{"type":"news","sessionID":"' + SESSION.encode() + b'"}'])
def test_what_is_not_known_is_kept(raw: bytes) -> None:
    """As it came."""
    assert types_of(decoder().feed(raw))[-1] == "other"


@pytest.mark.parametrize(
    ("headers", "after", "at"),
    [
        ({"retry-after": "20"}, 20, None),
        ({"Retry-After": " 1.5 "}, 1.5, None),
        ({"retry-after": "6m0s"}, 360, None),
        ({"retry-after": "1h2m3.5s"}, 3723.5, None),
        ({"retry-after-ms": "2500", "retry-after": "3"}, 2.5, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, 1792567680),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after": ""}, None, None),
        ({"retry-after": 7}, None, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:00 GMT"}, None, None),
        ("none", None, None),
    ],
)
def test_when_the_provider_can_be_asked_again(headers: Any, after: float | None, at: float | None) -> None:
    """A delay in any of its spellings, or a moment; nothing is invented."""
    read = decoder()
    feed_all(read, [session(), error("APIError", message="no", statusCode=429, responseHeaders=headers)])
    outcome = read.close(EXIT_1)
    assert (outcome.retry_after_s, outcome.retry_at) == (after, at)


def test_a_limit_of_opencodes_own_provider_is_a_quota() -> None:
    """Its word for it decides, whatever the message is."""
    read = decoder()
    retry = said("retry", attempt=1, max=5, message="Subscribe", action={"reason": "free_tier_limit"}, retry_after_s=9)
    (data,) = only(feed_all(read, [session(), retry]), "retry")
    assert data["kind"] == "quota"
