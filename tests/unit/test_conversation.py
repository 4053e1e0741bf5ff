"""The transcript as a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.model.conversation import Message, message_to_json, read_conversation
from csa.model.events import Event

STARTED = ("run_started", {"tool": "codex", "prompt": "do it", "model": "m"})


def read(*events: tuple[str, dict[str, Any]], turn: int = 1) -> list[Message]:
    return list(
        read_conversation(
            Event(seq, "2026-01-01T00:00:00.000Z", kind, turn, data) for seq, (kind, data) in enumerate(events, 1)
        )
    )


def said(*events: tuple[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in read(*events)]


def test_chunks_are_one_message() -> None:
    """Chunks are joined until something else happens; usage between them does not count."""
    chunk = {"chunk": True}
    assert said(
        STARTED,
        ("agent_message", {"text": "a", **chunk}),
        ("usage", {"input_tokens": 1}),
        ("agent_message", {"text": "b", **chunk}),
        ("agent_thought", {"text": "c", **chunk}),
        ("agent_message", {"text": "d", **chunk}),
        ("agent_message", {"text": "e"}),
    ) == [("user", "do it"), ("assistant", "ab"), ("thought", "c"), ("assistant", "d"), ("assistant", "e")]


def test_a_repeated_prompt_is_said_once() -> None:
    """A tool that repeats its prompt does not double it; what else the user says counts."""
    assert said(STARTED, ("user_message", {"text": "do it"}), ("user_message", {"text": "and that"})) == [
        ("user", "do it"),
        ("user", "and that"),
    ]


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        (["a\n", "b\n"], "a\nb\n"),
        (["a", "b"], "a\nb"),
        (["a\n", "a\nb\n"], "a\nb\n"),
        (["", "b"], "b"),
        (["a", ""], "a"),
        (["a\nb", "b"], "a\nb"),
    ],
)
def test_output_of_a_call_is_joined(parts: list[str], content: str) -> None:
    """Whether a tool repeats at the end what it has shown, or says only the rest: each line is there once."""
    first, last = parts
    (_, message) = read(
        STARTED,
        ("tool_call", {"id": "c", "title": "x", "kind": "execute"}),
        ("tool_call_update", {"id": "c", "status": "in_progress", "content": first}),
        ("tool_call_update", {"id": "c", "status": "completed", "content": last}),
    )
    assert message.calls[0].content == content
    assert message.calls[0].status == "completed"


def test_what_is_lost_is_made_up_for() -> None:
    """An update without its call, and a permission without one, are calls; other events are passed over."""
    (message,) = read(
        ("tool_call_update", {"id": "c", "status": "completed", "content": "x"}),
        ("permission", {"id": "d", "title": "rm", "status": "denied"}),
        ("permission", {"id": "e", "title": "ls", "status": "allowed"}),
        ("other", {"raw": {}}),
    )
    assert [(call.title, call.status) for call in message.calls] == [("tool", "completed"), ("rm", "denied")]


def test_json_has_fixed_keys() -> None:
    """The line of an export."""
    (message,) = read(STARTED)
    assert message_to_json("S", message) == {
        "id": "S-1",
        "session_id": "S",
        "role": "user",
        "content": "do it",
        "tool_calls": [],
        "tool_results": [],
        "timestamp": "2026-01-01T00:00:00.000Z",
        "model": "m",
    }


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()) | st.just({"a": 1})
KINDS = st.sampled_from(
    ["run_started", "agent_message", "tool_call", "tool_call_update", "permission", "run_finished", "handoff", "x"]
)
DATA = st.dictionaries(
    st.sampled_from(["text", "id", "title", "status", "content", "error", "turns", "chunk", "model", "prompt"]), VALUES
)


@given(st.lists(st.tuples(KINDS, DATA), max_size=12))
def test_odd_events_do_no_harm(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Whatever the values are, there is a conversation, in the order of the events."""
    messages = read(*events)
    assert [message.seq for message in messages] == sorted(message.seq for message in messages)
    assert all(isinstance(message.content, str) for message in messages)
