"""Templates: variables in texts, and what a template may say."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.errors import ConfigError, UsageError
from csa.model.template import Template, check_template_name, escaped, make_template
from csa.store.tomlfile import render_texts

PIECES = st.lists(st.sampled_from(["{", "}", "{{", "}}", "a", "prompt", " ", "\n", "{{{{a}}}}"])).map("".join)


def template(**values: object) -> Template:
    return make_template("t", "/t.toml", values, is_project=False)


def test_variables_and_the_prompt_are_put_in_once() -> None:
    """`{{name}}` becomes its value, and what a value has in braces stays as it is; the prompt goes where it says."""
    made = template(prompt="Look at {{ file }}: {{prompt}}!", system="{{file}} is ${{ github.x }} and {{{{file}}}}")
    found = made.filled("{{file}}?", {"file": "{{prompt}}"})
    assert found["prompt"] == "Look at {{prompt}}: {{file}}?!"
    assert found["system"] == "{{prompt}} is ${{ github.x }} and {{file}}"
    assert template(prompt="Go.").filled("Now", {})["prompt"] == "Go.\n\nNow"
    assert [template(prompt=text).has_whole_prompt for text in ("Go.", "Go {{prompt}}")] == [True, False]


@given(PIECES)
def test_a_text_can_be_kept_as_it_is(text: str) -> None:
    """What a session was told is what its template says, whatever looks like a variable in it."""
    made = template(system=escaped(text) or "-")
    assert made.variables == []
    assert made.filled("x", {})["system"] == (text or "-")


@given(st.dictionaries(st.sampled_from(["system", "prompt"]), st.text(), min_size=1))
def test_a_file_says_what_was_saved(values: dict[str, str]) -> None:
    """Texts of several lines stand on several lines; quotes, backslashes and control characters come back."""
    content = render_texts(values).decode()
    assert tomllib.loads(content) == values
    assert content.count("\n") >= sum(text.count("\n") for text in values.values())


def test_variables_that_are_missing_or_unknown_are_named() -> None:
    """An error lists the variables there are, and suggests the one that is meant."""
    made = template(prompt="{{file}} {{focus}}", opening="{{file}}")
    assert made.variables == ["file", "focus"]
    with pytest.raises(UsageError, match="needs file, focus: its variables are file, focus"):
        made.filled("x", {})
    with pytest.raises(UsageError, match="no variable 'flie'") as unknown:
        made.filled("x", {"flie": "y"})
    assert unknown.value.hint == "did you mean 'file'?"
    with pytest.raises(UsageError, match="--var"):
        made.filled("x", {"prompt": "y"})
    with pytest.raises(UsageError, match="it has no variables"):
        template(tool="codex").filled("x", {"y": "z"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema": "{"}, "'schema' is not JSON"),
        ({"schema": "[]"}, "'schema' is not a JSON object"),
        ({"modle": "x"}, "unknown key 'modle'"),
        ({"command": ["x"]}, "unknown key 'command'"),
        ({"env": {"A": "b"}}, "unknown key 'env'"),
        ({"permission": "all"}, "'permission' must be one of"),
        ({"context_window": -1}, "'context_window' must be"),
        ({"model": "opus"}, "'model' is for a tool"),
        ({"tool": "auto", "effort": "high"}, "'effort' is for a tool"),
        ({"system": "{{prompt}}"}, "has no place in 'system'"),
    ],
)
def test_what_a_template_may_not_say(values: dict[str, object], words: str) -> None:
    """Keys that csa does not know, commands and variables for tools among them, and what contradicts itself."""
    with pytest.raises(ConfigError, match=words):
        template(**values)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "x" * 65, "-x"])
def test_names_are_those_of_files(name: str) -> None:
    """Nothing can be written outside the directory of templates, or be hidden in it."""
    with pytest.raises(UsageError, match="Invalid template name"):
        check_template_name(name)
