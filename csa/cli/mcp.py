"""The Model Context Protocol on stdin and stdout, and how to set that up in clients. See docs/mcp.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex

from csa.cli.ourselves import own_command
from csa.cli.output import tell
from csa.errors import UsageError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.runner.client import Csa


def configure_run(_: argparse.ArgumentParser) -> None:
    pass


def execute_run(_: argparse.Namespace) -> int:
    """Serve the project's sessions to an MCP client that has started this command: tools to run sub-agents.

    It speaks JSON-RPC on stdin and stdout. What a client starts with `run` ends with it, unless it sets `detach`. In an
    agent, the sessions it starts are its children, with the same limits as for csa run. csa mcp install prints how to
    set this up in a client.
    """
    if os.isatty(0):
        tell("csa", "waiting for an MCP client on stdin; csa mcp install --client NAME prints how to set one up")
    from csa.rpc.mcp import Server  # noqa: PLC0415  # only this needs it

    return Server(_opener()).run()


def _opener() -> Callable[[str | None], Csa]:
    """Return what opens a project for each call: a long-lived process must not go on with yesterday's records."""
    known: dict[str, str] = {}

    def open_at(directory: str | None) -> Csa:
        from csa.runner.ancestry import with_surroundings  # noqa: PLC0415  # the first call waits for it
        from csa.runner.client import Csa  # noqa: PLC0415  # as above

        if directory is not None and not (os.path.isabs(directory) and os.path.isdir(directory)):
            raise UsageError(f"'{directory}' is not the absolute path of a directory.")
        if not known:
            known.update(with_surroundings(os.environ))
        return Csa.from_environment(directory or ".", environ=known, command=own_command())

    return open_at


def configure_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--client", required=True, choices=tuple(_CLIENTS), help="the client")


def execute_install(arguments: argparse.Namespace) -> int:
    """Print what makes a client start csa mcp: a command for your shell, or lines for its settings.

    What is for people goes to stderr, so that the command can be run: csa mcp install --client claude | sh
    """
    print_for, about = _CLIENTS[arguments.client]
    words = [_own_path(), "mcp"]
    tell("csa", about)
    print(print_for(words))
    return 0


def _own_path() -> str:
    """Return how clients should call csa: by name where that leads here, else by its path."""
    import shutil  # noqa: PLC0415  # only this needs it

    path, found = own_command(), shutil.which("csa")
    return "csa" if found and os.path.realpath(found) == os.path.realpath(path) else path


def _shell(*before: str, after: tuple[str, ...] = ()) -> Callable[[list[str]], str]:
    return lambda words: shlex.join([*before, *words, *after])


def _opencode(words: list[str]) -> str:
    server = {"type": "local", "command": words, "enabled": True}
    return json.dumps({"$schema": "https://opencode.ai/config.json", "mcp": {"csa": server}}, indent=2)


_CLIENTS: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "codex": (_shell("codex", "mcp", "add", "csa", "--"), "run this; it writes to ~/.codex/config.toml"),
    "claude": (
        _shell("claude", "mcp", "add", "--scope", "user", "csa", "--"),
        "run this; it writes to ~/.claude.json",
    ),
    "gemini": (
        _shell("gemini", "mcp", "add", "--scope", "user", "csa"),
        "run this; it writes to ~/.gemini/settings.json",
    ),
    "opencode": (_opencode, "put this into ~/.config/opencode/opencode.json"),
}
