"""Framing: no cut of the stream matters, and no line costs more memory than a bound."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from csa.process.framing import KEPT_BYTES, LineFramer
from tests.effort import examples

_BYTES = st.lists(st.sampled_from([b"\n", b"\r", b"a", b'"', b"\\", b"\xc3\xa9", b"\x00", b"{}"]), max_size=40).map(
    b"".join
)


def cut(content: bytes, sizes: list[int]) -> list[bytes]:
    """Cut content into chunks of the given sizes, over and over."""
    chunks: list[bytes] = []
    at = 0
    while at < len(content):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(content[at : at + size])
        at += size
    return chunks


def frame(framer: LineFramer, chunks: list[bytes]) -> list[bytes]:
    return [line for chunk in chunks for line in framer.feed(chunk)] + framer.close()


@given(_BYTES, st.lists(st.integers(1, 9), min_size=1))
def test_any_chunking_gives_the_same_lines(content: bytes, sizes: list[int]) -> None:
    """However a stream is cut, the lines are those between the newlines."""
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert frame(LineFramer(), cut(content, sizes)) == expected


@given(_BYTES, st.integers(1, 9))
def test_empty_chunks_change_nothing(content: bytes, size: int) -> None:
    """Empty reads in between are harmless."""
    chunks = [part for chunk in cut(content, [size]) for part in (b"", chunk, b"")]
    assert frame(LineFramer(), chunks) == frame(LineFramer(), [content])


@examples(20)
@given(st.sampled_from([b"x", b'"x",', b"\\", b"\xc3\xa9"]), st.integers(100, 5000))
def test_memory_is_bounded(unit: bytes, size: int) -> None:
    """An endless line holds no more than the limit, or what is kept, and one chunk."""
    framer = LineFramer(max_line_bytes=20_000)
    chunk = unit * (size // len(unit) + 1)
    for _ in range(0, 400_000, size):
        assert framer.feed(chunk) == []
        assert buffered(framer) <= KEPT_BYTES
    (line,) = framer.feed(b"\n")
    assert len(line) <= KEPT_BYTES


def buffered(found: object, seen: frozenset[int] = frozenset()) -> int:
    """Count the bytes an object keeps in byte strings, however deep."""
    if isinstance(found, bytes | bytearray | str):
        return len(found)
    if isinstance(found, list | tuple):
        return sum(buffered(item, seen) for item in found)
    if id(found) in seen or not type(found).__module__.startswith("csa.") or sys.getsizeof(found) == 0:
        return 0
    return sum(buffered(item, seen | {id(found)}) for item in vars(found).values())
