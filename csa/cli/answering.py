"""What agents wait to be allowed: listing it, and answering."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from csa.cli.output import cut, one_line, print_act, print_json, tell, terminal_width
from csa.cli.selecting import announce_elsewhere, open_client
from csa.errors import NotFoundError, UsageError
from csa.runner.client import Csa
from csa.runner.session import Session
from csa.store.shown import SHOWN_LENGTH

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.sessions.answering import Ask

_LEAST_PREFIX = 4  # characters of an id


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ask", nargs="?", metavar="ASK", help="the id of what is asked, or its beginning")
    parser.add_argument("-s", "--session", metavar="SESSION", help="only this session (default: all of the project)")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--allow", action="store_true", help="allow it, this time")
    verdict.add_argument("--deny", action="store_true", help="deny it")
    parser.add_argument("--json", action="store_true", help="print an object; of a list an array")


def execute(arguments: argparse.Namespace) -> int:
    """Answer what an agent asks to be allowed (csa run --ask); without --allow and --deny, list what is asked.

    ASK may be left out if only one thing is asked. Whoever answers first decides: here, in csa chat, on the page of
    csa serve or in an editor. What nobody answers within `ask_timeout_s` is denied. Exits 4 if it was decided already.
    An agent cannot answer: inside a session this command is refused.
    """
    client = open_client()
    session = client.session(arguments.session) if arguments.session is not None else None
    if not (arguments.allow or arguments.deny):
        _list(_asked(client, session, arguments.ask), arguments)
        return 0
    from csa.runner.sessions.answering import answer_ask, refuse_agents  # noqa: PLC0415  # listing needs less

    refuse_agents(session or Session(client.context, ""))
    where, ask = _choose(client, session, arguments.ask)
    announce_elsewhere(client, where)
    done = answer_ask(where, ask, allow=arguments.allow, via="answer")
    words = f"{'allowed' if done.allowed else 'denied'}: {one_line(done.title)}"
    print_act(arguments, words, done.to_json(), done.losses)
    return 0


def _asked(client: Csa, session: Session | None, prefix: str | None) -> list[Ask]:
    """Return what is asked, of one session or of all that run; with `prefix` only what it may mean."""
    found = client.asks(session.session_id) if session else client.asks()
    return [each for each in found if prefix is None or _means(prefix, each.ask)]


def _choose(client: Csa, session: Session | None, prefix: str | None) -> tuple[Session, str]:
    """Return the session and the id of what is answered; a whole id may be of something that was decided already."""
    found = _asked(client, session, prefix)
    if len(found) == 1:
        return client.session(found[0].session_id), found[0].ask
    if found:
        raise UsageError("Several things are asked: name one.", hint=", ".join(each.ask for each in found))
    if session is not None and prefix is not None:
        return session, prefix
    raise NotFoundError("Nothing is asked." if prefix is None else f"Nothing is asked as '{cut(prefix, 60)}'.")


def _means(prefix: str, ask: str) -> bool:
    return ask == prefix or (len(prefix) >= _LEAST_PREFIX and ask.startswith(prefix))


def _list(asks: Iterable[Ask], arguments: argparse.Namespace) -> None:
    asks = list(asks)
    if arguments.json:
        print_json([each.to_json() for each in asks])
        return
    width = terminal_width(sys.stdout)
    for each in asks:
        session_id = each.session_id[:SHOWN_LENGTH] if width else each.session_id
        command = each.data.get("command")
        what = each.title if not command or command in each.title else f"{each.title}: {command}"
        print(cut(f"{each.ask}  {session_id}  {each.tool}  {one_line(what)}", width))
    if not asks:
        print("Nothing is asked.")
    elif width:
        tell("hint", f"csa answer {asks[0].ask} --allow, or --deny")
