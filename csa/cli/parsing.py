"""Commands' words as argparse reads them, and the help it writes."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

from csa.cli.plainwords import UsageFault


class _Formatter(argparse.HelpFormatter):
    """Fills each paragraph of a description to the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)  # given, or argparse imports shutil to find out

    def format_help(self) -> str:
        """Show an option whose value may be left out as it has to be given: with an equals sign."""
        return re.sub(r"(--[a-z-]+) \[([A-Z]+)\]", r"\1[=\2]", super().format_help())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return min(os.get_terminal_size().columns or 80, 100)
    except OSError:
        return 80


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
