"""What the commands that change sessions print, and how they take a session together with a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from csa.cli.output import print_json, warn
from csa.cli.selecting import add_selector
from csa.errors import UsageError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def add_selector_and_value(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Add a session, by position or option, and a value behind it."""
    add_selector(parser)
    parser.add_argument("value", nargs="?", metavar=name, help=meaning)


def selected_with_value(arguments: argparse.Namespace, name: str) -> tuple[str, str | None]:
    """Return the selector and the value: of two words the first is the session, unless -s names it."""
    words = [word for word in (arguments.session, arguments.value) if word is not None]
    if arguments.session_option is not None:
        words = [arguments.session_option, *words]
    if not words:
        raise UsageError("Name a session.", hint="csa session list")
    if len(words) > 2:  # noqa: PLR2004  # the session and the value
        raise UsageError(f"One session and one {name}, please.")
    return words[0], words[1] if len(words) > 1 else None


def report(arguments: argparse.Namespace, words: str, facts: Mapping[str, Any], losses: Iterable[str] = ()) -> None:
    """Say what was done: in words, or as an object."""
    if arguments.json:
        print_json(facts)
    else:
        print(words)
    warn(losses)


def count(number: int, word: str) -> str:
    """Say how many of a thing."""
    return f"{number} {word}{'' if number == 1 else 's'}"
