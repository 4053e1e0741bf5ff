"""What may have been meant, where the words of a command line are off. Only a mistake pays for it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches

from csa.cli.commands import ALIASES, COMMANDS, GROUPS, Command
from csa.cli.parsing import Parser
from csa.cli.plainwords import UsageFault
from csa.errors import UsageError

_OF_ARGUMENT = re.compile(r"argument (\S+): (?:invalid choice: '(.*?)' )?")


def usage_error(command: Command, words: list[str], fault: UsageFault) -> UsageError:
    """Word what a command's parser has refused."""
    parser = command.parser()
    if found := _OF_ARGUMENT.match(fault.message):
        hint = _suggest_choice(parser, *found.groups())
    else:
        hint = _suggest_option(parser, fault.message) or _suggest_quotes(parser, words, fault.message)
    message = fault.message[:1].upper() + fault.message[1:]
    return UsageError(f"{message}.", hint=hint or f"{fault.prog} --help")


def unknown_command(words: list[str]) -> UsageError:
    """Say that the words name no command."""
    known = [" ".join(names) for names in (*(command.words for command in COMMANDS), *ALIASES)]
    typed = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    leaves = [command.words[-1] for command in COMMANDS]
    meant = (
        _of_leaf(typed)
        or get_close_matches(typed, [*known, *GROUPS], n=1)
        or get_close_matches(" ".join(words[:2]), known, n=1)
        or [name for leaf in get_close_matches(typed, leaves, n=1) for name in _of_leaf(leaf)]
    )
    commands = " or ".join(f"'csa {name}'" for name in meant)
    return UsageError(
        f"There is no command 'csa {typed}'.", hint=f"did you mean {commands}?" if meant else "csa --help"
    )


def _of_leaf(name: str) -> list[str]:
    """Return the commands that are called so within their group."""
    return [" ".join(command.words) for command in COMMANDS if command.words[-1] == name]


def _close(typed: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    close = get_close_matches(typed, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{close[0]}'?" if close else None


def _suggest_choice(parser: Parser, name: str, typed: str | None) -> str | None:
    """Return what a wrong value may have been meant to be, of an argument that has only so many."""
    names = set(name.split("/"))
    actions = [each for each in parser._actions if names & {*each.option_strings, each.dest}]  # noqa: SLF001  # no public way
    choices = [choice for action in actions for choice in action.choices or ()]
    return _close(typed, choices) if typed else None


def _suggest_option(parser: Parser, message: str) -> str | None:
    """Return what an unknown option may have been meant to be."""
    typed = next((word.partition("=")[0] for word in message.split() if word.startswith("--")), "")
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  # no public way
    return None if typed in known else _close(typed, known, cutoff=0.75)


def _suggest_quotes(parser: Parser, words: list[str], message: str) -> str | None:
    """Return what to do about a prompt that the shell has taken apart, or the value of --wait that became one."""
    if not message.startswith("unrecognized arguments: "):
        return None
    arguments, rest = parser.parse_known_args(words)  # type: ignore[no-untyped-call]  # as argparse has it
    first = getattr(arguments, "prompt", None)
    if first is None or any(word.startswith("-") for word in rest):
        return None
    if arguments.wait == math.inf and first.replace(".", "", 1).isdigit():
        return f"--wait={first}"
    return f"quote the prompt: {shlex.quote(' '.join([first, *rest]))}"
