"""Framing: no cut of the stream matters, and no line costs more memory than a bound."""

import json
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csa.process.framing import KEPT_STRING_BYTES, LineFramer
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


_UNITS = st.lists(
    st.sampled_from(["x", " ", "é", "\N{GRINNING FACE}", "\\", '"', "\n", "\u2028", "\x00", "z" * 5000]),
    min_size=1,
    max_size=6,
)


@examples(25)
@given(_UNITS, _UNITS, st.integers(-20, 20), st.sampled_from([65536, 65536 - 7, 8192, 4099, 1 << 20]), st.booleans())
def test_an_over_long_line_stays_json(
    first: list[str],
    second: list[str],
    shift: int,
    size: int,
    ascii_only: bool,  # noqa: FBT001
) -> None:
    """Long strings are shortened to a beginning of theirs, and every key and short value is kept."""
    unit, other = "".join(first), "".join(second)
    value: dict[str, Any] = {
        "type": "t" * (30 + shift),
        "a": unit * (300_000 // len(unit) + 1),
        "list": [1, {"k": None}],
        "b": [other * (300_000 // len(other) + 1)],
        "end": True,
    }
    line = json.dumps(value, ensure_ascii=ascii_only).encode()
    (framed,) = frame(LineFramer(max_line_bytes=550_000), cut(line + b"\n", [size]))
    read = json.loads(framed)
    assert {**read, "a": 0, "b": 0} == {**value, "a": 0, "b": 0}
    assert len(framed) < 2 * KEPT_STRING_BYTES + 1000
    for found, whole in ((read["a"], value["a"]), (read["b"][0], value["b"][0])):
        if found != whole:
            kept = found.rpartition("... [")[0]
            assert _units(whole).startswith(_units(kept))


def _units(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


@examples(20)
@given(st.sampled_from([b"x", b'"x",', b'{"a":"' + b"y" * 300 + b'"},', b"\\", b"\xc3\xa9"]), st.integers(100, 5000))
def test_memory_is_bounded(unit: bytes, size: int) -> None:
    """An endless line holds no more than the limit and one chunk."""
    framer = LineFramer(max_line_bytes=20_000)
    chunk = unit * (size // len(unit) + 1)
    for _ in range(0, 400_000, size):
        assert framer.feed(chunk) == []
        assert buffered(framer) <= 20_000 + 2 * len(chunk)
    (line,) = framer.feed(b"\n")
    assert len(line) <= 20_000 + 2 * len(chunk)


def buffered(found: object, seen: frozenset[int] = frozenset()) -> int:
    """Count the bytes an object keeps in byte strings, however deep."""
    if isinstance(found, bytes | bytearray | str):
        return len(found)
    if isinstance(found, list | tuple):
        return sum(buffered(item, seen) for item in found)
    if id(found) in seen or not type(found).__module__.startswith("csa.") or sys.getsizeof(found) == 0:
        return 0
    return sum(buffered(item, seen | {id(found)}) for item in vars(found).values())
