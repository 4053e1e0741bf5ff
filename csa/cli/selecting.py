"""Naming a session on the command line: `-s`/`--session S`, or S by its position."""

from __future__ import annotations

import argparse

from csa.errors import UsageError
from csa.runner.client import Csa


def add_selector(parser: argparse.ArgumentParser) -> None:
    """Add both ways of naming the session."""
    what = "the session: an id, a unique prefix of one, a name, or @last, @self, @parent, @root"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=what)
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")


def selected(arguments: argparse.Namespace) -> str:
    """Return the selector; UsageError unless it is given exactly once."""
    given = [text for text in (arguments.session, arguments.session_option) if text is not None]
    if len(given) != 1:
        problem = "Name a session" if not given else "Name the session once"
        raise UsageError(f"{problem}.", hint="csa session list")
    return str(given[0])


def add_selectors(parser: argparse.ArgumentParser) -> None:
    """Add both ways of naming one session or more."""
    what = "the sessions: ids, unique prefixes, names, or @last, @self, @parent, @root"
    parser.add_argument("session", nargs="*", metavar="SESSION", help=what)
    parser.add_argument(
        "-s", "--session", dest="session_option", nargs="+", action="extend", metavar="SESSION", help="the same"
    )


def resolve_all(client: Csa, arguments: argparse.Namespace) -> list[str]:
    """Return the full ids of the sessions that are named, each once; UsageError when there is none."""
    given = [*arguments.session, *(arguments.session_option or ())]
    if not given:
        raise UsageError("Name a session.", hint="csa session list")
    return list(dict.fromkeys(client.resolve(selector) for selector in given))


def open_client(arguments: argparse.Namespace) -> Csa:
    """Open the project of `--cd`, or of the current directory."""
    return Csa.from_environment(arguments.cd or ".")
