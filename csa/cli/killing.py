"""Stopping what is running: in single sessions, or everywhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from csa.cli.output import Style, count_of, one_line, print_json, print_problem, tell, warn
from csa.cli.selecting import Unlistable, add_selectors, find_all, is_confirmed, open_client
from csa.cli.views.naming import head_of_line
from csa.errors import RefusedError, UsageError
from csa.paths import state_root
from csa.runner.caller import find_caller
from csa.runner.sessions.ending import GRACE_S, KillResult, end_all, kill_sessions, note_kills, who_asks
from csa.store.liveness import probe
from csa.store.sessions import Target
from csa.store.shown import SHOWN_LENGTH
from csa.store.stores import find_stores


def configure_kill(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--tree", action="store_true", help="also kill their descendants")
    parser.add_argument("--all", action="store_true", help="kill everything that is running, in all projects")
    parser.add_argument("-y", "--yes", action="store_true", help="with --all: do not ask")
    parser.add_argument("--force", action="store_true", help="do not ask the supervisors first; the turns are lost")
    parser.add_argument(
        "--timeout", type=float, default=GRACE_S, metavar="S", help=f"how long to let them end (default: {GRACE_S:g})"
    )
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_kill(arguments: argparse.Namespace) -> int:
    """Stop running sessions: the tool, and everything it has started. The sessions stay, and can be resumed.

    The supervisor of each turn is asked to end it, which it does as for Ctrl-C: the outcome is recorded. If it has not
    done so in time, or at once with --force, it is killed, and the turn is lost. A line is printed for each session
    when nothing of it is left.

    --all stops everything below the state root, in all projects. On a terminal csa asks first; elsewhere --yes is
    needed. An agent may not do this, since it would end its own session too.

    Exits 0 when nothing of them is running any more, also when nothing was; 1 when something cannot be stopped, or you
    said no; 5 when an agent would stop its own session or one of its ancestors; 6 when a lock or directory cannot be
    read, so that csa cannot know whether something is running there (everything else has been stopped then).

    What is on another host (n1:NAME, or placed there by a session of the tree) is stopped there, by its own csa. What
    ran there is not called stopped if that host cannot be reached; csa exits 7.
    """
    if not 0 <= arguments.timeout < float("inf"):
        raise UsageError("--timeout takes a number of seconds, 0 or more.")
    names = [*arguments.session, *(arguments.session_option or ())]
    if arguments.all and (names or arguments.tree):
        raise UsageError("--all already means everything.", hint="leave out --all, or the sessions and --tree")
    if arguments.yes and not arguments.all:
        raise UsageError("--yes is for --all.")
    if not names and not arguments.all:
        raise UsageError("Nothing to kill: name a session, or use --all.", hint="csa ps")
    return _kill_all(arguments) if arguments.all else _kill_named(arguments)


def _kill_named(arguments: argparse.Namespace) -> int:
    unlistable, sessions = Unlistable(), find_all(arguments, acts=True, mirrored=True)
    end = kill_sessions
    if arguments.tree or any(session.store.host for session in sessions):
        from csa.runner.hosts.ending import kill_everywhere as end  # noqa: PLC0415  # few trees are on several hosts

    found = end(
        sessions,
        tree=arguments.tree,
        grace_s=arguments.timeout,
        force=arguments.force,
        on_fault=unlistable.note,
        on_loss=_warn_of,
    )
    return _report_kills(found, arguments, unlistable)


def _warn_of(loss: str) -> None:
    warn([loss])


def _report_kills(found: Iterable[KillResult], arguments: argparse.Namespace, unlistable: Unlistable) -> int:
    """Print the result of each session as it comes, and where more may be running; return the exit code."""
    seen: list[KillResult] = []
    for ended in found:
        seen.append(ended)
        if ended.error is not None:
            print_problem(ended.error.message, hint=ended.error.hint)
        elif not arguments.json:
            print(_kill_in_words(ended), flush=True)
            if ended.queued:
                tell("hint", f"csa queue {ended.session_id} --resume")
    if arguments.json:
        print_json([ended.to_json() for ended in seen])
    code = unlistable.report(hint="what is running there continues; stop it as its owner")
    return next((ended.error.exit_code for ended in seen if ended.error), code)


def _kill_in_words(ended: KillResult) -> str:
    head, name = head_of_line(ended.session_id)
    name = name or (one_line(ended.name or "") if ended.host else "")
    if ended.host and not name.startswith(f"{ended.host}:"):
        name = f"{ended.host}:{name or ended.session_id[:SHOWN_LENGTH]}"
    named = f"{name}, " if name else ""
    held = f"; {count_of(ended.queued, 'queued prompt')} held" if ended.queued else ""
    if ended.outcome == "not_running":
        heard = f" when last seen, {ended.heard}; {ended.host} cannot be reached" if ended.heard else ""
        return f"{head}: not running{heard} ({named}{ended.status}){held}"
    known = named + (one_line(f"{ended.tool}, turn {ended.turn}") if ended.tool else "unknown tool")
    now = "another turn is running" if ended.status == "running" else ended.status
    how = "; its supervisor was killed too" if ended.forced else ""
    return f"{head}: {Style(sys.stdout)('ended', 'yellow')} ({known}): {now}{how}{held}"


def _kill_all(arguments: argparse.Namespace) -> int:
    root = Path(state_root(os.environ))
    caller = find_caller(os.environ, root)
    if caller is not None:
        raise RefusedError(
            f"An agent cannot kill everything: its own session {caller.session_id} is running too.",
            hint="csa kill SESSION, for each that it has started",
        )
    words = who_asks("kill --all", os.environ)
    unlistable = Unlistable()
    states = [(target, probe(target[0].paths(target[1]))) for target in _all_targets(root, unlistable)]
    running = [target for target, liveness in states if liveness.state == "alive"]
    if not running and not unlistable.faults and not any(liveness.fault for _, liveness in states):
        print_json([]) if arguments.json else print("Nothing is running")
        return 0
    if running and not arguments.yes and not _is_confirmed(running):
        return 1
    found = end_all(
        lambda: _all_targets(root, unlistable), words=words, grace_s=arguments.timeout, force=arguments.force
    )
    return _report_kills(note_kills(open_client().context, "kill", found, on_loss=_warn_of), arguments, unlistable)


def _all_targets(root: Path, unlistable: Unlistable) -> list[Target]:
    """Return all sessions, oldest first: parents before their children."""
    stores = find_stores(root, on_fault=unlistable.note)
    found = [(store, session_id) for store in stores for session_id in store.ids()]
    return sorted(found, key=lambda target: target[1])


def _is_confirmed(running: list[Target]) -> bool:
    projects = {store.project for store, _ in running}
    what = f"{count_of(len(running), 'session')} in {count_of(len(projects), 'project')}"
    return is_confirmed("end", what, hint="csa kill --all --yes")
