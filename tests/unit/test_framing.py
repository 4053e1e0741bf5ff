"""Lines out of bytes, at the seams."""

from csa.process.framing import KEPT_BYTES, LineFramer


def test_lines_over_chunks() -> None:
    """A line may begin in one chunk and end in another; empty lines count."""
    framer = LineFramer()
    assert framer.feed(b"a") == []
    assert framer.feed(b"b\n\nc\n") == [b"ab", b"", b"c"]
    assert framer.feed(b"d") == []
    assert framer.close() == [b"d"]
    assert framer.close() == []
    assert framer.feed(b"") == []


def test_only_newlines_end_lines() -> None:
    """Carriage returns, form feeds and Unicode's separators are part of a line."""
    line = "a\r\x0b\x0c\x1c\x85\u2028b".encode()
    assert LineFramer().feed(line + b"\n") == [line]


def test_a_line_that_is_too_long() -> None:
    """Its beginning and its length are kept, wherever it is cut, and what follows is read as ever."""
    line = b"x" * 300_000
    for size in (1 << 16, 4099, len(line)):
        framer = LineFramer(max_line_bytes=200_000)
        for at in range(0, len(line), size):
            assert framer.feed(line[at : at + size]) == []
        assert framer.feed(b"\nnext\n") == [line[:KEPT_BYTES], b"next"]
        assert framer.cut == [len(line)]


def test_a_line_of_just_the_longest() -> None:
    """The limit is the longest that is kept."""
    framer = LineFramer(max_line_bytes=100_000)
    assert framer.feed(b"x" * 100_000 + b"\n") == [b"x" * 100_000]
    assert framer.cut == []
    assert framer.feed(b"x" * 100_001) == []
    assert framer.close() == [b"x" * KEPT_BYTES]
    assert framer.cut == [100_001]
