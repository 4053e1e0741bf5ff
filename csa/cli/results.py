"""How a turn ended: its answer, or its failure and what to do about it."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import print_json, print_problem, text_for, to_json
from csa.cli.selecting import add_hosts, add_selector, find_to_read
from csa.model.clock import local_clock
from csa.model.result import abridge, kind_in_words, next_step

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.result import RunResult


SUMMARY_HELP = "print about 200 tokens of a long answer: its beginning and end, and how to get the rest"


def configure_result(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    add_hosts(parser, several=False)
    parser.add_argument("--turn", type=int, metavar="N", help="print turn N's result instead of the last one's")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="print the answer (the default)")
    kinds.add_argument("--summary", action="store_true", help=SUMMARY_HELP)
    kinds.add_argument("--json", action="store_true", help="print the full result as an object")


def execute_result(arguments: argparse.Namespace) -> int:
    """Print the answer of a session's last finished turn, as `csa run` printed it, with secrets redacted.

    Exits 0 if there is a result, whatever the outcome; --json has the outcome.
    """
    result = find_to_read(arguments, "session result").result(turn=arguments.turn)
    if arguments.json:
        print_json(result.to_json())
        return 0
    if result.text:
        print(summary_of(result) if arguments.summary else answer_of(result))
    if result.status != "succeeded":
        print_problem(f"turn {result.turn} {_end_in_words(result)}", hint=failure_hint(result))
    return 0


def summary_of(result: RunResult) -> str:
    """Return the beginning and the end of a long answer, and the command that prints all of it."""
    way = f"csa result {result.session_id} --turn {result.turn}"
    return abridge(text_for(sys.stdout, result.text), way)


def answer_of(result: RunResult) -> str:
    """Return the answer for stdout; one that is JSON, on one line, or indented on a terminal."""
    if result.output is None:
        return text_for(sys.stdout, result.text)
    return to_json(result.output, indent=2 if sys.stdout.isatty() else None)


def _end_in_words(result: RunResult) -> str:
    """Describe how a turn ended. A cancelled one has no error; without an answer, its summary says who cancelled it."""
    known = result.error_message or ("" if result.text else result.summary)
    if known in {"", result.status}:
        return result.status
    return known if known.startswith(f"{result.status} ") else f"{result.status}: {known}"


def print_failure(result: RunResult) -> None:
    """Print to stderr how an unsuccessful turn ended."""
    if result.status != "succeeded":
        kind = kind_in_words(result.status, result.error_kind)
        why = result.error_message or result.summary
        words = f"{result.tool} {_STATUS_WORDS.get(result.status, result.status)}{kind}: {why}"
        if result.retry_at:
            words = f"{words.rstrip('.')}. The provider can be used again at {local_clock(result.retry_at)}."
        print_problem(words, hint=failure_hint(result))


_STATUS_WORDS = {
    "failed": "failed",
    "cancelled": "was cancelled",
    "timed_out": "ran out of time",
    "killed": "was killed",
    "lost": "was lost",
}


def failure_hint(result: RunResult) -> str | None:
    """Return the next step after an unsuccessful turn."""
    return next_step(
        result.session_id,
        result.tool,
        result.error_kind or "",
        result.error_message or "",
        is_known_to_tool=result.provider_session_id is not None,
    )
