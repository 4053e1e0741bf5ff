"""What of a session's history is sent to its tools: showing and limiting it."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from csa.cli.output import Style, count_of, print_act, print_json, text_for
from csa.cli.selecting import add_selector, find_one, find_to_show
from csa.cli.views.naming import as_read
from csa.model.wording import tokens
from csa.runner.sessions.context import SentContext, describe_context, prune_context
from csa.store.sessions import format_age

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csa.runner.session import Session

_LABEL_WIDTH = 14


def configure_show(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("-t", "--tool", metavar="T", help="the tool of the next turn (default: the last turn's)")
    parser.add_argument("--summary", action="store_true", help="print only the summary that would be sent")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_show(arguments: argparse.Namespace) -> int:
    """Show what the next turn would send of earlier turns: to which tool, how much, and how old it is.

    A tool's own conversation continues if it fits the context window (csa run --context-window, --context-tokens);
    otherwise a new one begins with a summary of the turns within it.
    """
    sent = describe_context(find_to_show(arguments), tool=arguments.tool)
    if arguments.json:
        print_json(sent.to_json())
    elif arguments.summary:
        if sent.summary:
            print(text_for(sys.stdout, sent.summary))
    else:
        style = Style(sys.stdout)
        for label, value in _fields(sent):
            print(f"{style(f'{label:<{_LABEL_WIDTH}}', 'dim')}{value}")
    return 0


def configure_prune(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--keep-last", type=int, metavar="N", help="send only the N newest turns from now on")
    which.add_argument("--extend-context", type=int, metavar="N", help="send N more of the older turns again")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_prune(arguments: argparse.Namespace) -> int:
    """Stop sending older turns of a session to its tools, or send them again. The transcript keeps all of them.

    The next turn begins a new conversation of its tool, with a summary of the remaining turns.
    """
    session = find_one(arguments, acts=True)
    return _prune(session, arguments, keep_last=arguments.keep_last, extend=arguments.extend_context)


def configure_clear(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_clear(arguments: argparse.Namespace) -> int:
    """Send nothing of a session's earlier turns any more: its next turn begins with only the prompt.

    The transcript keeps all turns; csa prune --extend-context N sends N of them again.
    """
    return _prune(find_one(arguments, acts=True), arguments, keep_last=0)


def _prune(
    session: Session, arguments: argparse.Namespace, *, keep_last: int | None = None, extend: int | None = None
) -> int:
    edit = prune_context(session, keep_last=keep_last, extend=extend)
    state, since = edit.after, edit.after.window.since_turn
    words = "sends all its turns" if not since else f"sends its turns from {since} on"
    if since > state.turns:
        words = "sends none of its turns"
    facts = {"session_id": state.session_id, "project": state.project_path, "since_turn": since, "turns": state.turns}
    print_act(arguments, f"{state.session_id} {words}", facts, edit.losses)
    return 0


def _fields(sent: SentContext) -> Iterator[tuple[str, str]]:
    window = sent.window
    limits = [count_of(window.turns, "turn")] if window.turns else []
    limits += [f"{window.tokens:,} tokens"] if window.tokens else []
    limits.append(f"from turn {window.since_turn} on" if window.since_turn else "")
    yield "window", ", ".join(filter(None, limits)) or "all turns"
    yield "tool", sent.tool
    if sent.conversation and not sent.why_new:
        yield "conversation", f"{sent.conversation}, with {_turns(sent.held.turns)}"
    elif sent.conversation:
        yield "conversation", f"a new one: {sent.why_new}"
    else:
        yield "conversation", "a new one"
    told = [f"{_turns(each['turns'])} of {each['session_id']}" for each in sent.sources]
    told += [_turns(sent.told)] if sent.told else []
    for index, words in enumerate(told or ["none"]):
        yield "" if index else "summary", as_read(words if words == "none" else f"of {words}", sys.stdout)
    amount = f"{'about ' if sent.is_estimate else ''}{tokens(sent.tokens)} tokens"
    yield "size", f"{amount}{_share(sent)}"
    if sent.oldest_at:
        yield "oldest turn", f"{format_age(datetime.now(UTC), sent.oldest_at)} ago"


def _share(sent: SentContext) -> str:
    return f", {round(100 * sent.tokens / sent.window.tokens)} % of the window" if sent.window.tokens else ""


def _turns(numbers: Sequence[int]) -> str:
    """Name turns: `turn 3`, `turns 3 to 6`, `turns 1, 3`."""
    if not numbers:
        return "no turns"
    if len(numbers) == 1:
        return f"turn {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"turns {numbers[0]} to {numbers[-1]}"
    return f"turns {', '.join(map(str, numbers))}"
