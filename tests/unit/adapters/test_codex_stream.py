"""What csa makes of `codex exec --json`."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.codex_stream import CodexDecoder, kind_of

from csa.model.adapter import ToolExit
from csa.model.usage import Usage
from tests.unit.adapters.support import (
    EXIT_0,
    EXIT_1,
    OTHER_THREAD,
    THREAD,
    feed_all,
    line,
    make_request,
    only,
    types_of,
)

STARTED = line(type="thread.started", thread_id=THREAD)
COMPLETED = line(type="turn.completed", usage={"input_tokens": 5259, "cached_input_tokens": 7, "output_tokens": 11})
ZERO = {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0}


def is_over(read: CodexDecoder) -> bool:
    """Ask anew: what a property has said once, type checkers take for constant."""
    return read.is_finished


def decoder(**fields: Any) -> CodexDecoder:
    return CodexDecoder(make_request(**fields))


def item(phase: str, **fields: Any) -> bytes:
    return line(type=f"item.{phase}", item=fields)


def message(text: str) -> bytes:
    return item("completed", id="item_1", type="agent_message", text=text)


def test_success_is_turn_completed_and_exit_0_and_the_last_message() -> None:
    """The answer is the last agent_message; the thread's id is told once."""
    read = decoder()
    updates = feed_all(read, [STARTED, line(type="turn.started"), message("first"), message("last"), COMPLETED])
    assert types_of(updates) == ["session_bound", "agent_message", "agent_message", "usage"]
    assert updates[0].data == {"provider_session_id": THREAD}
    assert read.is_finished
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.text, outcome.error_kind) == (True, "last", None)


def test_a_turn_that_ended_and_was_reaped_succeeded() -> None:
    """A tool that said it finished but did not exit has neither code nor signal."""
    read = decoder()
    feed_all(read, [STARTED, message("done"), COMPLETED])
    assert read.close(ToolExit(None, None)).succeeded


@pytest.mark.parametrize("end", [EXIT_1, ToolExit(None, 9)])
def test_turn_completed_with_a_bad_exit_is_no_success(end: ToolExit) -> None:
    """Both must agree."""
    read = decoder()
    feed_all(read, [STARTED, message("done"), COMPLETED])
    outcome = read.close(end)
    assert (outcome.succeeded, outcome.error_kind) == (False, "internal")


def test_another_thread_than_the_one_asked_for_stops_the_run() -> None:
    """A resume that began a new conversation must not be taken for the old one, nor its id recorded."""
    read = decoder(provider_session_id=THREAD)
    updates = read.feed(line(type="thread.started", thread_id=OTHER_THREAD))
    assert types_of(updates) == ["error"]
    assert read.fault is not None
    feed_all(read, [message("hello"), COMPLETED])
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind) == (False, "protocol")
    assert outcome.text == "hello"  # what was said elsewhere is told all the same
    assert outcome.totals is not None


def test_the_thread_asked_for_is_bound_once_whatever_its_case() -> None:
    """UUIDs compare without case."""
    read = decoder(provider_session_id=THREAD.upper())
    assert types_of(feed_all(read, [STARTED, STARTED])) == ["session_bound"]
    assert read.fault is None


@pytest.mark.parametrize("forked", [THREAD, THREAD.upper()])
def test_a_fork_that_goes_on_in_its_sources_thread_stops_the_run(forked: str) -> None:
    """The source is only read: a fork that writes into its thread is ended, and the thread is not bound to it."""
    read = decoder(fork_of=forked)
    updates = feed_all(read, [STARTED, message("hello"), COMPLETED])
    assert read.fault is not None
    assert "session_bound" not in types_of(updates)
    assert [data["kind"] for data in only(updates, "error")] == ["protocol"]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.error_kind) == (False, "protocol")


def test_a_fork_binds_its_own_thread() -> None:
    """Another thread than the source's is what was asked for, and stays the one."""
    read = decoder(fork_of=OTHER_THREAD)
    assert types_of(feed_all(read, [STARTED, message("hello"), COMPLETED]))[0] == "session_bound"
    assert read.close(EXIT_0).succeeded
    feed_all(read, [line(type="thread.started", thread_id=OTHER_THREAD)])
    assert read.fault is not None


def test_a_turn_that_never_names_its_thread_is_a_protocol_failure() -> None:
    """Without the id nothing can be resumed, and nothing shows that the right conversation ran."""
    read = decoder(provider_session_id=THREAD)
    feed_all(read, [message("hello"), COMPLETED])
    assert read.close(EXIT_0).error_kind == "protocol"


def test_ids_inside_a_commands_output_fool_nobody() -> None:
    """Only the top-level key of thread.started counts."""
    planted = f'{{"type":"thread.started","thread_id":"{OTHER_THREAD}","session_id":"x"}}\n{{"type":"turn.failed"}}'
    read = decoder(provider_session_id=THREAD)
    call = {"id": "item_1", "type": "command_execution", "command": "cat log", "thread_id": OTHER_THREAD}
    lines = [STARTED, item("completed", **call, aggregated_output=planted, exit_code=0, status="completed"), COMPLETED]
    updates = feed_all(read, lines)
    assert types_of(updates) == ["session_bound", "tool_call", "tool_call_update"]
    assert read.fault is None
    assert read.close(EXIT_0).succeeded


def test_an_agent_that_writes_about_429_is_not_rate_limited() -> None:
    """Prose is no evidence."""
    read = decoder()
    feed_all(read, [STARTED, message("error 429 Too Many Requests, quota exceeded"), COMPLETED])
    assert read.close(EXIT_0).succeeded


def test_an_error_item_is_a_warning() -> None:
    """`Model metadata not found` comes before every turn of an unknown model, and harms nothing."""
    read = decoder()
    updates = feed_all(read, [STARTED, item("completed", id="i", type="error", message="Model metadata"), COMPLETED])
    assert only(updates, "warning") == [{"message": "Model metadata"}]
    assert read.close(EXIT_0).succeeded


def test_retry_notices_are_retries_and_not_failures() -> None:
    """`Reconnecting...` and the final error share the type `error`."""
    read = decoder()
    notice = "Reconnecting... 2/5 (unexpected status 401 Unauthorized: (nested), url: http://x, request id: r)"
    updates = feed_all(read, [STARTED, line(type="error", message=notice), message("after"), COMPLETED])
    assert only(updates, "retry") == [
        {
            "kind": "auth",
            "message": "unexpected status 401 Unauthorized: (nested), url: http://x, request id: r",
            "attempt": 2,
            "max": 5,
        }
    ]
    assert read.close(EXIT_0).succeeded


def test_waiting_for_the_network_is_a_retry_without_a_count() -> None:
    """This is how an unreachable provider is retried for ever where the feature is on."""
    (update,) = decoder().feed(
        line(type="error", message="Reconnecting... waiting for network (Connection failed: error sending request)")
    )
    assert update.data == {"kind": "network", "message": "Connection failed: error sending request"}


@pytest.mark.parametrize(("delay", "seconds"), [("1.898s", 1.898), ("250ms", 0.25), ("2 minutes", 120)])
def test_a_delay_the_provider_names_is_kept(delay: str, seconds: float) -> None:
    """The wording of rate-limit messages."""
    (update,) = decoder().feed(
        line(type="error", message=f"Reconnecting... 1/5 (Rate limit. Please try again in {delay}.)")
    )
    assert update.data["retry_after_s"] == seconds
    assert update.data["kind"] == "rate_limit"


def test_the_final_error_is_told_once() -> None:
    """codex repeats it as `error` and as `turn.failed`."""
    read = decoder()
    text = "unexpected status 401 Unauthorized: mock 401"
    updates = feed_all(
        read, [STARTED, line(type="error", message=text), line(type="turn.failed", error={"message": text})]
    )
    assert only(updates, "error") == [{"kind": "auth", "message": text}]
    assert read.is_finished
    outcome = read.close(EXIT_1)
    assert (outcome.succeeded, outcome.error_kind, outcome.error_message) == (False, "auth", text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("unexpected status 401 Unauthorized: mock", "auth"),
        ("unexpected status 402 Payment Required: insufficient credits", "quota"),
        ("unexpected status 403 Forbidden: mock", "auth"),
        ("unexpected status 404 Not Found: The model `x` does not exist", "invalid_request"),
        ("exceeded retry limit, last status: 429 Too Many Requests, request id: r", "rate_limit"),
        ("unexpected status 500 Internal Server Error: mock", "server"),
        ("unexpected status 503 Service Unavailable: mock", "overloaded"),
        ("unexpected status 529 <unknown status code>: mock", "overloaded"),
        ("We\u2019re currently experiencing high demand, which may cause temporary errors.", "server"),
        ("Quota exceeded. Check your plan and billing details.", "quota"),
        ("You've hit your usage limit. Upgrade to Pro or try again in 3 hours.", "quota"),
        ("Codex ran out of room in the model's context window. Start a new thread", "context_overflow"),
        ('{"error": {"message": "prompt is too long: 1250000 tokens"}}', "context_overflow"),
        ('{"error": {"message": "mock 400"}}', "invalid_request"),
        ("stream disconnected before completion: stream closed before response.completed", "network"),
        ("Connection failed: error sending request", "network"),
        ("Missing environment variable: `MOCK_API_KEY`.", "auth"),
        ("Selected model is at capacity.", "overloaded"),
        ("something new", "internal"),
    ],
)
def test_kinds_of_failure(text: str, kind: str) -> None:
    """The message of the typed event decides; the status of one that names it."""
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    ("stderr", "kind", "said"),
    [
        (
            f"Error: thread/resume: no rollout found for thread id {THREAD} (code -32600)\n\nStack backtrace:\n",
            "unknown_conversation",
            "no rollout found",
        ),
        (
            f"Error: thread/fork: invalid paginated history lineage for {THREAD}: missing source rollout (code 1)\n",
            "unknown_conversation",
            "missing source rollout",
        ),
        (
            f"Error: thread/resume: failed to read thread: at /my dir/rollout-2-{THREAD}.jsonl is empty (code 1)\n",
            "unknown_conversation",
            "is empty",
        ),
        (
            f"Error: thread/resume: session {THREAD} is archived. Run `codex unarchive {THREAD}` (code -32600)\n",
            "internal",
            "is archived",
        ),
        (f"hook said: no rollout found for thread id {THREAD}\n", "invalid_request", "no rollout found"),
        (
            f"Error: thread/resume: thread {THREAD} already has an active writer (code -32600)\n",
            "invalid_request",
            "active writer",
        ),
        ("Not inside a trusted directory and --skip-git-repo-check was not specified.\n", "invalid_request", "trusted"),
        ('Error finding codex home: CODEX_HOME points to "/x" does not exist\n', "spawn", "CODEX_HOME"),
        (
            "WARNING: proceeding\nError: failed to initialize in-process app-server client: Read-only file system\n",
            "spawn",
            "Read-only",
        ),
        (
            "warning: Untrusted project-local configuration is disabled.\nNo prompt provided via stdin.\n",
            "invalid_request",
            "No prompt",
        ),
        (
            "error: unexpected argument '--nonsense' found\n\n  tip: x\n\nUsage: codex exec\n",
            "invalid_request",
            "--nonsense",
        ),
        ("Error: Missing environment variable: `KEY`.\n", "auth", "KEY"),
        ("warning: Untrusted project-local configuration is disabled.\n", "internal", "exited with 1"),
    ],
)
def test_a_start_that_failed_is_explained_by_stderr(stderr: str, kind: str, said: str) -> None:
    """Unknown ids, an active writer and bad settings leave stdout empty."""
    outcome = decoder(provider_session_id=THREAD).close(ToolExit(1, None, stderr))
    assert (outcome.succeeded, outcome.error_kind) == (False, kind)
    assert said in (outcome.error_message or "")


def test_stderr_explains_nothing_once_the_thread_runs() -> None:
    """An agent's command may write anything there."""
    read = decoder()
    read.feed(STARTED)
    assert read.close(ToolExit(1, None, "Error: no rollout found")).error_kind == "protocol"


def test_an_end_without_a_typed_event_is_a_failure_with_what_was_said_so_far() -> None:
    """SIGINT: exit 1, no turn.failed; a signal of somebody else's: internal."""
    read = decoder()
    feed_all(read, [STARTED, message("so far")])
    assert read.close(EXIT_0).error_kind == "protocol"
    killed = read.close(ToolExit(None, 9))
    assert (killed.error_kind, killed.text) == ("internal", "so far")
    assert "signal 9" in (killed.error_message or "")


def test_an_error_without_turn_failed_is_the_failures_cause() -> None:
    """A codex killed while it reports still told why."""
    read = decoder()
    feed_all(read, [STARTED, line(type="error", message="Quota exceeded.")])
    assert read.close(EXIT_1).error_kind == "quota"


def test_usage_is_the_difference_of_the_threads_totals() -> None:
    """The second run on one thread reports both."""
    before = {"input_tokens": 5000, "cached_tokens": 5.0, "output_tokens": 10}
    read = decoder(provider_session_id=THREAD, previous_totals=before)
    updates = feed_all(read, [STARTED, COMPLETED])
    assert only(updates, "usage") == [{"input_tokens": 259, "output_tokens": 1, "cached_tokens": 2, "cost_usd": None}]
    outcome = read.close(EXIT_0)
    assert outcome.usage == Usage(259, 1, 2)
    assert outcome.totals == {"input_tokens": 5259, "cached_tokens": 7, "output_tokens": 11}


@pytest.mark.parametrize(
    "before",
    [None, {}, {"input_tokens": 1}, {"input_tokens": 9_999_999, "cached_tokens": 0, "output_tokens": 0}],
)
def test_usage_that_cannot_be_told_is_unknown_but_the_totals_are_kept(before: dict[str, float] | None) -> None:
    """The first resume of a foreign thread, or totals that shrank."""
    read = decoder(provider_session_id=THREAD, previous_totals=before)
    assert only(feed_all(read, [STARTED, COMPLETED]), "usage") == []
    outcome = read.close(EXIT_0)
    assert outcome.usage is None
    assert outcome.totals == {"input_tokens": 5259, "cached_tokens": 7, "output_tokens": 11}


def test_a_failed_turn_keeps_the_totals_so_far() -> None:
    """Else the next turn's difference would be taken from nothing."""
    before = {"input_tokens": 5, "cached_tokens": 1, "output_tokens": 2}
    read = decoder(provider_session_id=THREAD, previous_totals=before)
    feed_all(read, [STARTED, line(type="turn.failed", error={"message": "x"})])
    assert read.close(EXIT_1).totals == before
    assert decoder(provider_session_id=THREAD, previous_totals=before).close(EXIT_1).totals == before
    fresh = decoder()
    fresh.feed(STARTED)
    assert fresh.close(EXIT_1).totals == ZERO
    assert decoder().close(EXIT_1).totals is None


def test_a_command_is_a_call_and_its_end() -> None:
    """A failing command has its exit code, and does not fail the turn."""
    call: dict[str, Any] = {"id": "item_1", "type": "command_execution", "command": "/bin/bash -lc 'exit 3'"}
    begun = {**call, "aggregated_output": "", "exit_code": None, "status": "in_progress"}
    ended = {**call, "aggregated_output": "oops\n", "exit_code": 3, "status": "failed"}
    updates = feed_all(decoder(), [item("started", **begun), item("completed", **ended)])
    assert [(u.type, u.data) for u in updates] == [
        ("tool_call", {"id": "item_1", "title": "exit 3", "kind": "execute", "status": "in_progress"}),
        ("tool_call_update", {"id": "item_1", "status": "failed", "content": "oops\n", "exit_code": 3}),
    ]


def test_an_item_that_was_never_begun_is_a_call_and_its_end_at_once() -> None:
    """file_change was seen completed only."""
    changes = [{"path": "/p/a.txt", "kind": "add"}, {"path": "/p/b.txt", "kind": "update"}]
    updates = decoder().feed(item("completed", id="i", type="file_change", changes=changes, status="completed"))
    assert [(u.type, u.data["status"]) for u in updates] == [
        ("tool_call", "in_progress"),
        ("tool_call_update", "completed"),
    ]
    assert updates[0].data["title"] == "Edit /p/a.txt, /p/b.txt"
    assert updates[0].data["kind"] == "edit"
    assert updates[1].data["content"] == "add /p/a.txt\nupdate /p/b.txt"


@pytest.mark.parametrize(
    ("fields", "kind", "title"),
    [
        ({"type": "file_change", "changes": [{"path": "/p/a", "kind": "delete"}]}, "delete", "Delete /p/a"),
        ({"type": "mcp_tool_call", "server": "t", "tool": "ping"}, "other", "t.ping"),
        ({"type": "collab_tool_call", "tool": "spawn_agent", "prompt": "x"}, "think", "spawn_agent"),
        ({"type": "web_search", "query": "ulid"}, "search", "Search ulid"),
    ],
)
def test_kinds_and_titles_of_other_tools(fields: dict[str, Any], kind: str, title: str) -> None:
    """The vocabulary of the transcript, for each tool of codex."""
    call = decoder().feed(item("started", id="i", **fields))[0]
    assert (call.type, call.data["kind"], call.data["title"]) == ("tool_call", kind, title)


def test_an_mcp_call_that_would_have_asked_is_denied() -> None:
    """exec never asks; the refusal is in the result though the run succeeds."""
    refusal = {"message": "MCP tool call requires approval, but approval policy is never"}
    read = decoder()
    updates = feed_all(
        read,
        [
            STARTED,
            item("completed", id="i", type="mcp_tool_call", server="t", tool="ping", error=refusal, status="failed"),
            COMPLETED,
        ],
    )
    assert only(updates, "permission") == [{"id": "i", "title": "t.ping", "status": "denied"}]
    outcome = read.close(EXIT_0)
    assert (outcome.succeeded, outcome.denied) == (True, ("t.ping",))


def test_reasoning_is_thought_and_a_todo_list_a_plan() -> None:
    """A plan may be updated before it is completed."""
    todos = [{"text": "look", "completed": True}, {"text": "act", "completed": False}]
    updates = feed_all(
        decoder(),
        [
            item("completed", id="a", type="reasoning", text="hm"),
            item("updated", id="b", type="todo_list", items=todos),
        ],
    )
    assert only(updates, "agent_thought") == [{"text": "hm"}]
    assert only(updates, "plan") == [
        {"entries": [{"content": "look", "status": "completed"}, {"content": "act", "status": "pending"}]}
    ]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "turn.paused"},
        {"type": "item.completed", "item": {"type": "hologram"}},
        {"type": "item.started", "item": {"type": "agent_message", "text": "partial"}},
        {"type": "thread.started", "thread_id": 7},
        {"type": "error"},
        {"type": ["error"]},
        {},
    ],
)
def test_what_is_not_recognised_is_kept(event: dict[str, Any]) -> None:
    """Nothing a tool says is dropped."""
    (update,) = decoder().feed(line(**event))
    assert (update.type, update.data) == ("other", {"raw": event})


def test_a_line_that_is_no_json_is_kept_as_text_and_a_blank_one_is_nothing() -> None:
    """A library of the tool may print to stdout."""
    assert decoder().feed(b"Warning: \xff")[0].data == {"raw": "Warning: \ufffd"}
    assert decoder().feed(b"  \r") == []


@pytest.mark.parametrize(
    "refusal",
    [
        "MCP tool call requires approval, but approval policy is never",
        "user cancelled MCP tool call",
        "user rejected MCP tool call",
        "MCP tool call cancelled: interactive approval is unavailable in exec mode",
        "MCP tool call cancelled before approval",
    ],
)
def test_an_mcp_call_that_nobody_could_approve_was_denied(refusal: str) -> None:
    """Each version has its own words."""
    call = {"id": "m", "type": "mcp_tool_call", "server": "s", "tool": "t", "status": "failed"}
    read = decoder()
    updates = feed_all(read, [STARTED, item("completed", **call, error={"message": refusal}), message("no"), COMPLETED])
    assert read.close(EXIT_0).denied == ("s.t",)
    assert only(updates, "permission") == [{"id": "m", "title": "s.t", "status": "denied"}]


def test_commands_that_run_on_end_with_the_turn_and_that_is_told() -> None:
    """codex kills them without a line."""
    command = {"id": "c", "type": "command_execution", "command": "/bin/bash -c 'sleep 9'", "status": "in_progress"}
    done = {"id": "d", "type": "command_execution", "command": "/bin/bash -c pwd", "status": "completed"}
    read = decoder()
    updates = feed_all(
        read, [STARTED, item("started", **command), item("completed", **done), message("bye"), COMPLETED]
    )
    assert only(updates, "warning") == [{"message": "codex ended it with the turn, while it was running: sleep 9"}]
    assert [(data["id"], data["status"]) for data in only(updates, "tool_call_update")] == [
        ("d", "completed"),
        ("c", "failed"),
    ]
    assert read.close(EXIT_0).succeeded


def test_a_turn_in_which_nothing_was_used_or_said_is_no_success() -> None:
    """So ends one whose prompt a hook has refused, at a first turn and at a later one."""
    nothing = line(type="turn.completed", usage={"input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0})
    same = line(type="turn.completed", usage={"input_tokens": 9, "cached_input_tokens": 0, "output_tokens": 1})
    totals = {"input_tokens": 9, "cached_tokens": 0, "output_tokens": 1}
    for read, end in (
        (decoder(), nothing),
        (decoder(provider_session_id=THREAD, previous_totals=totals), same),
    ):
        feed_all(read, [STARTED, line(type="turn.started"), end])
        ended = read.close(EXIT_0)
        assert (ended.succeeded, ended.error_kind) == (False, "permission")
    said = decoder()
    feed_all(said, [STARTED, message("an answer of a provider that counts nothing"), nothing])
    assert said.close(EXIT_0).succeeded
    unknown = decoder(provider_session_id=THREAD)
    feed_all(unknown, [STARTED, same])
    assert unknown.close(EXIT_0).succeeded


def test_a_plan_without_codex_is_a_matter_of_quota() -> None:
    """Waiting does not help, another tool does."""
    assert kind_of("To use Codex with your ChatGPT plan, upgrade to Plus: https://chatgpt.com/explore/plus.") == "quota"


@pytest.mark.parametrize("first", [COMPLETED, line(type="turn.failed", error={"message": "mock"})])
def test_another_turn_takes_the_end_back(first: bytes) -> None:
    """The last one decides."""
    read = decoder()
    feed_all(read, [STARTED, line(type="turn.started"), message("one"), first])
    assert is_over(read)
    feed_all(read, [line(type="turn.started")])
    assert not is_over(read)
    assert read.close(EXIT_0).error_kind == "protocol"
    feed_all(read, [message("two"), COMPLETED])
    assert is_over(read)
    assert (read.close(EXIT_0).succeeded, read.close(EXIT_0).text) == (True, "two")


@pytest.mark.parametrize(
    ("command", "title"),
    [
        ("/bin/bash -lc 'ls -la'", "ls -la"),
        ("/usr/bin/zsh -lc 'ls -la'", "ls -la"),
        ("/bin/sh -c ls", "ls"),
        ("/bin/bash -lc \"echo 'a b'\"", "echo 'a b'"),
        ("/bin/bash -lc 'a' 'b'", "/bin/bash -lc 'a' 'b'"),
        ("/bin/bash -lc 'a", "/bin/bash -lc 'a"),
        ("/bin/bash script.sh", "/bin/bash script.sh"),
        ("python3 -c 'print(1)'", "python3 -c 'print(1)'"),
    ],
)
def test_a_command_is_shown_as_a_person_would_type_it(command: str, title: str) -> None:
    """Without the shell that codex wraps around it, where that is all there is around it."""
    (update,) = decoder().feed(item("started", id="i", type="command_execution", command=command))
    assert (update.data["title"], update.data["kind"]) == (title, "execute")


def test_what_other_tools_do_is_shown() -> None:
    """Calls of MCP servers with what they answered or why they failed; agents with what they were asked."""
    blocks = {"content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]}
    calls = [
        item("completed", id="1", type="mcp_tool_call", server="files", tool="read", result=blocks, status="completed"),
        item("completed", id="2", type="mcp_tool_call", server="f", tool="w", error={"message": "no"}, status="failed"),
        item("completed", id="3", type="collab_tool_call", tool="spawn", prompt="look", status="completed"),
        item("completed", id="4", type="collab_tool_call", status="completed"),
        item("completed", id="5", type="web_search", query="csa", status="completed"),
    ]
    updates = feed_all(decoder(), calls)
    assert [(data["title"], data["kind"]) for data in only(updates, "tool_call")] == [
        ("files.read", "other"),
        ("f.w", "other"),
        ("spawn", "think"),
        ("sub-agent", "think"),
        ("Search csa", "search"),
    ]
    assert [(data["content"], data["status"]) for data in only(updates, "tool_call_update")] == [
        ("one\ntwo", "completed"),
        ("no", "failed"),
        ("look", "completed"),
        ("", "completed"),
        ("", "completed"),
    ]


def test_a_command_that_was_declined_is_a_permission_that_was_denied() -> None:
    """By its status, whatever it says."""
    read = decoder()
    declined = item("completed", id="i", type="command_execution", command="rm -r x", status="declined")
    updates = feed_all(read, [STARTED, declined, COMPLETED])
    assert only(updates, "permission") == [{"id": "i", "title": "rm -r x", "status": "denied"}]
    assert read.close(EXIT_0).denied == ("rm -r x",)


def test_a_thought_is_told_when_it_is_complete() -> None:
    """Not before."""
    read = decoder()
    assert not only(read.feed(item("started", id="i", type="reasoning", text="h")), "agent_thought")
    assert only(read.feed(item("completed", id="i", type="reasoning", text="hm")), "agent_thought") == [{"text": "hm"}]


@pytest.mark.parametrize(
    ("error", "message"), [({"message": "quota exceeded"}, "quota exceeded"), ({}, "the turn failed")]
)
def test_a_failed_turn_says_why_by_itself(error: dict[str, str], message: str) -> None:
    """Where no error came before it, and where it says nothing."""
    read = decoder()
    updates = feed_all(read, [STARTED, line(type="turn.failed", error=error)])
    assert [data["message"] for data in only(updates, "error")] == [message]
    assert read.close(EXIT_1).error_message == message


def test_the_records_of_agents_are_read_as_they_become_known() -> None:
    """Those of the thread, and of whom it has called."""
    read = decoder()
    assert read.records == ()
    read.feed(STARTED)
    before: list[str] = list(read.records)
    assert before
    read.feed(item("completed", id="1", type="collab_tool_call", tool="spawn", receiver_thread_ids=[OTHER_THREAD]))
    assert list(read.records) == [*before, *(each.replace(THREAD, OTHER_THREAD) for each in before)]
