"""Commands' words as argparse reads them, and the help it writes."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from csa.cli.output import help_width
from csa.cli.plainwords import UsageFault

_DEEPEST = 7  # columns, where a line that is too long begins


class _Formatter(argparse.HelpFormatter):
    """Fills each paragraph of a description to the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width() - 2)  # given, or argparse imports shutil to find out

    def format_help(self) -> str:
        """Show an option whose value may be left out as it has to be given: with an equals sign."""
        text = re.sub(r"(--[a-z-]+) \[([A-Z]+)\]", r"\1[=\2]", super().format_help())
        return "".join(map(_fold, text.splitlines(keepends=True)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _fold(line: str) -> str:
    """Break a line that argparse has left too long for a narrow terminal."""
    if len(line) <= help_width() + 1:
        return line
    from textwrap import fill  # noqa: PLC0415  # as argparse does

    lead = " " * min(len(line) - len(line.lstrip()), _DEEPEST)
    return fill(line.strip(), help_width(), initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False) + "\n"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that words its errors as csa does, and takes several arguments with options between them."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, formatter_class=_Formatter, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words; UsageFault when they are off."""
        if any(action.nargs == argparse.ZERO_OR_MORE and not action.option_strings for action in self._actions):
            return self.parse_intermixed_args(args, namespace)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # as it is
        """Take the value of an option that may have none only as `--option=value`, or it would take the prompt."""
        lone = {name: each.const for each in self._actions if each.nargs == "?" for name in each.option_strings}
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        joined = [f"{word}={lone[word]}" if word in lone else word for word in words[:end]]
        return super().parse_known_args(joined + words[end:], namespace)

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse's never returns; nor does this
        raise UsageFault(message, self.prog)
