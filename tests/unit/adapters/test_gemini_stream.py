"""The traps of gemini-cli's stream, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.gemini_stream import GeminiDecoder

from csa.model.adapter import Outcome, ToolExit
from csa.model.usage import Usage
from tests.unit.adapters.support import EXIT_0, EXIT_1, FRESH, OTHER_THREAD, THREAD, feed_all, line, make_request, only

INIT = line(type="init", session_id=FRESH, model="gemini-2.5-flash")
STATS = {"total_tokens": 160, "input_tokens": 120, "output_tokens": 23, "cached": 20, "input": 100}
DONE = line(type="result", status="success", stats=STATS)


def is_over(read: GeminiDecoder) -> bool:
    """Ask anew: what a property has said once, type checkers take for constant."""
    return read.is_finished


def decoder(**fields: Any) -> GeminiDecoder:
    return GeminiDecoder(make_request(**fields))


def outcome(*lines: bytes, end: ToolExit = EXIT_0) -> Outcome:
    read = decoder()
    feed_all(read, lines)
    return read.close(end)


def said(text: str) -> bytes:
    return line(type="message", role="assistant", content=text, delta=True)


def failed(message: str) -> bytes:
    return line(type="result", status="error", error={"type": "unknown", "message": message}, stats={})


def test_exit_0_without_a_result_is_no_success() -> None:
    """A signal that reaches gemini makes it exit 0 at once."""
    ended = outcome(INIT, said("half"))
    assert (ended.succeeded, ended.error_kind) == (False, "protocol")


def test_a_result_with_status_error_is_no_success_though_the_exit_is_0() -> None:
    """A stream that was cut for good ends so, and only an error line before says why."""
    error = line(type="error", severity="error", message="Model stream ended without a finish reason.")
    ended = outcome(INIT, error, line(type="result", status="error", stats={}))
    assert (ended.succeeded, ended.error_kind) == (False, "network")


def test_the_last_message_is_what_was_said_after_the_last_tool() -> None:
    """Deltas are put together; what came before a call is another message."""
    use = line(type="tool_use", tool_name="run_shell_command", tool_id="t", parameters={"command": "pwd"})
    result = line(type="tool_result", tool_id="t", status="success", output="/")
    read = decoder()
    updates = feed_all(read, [INIT, said("I look."), use, result, said("It is "), said("done."), DONE])
    assert read.close(EXIT_0).text == "It is done."
    messages = only(updates, "agent_message")
    assert [(data["text"], data["chunk"]) for data in messages] == [
        ("I look.", True),
        ("It is ", True),
        ("done.", True),
    ]
    assert only(updates, "tool_call") == [{"id": "t", "title": "pwd", "kind": "execute", "status": "in_progress"}]
    assert only(updates, "tool_call_update") == [{"id": "t", "status": "completed", "content": "/"}]


def test_a_turn_that_ends_with_a_call_keeps_what_was_said_before() -> None:
    """An empty answer would hide it."""
    use = line(type="tool_use", tool_name="update_topic", tool_id="t", parameters={"title": "x"})
    assert outcome(INIT, said("All set."), use, DONE).text == "All set."


def test_another_session_is_a_fault() -> None:
    """The id in `init` is the one asked for, at a beginning and at a resume."""
    for read in (decoder(), decoder(provider_session_id=THREAD)):
        feed_all(read, [line(type="init", session_id=OTHER_THREAD)])
        assert read.fault is not None
        assert read.close(EXIT_0).error_kind == "protocol"


def test_usage_counts_cached_tokens_as_input_and_thinking_as_output() -> None:
    """`input_tokens` has the cached ones in it; `output_tokens` lacks the thinking, which the total has."""
    ended = outcome(INIT, said("x"), DONE)
    assert ended.usage == Usage(input_tokens=120, output_tokens=40, cached_tokens=20)


def test_the_echoed_prompt_is_not_told_again() -> None:
    """It is recorded already."""
    assert decoder().feed(line(type="message", role="user", content="Do it.")) == []


def test_lines_that_are_no_json_are_kept() -> None:
    """`/memory show` prints one into the stream."""
    (update,) = decoder().feed(b"Memory is currently empty.")
    assert (update.type, update.data) == ("other", {"raw": "Memory is currently empty."})


@pytest.mark.parametrize(
    "error",
    [
        {"type": "policy_violation", "message": "Tool execution denied by policy."},
        {"type": "unhandled_exception", "message": 'Tool execution for "Shell" requires user confirmation, which'},
    ],
)
def test_a_refusal_is_a_denied_permission(error: dict[str, str]) -> None:
    """The turn succeeds; what was refused stands in its result."""
    use = line(type="tool_use", tool_name="run_shell_command", tool_id="t", parameters={"command": "rm x"})
    read = decoder()
    updates = feed_all(read, [INIT, use, line(type="tool_result", tool_id="t", status="error", error=error), DONE])
    assert only(updates, "permission") == [{"id": "t", "title": "rm x", "status": "denied"}]
    ended = read.close(EXIT_0)
    assert (ended.succeeded, ended.denied) == (True, ("rm x",))


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (145, '[API Error: {"error":{"code":401,"message":"x"}}]', "auth"),
        (145, "[API Error: x]", "auth"),
        (173, "[API Error: x]", "rate_limit"),
        (173, "[API Error: You exceeded your current quota]", "quota"),
        (244, "[API Error: x]", "server"),
        (247, "[API Error: x]", "overloaded"),
        (144, "[API Error: The input token count (9) exceeds the maximum number of tokens]", "context_overflow"),
        (1, "[API Error: exception TypeError: fetch failed sending request]", "network"),
        (1, "[API Error: who knows]", "internal"),
    ],
)
def test_kinds_of_failures(code: int, message: str, kind: str) -> None:
    """The exit code is the HTTP status modulo 256; the provider's own object and words may say more."""
    ended = outcome(INIT, failed(message), end=ToolExit(code, None))
    assert (ended.error_kind, ended.error_message) == (kind, message)


def test_a_status_only_stderr_tells() -> None:
    """An unknown model exits 1, and the status stands in the report on stderr."""
    end = ToolExit(1, None, "ModelNotFoundError: mock\n  code: 404\n}\n")
    assert outcome(INIT, failed("[API Error: mock]"), end=end).error_kind == "invalid_request"


@pytest.mark.parametrize(
    ("code", "kind"), [(41, "auth"), (42, "invalid_request"), (52, "invalid_request"), (55, "permission")]
)
def test_refused_starts(code: int, kind: str) -> None:
    """Their stdout is empty."""
    ended = outcome(end=ToolExit(code, None, "Warning: noise\nwhy it is so\n"))
    assert ended.error_kind == kind
    assert "why it is so" in (ended.error_message or "")


def test_a_missing_login_says_what_to_do() -> None:
    """gemini's own sentence ("Invalid auth method selected.") does not."""
    assert "GEMINI_API_KEY" in (outcome(end=ToolExit(41, None, "Invalid auth method selected.")).error_message or "")


def test_an_unknown_exit_after_success_is_no_success() -> None:
    """The two contradict each other."""
    assert outcome(INIT, DONE, end=EXIT_1).error_kind == "internal"
    assert outcome(INIT, DONE, end=ToolExit(None, None)).succeeded


RETRIES = [
    (["Attempt 1 failed with status 500. Retrying with backoff... _ApiError: {"], [("server", 1, None)]),
    (["Attempt 2 failed with status 429. Retrying with backoff... _ApiError: x"], [("rate_limit", 2, None)]),
    (["Attempt 1 failed: m", "Suggested retry after 2s.. Retrying after 5015ms..."], [("rate_limit", 1, 5.015)]),
    (["Attempt 1 failed. Retrying with backoff... Error: exception TypeError: fetch failed"], [("network", 1, None)]),
    (["Attempt 3 failed: m", "Suggested retry after 2s.. Max attempts reached"], []),
    (["Attempt 3 failed: m. Max attempts reached"], []),
    (["Ripgrep is not available.", "  status: 500", "Retrying"], []),
]


@pytest.mark.parametrize(("lines", "told"), RETRIES, ids=range(len(RETRIES)))
def test_retries_are_read_from_stderr(lines: list[str], told: list[tuple[str, int, float | None]]) -> None:
    """Nothing else tells them; the last attempt is no retry."""
    read = decoder()
    data = [update.data for each in lines for update in read.feed_stderr(each.encode())]
    assert [(one["kind"], one["attempt"], one.get("retry_after_s")) for one in data] == told
    assert all(one["message"] for one in data)


def test_a_model_that_writes_about_errors_is_no_error() -> None:
    """Its words are an answer."""
    ended = outcome(INIT, said("Attempt 1 failed with status 429. Retrying. [API Error: 401]"), DONE)
    assert (ended.succeeded, ended.error_kind) == (True, None)


def test_a_loop_that_was_stopped_is_a_warning() -> None:
    """The turn goes on."""
    read = decoder()
    updates = feed_all(read, [INIT, line(type="error", severity="warning", message="Loop detected"), DONE])
    assert only(updates, "warning") == [{"message": "Loop detected"}]
    assert read.close(EXIT_0).succeeded


LOOP = line(type="error", severity="warning", message="Loop detected, stopping execution")
TURNS = line(type="error", severity="error", message="Maximum session turns exceeded")
BLOCKED = line(type="error", severity="warning", message="Agent execution blocked: not today")
USE = line(type="tool_use", tool_name="run_shell_command", tool_id="t", parameters={"command": "pwd"})


@pytest.mark.parametrize(
    ("broken", "kind", "words"),
    [
        (LOOP, "internal", "Loop detected, stopping execution"),
        (TURNS, "internal", "Maximum session turns exceeded"),
        (BLOCKED, "permission", "Agent execution blocked: not today"),
    ],
)
def test_a_turn_that_was_broken_off_is_no_success(broken: bytes, kind: str, words: str) -> None:
    """gemini says success of it, and severity warning of most."""
    for before in ([], [said("Let me see.")], [said("Let me see."), USE]):
        ended = outcome(INIT, *before, broken, DONE)
        assert (ended.succeeded, ended.error_kind, ended.error_message) == (False, kind, words)


@pytest.mark.parametrize("broken", [LOOP, TURNS, BLOCKED])
def test_a_model_that_goes_on_takes_the_end_back(broken: bytes) -> None:
    """The calls of an answer that was found to loop still run; and a hook that refuses an answer asks for another."""
    assert outcome(INIT, said("first"), broken, said("second"), DONE).succeeded
    assert outcome(INIT, said("first"), broken, said("second"), DONE).text == "second"
    called = outcome(INIT, broken, USE, line(type="tool_result", tool_id="t", status="success", output="/"), DONE)
    assert called.succeeded


def test_a_call_that_a_hook_answers_with_the_end_fails_the_turn() -> None:
    """Unless the model was asked again all the same."""
    message = "Agent execution stopped by hook: no more"
    stopped = line(
        type="tool_result",
        tool_id="t",
        status="error",
        output=message,
        error={"type": "stop_execution", "message": message},
    )
    ended = outcome(INIT, USE, stopped, DONE)
    assert (ended.succeeded, ended.error_kind, ended.error_message) == (False, "permission", message)
    assert outcome(INIT, USE, stopped, said("well"), DONE).succeeded


def test_a_turn_in_which_no_model_was_asked_is_no_success() -> None:
    """A hook that stops it leaves no line; an answer without text, of a model that was asked, is another matter."""
    unasked = line(type="result", status="success", stats={**STATS, "models": {}})
    ended = outcome(INIT, unasked)
    assert (ended.succeeded, ended.error_kind) == (False, "permission")
    assert outcome(INIT, said("an answer"), unasked).succeeded
    assert outcome(INIT, line(type="result", status="success", stats={**STATS, "models": {"m": {}}})).succeeded
    assert outcome(INIT, DONE).succeeded  # a version that names no models


NOISE = (
    "Ripgrep is not available. Falling back to GrepTool.\n"
    "YOLO mode is enabled. All tool calls will be automatically approved.\n"
    "Error executing tool run_shell_command: Tool execution denied by policy.\n"
    "MCP issues detected. Run /mcp list for status.\n"
    "[MCP error] Error during discovery for MCP server 'bad': Connection closed\n"
    "(node:1) Warning: x\n(Use `node --trace-warnings ...` to show where the warning was created)"
)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (ToolExit(None, 9, NOISE), "killed by signal 9 without a result line"),
        (ToolExit(0, None, NOISE), "exited with 0 without a result line"),
        (ToolExit(42, None, f"{NOISE}\nNo input provided via stdin."), "No input provided via stdin."),
    ],
)
def test_a_failure_quotes_no_noise(end: ToolExit, message: str) -> None:
    """What gemini says on stderr of any run, and of an agent's tools, says nothing of why it ended."""
    assert outcome(INIT, end=end).error_message == message


def test_the_advice_for_its_interface_is_not_quoted() -> None:
    """It follows every refusal for want of quota."""
    advice = "Please wait and try again later. To increase your limits, request a quota increase through AI Studio"
    read = decoder()
    updates = feed_all(read, [INIT, failed(f"[API Error: mock 429]\n{advice}")])
    assert [data["message"] for data in only(updates, "error")] == ["[API Error: mock 429]"]
    assert read.close(ToolExit(173, None)).error_message == "[API Error: mock 429]"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[API Error: You have exhausted your daily quota on this model.]", "quota"),
        ("[API Error: You have exhausted your capacity on this model.]", "quota"),
        ("[API Error: Your project has exceeded its monthly spending cap.]", "quota"),
        ("[API Error: The usage limit has been reached]", "quota"),
        ("[API Error: Your prepayment credits are depleted.]", "quota"),
        ("[API Error: Resource has been exhausted (e.g. check quota).]", "rate_limit"),
        ("[API Error: Quota exceeded for quota metric 'requests per minute']", "rate_limit"),
    ],
)
def test_quota_words_of_a_429_are_quota(message: str, kind: str) -> None:
    """What returns in a moment is a rate limit, though it calls itself a quota."""
    ended = outcome(INIT, failed(message), end=ToolExit(173, None))
    assert ended.error_kind == kind


def test_the_providers_own_delay_is_on_stderr() -> None:
    """gemini replaces the words of a quota by its own, and reports the delay beside its stack."""
    tail = """\
  cause: {
    code: 429,
    message: 'You exceeded your current quota. Please retry in 3h12m7.5s.',
  },
  retryDelayMs: 11527000,
  status: 429
}"""
    ended = outcome(INIT, failed("[API Error: You have exhausted your daily quota.]"), end=ToolExit(173, None, tail))
    assert ended.retry_after_s == 11527
    assert ended.error_message == "[API Error: You have exhausted your daily quota.] (retry in 3h12m7.5s)"
    unknown = ToolExit(173, None, tail.replace("11527000", "undefined"))
    assert outcome(INIT, failed("[API Error: x]"), end=unknown).retry_after_s is None
    assert outcome(INIT, DONE, end=ToolExit(0, None, tail)).retry_after_s is None


@pytest.mark.parametrize("more", [said("two"), USE])
@pytest.mark.parametrize("first", [DONE, failed("mock")])
def test_a_line_of_work_takes_the_end_back(first: bytes, more: bytes) -> None:
    """The last result decides, and without one there is none."""
    read = decoder()
    feed_all(read, [INIT, said("one"), first])
    assert is_over(read)
    feed_all(read, [more])
    assert not is_over(read)
    assert read.close(EXIT_0).error_kind == "protocol"
    feed_all(read, [DONE])
    assert read.close(EXIT_0).succeeded


def test_a_success_has_its_words_and_its_end() -> None:
    """Several pieces are one message as they are, and the turn ended by itself."""
    use = line(type="tool_use", tool_name="run_shell_command", tool_id="t", parameters={"command": "pwd"})
    ended = outcome(INIT, said("Let me "), said("look."), use, DONE)
    assert (ended.succeeded, ended.text, ended.stop_reason) == (True, "Let me look.", "end_turn")
    assert outcome(INIT, failed("no")).stop_reason is None


def test_what_the_policy_forbids_is_a_failed_call_and_a_denial() -> None:
    """Both are told: that the call is over, and why."""
    use = line(type="tool_use", tool_name="run_shell_command", tool_id="t", parameters={"command": "rm x"})
    error = {"type": "policy_violation", "message": "Tool execution denied by policy."}
    read = decoder()
    updates = feed_all(read, [INIT, use, line(type="tool_result", tool_id="t", status="error", error=error), DONE])
    assert [data["status"] for data in only(updates, "tool_call_update")] == ["failed"]
    assert [data["status"] for data in only(updates, "permission")] == ["denied"]
    assert read.close(EXIT_0).denied == ("rm x",)


def test_stderr_that_is_no_text_is_read_all_the_same() -> None:
    """Whatever bytes a library writes there."""
    assert decoder().feed_stderr(b"\xff\xfe Attempt 1\n") == []
