"""The quick way of reading TOML never says anything else than tomllib."""

import tomllib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from csa.store.plaintoml import load_plain
from csa.store.tomlfile import edit_toml, render_toml
from tests.effort import examples

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
    "at = 2024-02-06T10:00:00.Z",
    "at = 2024-02-06T10:00:00,5Z",
    "at = 2024-02-06T10:00:00.5Z",
    "at = 2024-02-06T10:00Z",
    "at = 2024-02-06 10:00:00Z",
    "at = 20240206T100000Z",
    "at = 2024-W06-2T10:00:00Z",
    "at = 0024-02-06T10:00:00Z",
    "at = Z",
    "at = 2024-02-06",
    "pinned = true",
    "pinned = yes",
    "turns = 007",
    "turns = -1",
    "cost_usd = 0.0",
    "cost_usd = 00.5",
    "cost_usd = 1e5",
    "cost_usd = 1.",
    "cost_usd = .5",
    "cost_usd = 1.5.2",
    "cost_usd = 1.\u0663",
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
    "list = []",
    "list = [1, 23, 0.5]",
    "list = [1, 2,]",
    "list = [01]",
    "list = [1, [2]]",
    'list = ["a"]',
    "list = [ 1 ]",
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


@examples(600)
@given(st.lists(st.sampled_from(_LINES), max_size=9).map("\n".join))
@example('x = "')
def test_lines_of_all_kinds(text: str) -> None:
    """Whatever the lines, the answer is tomllib's, or none."""
    found = load_plain(text)
    assert found is None or found == slow(text)


@examples(300)
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
    assert load_plain(render_toml(document).decode()) == document


# Writing

_REMARK = b"# tomlkit writes what is behind this\n"
_ONES = st.one_of(
    st.none(),
    st.integers(-5, 10**12),
    st.booleans(),
    st.floats(allow_nan=False),
    st.text('abc -_/.#"\\\n\t\u00e9\u2028', max_size=9),
    st.datetimes(timezones=st.just(UTC)),
    st.lists(st.one_of(st.integers(0, 9), st.floats(0, 9), st.text("ab'\"", max_size=3)), max_size=3),
)
_NAMES = st.sampled_from(["name", "turns", "at", "cost_usd", "claude-code", "a b", "\u00e9"])
_TOTALS = st.dictionaries(_NAMES, st.one_of(st.integers(0, 9), st.floats(0, 9), st.text("a.", max_size=2)), max_size=3)
_TABLES = st.builds(
    lambda ones, totals: {**ones, **({} if totals is None else {"totals": totals})},
    st.dictionaries(_NAMES, _ONES, max_size=3),
    st.one_of(st.none(), _TOTALS),
)
_DOCUMENTS = st.builds(
    lambda ones, tools, usage: {"schema": 1, **ones, "tools": tools, "usage": usage},
    st.dictionaries(_NAMES, _ONES, max_size=3),
    st.dictionaries(st.sampled_from(["codex", "claude-code", "a.b"]), _TABLES, max_size=2),
    _TABLES,
)


@examples(300)
@given(_DOCUMENTS, _DOCUMENTS)
def test_documents_are_edited_as_by_tomlkit(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """What was written is edited to the same values, and keys that are not given stay."""
    content = edit_toml(b"", {**values, "unknown": {"key": "stays"}})
    edited = edit_toml(content, changes)
    assert slow(edited.decode()) == slow(edit_toml(_REMARK + content, changes).decode())
    assert b'[unknown]\nkey = "stays"' in edited


def given_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that there are, tables nested, but those of nothing else than None."""
    known = {key: value for key, value in values.items() if value is not None}
    given = {key: given_of(value) if isinstance(value, dict) else value for key, value in known.items()}
    return {key: value for key, value in given.items() if value != {} or not known[key]}


@given(_DOCUMENTS)
def test_what_is_written_is_read(values: dict[str, Any]) -> None:
    """A document that was written says what it was made of, without what is None."""
    assert slow(render_toml(values).decode()) == given_of(values)


_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), st.just(timezone(timedelta(hours=-3, minutes=-30))))),
    st.dates(),
    st.times(),
)
_KEYS = st.one_of(_NAMES, st.text(max_size=3))
_ANY = st.dictionaries(
    _KEYS,
    st.recursive(
        _SCALARS, lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(_KEYS, each, max_size=3))
    ),
)


@examples(200)
@given(_ANY)
def test_whatever_toml_can_say_can_be_written(values: dict[str, Any]) -> None:
    """What has to be rendered anew says all that it was made of."""
    assert slow(render_toml(values).decode()) == values
