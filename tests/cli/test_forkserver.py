"""What the tests run csa in is kept honest: the same command, started from scratch, says the same."""

from __future__ import annotations

import pytest

from tests.support import CSA, Place

COMMANDS = (
    ["--version"],
    ["session", "list", "--json"],
    ["session", "is-alive", "@last"],
    ["session", "info", "--json"],
    ["session", "show"],
    ["session", "result", "--json"],
    ["session", "logs"],
    ["session", "lst"],
    ["session", "show", "01ZZZZ"],
    ["config", "show"],
    ["run", "--tool", "codex", "--dry-run", "--session-id", "01JH4QWERT1234567890ABCDEF", "hello"],
)


@pytest.fixture
def prepared(place: Place) -> Place:
    """Make one session."""
    place.codex("hello", "--name", "auth")
    return place


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_started_from_scratch(prepared: Place, words: list[str]) -> None:
    """Exit code, stdout and stderr are those of csa started by the shell."""
    assert prepared.run(*words) == prepared.shell([CSA, *words])


def test_each_has_a_place_of_its_own(place: Place) -> None:
    """Environment, directory and standard input are those that were given, and nothing stays of the command before."""
    other = place.tmp / "other"
    (other / ".git").mkdir(parents=True)
    assert place.run("run", "--tool", "codex", stdin=b"from stdin").code == 0
    assert place.run("session", "list", "--json", cwd=other, env={"NO_COLOR": "1"}).json == []
    assert len(place.run("session", "list", "--json").json) == 1
