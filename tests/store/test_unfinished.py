"""What has no end yet, read from the end of a transcript or forwards from its beginning: both find the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csa.model.redaction import Redactor
from csa.model.usage import Usage, counted
from csa.store.journal import Journal
from csa.store.turns import CompactionRecord, read_history
from csa.store.unfinished import Unfinished, read_unfinished

START, COMPACT = ("run_started", {"tool": "codex"}), ("compaction", {"status": "started", "tool": "codex", "argv": []})
NOISE = ("agent_message", {"text": '{"type":"usage"} "run_finished"'})


def used(tokens: int) -> tuple[str, dict[str, Any]]:
    return "usage", {"input_tokens": tokens, "cost_usd": 0.5}


def end(tokens: int | None) -> tuple[str, dict[str, Any]]:
    return "run_finished", {"status": "failed", "usage": None if tokens is None else Usage(tokens).to_dict()}


def compacted(tokens: int | None) -> tuple[str, dict[str, Any]]:
    usage = None if tokens is None else Usage(tokens).to_dict()
    return "compaction", {"status": "succeeded", "duration_s": 1.0, "usage": usage}


def write(path: Path, *events: tuple[str, dict[str, Any]]) -> None:
    journal = Journal(path, Redactor(), turn=1)
    journal.extend(events)
    journal.close()


def whole(path: Path) -> Usage:
    return sum((found.usage for found in read_history(path)), Usage())


def test_a_turn_counts_with_what_it_said_last(tmp_path: Path) -> None:
    """While it runs, or was lost; and not any more when it has an end."""
    path = tmp_path / "transcript.jsonl"
    assert read_unfinished(path) == Unfinished()
    write(path, START)
    assert read_unfinished(path).usage == counted(None)
    write(path, used(10), NOISE, used(20), NOISE)
    assert read_unfinished(path).usage == whole(path) == Usage(20, 0, 0, 0.5)
    write(path, end(25))
    assert read_unfinished(path).usage == Usage()
    assert whole(path) == counted(Usage(25))


def test_compactions_count(tmp_path: Path) -> None:
    """With what they told, or said last; apart from a turn that was lost before; a tool's own is the turn's matter."""
    path = tmp_path / "transcript.jsonl"
    write(path, START, ("compaction", {"status": "succeeded", "id": "1"}), used(7))
    write(path, COMPACT, used(100), compacted(150), COMPACT, used(30))
    assert read_unfinished(path).usage == counted(Usage(37, 0, 0, 1.0))
    assert whole(path) == counted(Usage(187, 0, 0, 1.0, 0, 1))
    records = [found for found in read_history(path) if isinstance(found, CompactionRecord)]
    assert [record.usage.input_tokens for record in records] == [150, 30]


EVENTS = st.lists(
    st.sampled_from([START, COMPACT, NOISE, used(1), used(20), end(300), end(None), compacted(4000), compacted(None)]),
    max_size=12,
)


@given(EVENTS, st.lists(st.integers(1, 4), max_size=6))
def test_read_as_it_grows(tmp_path_factory: Any, events: list[tuple[str, dict[str, Any]]], steps: list[int]) -> None:
    """However it grows, what is read on from before is what is read as a whole."""
    path: Path = tmp_path_factory.mktemp("grows") / "transcript.jsonl"
    before, left = Unfinished(), [START, *events]
    for size in (*steps, 99):
        write(path, *left[:size])
        left = left[size:]
        before = read_unfinished(path, before)
        assert before == read_unfinished(path)
