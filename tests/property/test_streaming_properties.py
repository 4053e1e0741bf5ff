"""Streamed Markdown: whatever the pieces, the same blocks come out, and nothing is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.cli.views.streaming import Blocks


def split_blocks(text: str) -> tuple[str, str]:
    """Return what is complete of a text, and the rest."""
    blocks = Blocks()
    return blocks.add(text), blocks.rest


LINES = st.sampled_from(
    ["", " ", "text", "- item", "  more", "```", "```py", "~~~", "````", "    code", "# head", "|a|"]
)


@pytest.mark.thorough
@given(lines=st.lists(LINES, max_size=12), cuts=st.lists(st.integers(min_value=1, max_value=7), min_size=1))
def test_pieces(lines: list[str], cuts: list[int]) -> None:
    """In pieces a text gives the blocks that it gives as a whole; together they are the text."""
    text = "\n".join(lines)
    whole, rest = split_blocks(text)
    assert whole + rest == text
    said, at, blocks = "", 0, Blocks()
    while at < len(text):
        size = cuts[at % len(cuts)]
        said, at = said + blocks.add(text[at : at + size]), at + size
    assert (said, blocks.rest) == (whole, rest)


@pytest.mark.thorough
@given(lines=st.lists(LINES, max_size=12))
def test_fences(lines: list[str]) -> None:
    """No block ends within a fence, nor before an indented line."""
    _, rest = split_blocks("\n".join([*lines, "", "```", "code", "", "code"]) + "\n\nmore")
    is_open_before = split_blocks("\n".join([*lines, "", "", "x"]))[1] != "x"
    assert is_open_before or rest.startswith("```\ncode")
    assert not rest[:1].isspace() or rest == "\n".join([*lines, "", "```", "code", "", "code"]) + "\n\nmore"


@pytest.mark.thorough
def test_long_block() -> None:
    """A block of half a megabyte that comes line by line takes no longer for each line than a short one."""
    blocks, began = Blocks(), time.process_time()
    for _ in range(10_000):
        assert blocks.add("x = 1  # and so on, for as long as a line is\n") == ""
    assert time.process_time() - began < 5
