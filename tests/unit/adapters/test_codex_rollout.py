"""The tokens of codex that only its own record of the threads tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from csa_adapters.codex_stream import CodexDecoder

from csa.model.adapter import RecordReader, ToolExit
from csa.model.usage import Usage
from csa.runner.turns.records import read_records
from tests.unit.adapters.support import EXIT_0, EXIT_1, OTHER_THREAD, THREAD, feed_all, line, make_request

AGENT = "01a22918-4a4d-7a53-b209-58a2a6cc24fd"
STARTED = line(type="thread.started", thread_id=THREAD)
COMPLETED = line(type="turn.completed", usage={"input_tokens": 300, "cached_input_tokens": 15, "output_tokens": 30})


def begun(turn: str, root: str | None = None) -> bytes:
    payload = {"type": "task_started", "turn_id": turn, "root_turn_id": root or turn}
    return line(timestamp="2026-11-29T20:56:27.349Z", ordinal=1, type="event_msg", payload=payload)


def answered(answer: str, turn: str, tokens: int, *, thread: str = THREAD) -> bytes:
    counts = {"input_tokens": tokens, "cached_input_tokens": tokens // 10, "output_tokens": tokens // 5}
    payload = {"thread_id": thread, "root_turn_id": turn, "response_id": answer, "usage": counts}
    return line(type="token_usage_record", payload=payload)


def spawned(agent: str) -> bytes:
    item = {"type": "SubAgentActivity", "kind": "started", "agent_thread_id": agent}
    return line(type="event_msg", payload={"type": "item_completed", "item": item})


def decoder(**fields: Any) -> CodexDecoder:
    return CodexDecoder(make_request(**fields))


def feed_records(read: CodexDecoder, *lines: bytes) -> list[dict[str, Any]]:
    for each in lines:
        read.feed_record(each)
    return [update.data for update in read.close_records()]


def test_what_the_agents_used_belongs_to_the_turn() -> None:
    """They are threads of their own, and the stream counts only the user's."""
    read = decoder()
    feed_all(read, [STARTED, COMPLETED])
    own = [begun("t"), answered("1", "t", 100), spawned(AGENT), answered("2", "t", 200)]
    agents = [begun("u", "t"), answered("3", "t", 1000, thread=AGENT)]
    told = feed_records(read, *own, *agents)
    assert told == [{"input_tokens": 1300, "output_tokens": 260, "cached_tokens": 130, "cost_usd": None}]
    assert read.close(EXIT_0).usage == Usage(1300, 260, 130)


def test_a_history_that_was_copied_is_not_counted_again() -> None:
    """An agent's record begins with what it was forked from; and earlier turns of the thread are not this one."""
    read = decoder()
    feed_all(read, [STARTED, COMPLETED])
    own = [begun("s"), spawned(OTHER_THREAD), answered("0", "s", 7000), begun("t"), answered("1", "t", 300)]
    assert feed_records(read, *own) == [
        {"input_tokens": 300, "output_tokens": 60, "cached_tokens": 30, "cost_usd": None}
    ]
    assert not any(OTHER_THREAD in pattern for pattern in read.records)
    told = feed_records(read, *own, answered("2", "t", 10, thread=AGENT), answered("2", "t", 10, thread=AGENT))
    assert told == [{"input_tokens": 310, "output_tokens": 62, "cached_tokens": 31, "cost_usd": None}]


def test_a_turn_that_was_not_completed_has_a_usage() -> None:
    """Of one that failed or was killed the stream has no figure."""
    read = decoder()
    feed_all(read, [STARTED, line(type="turn.failed", error={"message": "mock"})])
    assert feed_records(read, begun("t"), answered("1", "t", 100)) == [
        {"input_tokens": 100, "output_tokens": 20, "cached_tokens": 10, "cost_usd": None}
    ]
    assert read.close(EXIT_1).usage == Usage(100, 20, 10)


def test_answers_are_believed_before_differences() -> None:
    """After a turn that was killed codex's figure of the thread lacks an answer; its first one csa may not know."""
    for totals in ({"input_tokens": 300, "cached_tokens": 15, "output_tokens": 30}, None):
        read = decoder(provider_session_id=THREAD, previous_totals=totals)
        feed_all(read, [STARTED, COMPLETED])
        feed_records(read, begun("s"), answered("0", "s", 200), begun("t"), answered("1", "t", 100))
        assert read.close(EXIT_0).usage == Usage(100, 20, 10)


def test_without_a_record_the_stream_alone_is_believed() -> None:
    """An ephemeral thread leaves none; a line that is no record says nothing."""
    read = decoder()
    feed_all(read, [STARTED, COMPLETED])
    assert feed_records(read, b"token_usage_record", b'{"type": "token_usage_record"}', b'"task_started" {') == []
    assert read.close(EXIT_0).usage == Usage(300, 30, 15)
    killed = decoder()
    feed_all(killed, [STARTED])
    assert feed_records(killed, answered("1", "t", 100)) == []
    assert killed.close(ToolExit(None, 9)).usage is None


def test_the_files_are_those_of_the_thread_and_then_of_its_agents(tmp_path: Path) -> None:
    """An id from a stream is no pattern, nor is a home; a file that is not there says nothing."""
    home = tmp_path / "a [home]"
    day = home / "sessions" / "2026" / "11" / "29"
    day.mkdir(parents=True)
    (day / f"rollout-2026-{THREAD}.jsonl").write_bytes(
        b"\n".join([begun("t"), answered("1", "t", 300), spawned(AGENT)])
    )
    (day / f"rollout-2026-{AGENT}.jsonl").write_bytes(answered("2", "t", 1000, thread=AGENT) + b"\n")
    (day / f"rollout-2026-{OTHER_THREAD}.jsonl").write_bytes(answered("3", "t", 5000, thread=OTHER_THREAD))
    os.mkfifo(day / f"rollout-2027-{THREAD}.jsonl")  # it would wait for a writer
    read = decoder(environ={"CODEX_HOME": str(home)})
    assert read.records == ()
    wild = {"id": "c", "type": "collab_tool_call", "tool": "spawn_agent", "receiver_thread_ids": ["*", None]}
    feed_all(read, [STARTED, line(type="item.completed", item=wild), COMPLETED])
    assert isinstance(read, RecordReader)
    assert [update.data["input_tokens"] for update in read_records(read)] == [1300]
    assert len(read.records) == 2
