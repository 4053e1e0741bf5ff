"""What csa makes of `claude -p --output-format stream-json --verbose`."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.claude_stream import ClaudeCodeDecoder
from hypothesis import example, given
from hypothesis import strategies as st

from csa.model.adapter import ToolExit
from csa.model.usage import Usage
from tests.unit.adapters.support import (
    EXIT_0,
    EXIT_1,
    FRESH,
    OTHER_THREAD,
    THREAD,
    feed_all,
    line,
    make_request,
    only,
    types_of,
)

USAGE = {"input_tokens": 100, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 800, "output_tokens": 11}


def decoder(**fields: Any) -> ClaudeCodeDecoder:
    return ClaudeCodeDecoder(make_request(**fields))


def said(**fields: Any) -> bytes:
    return line(**{"session_id": FRESH, **fields})


def init(**fields: Any) -> bytes:
    return said(type="system", subtype="init", model="claude-opus-5-5", tools=[], **fields)


def assistant(*blocks: dict[str, Any], **fields: Any) -> bytes:
    return said(type="assistant", message={"role": "assistant", "content": list(blocks)}, **fields)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}


def tool_result(content: Any, **fields: Any) -> bytes:
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}
    return said(type="user", message={"role": "user", "content": [block]})


def result(**fields: Any) -> bytes:
    """Write a result line as the CLI does: `type` is not its first key."""
    known = {"duration_ms": 93, "subtype": "success", "is_error": False, "result": "done", "usage": USAGE}
    return said(**{**known, "total_cost_usd": 0.25, "permission_denials": [], **fields}, type="result")


def test_success_is_a_result_line_without_error_and_exit_0() -> None:
    """The answer is the result's text; the id is told once, with the model."""
    read = decoder()
    updates = feed_all(read, [init(), assistant(text("done")), result(stop_reason="end_turn")])
    assert types_of(updates) == ["session_bound", "agent_message", "usage"]
    assert updates[0].data == {"provider_session_id": FRESH, "model": "claude-opus-5-5"}
    assert read.is_finished
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.text, outcome.stop_reason) == (True, "done", "end_turn")


def test_a_run_that_ended_and_was_reaped_succeeded() -> None:
    """A tool that said it finished but did not exit has neither code nor signal."""
    read = decoder()
    feed_all(read, [init(), result()])
    assert read.close(ToolExit(None, None)).succeeded


@pytest.mark.parametrize("end", [EXIT_1, ToolExit(143, None), ToolExit(None, 9)])
def test_a_good_result_with_a_bad_exit_is_no_success(end: ToolExit) -> None:
    """Result line, is_error and exit code decide together."""
    read = decoder()
    feed_all(read, [init(), result()])
    assert not read.close(end).succeeded


def test_subtype_success_with_is_error_is_a_failure() -> None:
    """API errors come with subtype `success`."""
    read = decoder()
    feed_all(
        read, [init(), result(is_error=True, api_error_status=429, terminal_reason="api_error", result="Rejected")]
    )
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind, outcome.error_message) == (False, "rate_limit", "Rejected")
    assert outcome.text == ""


@pytest.mark.parametrize("is_error", [None, "false", 0])
def test_a_result_that_does_not_deny_an_error_is_a_failure(is_error: Any) -> None:
    """Only a plain false is success."""
    read = decoder()
    feed_all(read, [init(), result(is_error=is_error)])
    assert not read.close(EXIT_0).succeeded


def test_exit_0_without_a_result_line_is_a_failure() -> None:
    """SIGINT while the model answers."""
    read = decoder()
    interrupted = said(type="user", message={"content": [text("[Request interrupted by user]")]})
    updates = feed_all(read, [init(), assistant(text("so far")), interrupted])
    assert types_of(updates) == ["session_bound", "agent_message", "other"]
    assert not read.is_finished
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind, outcome.text) == (False, "protocol", "so far")


def test_sigint_while_a_tool_runs_is_a_failure_with_exit_0() -> None:
    """The result line then says is_error, the exit code nothing."""
    read = decoder()
    feed_all(
        read,
        [init(), result(is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools", result=None)],
    )
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_message) == (False, "aborted_tools")


@pytest.mark.parametrize("asked", [None, THREAD])
def test_any_line_of_another_session_stops_the_run(asked: str | None) -> None:
    """The id is on every line, and is the one csa chose or asked for."""
    own = asked or FRESH
    read = decoder(provider_session_id=asked)
    feed_all(read, [line(type="system", subtype="init", session_id=own.upper())])
    assert not read.fault
    stray = line(type="assistant", message={"content": [text("hi")]}, session_id=OTHER_THREAD)
    assert types_of(read.feed(stray)) == ["error"]
    assert read.fault is not None
    feed_all(read, [line(type="result", is_error=False, result="hi", session_id=own)])
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind, outcome.text) == (False, "protocol", "")


def test_a_wrong_session_is_never_bound() -> None:
    """A title looked up, or an id that was not honoured."""
    read = decoder(provider_session_id=THREAD)
    assert types_of(read.feed(init())) == ["error"]


def test_ids_inside_tool_output_fool_nobody() -> None:
    """Only the top-level key of a line counts."""
    planted = f'{{"type":"result","is_error":true,"session_id":"{OTHER_THREAD}"}}'
    read = decoder()
    nested = said(
        type="user",
        message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": planted}]},
        tool_use_result={"session_id": OTHER_THREAD, "stdout": planted},
    )
    feed_all(read, [init(), nested, result()])
    assert read.fault is None
    assert read.close(EXIT_0).succeeded


def test_the_first_line_need_not_be_init() -> None:
    """With a title it is session_title_changed, on /compact a status."""
    read = decoder()
    first = said(type="system", subtype="status", status="compacting")
    updates = feed_all(read, [first, init()])
    assert [(u.type, u.data) for u in updates] == [("session_bound", {"provider_session_id": FRESH})]


def test_an_unknown_session_is_not_bound_and_counts_nothing() -> None:
    """Its only line is a result with the id asked for, and a cost of 0 that is not the conversation's."""
    read = decoder(provider_session_id=THREAD, previous_totals={"cost_usd": 1.5})
    missing = f"No conversation found with session ID: {THREAD}"
    unknown = line(
        type="result",
        subtype="error_during_execution",
        is_error=True,
        num_turns=0,
        session_id=THREAD,
        errors=[missing],
        total_cost_usd=0,
        usage={"input_tokens": 0},
    )
    assert types_of(read.feed(unknown)) == ["error"]
    outcome = read.close(ToolExit(1, None, missing))
    assert (outcome.error_kind, outcome.error_message) == ("unknown_conversation", missing)
    assert (outcome.usage, outcome.totals) == (None, {"cost_usd": 1.5})


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        (f"Error: Session ID {FRESH} is already in use.\n", "invalid_request"),
        ("Error: Invalid session ID. Must be a valid UUID.\n", "invalid_request"),
        (
            "Error: Input must be provided either through stdin or as a prompt argument when using --print\n",
            "invalid_request",
        ),
        (
            "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons\n",
            "permission",
        ),
        ("error: unknown option '--system-prompt-snapshot'\n", "invalid_request"),
        ("Segmentation fault\n", "protocol"),
        ("", "protocol"),
    ],
)
def test_a_start_that_failed_is_explained_by_stderr(stderr: str, kind: str) -> None:
    """A refused start leaves stdout empty."""
    outcome = decoder().close(ToolExit(1, None, stderr))
    assert (outcome.succeeded, outcome.error_kind, outcome.totals) == (False, kind, None)
    assert stderr.strip().removeprefix("Error: ").removeprefix("error: ") in (outcome.error_message or "")


def test_stderr_explains_nothing_once_the_session_runs() -> None:
    """A hook may write anything there."""
    read = decoder()
    read.feed(init())
    assert read.close(ToolExit(1, None, "Error: Invalid API key")).error_kind == "protocol"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"error": "authentication_failed", "api_error_status": 401, "api_error_type": "authentication_error"}, "auth"),
        ({"error": "authentication_failed", "api_error_status": 403, "api_error_type": "permission_error"}, "auth"),
        ({"error": "authentication_failed"}, "auth"),
        ({"error": "model_not_found", "api_error_status": 404, "api_error_type": "not_found_error"}, "invalid_request"),
        ({"error": "unknown", "api_error_status": 400, "api_error_type": "invalid_request_error"}, "invalid_request"),
        ({"error": "unknown", "api_error_status": 402, "api_error_type": "api_error"}, "quota"),
        ({"error": "rate_limit", "api_error_status": 429, "api_error_type": "rate_limit_error"}, "rate_limit"),
        ({"error": "rate_limit", "api_error_status": 429, "api_error_type": "insufficient_quota"}, "quota"),
        ({"error": "rate_limit", "api_error_status": 429, "api_error_type": "usage_limit_reached"}, "quota"),
        ({"error": "server_error", "api_error_status": 500, "api_error_type": "api_error"}, "server"),
        ({"error": "server_error", "api_error_status": 529, "api_error_type": "overloaded_error"}, "overloaded"),
        ({"error": "server_error", "api_error": "connection_failed"}, "network"),
        ({"error": "server_error"}, "server"),
        ({"error": "billing_error"}, "quota"),
        ({"error": "novel"}, "internal"),
    ],
)
def test_an_api_error_is_told_once_and_is_no_answer(fields: dict[str, Any], kind: str) -> None:
    """It comes as an assistant message, and again as the result's text."""
    read = decoder()
    line_ = assistant(text("It broke."), is_api_error_message=True, **fields)
    updates = feed_all(read, [init(), line_, result(is_error=True, result="It broke.", terminal_reason="api_error")])
    assert types_of(updates) == ["session_bound", "error", "usage"]
    assert only(updates, "error") == [{"kind": kind, "message": "It broke."}]
    outcome = read.close(EXIT_1)
    assert (outcome.error_kind, outcome.error_message, outcome.text) == (kind, "It broke.", "")


def test_a_prompt_that_is_too_long_is_an_overflow() -> None:
    """Status and type of the error say no more than invalid_request."""
    read = decoder()
    words = "Prompt is too long \u00b7 the provider said: Your input exceeds the context window of this model."
    feed_all(
        read,
        [
            init(),
            assistant(text(words), error="invalid_request", api_error_status=400),
            result(is_error=True, result=words, api_error_status=400, terminal_reason="prompt_too_long"),
        ],
    )
    assert read.close(EXIT_1).error_kind == "context_overflow"


def test_an_api_error_without_a_result_line_is_the_failures_cause() -> None:
    """A claude killed while it reports still told why."""
    read = decoder()
    feed_all(read, [init(), assistant(text("Rejected"), error="rate_limit")])
    assert read.close(ToolExit(143, None)).error_kind == "rate_limit"


def test_an_agent_that_writes_about_429_is_not_rate_limited() -> None:
    """Prose is no evidence."""
    read = decoder()
    words = "API Error: 429, usage limit, not logged in"
    feed_all(read, [init(), assistant(text(words)), result(result=words)])
    assert read.close(EXIT_0).succeeded


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"error_status": 401, "error": "authentication_failed"}, "auth"),
        ({"error_status": 429, "error": "rate_limit"}, "rate_limit"),
        ({"error_status": 500, "error": "server_error"}, "server"),
        ({"error_status": 529, "error": "overloaded"}, "overloaded"),
        ({"error_status": None, "error": "unknown"}, "network"),
    ],
)
def test_api_retries_are_told(fields: dict[str, Any], kind: str) -> None:
    """With their count and delay."""
    retry = said(type="system", subtype="api_retry", attempt=2, max_retries=5, retry_delay_ms=1003, **fields)
    (update,) = only(feed_all(decoder(), [init(), retry]), "retry")
    assert update.pop("message")
    assert update == {"kind": kind, "attempt": 2, "max": 5, "retry_after_s": 1.003}


def test_tokens_are_of_the_run_and_the_cost_is_a_difference() -> None:
    """usage counts this run, total_cost_usd the whole conversation; input includes what was cached."""
    read = decoder(provider_session_id=FRESH, previous_totals={"cost_usd": 0.1})
    updates = feed_all(read, [init(), result()])
    assert only(updates, "usage") == [
        {"input_tokens": 930, "output_tokens": 11, "cached_tokens": 800, "cost_usd": 0.15}
    ]
    outcome = read.close(EXIT_0)
    assert outcome.usage == Usage(930, 11, 800, 0.15)
    assert outcome.totals == {"cost_usd": 0.25}


@pytest.mark.parametrize("before", [None, {}, {"cost_usd": 9.0}])
def test_a_cost_that_cannot_be_told_is_unknown_but_kept(before: dict[str, float] | None) -> None:
    """The first resume of a foreign session, or a total that shrank; tokens are known all the same."""
    read = decoder(provider_session_id=FRESH, previous_totals=before)
    feed_all(read, [init(), result()])
    outcome = read.close(EXIT_0)
    assert outcome.usage == Usage(930, 11, 800, None)
    assert outcome.totals == {"cost_usd": 0.25}


def test_a_run_without_a_result_keeps_the_cost_so_far() -> None:
    """Else the next turn's difference would be taken from nothing."""
    read = decoder(provider_session_id=FRESH, previous_totals={"cost_usd": 0.1})
    read.feed(init())
    assert read.close(EXIT_0).totals == {"cost_usd": 0.1}
    fresh = decoder()
    fresh.feed(init())
    assert fresh.close(ToolExit(None, 9)).totals == {"cost_usd": 0.0}


def test_denied_tools_are_told_once_and_listed() -> None:
    """A refusal exits 0: the outcome must show it."""
    read = decoder()
    denial = {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "curl x"}}
    other = {"tool_name": "Write", "tool_use_id": "toolu_2", "tool_input": {"file_path": "/x"}}
    updates = feed_all(
        read,
        [
            init(),
            assistant(call("Bash", command="curl x")),
            said(type="system", subtype="permission_denied", tool_name="Bash", tool_use_id="toolu_1"),
            tool_result("This command requires approval", is_error=True),
            result(permission_denials=[denial, other]),
        ],
    )
    assert only(updates, "permission") == [
        {"id": "toolu_1", "title": "curl x", "status": "denied"},
        {"id": "toolu_2", "title": "Write /x", "status": "denied"},
    ]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.denied) == (True, ("curl x", "Write /x"))


@pytest.mark.parametrize(
    ("block", "kind", "title"),
    [
        (call("Bash", command="ls -l"), "execute", "ls -l"),
        (call("Read", file_path="/p/a"), "read", "Read /p/a"),
        (call("Edit", file_path="/p/a"), "edit", "Edit /p/a"),
        (call("Write", file_path="/p/a"), "edit", "Write /p/a"),
        (call("Grep", pattern="x"), "search", "Grep x"),
        (call("Glob", pattern="*"), "search", "Glob *"),
        (call("WebFetch", url="http://x"), "fetch", "WebFetch http://x"),
        (call("Agent", description="review"), "think", "Agent review"),
        (call("mcp__t__ping"), "other", "mcp__t__ping"),
    ],
)
def test_kinds_and_titles_of_tools(block: dict[str, Any], kind: str, title: str) -> None:
    """The vocabulary of the transcript, for each tool of claude."""
    (data,) = only(feed_all(decoder(), [assistant(block)]), "tool_call")
    paths = {"paths": ["/p/a"]} if title.endswith("/p/a") else {}
    assert data == {"id": "toolu_1", "title": title, "kind": kind, "status": "in_progress", **paths}


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        ("hi", {"is_error": False}, {"status": "completed", "content": "hi"}),
        ("Exit code 3\noops", {"is_error": True}, {"status": "failed", "content": "Exit code 3\noops", "exit_code": 3}),
        ("Exit code 3", {}, {"status": "completed", "content": "Exit code 3"}),
        (
            [{"type": "text", "text": "a"}, {"type": "image", "source": {}}],
            {},
            {"status": "completed", "content": "a\n[image]"},
        ),
        (None, {}, {"status": "completed", "content": ""}),
    ],
)
def test_tool_results_end_their_calls(content: Any, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """With the exit code where the CLI states one."""
    updates = feed_all(decoder(), [assistant(call("Bash", command="x")), tool_result(content, **fields)])
    assert only(updates, "tool_call_update") == [{"id": "toolu_1", **expected}]


def test_a_todo_list_is_a_plan() -> None:
    """Its call and result say nothing more, unless it failed."""
    todos = [{"content": "look", "status": "completed"}, {"content": "act", "status": "odd"}]
    updates = feed_all(decoder(), [assistant(call("TodoWrite", todos=todos)), tool_result("Todos have been modified")])
    assert types_of(updates) == ["session_bound", "plan"]
    assert updates[1].data == {
        "entries": [{"content": "look", "status": "completed"}, {"content": "act", "status": "pending"}]
    }
    failed = feed_all(decoder(), [assistant(call("TodoWrite", todos=todos)), tool_result("no", is_error=True)])
    assert types_of(failed)[-1] == "tool_call_update"


def test_a_sub_agents_words_are_not_the_answer() -> None:
    """Lines with parent_tool_use_id are the progress of that call."""
    read = decoder()
    nested = {"parent_tool_use_id": "toolu_9"}
    task = said(type="user", message={"content": [text("SUBAGENT")]}, **nested)
    updates = feed_all(
        read,
        [
            init(),
            assistant(text("main")),
            task,
            assistant(text("I am the sub-agent"), **nested),
            assistant({"type": "thinking", "thinking": "hm"}, **nested),
            assistant(call("Bash", command="ls"), **nested),
        ],
    )
    assert types_of(updates) == [
        "session_bound", "agent_message", "other", "tool_call_update", "agent_thought", "tool_call"
    ]  # fmt: skip
    assert updates[3].data == {"id": "toolu_9", "status": "in_progress", "content": "I am the sub-agent"}
    assert updates[4].data == {"text": "hm", "parent_id": "toolu_9"}
    assert updates[5].data["parent_id"] == "toolu_9"
    assert read.close(EXIT_0).text == "main"


def test_thinking_is_thought() -> None:
    """Each content block is a line of its own; several in one are read too."""
    updates = feed_all(decoder(), [assistant({"type": "thinking", "thinking": "hm"}, text("so"), {"type": "hologram"})])
    assert types_of(updates) == ["session_bound", "agent_thought", "agent_message", "other"]


def test_a_compaction_is_told_by_its_boundary_and_a_failed_one_warned_of() -> None:
    """A failed compaction exits 0 with subtype success."""
    boundary = said(type="system", subtype="compact_boundary", compact_metadata={"trigger": "auto", "pre_tokens": 9})
    failed = said(type="system", subtype="status", compact_result="failed", compact_error="Not enough messages")
    updates = feed_all(decoder(), [init(), boundary, failed])
    assert only(updates, "compaction") == [{"trigger": "auto", "pre_tokens": 9}]
    assert only(updates, "warning") == [{"message": "Not enough messages"}]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "system", "subtype": "session_title_changed", "title": "x"},
        {"type": "stream_event", "event": {"type": "content_block_delta"}},
        {"type": "user", "message": {"content": "This session is being continued"}, "isReplay": True},
        {"type": "rate_limit_event"},
        {"type": ["result"]},
        {},
    ],
)
def test_what_is_not_recognised_is_kept(event: dict[str, Any]) -> None:
    """Nothing a tool says is dropped, nor taken for the agent's word."""
    (update,) = decoder().feed(line(**event))
    assert (update.type, update.data) == ("other", {"raw": event})


def test_a_line_that_is_no_json_is_kept_as_text_and_a_blank_one_is_nothing() -> None:
    """A library of the tool may print to stdout."""
    assert decoder().feed(b"Warning: \xff")[0].data == {"raw": "Warning: \ufffd"}
    assert decoder().feed(b"  \r") == []


def test_a_result_that_names_no_session_is_a_protocol_failure() -> None:
    """Nothing then shows that the right conversation ran."""
    read = decoder()
    read.feed(line(type="result", is_error=False, result="x"))
    assert read.close(EXIT_0).error_kind == "protocol"


def tasks(*titles: str) -> bytes:
    named = [{"task_id": title, "task_type": "local_bash", "description": title} for title in titles]
    return said(type="system", subtype="background_tasks_changed", tasks=named)


NOTIFIED = said(type="system", subtype="task_notification", task_id="b1", status="completed", summary="done")


def orphan() -> bytes:
    """Write the result for a background task that a killed turn has lost: nobody asked the model."""
    return result(result="", num_turns=0, origin={"kind": "task-notification"}, model_usage_since_last_result={})


@pytest.mark.parametrize("more", [init(), assistant(text("on")), tool_result("x")])
def test_work_after_a_result_takes_the_end_back(more: bytes) -> None:
    """The agent was woken: what it has said so far is no answer, until another result."""
    read = decoder()
    feed_all(read, [init(), result(), more])
    assert (read.is_finished, read.has_answered) == (False, False)
    assert read.close(EXIT_0).error_kind == "protocol"
    feed_all(read, [result(result="second")])
    assert (read.is_finished, read.has_answered) == (True, True)
    assert read.close(EXIT_0).text == "second"


@pytest.mark.parametrize("more", [NOTIFIED, assistant(text("sub"), parent_tool_use_id="toolu_1"), tasks("make")])
def test_what_helpers_do_after_a_result_takes_the_end_back_but_not_the_answer(more: bytes) -> None:
    """The agent may be woken; where the process ends instead, the turn was done."""
    read = decoder()
    feed_all(read, [init(), result(), more])
    assert (read.is_finished, read.has_answered) == (False, True)
    assert read.close(EXIT_0).succeeded


def test_background_tasks_are_named_and_keep_the_turn_open() -> None:
    """Each line names all; what is only ambient is no work."""
    read = decoder()
    feed_all(read, [init(), tasks("make", "npm test"), result()])
    assert (read.is_finished, read.background) == (False, ("make", "npm test"))
    ambient = {"task_id": "m", "description": "watch", "ambient": True}
    feed_all(read, [said(type="system", subtype="background_tasks_changed", tasks=[ambient, None, 3])])
    assert (read.is_finished, read.background) == (True, ())


def test_a_result_for_an_orphan_is_no_end_of_the_prompt() -> None:
    """After a turn that was killed the CLI first writes one for each task that was lost."""
    read = decoder()
    feed_all(read, [NOTIFIED, init(), orphan()])
    assert (read.is_finished, read.has_answered) == (False, False)
    assert read.close(EXIT_0).error_kind == "protocol"
    feed_all(read, [init(), assistant(text("did it")), result(result="did it"), init(), orphan()])
    assert (read.is_finished, read.has_answered) == (True, True)
    assert read.close(EXIT_0).text == "did it"


def model(tokens: int, cost: float) -> dict[str, Any]:
    return {"inputTokens": tokens, "outputTokens": 1, "cacheReadInputTokens": 5, "costUSD": cost}


def test_results_are_summed_with_all_models_of_sub_agents() -> None:
    """`usage` is the main agent's alone; the conversation's cost may start anew after a kill."""
    read = decoder(provider_session_id=FRESH, previous_totals={"cost_usd": 9.0})
    first = {"opus": model(100, 0.5), "haiku": model(10, 0.25)}
    feed_all(read, [init(), result(model_usage_since_last_result=first)])
    feed_all(read, [init(), result(model_usage_since_last_result={}), result(model_usage_since_last_result=first)])
    assert read.close(EXIT_0).usage == Usage(240, 4, 20, 1.5)


def answer(call: str, tokens: int, **fields: Any) -> bytes:
    usage = {"input_tokens": tokens, "cache_read_input_tokens": 7, "output_tokens": 1}
    message = {"id": call, "role": "assistant", "content": [text("x")], "usage": usage}
    return said(type="assistant", message=message, **fields)


def test_usage_is_told_while_the_turn_runs() -> None:
    """Each call once, though each of its blocks is a line; sub-agents' calls too; a result replaces them."""
    read = decoder()
    lines = [answer("m1", 10), answer("m1", 10), answer("m2", 20, parent_tool_use_id="toolu_1")]
    told = only(feed_all(read, [init(), *lines]), "usage")
    assert [used["input_tokens"] for used in told] == [17, 44]
    assert read.close(EXIT_1).usage == Usage(44, 2, 14)  # also of a turn that was killed
    told = only(feed_all(read, [result(model_usage_since_last_result={"opus": model(30, 0.5)})]), "usage")
    assert told == [{"input_tokens": 35, "output_tokens": 1, "cached_tokens": 5, "cost_usd": 0.5}]


def test_the_cost_of_a_model_without_a_price_is_unknown() -> None:
    """Half a cost would be taken for the whole."""
    read = decoder()
    feed_all(read, [init(), result(model_usage_since_last_result={"a": model(1, 0.5), "b": {"inputTokens": 2}})])
    assert read.close(EXIT_0).usage == Usage(8, 1, 5)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"terminal_reason": "hook_stopped", "stop_reason": "tool_use", "result": ""}, "permission", "hook_stopped"),
        ({"terminal_reason": "aborted_streaming"}, "internal", "done"),
        ({"terminal_reason": "aborted_tools", "result": ""}, "internal", "aborted_tools"),
        ({"terminal_reason": "max_turns"}, "internal", "done"),
        ({"terminal_reason": "blocking_limit", "result": "full"}, "context_overflow", "full"),
        ({"stop_reason": "tool_use"}, "internal", "tool_use"),
        ({"stop_reason": "pause_turn"}, "internal", "pause_turn"),
        ({"stop_reason": "max_tokens"}, "internal", "max_tokens"),
        ({"stop_reason": "model_context_window_exceeded"}, "context_overflow", "context_window"),
        (
            {"subtype": "error_max_turns", "is_error": True, "result": None, "errors": ["Reached 3"]},
            "internal",
            "Reached 3",
        ),
    ],
)
def test_a_turn_that_was_broken_off_is_no_success(fields: dict[str, Any], kind: str, words: str) -> None:
    """Most say is_error false and exit 0."""
    read = decoder()
    feed_all(read, [init(), assistant(text("half")), result(**fields)])
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind) == (False, kind)
    assert words in (outcome.error_message or "")


@pytest.mark.parametrize("reason", ["completed", "stop_hook_prevented", "background_requested", None])
def test_a_turn_that_was_done_is_one(reason: str | None) -> None:
    """A Stop hook speaks after the answer."""
    read = decoder()
    feed_all(read, [init(), result(terminal_reason=reason, stop_reason="end_turn")])
    assert read.close(EXIT_0).succeeded


@pytest.mark.parametrize("kind", ["blocked_by_hook", "stopped_by_hook", None])
def test_a_prompt_that_a_hook_blocked_was_not_done(kind: str | None) -> None:
    """The model was never asked, and the result says success with the hook's words."""
    read = decoder()
    outcome = {"prompt_submit_outcome": {"kind": kind}} if kind else {}
    line_ = said(
        type="system", subtype="informational", level="warning", content="no way", prevent_continuation=True, **outcome
    )
    updates = feed_all(read, [init(), line_, result(num_turns=0, result="no way", stop_reason=None)])
    assert only(updates, "warning") == [{"kind": "hook", "message": "no way"}]
    outcome_ = read.close(EXIT_0)
    assert (outcome_.error_kind, outcome_.error_message) == ("permission", "no way")


def limit_event(status: str, **fields: Any) -> bytes:
    return said(type="rate_limit_event", rate_limit_info={"status": status, "resetsAt": 1795990000, **fields})


def failed(words: str, **fields: Any) -> list[bytes]:
    about = {"error": "rate_limit", "api_error_status": 429, "is_api_error_message": True, **fields}
    return [assistant(text(words), **about), result(is_error=True, api_error_status=429, result=words)]


def test_a_used_up_quota_tells_when_it_returns() -> None:
    """The CLI states the moment; that makes of a rate limit a quota."""
    read = decoder()
    feed_all(read, [init(), limit_event("rejected"), *failed("Request rejected (429)")])
    outcome = read.close(EXIT_1)
    assert (outcome.error_kind, outcome.retry_at) == ("quota", 1795990000)


@pytest.mark.parametrize("status", ["allowed", "allowed_warning"])
def test_a_quota_that_is_not_used_up_has_nothing_to_do_with_a_failure(status: str) -> None:
    """Its window ends some day, which says nothing about this request."""
    read = decoder()
    feed_all(read, [init(), limit_event("rejected"), limit_event(status), *failed("Request rejected (429)")])
    outcome = read.close(EXIT_1)
    assert (outcome.error_kind, outcome.retry_at) == ("rate_limit", None)


@pytest.mark.parametrize(
    ("words", "fields", "kind"),
    [
        ("You've hit your session limit", {}, "quota"),
        ("Weekly limit reached", {}, "quota"),
        ("You're out of extra usage", {}, "quota"),
        ("Too many requests", {}, "rate_limit"),
        ("On hold", {"error": "account_on_hold", "api_error_status": 403}, "auth"),
        ("Verify", {"error": "verification_required", "api_error_status": 400}, "auth"),
        ("No", {"error": "cloud_credential_error", "api_error_status": None}, "auth"),
        (
            "API Error: The model has reached its context window limit.",
            {"error": "max_output_tokens", "api_error": "max_output_tokens", "api_error_status": None},
            "context_overflow",
        ),
    ],
)
def test_kinds_of_named_failures(words: str, fields: dict[str, Any], kind: str) -> None:
    """Names of the CLI's own, and words that tell a quota from a rate limit."""
    read = decoder()
    feed_all(read, [init(), *failed(words, **fields)])
    assert read.close(EXIT_1).error_kind == kind


WORK = {"init": init(), "assistant": assistant(text("on")), "user": tool_result("x")}
OTHERS = {"notified": NOTIFIED, "orphan": orphan(), "busy": tasks("make"), "free": tasks()}
GOOD, BAD = result(result="good"), result(is_error=True, result="bad")


@given(st.lists(st.sampled_from([*WORK, *OTHERS, "good", "bad"]), max_size=12))
@example(["good", "assistant", "orphan"])
def test_the_last_line_of_work_decides(names: list[str]) -> None:
    """Whatever comes in whatever order: a result that work follows is none, and of several the last counts."""
    lines = {**WORK, **OTHERS, "good": GOOD, "bad": BAD}
    read = decoder()
    feed_all(read, [init(), *(lines[name] for name in names)])
    results = [at for at, name in enumerate(names) if name in {"good", "bad"}]
    after = names[results[-1] :] if results else []
    ends = [name for name in after if name in {*WORK, "orphan"}]  # an orphan's result ends the work it made
    is_done = bool(results) and ends[-1:] in ([], ["orphan"])
    outcome = read.close(EXIT_0)
    assert outcome.succeeded is (is_done and names[results[-1]] == "good")
    assert read.has_answered is is_done
    busy = [name for name in names if name in {"busy", "free"}][-1:] == ["busy"]
    assert not read.is_finished or (is_done and not busy)
    if outcome.succeeded:
        assert outcome.text == "good"
