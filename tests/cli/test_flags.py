"""`csa run PROMPT -- FLAGS`: what goes to the tool's own command line."""

from __future__ import annotations

import pytest

from csa.cli.commands import command_names
from tests.cli.test_lost_conversations import of_type
from tests.support import Place

SECRET = "sk-proj-" + "a1B2" * 10


@pytest.mark.thorough
def test_what_follows_two_dashes(place: Place) -> None:
    """It goes to the tool, where that takes it, and is recorded; the session does not keep it."""
    done = place.run("run", "--tool", "claude-code", "go", "--", "--betas", SECRET)
    started = of_type(place, done.session_id, "run_started")[0]
    assert (started["prompt"], started["flags"]) == ("go", ["--betas", "[REDACTED]"])
    assert started["argv"][1:4] == ["--betas", "[REDACTED]", "-p"]
    again = place.run("retry", done.session_id)
    assert (again.code, "not given again: -- --betas" in again.err) == (0, True)
    assert "flags" not in of_type(place, done.session_id, "run_started")[1]


@pytest.mark.parametrize(
    ("words", "prompt", "flags"),
    [
        (["--", "-x is what?"], "-x is what?", []),
        (["--", "--json"], "--json", []),
        (["--", "-x is what?", "--", "--json"], "-x is what?", ["--json"]),
        (["go", "--"], "go", []),
        (["-", "--", "--json"], "-", ["--json"]),
        (["--prompt-file", "p", "--", "--json"], None, ["--json"]),
        (["--stdin", "--", "-x"], "-x", []),
        (["go", "--", "-c", "a", "--", "b"], "go", ["-c", "a", "--", "b"]),
        (["--", "", "--", "-x"], "", ["-x"]),
    ],
)
def test_which_word_is_the_prompt(words: list[str], prompt: str | None, flags: list[str]) -> None:
    """The first word after `--`, unless there is a prompt before: so it was before there were flags."""
    found = command_names()["run"].parser().parse_args(words)
    assert (found.prompt, list(found.flags), found.json) == (prompt, flags, False)


@pytest.mark.thorough
def test_mistakes_with_flags(place: Place) -> None:
    """Each is an error before anything begins."""
    for words, text in (
        (["--", "two", "words"], "quote the prompt: 'two words'"),
        (["--", "--flag", "x"], "the prompt goes before the tool's flags"),
        (["go", "--", "word"], "must begin with a flag"),
        (["--transport", "acp", "go", "--", "-x"], "over ACP"),
    ):
        done = place.run("run", "--tool", "gemini-cli", *words)
        assert (done.code, text in done.err) == (2, True), (words, done.err)
    assert place.ids() == []


@pytest.mark.thorough
def test_an_agent_cannot_give_them(place: Place) -> None:
    """They could lift what its permission forbids."""
    _, inside = place.agent()
    done = place.run("run", "--tool", "codex", "go", "--", "--yolo", env=inside)
    assert (done.code, "from inside session" in done.err) == (5, True)
