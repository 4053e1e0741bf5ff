"""The parser of a command: argparse, with csa's help, and csa's errors and suggestions."""

from __future__ import annotations

import argparse
import math
import re
import sys

from csa.cli.output import help_width
from csa.errors import UsageError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any, NoReturn

_DEEPEST = 7  # columns: where a too long line begins
_OF_ARGUMENT = re.compile(r"argument (\S+): (?:invalid choice: '(.*?)' )?")


class _Formatter(argparse.HelpFormatter):
    """Wraps each paragraph of a description to the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width() - 2)  # set here, or argparse would import shutil to find out

    def format_help(self) -> str:
        """Show an option with an optional value the way it must be given: with an equals sign."""
        text = re.sub(r"(--[a-z-]+) \[([A-Z]+)\]", r"\1[=\2]", super().format_help())
        return "".join(map(_fold_help_line, text.splitlines(keepends=True)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _fold_help_line(line: str) -> str:
    """Break a line that argparse has left too long for a narrow terminal."""
    if len(line) <= help_width() + 1:
        return line
    from textwrap import fill  # noqa: PLC0415  # as argparse does

    lead = " " * min(len(line) - len(line.lstrip()), _DEEPEST)
    return fill(line.strip(), help_width(), initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False) + "\n"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with csa's error messages, which accepts several arguments with options between them."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, formatter_class=_Formatter, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; UsageError, with a suggestion, if they are wrong."""
        try:
            if self.get_default("flags") is not None:
                return self._parse_with_flags(list(sys.argv[1:] if args is None else args), namespace)
            if any(action.nargs == argparse.ZERO_OR_MORE and not action.option_strings for action in self._actions):
                return self.parse_intermixed_args(args, namespace)
            return super().parse_args(args, namespace)
        except _RefusedWordsError as refusal:
            message = str(refusal)
            hint = self._hint(message, args) or f"{self.prog} --help"
            raise UsageError(f"{message[:1].upper()}{message[1:]}.", hint=hint) from refusal

    def _parse_with_flags(self, words: list[str], namespace: Any) -> Any:
        """Parse arguments of which those after `--` are flags for the tool.

        If there is no prompt before it, the next word is the prompt, whatever it begins with; `--` may follow again.
        """
        end = words.index("--") if "--" in words else len(words)
        own, flags = words[:end], words[end + 1 :]
        found = super().parse_args(own, namespace)
        if flags and found.prompt is None and found.prompt_file is None:
            prompt, flags = flags[0], flags[1:]
            if flags and flags[0] != "--":
                self.error(f"unrecognized arguments: {' '.join(flags)}")
            found, flags = super().parse_args([*own, "--", prompt], namespace), flags[1:]
        found.flags = tuple(flags)
        return found

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # as it is
        """Accept an optional value only as `--option=value`, or the option would consume the prompt."""
        lone = {name: each.const for each in self._actions if each.nargs == "?" for name in each.option_strings}
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        joined = [f"{word}={lone[word]}" if word in lone else word for word in words[:end]]
        return super().parse_known_args(joined + words[end:], namespace)

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002  # as argparse has it
        from csa.cli.pager import page  # noqa: PLC0415  # only help needs it

        page(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise _RefusedWordsError(message)

    def _hint(self, message: str, words: list[str]) -> str | None:
        if found := _OF_ARGUMENT.match(message):
            return self._suggest_choice(*found.groups())
        return self._suggest_option(message) or self._suggest_quotes(message, words)

    def _suggest_choice(self, name: str, typed: str | None) -> str | None:
        """Return a suggestion for a wrong value of an argument with fixed choices."""
        from csa.nearest import did_you_mean  # noqa: PLC0415  # only a typo pays for it

        names = set(name.split("/"))
        actions = [each for each in self._actions if names & {*each.option_strings, each.dest}]
        choices = [choice for action in actions for choice in action.choices or ()]
        return did_you_mean(typed, choices) if typed else None

    def _suggest_option(self, message: str) -> str | None:
        """Return a suggestion for an unknown option."""
        from csa.nearest import did_you_mean  # noqa: PLC0415  # as above

        typed = next((word.partition("=")[0] for word in message.split() if word.startswith("--")), "")
        known = [option for action in self._actions for option in action.option_strings]
        return None if typed in known else did_you_mean(typed, known)

    def _suggest_quotes(self, message: str, words: list[str]) -> str | None:
        """Return the hint for a prompt that the shell has split, or a value of --wait that became one."""
        if not message.startswith("unrecognized arguments: "):
            return None
        arguments, rest = self.parse_known_args(words)  # type: ignore[no-untyped-call]  # as argparse has it
        first = getattr(arguments, "prompt", None)
        if first is not None and "--" in words and first.startswith("-"):
            return f"the prompt goes before the tool's flags: {self.prog} PROMPT -- {first} ..."
        if first is None or any(word.startswith("-") for word in rest):
            return None
        if arguments.wait == math.inf and first.replace(".", "", 1).isdigit():
            return f"--wait={first}"
        from shlex import quote  # noqa: PLC0415  # only a typo pays for it

        return f"quote the prompt: {quote(' '.join([first, *rest]))}"


class _RefusedWordsError(Exception):
    """argparse's message about arguments it cannot parse."""
