"""Print the answer of a session's last finished turn, as `csa run` printed it, with secrets redacted.

Exits 0 when there is a result, whatever it says; the outcome is in --json.
"""

from __future__ import annotations

import sys

from csa.cli.output import print_json, print_problem, text_for
from csa.cli.reads import find_to_read
from csa.cli.selecting import add_selector

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.model.result import RunResult


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--turn", type=int, metavar="N", help="of turn N instead of the last one")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="print the answer (the default)")
    kinds.add_argument("--json", action="store_true", help="print the whole result as an object")


def execute(arguments: argparse.Namespace) -> int:
    result = find_to_read(arguments, "session result").result(turn=arguments.turn)
    if arguments.json:
        print_json(result.to_json())
        return 0
    if result.text:
        print(text_for(sys.stdout, result.text))
    if result.status != "succeeded":
        from csa.cli.failures import failure_hint  # noqa: PLC0415  # an answer needs none of it

        print_problem(f"turn {result.turn} {_why(result)}", hint=failure_hint(result))
    return 0


def _why(result: RunResult) -> str:
    """Say how a turn ended. One that was cancelled has no error; where there is no answer, its summary says who did."""
    known = result.error_message or ("" if result.text else result.summary)
    if known in {"", result.status}:
        return result.status
    return known if known.startswith(f"{result.status} ") else f"{result.status}: {known}"
