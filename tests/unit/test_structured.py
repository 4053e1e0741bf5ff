"""Reading the JSON value of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.model.structured import MAX_BYTES, NotJsonError, find_json, parse_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_TREES = st.lists(_VALUES) | st.dictionaries(st.text(), _VALUES)


@given(value=_VALUES, indent=st.sampled_from([None, 2]))
def test_a_value_is_read_as_it_was_written(value: Any, indent: int | None) -> None:
    """Bare, and in a code fence with or without words around it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    assert find_json(f"\n {text}\n") == value
    assert find_json(f"Here it is:\n\n```json\n{text}\n```\nWell?") == value


@pytest.mark.thorough
@given(value=_TREES, before=st.text("abc .,:\n"), after=st.text("abc .,:\n"))
def test_an_object_or_array_is_found_in_a_sentence(value: Any, before: str, after: str) -> None:
    """Where it is the only one."""
    text = json.dumps(value)
    assert find_json(f"{before} {text} {after}") == value
    with pytest.raises(NotJsonError, match="more than one"):
        find_json(f"{before} {text} or {text} {after}")


@given(text=st.text('{}[]",:1 \\`\nab'))
def test_any_answer_is_a_value_or_refused(text: str) -> None:
    """Nothing else is raised, and what is found can be written as JSON."""
    try:
        value = find_json(text)
    except NotJsonError:
        return
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("It is Ada.", "not JSON"),
        ('{"a": 1, "a": 2}', '"a" occurs twice'),
        ('{"a": NaN}', "NaN is not"),
        ("[1e999]", "too large"),
        ("9" * 5000, "digits"),
        ('"\\ud800"', "surrogate"),
        ("[" * 101 + "]" * 101, "nested"),
        ("[" * 200_000, "nested"),
        ('{"' * 200_000, "not JSON"),
        ("x" * (MAX_BYTES + 1), "longer"),
        ("```json\n{}\n```\n```json\n{}\n```", "more than one"),
    ],
)
def test_what_is_refused_is_explained(text: str, fault: str) -> None:
    """What programs read in different ways, and what only hurts them."""
    with pytest.raises(NotJsonError, match=fault):
        find_json(text)


def test_large_numbers_and_the_deepest_nesting_are_kept() -> None:
    """Python has no limit below 4300 digits."""
    assert find_json("1" + "0" * 400) == 10**400
    assert json.dumps(find_json("[" * 100 + "]" * 100)).count("[") == 100
