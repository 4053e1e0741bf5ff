"""Transcripts by position: the same lines as reading all of it, whatever lies between the events."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from csa.store.lines import Lines, head_of, read_page
from csa.store.transcript import read_events
from tests.effort import examples

_GAPS = st.sampled_from([1, 1, 1, 3])
_TEXTS = st.sampled_from(["", "x" * 50, "y" * 5000, '"seq":7', "\u2028 \u00e9", "z" * 70_000])
_JUNK = st.sampled_from([b"", b"not json\n", b"{}\n", b'{"v":1}\n'])
_EVENTS = st.lists(st.tuples(_GAPS, _TEXTS, _JUNK), max_size=12)
_TAILS = st.sampled_from([b"", b'{"v":1,"seq":9999,"ts":"'])


@examples(80)
@given(_EVENTS, _TAILS, st.integers(-1, 30), st.integers(-1, 30), st.one_of(st.none(), st.integers(0, 5)))
def test_a_page_is_what_lies_between_two_numbers(
    events: list[tuple[int, str, bytes]], tail: bytes, after: int, before: int, limit: int | None
) -> None:
    """`after`, `before` and `limit` choose among the events as a list of all of them would."""
    with TemporaryDirectory() as directory:
        path, seq = Path(directory, "transcript.jsonl"), 0
        with path.open("wb") as file:
            for gap, text, junk in events:
                seq += gap
                line = {"v": 1, "seq": seq, "ts": "2026-01-01T00:00:00.000Z", "type": "other", "turn": 1}
                file.write(junk + json.dumps({**line, "data": {"raw": text}}, separators=(",", ":")).encode() + b"\n")
            file.write(tail)
        whole = [event.seq for event in read_events(path)]
        found = [head_of(line) for line in read_page(path, after=after, before=before, limit=limit)]
        assert [head[0] for head in found if head] == [n for n in whole if after < n < before][:limit]
        newest = [head_of(line) for line in read_page(path, limit=limit)]
        assert [head[0] for head in newest if head] == whole[0 if limit is None else max(0, len(whole) - limit) :]
        with Lines(path) as lines:
            at, end, blocks = 0, lines.end(), b""
            while block := lines.block(at, end):
                assert block.endswith(b"\n")
                at, blocks = at + len(block), blocks + block
            assert blocks == path.read_bytes()[:end]
