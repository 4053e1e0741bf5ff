"""A conversation in pages: all pages together are the whole, whatever the transcript and the page's size."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.serve import conversation
from csa.serve.streams import frames_of
from tests.effort import examples

ROLES = ("user", "assistant", "thought", "system", "note", "ask", "end")
TS = "2026-03-01T12:00:00.000Z"
_BOUNDS = {"run_started", "run_finished"}
_CALLS = st.sampled_from(["a", "b"])
_EVENTS = st.one_of(
    st.tuples(st.just("run_started"), st.fixed_dictionaries({"tool": st.just("codex"), "prompt": st.just("go")})),
    st.tuples(
        st.sampled_from(["agent_message", "agent_thought"]),
        st.fixed_dictionaries({"text": st.sampled_from(["x", "", "*y*"]), "chunk": st.booleans()}),
    ),
    st.tuples(st.just("tool_call"), st.fixed_dictionaries({"id": _CALLS, "title": st.just("ls")})),
    st.tuples(
        st.just("tool_call_update"),
        st.fixed_dictionaries({"id": _CALLS, "status": st.sampled_from(["in_progress", "completed"])}),
    ),
    st.tuples(st.just("usage"), st.just({"input_tokens": 1})),
    st.tuples(st.just("warning"), st.just({"kind": "k", "message": "careful"})),
    st.tuples(
        st.just("permission"),
        st.fixed_dictionaries(
            {"id": _CALLS, "ask": st.sampled_from(["1", "2"]), "status": st.sampled_from(["pending", "denied"])}
        ),
    ),
    st.tuples(st.just("run_finished"), st.just({"status": "failed", "tool": "codex", "error": {"kind": "x"}})),
)


def _write(events: list[tuple[str, dict[str, Any]]], directory: str) -> Path:
    path, turn, lines = Path(directory) / "transcript.jsonl", 0, []
    for seq, (kind, data) in enumerate(events, 1):
        turn += kind == "run_started"
        lines.append(json.dumps({"v": 1, "seq": seq, "ts": TS, "type": kind, "turn": turn, "data": data}))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@given(st.lists(_EVENTS, max_size=25), st.integers(1, 5))
@examples(150)
def test_pages_together_are_the_whole(events: list[tuple[str, dict[str, Any]]], limit: int) -> None:
    """But for the tool and the model of a turn whose beginning is on an earlier page."""
    calls = set[str]()
    asked = set[str]()
    begun = []
    for kind, data in events:  # what tools do: updates follow their calls, and each ask is made once
        calls = calls | {data["id"]} if kind == "tool_call" else set() if kind in _BOUNDS else calls
        is_again = kind == "permission" and data["status"] == "pending" and data["ask"] in asked
        if not is_again and (kind not in {"tool_call_update", "permission"} or data["id"] in calls):
            begun.append((kind, data))
            asked |= {data["ask"]} if kind == "permission" else set()
    with tempfile.TemporaryDirectory() as directory:
        transcript = _write(begun, directory)
        whole = conversation.read_since(transcript, "S", 0).messages
        page = conversation.read_before(transcript, "S", None, limit)
        found = page.messages
        while page.older is not None:
            page = conversation.read_before(transcript, "S", page.older, limit)
            found = page.messages + found
    for role in (*ROLES, "call"):
        assert list(_parts(found, role)) == list(_parts(whole, role))


def _parts(items: list[dict[str, Any]], role: str) -> Iterator[dict[str, Any]]:
    """Yield the messages of a role that say something, or the calls of all of them."""
    for item in items:
        if role == "call":
            yield from item["calls"]
        elif item["role"] == role and (item["text"] or item["html"] or item["ask"] or item["end"]):
            yield {**item, "calls": None, "tool": None, "model": None}


def test_long_texts_are_cut_and_there_in_full(tmp_path: Path) -> None:
    """A text of two million characters is neither rendered nor sent at once; the message alone has all of it."""
    text = "a line of text\n" * 140_000
    output = {"id": "a", "title": "cat", "kind": "read", "status": "completed", "content": text}
    transcript = _write(
        [("run_started", {"tool": "t", "prompt": "p"}), ("agent_message", {"text": text}), ("tool_call", output)],
        str(tmp_path),
    )
    (_, message) = conversation.read_before(transcript, "S", None, 60).messages
    assert (message["is_cut"], message["length"]) == (True, len(text))
    assert 0 < len(message["html"]) < 30_000
    assert 0 < len(message["calls"][0]["content"]) < 3000
    (whole,) = conversation.read_whole(transcript, message["seq"]).messages
    assert (whole["text"], whole["calls"][0]["content"]) == (text, text)


def test_a_transcript_may_say_anything(tmp_path: Path) -> None:
    """Another host may have written it: there is a page all the same, and what is sent is JSON."""
    odd, endless = {"x": [1]}, float("inf")
    events: list[tuple[str, dict[str, Any]]] = [
        ("run_started", {"tool": odd, "prompt": odd, "model": 7}),
        ("tool_call_update", {"id": odd, "title": odd, "kind": odd, "status": odd, "exit_code": endless}),
        ("permission", {"ask": odd, "status": odd, "kind": odd, "title": odd, "paths": 5, "command": endless}),
        ("permission", {"ask": odd, "status": "pending", "title": "<b>", "endless": [endless, "NaN"]}),
        ("run_finished", {"tool": odd, "status": odd, "error": {"kind": odd}, "duration_s": endless, "usage": odd}),
    ]
    for each in (*([event] for event in events), events):
        transcript = _write(each, str(tmp_path))
        assert conversation.read_before(transcript, "S", None, 60).messages
        json.dumps(conversation.read_before(transcript, "S", None, 60).to_json(), allow_nan=False)
        for frame in frames_of(transcript.read_bytes()).decode().split("\n\n")[:-1]:
            content = frame.partition("\ndata: ")[2]
            assert json.loads(content, parse_constant=pytest.fail)["data"], "no browser reads Infinity"
