"""Where the words of a command are plain, they say the same as argparse finds in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csa.cli.commands import COMMANDS, Command
from csa.cli.plainwords import PlainParser, UsageFault

VALUES = [
    "",
    "a",
    "01JH4Q",
    "codex,claude-code",
    "3",
    "2.5",
    "7d",
    "x y",
    "json",
    "full",
    "bash",
    "native",
    "-",
    "--",
    "-1",
]


def options_of(command: Command) -> list[str]:
    return [name for action in command.parser()._actions for name in action.option_strings]  # noqa: SLF001  # no public way


OPTIONS = {command.words: options_of(command) for command in COMMANDS}


@st.composite
def lines(draw: st.DrawFn) -> tuple[Command, list[str]]:
    """Return a command with words most of which are its own options, or values, or nearly so."""
    command = draw(st.sampled_from(COMMANDS))
    own, value = st.sampled_from(OPTIONS[command.words]), st.sampled_from(VALUES)
    joined = st.builds("{}={}".format, own, value)
    shortened = own.map(lambda name: name[:-1])
    pieces = st.one_of(st.tuples(own, value), st.tuples(own), st.tuples(value), st.tuples(joined | shortened))
    return command, [word for piece in draw(st.lists(pieces, max_size=4)) for word in piece]


def read_plainly(command: Command, words: list[str]) -> dict[str, object] | None:
    plain = PlainParser()
    command.configure(plain)  # type: ignore[arg-type]  # as the command line does
    found = plain.parse(words)
    return None if found is None else vars(found)


def read_usually(command: Command, words: list[str]) -> dict[str, object] | None:
    try:
        found: dict[str, object] = vars(command.parser().parse_args(words))
    except (UsageFault, SystemExit):
        return None
    return found


@given(lines())
def test_plain_words_are_read_as_by_argparse(line: tuple[Command, list[str]]) -> None:
    """Any line of any command: the same values, or no answer; and none where argparse refuses."""
    command, words = line
    plainly = read_plainly(command, words)
    if plainly is not None:
        assert plainly == read_usually(command, words)


def test_the_usual_lines_are_plain() -> None:
    """What people and scripts write needs no argparse."""
    for line in (
        "run --tool codex hello",
        "run -q hello --tool codex --json",
        "session list",
        "session list --tool codex --limit 20 --json",
        "session result 01JH4Q",
        "session result -s 01JH4Q --json",
        "session logs --tail 200 -s 01JH4Q",
        "session clean --days 30 --dry-run",
        "gc --days 30",
    ):
        words = line.split()
        command = next(each for each in COMMANDS if list(each.words) == words[: len(each.words)])
        assert read_plainly(command, words[len(command.words) :]) is not None, line
