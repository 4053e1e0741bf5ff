"""No line, however broken, makes a decoder raise or say what cannot be written as JSON and UTF-8."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter
from hypothesis import given
from hypothesis import strategies as st

from csa.model.adapter import Adapter, ToolExit
from tests.effort import examples
from tests.unit.adapters.support import FRESH, make_request, recordings

ADAPTERS: list[Adapter] = [CodexAdapter(), ClaudeCodeAdapter(), GeminiCliAdapter(), OpencodeAdapter()]
EVERY_LINE = {
    adapter.name: [line for recording in recordings(adapter.name).values() for line in recording.lines]
    for adapter in ADAPTERS
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["error", "text", FRESH]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
TYPES = [
    "thread.started", "turn.completed", "turn.failed", "error", "item.started", "item.completed",
    "system", "assistant", "user", "result",
    "init", "message", "tool_use", "tool_result",
    "session", "step_finish", "text", "tool_use", "retry", "permission", "compaction",
]  # fmt: skip
KEYS = [
    "type", "subtype", "thread_id", "session_id", "item", "usage", "message", "error", "content", "is_error", "errors",
    "result", "total_cost_usd", "permission_denials", "parent_tool_use_id", "api_error_status", "compact_metadata",
    "role", "delta", "tool_id", "tool_name", "parameters", "output", "status", "stats", "severity",
    "sessionID", "part", "attempt", "retry_after_s", "patterns", "tool", "summary",
]  # fmt: skip
EVENTS = st.fixed_dictionaries({"type": st.sampled_from(TYPES) | VALUES}, optional=dict.fromkeys(KEYS[1:], VALUES))
ENDS = st.builds(
    ToolExit, st.none() | st.integers(0, 255), st.none() | st.integers(1, 31), st.text(st.characters(codec="utf-8"))
)


def survive(adapter: Adapter, lines: Iterable[bytes], end: ToolExit) -> None:
    """Feed the lines, and check that all that was said can be stored."""
    for resumed in (None, FRESH):
        decoder = adapter.decoder(make_request(provider_session_id=resumed))
        for line in lines:
            for update in decoder.feed(line):
                json.dumps(update.data, ensure_ascii=False, allow_nan=False).encode()
        outcome = decoder.close(end)
        assert outcome.succeeded is (outcome.error_kind is None)
        assert outcome.succeeded or outcome.error_message
        json.dumps([outcome.totals, outcome.text, outcome.denied], ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
@examples(50)
@given(lines=st.lists(st.binary(max_size=60), max_size=4), end=ENDS)
def test_arbitrary_bytes(adapter: Adapter, lines: list[bytes], end: ToolExit) -> None:
    """Not even JSON."""
    survive(adapter, lines, end)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
@examples(30)
@given(events=st.lists(EVENTS, max_size=4), end=ENDS)
def test_events_with_values_of_any_type(adapter: Adapter, events: list[dict[str, Any]], end: ToolExit) -> None:
    """A field may change its type between two versions of a tool."""
    survive(adapter, [json.dumps(event).encode() for event in events], end)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
@given(data=st.data(), end=ENDS)
@examples(50)
def test_mutated_recordings(adapter: Adapter, data: st.DataObject, end: ToolExit) -> None:
    """Real lines with one value replaced somewhere, or with bytes overwritten."""
    lines = data.draw(st.lists(st.sampled_from(EVERY_LINE[adapter.name]), min_size=1, max_size=4))
    mutate: Callable[[bytes, st.DataObject], bytes] = data.draw(st.sampled_from([_replace_value, _overwrite]))
    survive(adapter, [mutate(line, data) for line in lines], end)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"type":' * 50_000,
        b'{"type":"turn.completed","usage":{"input_tokens":' + b"9" * 5000 + b"}}",
        b'{"type":"result","usage":{"input_tokens":1e999},"total_cost_usd":Infinity,"session_id":null}',
        b'{"type":"x","v":[NaN,-Infinity,1e999]}',
        b'{"type":"item.completed","item":{"type":"agent_message","text":"\\ud83d broken \\uDE00"}}',
        b'{"type":"assistant","message":{"content":[{"type":"text","text":"\\ud800"}]},"\\udc00":1}',
        b'\xef\xbb\xbf{"type":"turn.started"}',
        b"\x00",
    ],
    ids=range(9),
)
def test_lines_that_broke_other_readers(adapter: Adapter, line: bytes) -> None:
    """Depth, huge numbers, what JSON has no number for, half surrogate pairs, a byte-order mark, NUL."""
    survive(adapter, [line], ToolExit(0, None))


def test_a_whole_surrogate_pair_is_the_character_it_means() -> None:
    """Only broken halves are replaced."""
    decoder = CodexAdapter().decoder(make_request())
    line = b'{"type":"item.completed","item":{"type":"agent_message","text":"\\ud83d\\ude00 \\ud83d"}}'
    assert decoder.feed(line)[0].data["text"] == "\U0001f600 \ufffd"


def _replace_value(line: bytes, data: st.DataObject) -> bytes:
    event = json.loads(line)
    place: Any = event
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return line
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            return json.dumps(event).encode()
        place = place[key]


def _overwrite(line: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, len(line)))
    return line[:at] + data.draw(st.binary(max_size=4)) + line[at + data.draw(st.integers(0, 4)) :]
