"""Lines out of bytes, at the seams."""

import json

import pytest

from csa.process.framing import KEPT_STRING_BYTES, LineFramer


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


@pytest.mark.parametrize(
    "unit",
    ["x", "word ", "é", "\N{GRINNING FACE}", "\\", '"', "\n", "\x00", "\\n", 'nested \\"json\\" '],
    ids=[
        "letters",
        "words",
        "two-bytes",
        "four-bytes",
        "backslashes",
        "quotes",
        "newlines",
        "nul",
        "escapes",
        "nested",
    ],
)
@pytest.mark.parametrize("chunk", [1 << 16, 1 << 20, 4099])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_long_string_is_shortened_and_stays_json(unit: str, chunk: int, ascii_only: bool) -> None:  # noqa: FBT001
    """Whatever a long string is made of, its line stays JSON with its other values, and says what is missing."""
    long = unit * (400_000 // len(unit))
    value = {"a": 1, "first": long, "second": long, "z": [{"type": "x"}]}
    line = json.dumps(value, ensure_ascii=ascii_only).encode()
    framer = LineFramer(max_line_bytes=600_000)
    lines = [found for at in range(0, len(line), chunk) for found in framer.feed(line[at : at + chunk])]
    lines += framer.feed(b"\n")
    assert len(lines) == 1
    read = json.loads(lines[0])
    assert (read["a"], read["z"]) == (1, [{"type": "x"}])
    assert len(lines[0]) < 2 * KEPT_STRING_BYTES + 1000
    for name in ("first", "second"):
        kept, found, note = read[name].rpartition("... [")
        assert found
        assert note.endswith("bytes left out]")
        assert long.encode("utf-16", "surrogatepass").startswith(kept.encode("utf-16", "surrogatepass"))


def test_a_long_line_of_short_strings_is_cut() -> None:
    """A line that is long without long strings is cut, so that memory stays bounded."""
    framer = LineFramer(max_line_bytes=1000)
    for _ in range(1000):
        assert framer.feed(b'"a","b",') == []
    (line,) = framer.feed(b"\n")
    assert len(line) < 1100
    assert framer.feed(b"next\n") == [b"next"]
