"""End what runs in sessions: the tool, and everything it has started.

The supervisor of each turn is asked to end it, which it does as for Ctrl-C: the outcome is written, the session can be
resumed. One that does not react within the grace, or at once with --force, is killed; the turn is then lost. A line is
printed for each session when nothing of it is left.

Exits 0 when nothing of them runs any more, also when nothing did; 1 when something cannot be ended; 5 when an agent
would end its own session, or one that it works for; 6 when with --tree a directory cannot be listed, so that nobody
knows whether a descendant runs there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from csa.cli.output import Style, one_line, print_json, print_problem, warn
from csa.cli.selecting import Unlistable, add_selectors, find_all
from csa.errors import UsageError
from csa.runner.caller import refuse_own_lineage
from csa.runner.sessions.acting import record_act
from csa.runner.sessions.ending import GRACE_S, Ended, end_sessions, end_trees, who_asks
from csa.runner.setting import Setting
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--tree", action="store_true", help="and all their descendants")
    add_how(parser)


def add_how(parser: argparse.ArgumentParser) -> None:
    """Add what `csa kill` takes as well."""
    parser.add_argument("--force", action="store_true", help="do not ask the supervisors first; the turns are lost")
    parser.add_argument(
        "--timeout", type=float, default=GRACE_S, metavar="S", help=f"how long to let them end (default: {GRACE_S:g})"
    )
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    check_how(arguments)
    sessions = find_all(arguments, acts=True)
    setting = sessions[0].setting
    for session in sessions:
        refuse_own_lineage(setting.caller, session.session_id, verb="kill")
    unlistable = Unlistable()
    end = partial(end_trees, on_fault=unlistable.note) if arguments.tree else end_sessions
    words = who_asks("session kill", setting.environ)
    targets = [session.target for session in sessions]
    found = end(targets, words=words, grace_s=arguments.timeout, force=arguments.force)
    return report(noted(setting, "session kill", found), arguments, unlistable)


def check_how(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.timeout < float("inf"):
        raise UsageError("--timeout takes a number of seconds, from 0 up.")


def noted(setting: Setting, command: str, found: Iterable[Ended]) -> Iterator[Ended]:
    """Note what was ended in audit.jsonl of its project, as it comes."""
    for ended in found:
        if ended.outcome == "killed":
            store = Store(setting.store.root, Path(ended.project))
            loss = record_act(setting, command, ended.session_id, store=store, what="killed", forced=ended.forced)
            warn([loss] if loss else [])
        yield ended


def report(found: Iterable[Ended], arguments: argparse.Namespace, unlistable: Unlistable) -> int:
    """Print what came of each session as it comes, and where more may run; return the exit code."""
    seen: list[Ended] = []
    for ended in found:
        seen.append(ended)
        if ended.error is not None:
            print_problem(ended.error.message, hint=ended.error.hint)
        elif not arguments.json:
            print(_line(ended), flush=True)
    if arguments.json:
        print_json([ended.to_json() for ended in seen])
    code = unlistable.report(hint="what runs there goes on; end it as the user to whom it belongs")
    return next((ended.error.exit_code for ended in seen if ended.error), code)


def _line(ended: Ended) -> str:
    if ended.outcome == "not_running":
        return f"{ended.session_id}: not running ({ended.status})"
    known = one_line(f"{ended.tool}, turn {ended.turn}") if ended.tool else "unknown tool"
    now = "another turn runs" if ended.status == "running" else ended.status
    how = "; its supervisor was killed too" if ended.forced else ""
    return f"{ended.session_id}: {Style(sys.stdout)('ended', 'yellow')} ({known}): {now}{how}"
