"""Choose the current session, which `@current` then names and `session list` marks; or print it.

`csa session switch S` is the same command. Nothing else changes: a command without a session still asks for one.
"""

from __future__ import annotations

from csa.cli.output import one_line, print_json
from csa.cli.selecting import open_client
from csa.errors import UsageError
from csa.runner.client import Csa
from csa.store.current import choose_current, clear_current, read_current

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", nargs="?", metavar="SESSION", help="the session to choose")
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")
    parser.add_argument("--clear", action="store_true", help="choose none")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    given = [text for text in (arguments.session, arguments.session_option) if text is not None]
    if len(given) + arguments.clear > 1:
        raise UsageError("Name one session, or --clear.")
    client = open_client()
    if arguments.clear:
        clear_current(client.store)
        chosen = None
    elif given:
        chosen = client.session(given[0])
        choose_current(client.store, chosen.session_id)
    else:
        chosen = client.session("@current", retired=True) if _is_asked(client, arguments) else None
    if arguments.json:
        print_json({"session_id": chosen.session_id if chosen else None})
    elif chosen:
        state = chosen.record.state
        print(f"{chosen.session_id}  {one_line(state.name or state.description)}" if state else chosen.session_id)
    return 0


def _is_asked(client: Csa, arguments: argparse.Namespace) -> bool:
    """With --json, none being chosen is an answer; in words it is an error, so that scripts need not look."""
    return not (arguments.json and read_current(client.store) is None)
