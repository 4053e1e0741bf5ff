"""csa as an agent for editors: the Agent Client Protocol on stdin and stdout. See docs/acp.md."""

from __future__ import annotations

import argparse
import os

from csa.cli.ourselves import own_command
from csa.cli.run_options import add_budget_options, add_kept_options, add_template_options
from csa.errors import UsageError
from csa.model.configkeys import TRANSPORTS

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.runner.client import Csa
    from csa.runner.request import RunRequest


def configure(parser: argparse.ArgumentParser) -> None:
    add_template_options(parser)
    how = parser.add_argument_group("how turns are run, until the client says otherwise")
    add_kept_options(how)
    how.add_argument(
        "--transport", choices=TRANSPORTS, help="how csa talks to the tool (default: as configured, or native)"
    )
    how.add_argument("--timeout", type=float, metavar="S", help="end a turn after S seconds")
    how.add_argument("--idle-timeout", type=float, metavar="S", help="end it after S seconds without output or work")
    add_budget_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Be an agent of the Agent Client Protocol on stdin and stdout, for an editor that starts it; see docs/acp.md.

    Turns run in processes of their own, which end when this one does. Sessions are csa's: csa ls, csa show and
    csa run --session work with them, and session/load shows any session there is.
    """
    if os.isatty(0):
        raise UsageError(
            "csa acp speaks a protocol on stdin: editors start it.", hint="see docs/acp.md for their settings"
        )
    from csa.rpc.jsonrpc import Connection, take_stdio  # noqa: PLC0415  # first: nothing else may print to stdout

    reading, writing = take_stdio()
    from csa.rpc.acp.agent import Agent  # noqa: PLC0415  # brings what a run needs
    from csa.runner.client import Csa  # noqa: PLC0415  # as above

    command, environ = own_command(), dict(os.environ)
    base, make_request = _requests(arguments)
    agent = Agent(
        lambda directory: Csa.from_environment(directory, environ=environ, command=command), base, make_request
    )
    agent.connection = connection = Connection(reading, writing, agent.methods())
    connection.close_on_signals()
    connection.run()
    return 0 if connection.signal is None else 128 + connection.signal


def _requests(arguments: argparse.Namespace) -> tuple[RunRequest, Callable[[Csa, RunRequest], RunRequest]]:
    """Return the request that all prompts begin with, and what makes that of a session's first one."""
    from csa.cli.run_options import defaults_of_run  # noqa: PLC0415  # as above
    from csa.cli.run_request import request_from  # noqa: PLC0415  # as above
    from csa.cli.templates import chosen_template, made_from  # noqa: PLC0415  # as above

    given = {**vars(arguments), "template": None, "prompt": "", "is_literal": True, "quiet": True}
    base = request_from(argparse.Namespace(**{**defaults_of_run(), **given, "cd": None}))

    def make_request(client: Csa, request: RunRequest) -> RunRequest:
        words = argparse.Namespace(**{**vars(arguments), "quiet": True})
        template = chosen_template(client.context, words)
        return made_from(template, request, arguments.variables) if template else request

    return base, make_request
