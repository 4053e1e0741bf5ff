"""What `--help` and `help` say."""

from __future__ import annotations

import pytest

from csa.cli.commands import COMMANDS, GROUPS
from tests.support import Place


def test_overview_names_every_command_by_purpose(place: Place) -> None:
    """`csa --help` fits 80 columns, names every command once, in groups, and gives examples."""
    done = place.run("--help", env={"COLUMNS": "80"})
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for command in COMMANDS:
        assert done.out.count(f"\n  {' '.join(command.words):<20} {command.summary}\n") == 1
    assert "run agents:\n" in done.out
    assert "examples:\n" in done.out
    assert place.run("help").out == place.run().out == done.out


@pytest.mark.parametrize("words", [command.words for command in COMMANDS], ids=" ".join)
def test_help_of_a_command(place: Place, words: tuple[str, ...]) -> None:
    """`csa help COMMAND` is `csa COMMAND --help`, and fits 80 columns."""
    done = place.run("help", *words, env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out == place.run(*words, "--help", env={"COLUMNS": "80"}).out
    assert done.out.startswith(f"usage: csa {' '.join(words)} [-h]")
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group(place: Place, group: str) -> None:
    """`csa help GROUP` lists the group's commands."""
    done = place.run("help", group)
    assert done.code == 0
    assert done.out == place.run(group, "--help").out == place.run(group).out


def test_help_of_what_there_is_not(place: Place) -> None:
    """A command that does not exist is an error with a suggestion here too."""
    done = place.run("help", "rum")
    assert done.code == 2
    assert "did you mean 'csa run'?" in done.err
