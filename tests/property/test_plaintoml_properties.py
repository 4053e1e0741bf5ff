"""The quick way of reading TOML never says anything else than tomllib."""

import tomllib
from datetime import UTC, datetime
from typing import Any

import tomlkit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from csa.store.plaintoml import load_plain

_LINES = [
    "schema = 1",
    'description = "Auth refactor"',
    'description = ""',
    'description = "a # b"',
    'description = """',
    '"""',
    "'''",
    "created_at = 2024-02-06T10:00:00Z",
    "last_accessed = 2024-02-30T10:00:00.123456Z",
    "at = 2024-02-06T10:00:00.1234567Z",
    "at = 2024-02-06T24:00:00Z",
    "at = 2024-02-06",
    "pinned = true",
    "pinned = yes",
    "turns = 007",
    "turns = -1",
    "cost_usd = 0.0",
    "cost_usd = 00.5",
    "cost_usd = 1e5",
    "[tools]",
    "[tools.codex]",
    "[tools.claude-code]",
    "[tools.codex.totals]",
    '[tools."a b"]',
    "[[tools]]",
    "[ tools ]",
    "[]",
    "[usage] # why",
    "codex = 1",
    "totals = {input_tokens = 1, output_tokens = 23}",
    "totals = {}",
    "totals = {a = 1, a = 2}",
    "totals = {a = {b = 1}}",
    "list = [",
    "]",
    "a.b = 1",
    "a = ",
    "= 1",
    "# why",
    "  indented = 1",
    "",
    "\r",
    "x = 1\r",
    'x = "\u00e9\u00a0"',
    'x = "\\u00e9"',
    "\u00e9 = 1",
    "\u0663 = 1",
    "x = \u0663",
]


def slow(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


@settings(max_examples=600)
@given(st.lists(st.sampled_from(_LINES), max_size=9).map("\n".join))
@example('x = "')
def test_lines_of_all_kinds(text: str) -> None:
    """Whatever the lines, the answer is tomllib's, or none."""
    found = load_plain(text)
    assert found is None or found == slow(text)


@settings(max_examples=300)
@given(st.text(alphabet='ab= "\\[]{}.,#\n0123456789-:TZ_tre', max_size=40))
def test_any_text(text: str) -> None:
    """Whatever the characters, the answer is tomllib's, or none."""
    found = load_plain(text)
    assert found is None or found == slow(text)


@given(
    st.dictionaries(
        st.sampled_from(["name", "turns", "at", "pinned"]),
        st.one_of(
            st.integers(0, 10**9),
            st.booleans(),
            st.floats(0, 1000, allow_nan=False).map(lambda number: round(number, 3)),
            st.text("abc -_/.#é", max_size=9),
            st.just(datetime(2024, 2, 6, 10, tzinfo=UTC)),
        ),
    )
)
def test_what_csa_writes_is_read_the_quick_way(values: dict[str, Any]) -> None:
    """Values as csa writes them are understood."""
    document = {"schema": 1, **values, "tools": {"claude-code": values}}
    assert load_plain(tomlkit.dumps(document)) == document
