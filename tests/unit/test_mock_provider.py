"""The mock provider, spoken to in each protocol."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from fixtures.mock_provider import MockProvider, cut, slow, status, text, thinking, together, tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(name="provider")
def running_provider() -> Iterator[MockProvider]:
    """A running provider."""
    with MockProvider() as provider:
        yield provider


def post(provider: MockProvider, path: str, body: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def responses_body(*prompts: str, tools: tuple[str, ...] = ()) -> dict[str, Any]:
    context = {"type": "input_text", "text": "<environment_context>x</environment_context>"}
    messages = [[context], *([{"type": "input_text", "text": prompt}] for prompt in prompts)]
    return {
        "model": "mock-model",
        "stream": True,
        "instructions": "be brief",
        "input": [{"type": "message", "role": "user", "content": content} for content in messages],
        "tools": [{"type": "function", "name": name} for name in tools],
    }


def messages_body(*prompts: str, tools: tuple[str, ...] = (), stream: bool = True) -> dict[str, Any]:
    reminder = {"type": "text", "text": "<system-reminder>x</system-reminder>"}
    contents = [[reminder, {"type": "text", "text": prompt}] for prompt in prompts]
    return {
        "model": "mock-model",
        "stream": stream,
        "system": [{"type": "text", "text": "be brief"}],
        "messages": [{"role": "user", "content": content} for content in contents],
        "tools": [{"name": name} for name in tools],
    }


def chat_body(*prompts: str, tools: tuple[str, ...] = (), stream: bool = True) -> dict[str, Any]:
    said = [{"role": "user", "content": [{"type": "text", "text": prompt}]} for prompt in prompts]
    return {
        "model": "mock-model",
        "stream": stream,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "<system-reminder>x</system-reminder>"},
            {"role": "assistant", "content": None, "tool_calls": []},
            *said,
        ],
        "tools": [{"type": "function", "function": {"name": name}} for name in tools],
    }


def events(raw: bytes) -> list[dict[str, Any]]:
    lines = [line for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def test_responses_echo_counts_only_real_prompts(provider: MockProvider) -> None:
    """Without a rule the latest prompt comes back, and injected context is not a prompt."""
    _, raw = post(provider, "/v1/responses", responses_body("one", "two"))
    last = events(raw)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["output"][0]["content"][0]["text"] == "MOCK ECHO: two [users=2]"
    assert provider.requests[0].user_texts == ["one", "two"]
    assert provider.requests[0].system_text == "be brief"


def test_messages_echo_with_and_without_stream(provider: MockProvider) -> None:
    """Both forms of the Messages protocol carry the same text."""
    _, raw = post(provider, "/v1/messages?beta=true", messages_body("hi"))
    deltas = [event["delta"] for event in events(raw) if event["type"] == "content_block_delta"]
    assert deltas == [{"type": "text_delta", "text": "MOCK ECHO: hi [users=1]"}]
    _, raw = post(provider, "/v1/messages", messages_body("hi", stream=False))
    assert json.loads(raw)["content"] == [{"type": "text", "text": "MOCK ECHO: hi [users=1]"}]


def test_chat_echo_with_and_without_stream(provider: MockProvider) -> None:
    """Both forms of the Chat Completions protocol carry the same text; a stream ends with its usage and a mark."""
    provider.on("priced", text("done", usage=(7, 5, 3)))
    _, raw = post(provider, "/v1/chat/completions", chat_body("one", "priced"))
    assert raw.endswith(b"data: [DONE]\n\n")
    *said, finish, usage = events(raw)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said) == "done"
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["prompt_tokens_details"]) == ([], {"cached_tokens": 3})
    assert provider.requests[0].user_texts == ["one", "priced"]
    assert provider.requests[0].system_text == "be brief"
    _, raw = post(provider, "/v1/chat/completions", chat_body("hi", stream=False))
    assert json.loads(raw)["choices"][0]["message"]["content"] == "MOCK ECHO: hi [users=1]"


def test_chat_calls_reason_and_fail(provider: MockProvider) -> None:
    """Reasoning has a field of its own, a call its index, and a failure an error object."""
    provider.on("run", thinking("hm", together(tool_call("pwd"), tool_call("ls"))), status(429, retry_after=2))
    _, raw = post(provider, "/v1/chat/completions", chat_body("run", tools=("bash",)))
    deltas = [chunk["choices"][0]["delta"] for chunk in events(raw) if chunk["choices"]]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["hm"]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "bash"), (1, "bash")]
    assert json.loads(calls[0]["function"]["arguments"])["command"] == "pwd"
    response, raw = post(provider, "/v1/chat/completions", chat_body("run", tools=("bash",)))
    assert (response.status, response.headers["retry-after"]) == (429, "2")
    assert json.loads(raw)["error"]["message"] == "mock 429"


def test_replies_come_in_order_and_the_last_repeats(provider: MockProvider) -> None:
    """A rule is a list of replies; a newer rule goes first."""
    provider.on("go", text("old"))
    provider.on("go", status(429, retry_after=2), text("first", usage=(7, 5, 3)), text("last"))
    seen = [post(provider, "/v1/messages", messages_body("go now", stream=False)) for _ in range(4)]
    assert seen[0][0].status == 429
    assert seen[0][0].headers["retry-after"] == "2"
    assert json.loads(seen[0][1])["error"]["type"] == "rate_limit_error"
    assert json.loads(seen[1][1])["usage"]["cache_read_input_tokens"] == 3
    assert [json.loads(raw)["content"][0]["text"] for _, raw in seen[1:]] == ["first", "last", "last"]


def test_a_shell_call_uses_the_tool_that_is_offered(provider: MockProvider) -> None:
    """The command goes to the CLI's own shell tool, after a reasoning block."""
    provider.on("run", thinking("hm", tool_call("pwd")))
    _, raw = post(provider, "/v1/responses", responses_body("run", tools=("exec_command",)))
    reasoning, call = events(raw)[-1]["response"]["output"]
    assert reasoning["summary"][0]["text"] == "hm"
    assert (call["name"], json.loads(call["arguments"])) == ("exec_command", {"cmd": "pwd"})
    _, raw = post(provider, "/v1/messages", messages_body("run", tools=("Bash",), stream=False))
    call = json.loads(raw)["content"][1]
    assert (call["name"], call["input"]) == ("Bash", {"command": "pwd"})


def test_tools_in_a_namespace_are_named_and_called_with_it(provider: MockProvider) -> None:
    """Codex offers some tools late and grouped; a shell call becomes a script where that is the only way."""
    group = {"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}
    body = responses_body("run", tools=("plain",))
    body["input"].insert(0, {"type": "additional_tools", "role": "developer", "tools": [group]})
    provider.on("run", tool_call("pwd"))
    _, raw = post(provider, "/v1/responses", body)
    assert provider.requests[0].tools == ["plain", "functions.exec"]
    (call,) = events(raw)[-1]["response"]["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("custom_tool_call", "functions", "exec")
    assert call["input"] == 'text(await tools.exec_command({"cmd": "pwd"}));'


def test_a_shell_call_without_a_shell_tool_says_so(provider: MockProvider) -> None:
    """A request that offers no shell is answered with an error text."""
    provider.on("run", tool_call("pwd"))
    _, raw = post(provider, "/v1/messages", messages_body("run", tools=("Read",), stream=False))
    assert "no shell tool is offered; tools: Read" in json.loads(raw)["content"][0]["text"]


def test_a_cut_stream_drops_the_connection(provider: MockProvider) -> None:
    """The beginning arrives, the end does not."""
    provider.on("go", cut("a long answer"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(provider, "/v1/responses", responses_body("go"))
    assert events(caught.value.partial)[-1]["delta"] == "a long"
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(provider, "/v1/chat/completions", chat_body("go"))
    assert events(caught.value.partial)[-1]["choices"][0]["delta"] == {"content": "a long"}


def test_stopping_interrupts_slow_replies_and_idle_clients() -> None:
    """No thread outlives the context, whatever its client does."""
    before = threading.active_count()
    started = time.monotonic()
    with MockProvider() as provider:
        provider.on("go", slow(60, text("late")))
        silent = http.client.HTTPConnection("127.0.0.1", provider.port)
        silent.connect()
        waiting = http.client.HTTPConnection("127.0.0.1", provider.port)
        waiting.request("POST", "/v1/responses", json.dumps(responses_body("go")))
        assert provider.wait_for(1, 5)[0].prompt == "go"
        with pytest.raises(TimeoutError, match="1 requests"):
            provider.wait_for(2, 0.01)
    assert threading.active_count() == before
    assert time.monotonic() - started < 10
    silent.close()
    waiting.close()


GEMINI = "/v1beta/models/mock-model:streamGenerateContent?alt=sse"


def contents_body(*prompts: str, tools: tuple[str, ...] = ()) -> dict[str, Any]:
    texts = ["<session_context>x</session_context>", *prompts]
    return {
        "systemInstruction": {"role": "user", "parts": [{"text": "be brief"}]},
        "contents": [{"role": "user", "parts": [{"text": text}]} for text in texts],
        "tools": [{"functionDeclarations": [{"name": name} for name in tools]}],
    }


def test_gemini_echo_with_and_without_stream(provider: MockProvider) -> None:
    """Model and method stand in the path, and injected context is not a prompt."""
    _, raw = post(provider, GEMINI, contents_body("one", "two"))
    (chunk,) = events(raw)
    assert chunk["candidates"][0]["content"]["parts"] == [{"text": "MOCK ECHO: two [users=2]"}]
    assert chunk["candidates"][0]["finishReason"] == "STOP"
    (seen,) = provider.requests
    assert (seen.model, seen.system_text, seen.user_texts) == ("mock-model", "be brief", ["one", "two"])
    _, raw = post(provider, "/v1beta/models/mock-model:generateContent", contents_body("hi"))
    assert json.loads(raw)["usageMetadata"]["promptTokenCount"] == 100
    _, raw = post(provider, "/v1beta/models/mock-model:countTokens", contents_body("hi"))
    assert json.loads(raw)["totalTokens"] > 0


def test_gemini_calls_thoughts_failures_and_cuts(provider: MockProvider) -> None:
    """Every kind of reply has its form in this protocol too."""
    provider.on("run", thinking("hm", tool_call("pwd")), status(429, retry_after=2), cut("a long answer"))
    _, raw = post(provider, GEMINI, contents_body("run", tools=("run_shell_command",)))
    thought, call = [event["candidates"][0]["content"]["parts"][0] for event in events(raw)]
    assert thought["thought"] is True
    assert (call["functionCall"]["name"], call["functionCall"]["args"]) == ("run_shell_command", {"command": "pwd"})
    response, raw = post(provider, GEMINI, contents_body("run"))
    assert (response.status, json.loads(raw)["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert json.loads(raw)["error"]["details"][0]["retryDelay"] == "2s"
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(provider, GEMINI, contents_body("run"))
    assert events(caught.value.partial)[-1]["candidates"][0]["content"]["parts"] == [{"text": "a long"}]
