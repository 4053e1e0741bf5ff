"""Wait until sessions are at rest, and exit as their turns did.

Prints a line for each session as it ends. Any number may wait for the same session; waiting takes nothing. A session
that does not run has ended already. A turn that is followed by another at once is waited for with that one.

Exits 0 when all succeeded, else with the first code that is not 0, in the order in which the sessions were given (1
failed, cancelled, killed or lost; 3 when it has never run; 4 when it cannot be known whether it runs; 6 when its record
is damaged; 7 not logged in; 8 rate limited; 124 out of time); with --any, with that of the first to end. Exits 4 when
--timeout is up.

One whose record is damaged, or that has never run, is named on stderr and not waited for; the others are, with --any
too. With --tree a directory that cannot be listed is named likewise: nobody knows which descendants are there.
"""

from __future__ import annotations

import sys

from csa.cli.describe import elapsed
from csa.cli.output import STATUS_STYLES, Style, hint_of, one_line, print_json, print_problem
from csa.cli.selecting import Unlistable, add_selectors, find_all
from csa.cli.signs import about_sessions, signs_of_life
from csa.errors import UsageError
from csa.runner.caller import refuse_endless_wait, refuse_own_lineage
from csa.runner.session import Session, follow_resumed
from csa.runner.sessions.waiting import EXIT_BUSY, Ending, await_endings

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--any", action="store_true", help="until one of them has ended")
    parser.add_argument("--tree", action="store_true", help="also for all their descendants, those to come included")
    parser.add_argument("--timeout", type=float, metavar="S", help="give up after S seconds, with exit code 4")
    parser.add_argument("--json", action="store_true", help="print an array of objects when the waiting is over")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.timeout is not None and not 0 <= arguments.timeout < float("inf"):
        raise UsageError("--timeout takes a number of seconds, from 0 up.")
    sessions = [follow_resumed(session) for session in find_all(arguments, retired=True)]
    if len(sessions) == 1 or not arguments.any:  # of several, another one may end first
        _refuse_endless(sessions, arguments)
    with signs_of_life(sessions[0].setting.caller) as signs:
        signs.about(about_sessions([session.target for session in sessions]))
        return _await(sessions, arguments)


def _await(sessions: list[Session], arguments: argparse.Namespace) -> int:
    endings: dict[tuple[str, str], Ending] = {}
    unlistable = Unlistable()
    for ending in await_endings(
        [session.target for session in sessions],
        tree=arguments.tree,
        first_only=arguments.any,
        timeout_s=arguments.timeout,
        on_fault=unlistable.note,
    ):
        endings[ending.project, ending.session_id] = ending
        if ending.fault is not None:
            print_problem(ending.fault.message, hint=hint_of(ending.fault))
        elif not arguments.json and ending.status != "running":
            _print_line(ending)
    if arguments.json:
        print_json([ending.to_json() for ending in endings.values()])
    code = unlistable.report(hint="what runs there is not waited for; wait as the user to whom it belongs")
    for ending in endings.values():
        if ending.status == "unknown":
            words = f"Nobody here can know whether {ending.session_id} runs."
            print_problem(words, hint=f"csa session why -s {ending.session_id}")
    unfinished = [ending.session_id for ending in endings.values() if ending.status == "running"]
    if unfinished:
        count = f"{len(unfinished)} sessions still run" if len(unfinished) > 1 else f"{unfinished[0]} still runs"
        print_problem(f"After {arguments.timeout:g} s {count}.", hint=f"csa session why -s {unfinished[0]}")
        return EXIT_BUSY
    named = [session.store.key(session.session_id) for session in sessions]
    known = [endings[key] for key in (*named, *endings) if key in endings]
    return _exit_code(known, arguments) or code


def _refuse_endless(sessions: list[Session], arguments: argparse.Namespace) -> None:
    for session in sessions:
        refuse_endless_wait(session.setting.caller, session.session_id)
        if arguments.tree:
            refuse_own_lineage(session.setting.caller, session.session_id, verb="wait for the tree of")


def _exit_code(endings: list[Ending], arguments: argparse.Namespace) -> int:
    """Return the first code that is not 0; with --any that of the first to end counts, where one has ended."""
    first = [ending for ending in endings if ending.is_known] if arguments.any else []
    return next((ending.exit_code for ending in first or endings if ending.exit_code), 0)


def _print_line(ending: Ending) -> None:
    style = Style(sys.stdout)
    facts = [ending.tool, f"turn {ending.turn}" if ending.turn else ""]
    facts.append("" if ending.duration_s is None else elapsed(ending.duration_s))
    known = one_line(", ".join(fact for fact in facts if fact))
    why = one_line(str(ending.error["message"])) if ending.error and ending.error.get("message") else ""
    status = style(ending.status, STATUS_STYLES.get(ending.status, ""))
    print(f"{ending.session_id}: {status}{f' ({known})' if known else ''}{f': {why}' if why else ''}", flush=True)
