"""End everything that runs below the state root, in all projects: each session's tool and all it has started.

On a terminal csa asks first; elsewhere --yes is needed. The sessions stay, and can be resumed. An agent may not do
this, since it would end its own session too. Single sessions: csa session kill.

Exits 6 when a session's lock, or a directory in which sessions may be, cannot be read, so that nobody knows whether
something runs there; all others have been ended then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from csa.cli.output import print_json
from csa.cli.selecting import Unlistable, open_client
from csa.cli.session_kill import add_how, check_how, noted, report
from csa.errors import RefusedError, UsageError
from csa.paths import state_root
from csa.runner.caller import find_caller
from csa.runner.sessions.ending import end_all, who_asks
from csa.store.liveness import probe
from csa.store.sessions import Target
from csa.store.stores import find_stores

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="say that everything is meant")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_how(parser)


def execute(arguments: argparse.Namespace) -> int:
    check_how(arguments)
    if not arguments.all:
        raise UsageError("What is to be killed?", hint="csa kill --all, or csa session kill -s SESSION")
    root = state_root(os.environ)
    caller = find_caller(os.environ, root)
    if caller is not None:
        raise RefusedError(
            f"An agent cannot kill everything: session {caller.session_id} runs too.",
            hint="csa session kill -s SESSION, for each that it has started",
        )
    words = who_asks("kill --all", os.environ)
    unlistable = Unlistable()
    states = [(target, probe(target[0].paths(target[1]))) for target in _all(root, unlistable)]
    running = [target for target, liveness in states if liveness.state == "alive"]
    if not running and not unlistable.faults and not any(liveness.fault for _, liveness in states):
        print_json([]) if arguments.json else print("Nothing runs")
        return 0
    if running and not arguments.yes and not _is_confirmed(running):
        return 1
    found = end_all(lambda: _all(root, unlistable), words=words, grace_s=arguments.timeout, force=arguments.force)
    return report(noted(open_client().setting, "kill", found), arguments, unlistable)


def _all(root: Path, unlistable: Unlistable) -> list[Target]:
    """Return all sessions, oldest first: parents before their children."""
    stores = find_stores(root, on_fault=unlistable.note)
    found = [(store, session_id) for store in stores for session_id in store.ids()]
    return sorted(found, key=lambda target: target[1])


def _is_confirmed(running: list[Target]) -> bool:
    count, projects = len(running), len({store.project for store, _ in running})
    what = f"{count} session{'s' if count > 1 else ''} in {projects} project{'s' if projects > 1 else ''}"
    if not sys.stdin.isatty():
        raise UsageError(f"This would end {what}.", hint="csa kill --all --yes")
    print(f"End {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
