"""Bringing the commits of a session on another host into the repository one stands in. See docs/hosts.md."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import count_of, print_json, tell, warn
from csa.cli.selecting import add_selector, find, open_client, selected
from csa.cli.views.naming import head_of_line
from csa.errors import CsaError, UsageError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.hosts.code import Brought

_SHORT = 10


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    """Bring the commits of a session on another host into the repository you are in, as refs. Nothing is merged.

    Each turn's work is refs/csa/SESSION/TURN, with what the agent has committed and, on top, what it has left. Your
    branches, your index, your files and FETCH_HEAD stay as they are; a ref moves only forward. When a turn that you
    have started with csa run --on HOST ends, csa does this by itself.

    Exits 5 when the session's code belongs to another repository, 7 when its host cannot be reached.
    """
    from csa.runner.hosts.fetching import fetch_work  # noqa: PLC0415  # `csa completion` loads every command

    client = open_client()
    session = find(client, selected(arguments), retired=True)
    if (host := session.store.host) is None:
        raise UsageError(
            f"Session {session.session_id} is on this host: its commits are in its repository.",
            hint=f"csa diff -s {session.session_id}, csa land -s {session.session_id}",
        )
    brought = fetch_work(client.context, client.context.config.engine(host), session.session_id, host)
    warn(brought.problems)
    if arguments.json:
        print_json(brought.to_json())
    else:
        _print(brought)
    return 0


def _print(brought: Brought) -> None:
    head, name = head_of_line(brought.session_id)
    named = f" ({name})" if name else ""
    new = [each for each in brought.refs if each.status != "same"]
    what = f"{count_of(len(new), 'new ref')}" if new else "nothing new" if brought.refs else "no commits yet"
    print(f"{head}{named}: {what}")
    for each in new:
        aside = ", beside another's" if each.status == "aside" else ""
        print(f"  {each.ref}  {each.commit[:_SHORT]}{aside}")
    for step in next_steps(brought):
        tell("hint", step)


def next_steps(brought: Brought) -> list[str]:
    """Return what to do with what has come."""
    if brought.tip is None or brought.tip == brought.base:
        return []
    base, tip = brought.base[:_SHORT], brought.tip[:_SHORT]
    name = f"{brought.host}:{brought.session_id}"
    plain = f"git diff --binary {base} {tip} | git apply"
    take = f"csa land {name}, or git merge {tip}" if brought.is_clean else f"{plain}, onto your changes"
    return [f"see it: csa diff {name}, or git diff {base} {tip}", f"take it: {take}"]


def configure_outcome(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="ID", help="the session's id")


def execute_outcome(arguments: argparse.Namespace) -> int:
    """Send the commits of a session's work to stdout, for csa fetch elsewhere, which says on stdin what it has."""
    from csa import __version__  # noqa: PLC0415  # as above
    from csa.runner.detach import error_to_json  # noqa: PLC0415  # as above
    from csa.runner.hosts.code import OUTCOME, send_outcome  # noqa: PLC0415  # as above
    from csa.runner.hosts.frames import PROTOCOL, write_line  # noqa: PLC0415  # as above

    out = sys.stdout.buffer
    write_line(out, {"csa": OUTCOME, "protocol": PROTOCOL, "version": __version__})
    try:
        session = find(open_client(), arguments.session, retired=True)
        send_outcome(session, sys.stdin.buffer, out)
    except CsaError as error:
        write_line(out, {"error": error_to_json(error)})
        out.flush()
        return error.exit_code
    return 0
