"""Sessions that go, and come back: by hand, by their age, and for cron."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from csa.cli.collected import Counter, days, print_items, print_report, read_rule, summary, warn_of_rest
from csa.cli.output import count_of, lossy, one_line, print_act, print_error, print_json, warn
from csa.cli.selecting import (
    add_selector,
    announce_elsewhere,
    find_projects,
    open_client,
    refuse_unknown_tools,
    selected,
)
from csa.errors import CsaError, UsageError
from csa.runner.session import find_retired
from csa.runner.sessions.collecting import collect
from csa.runner.sessions.removal import delete_session, find_to_delete, living_children, restore_session
from csa.runner.turns.leftovers import find_leftovers, reap
from csa.runner.waking import wake_parked


def configure_delete(parser: argparse.ArgumentParser) -> None:
    what = "a session: an id, a unique prefix of one, a name, or @last"
    parser.add_argument("sessions", nargs="*", metavar="SESSION", help=what)
    parser.add_argument(
        "-s", "--session", dest="more", action="append", default=[], metavar="SESSION", help="the same, as an option"
    )
    parser.add_argument("-f", "--force", action="store_true", help="end a session that runs, and take a pinned one")
    parser.add_argument("--purge", action="store_true", help="remove for good, at once")
    parser.add_argument("--provider", action="store_true", help="also remove what the tools keep of the conversation")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_delete(arguments: argparse.Namespace) -> int:
    """Remove sessions: they are moved out of sight, and can be brought back with `csa session restore` for some days.

    Nothing is removed unless all of the named sessions exist. A session that runs is refused; --force ends it first.
    One that is pinned is refused as well, unless --force is given. Children stay, and are told of while they run. What
    the tool itself keeps of the conversation stays, unless --provider is given.

    Exits 4 when a session runs, and 5 when it is pinned, or is the calling session or above it.
    """
    selectors = [*arguments.sessions, *arguments.more]
    if not selectors:
        raise UsageError("Name a session.", hint="csa session list")
    client = open_client()
    done, exit_code = [], 0
    for session in find_to_delete(client.setting, selectors):
        session_id = session.session_id
        announce_elsewhere(client, session)
        try:
            removed = delete_session(
                session, force=arguments.force, purge_now=arguments.purge, provider=arguments.provider
            )
        except CsaError as error:
            done.append({"session_id": session_id, "error": {"code": error.code, "message": error.message}})
            exit_code = exit_code or error.exit_code
            if not arguments.json:
                print_error(error, as_json=False)
            continue
        word = "purged" if removed.is_purged else "removed"
        done.append({"session_id": session_id, "done": word, "provider_copies": list(removed.provider_copies)})
        if not arguments.json:
            print(f"{word} {session_id}")
        children = living_children(session.store, session_id)  # those that its end has not taken along
        warn([*(f"its child {child} is still running" for child in children), *removed.warnings])
    if arguments.json:
        print_json(done)
    elif any("done" in each for each in done) and not arguments.purge and sys.stderr.isatty():
        with lossy(sys.stderr):
            print("hint: csa session restore brings it back", file=sys.stderr)
    return exit_code


def configure_restore(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_restore(arguments: argparse.Namespace) -> int:
    """Bring a session back that was cleaned or deleted, as long as it is not purged.

    It counts as used now, and no longer expires. If another session has got its name meanwhile, it comes back without.
    """
    client = open_client()
    session = find_retired(client.setting, selected(arguments))
    announce_elsewhere(client, session)
    restored = restore_session(session)
    state = restored.state
    lost = [f"another session is called {restored.lost_name} now; this one has no name"] if restored.lost_name else []
    facts = {"session_id": state.session_id, "phase": state.phase, "name": state.name}
    print_act(arguments, f"restored {state.session_id}", facts, [*lost, *restored.losses])
    return 0


def configure_clean(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=days, metavar="N", help="sessions not used for more than N whole days")
    which.add_argument("--older-than", metavar="TIME", help="the same, as a time: 7d, 12h, 30m")
    which.add_argument("--expired", action="store_true", help="only sessions whose --ttl has run out")
    parser.add_argument("-t", "--tool", metavar="T,..", help="only sessions all of whose tools are among these")
    parser.add_argument("--damaged", action="store_true", help="also damaged sessions whose files are as old")
    parser.add_argument("--purge", action="store_true", help="remove for good at once, also what was retired before")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_clean(arguments: argparse.Namespace) -> int:
    """Remove the project's old sessions.

    A session goes when it was last used more than so many whole days ago, or has expired. It is moved out of sight, and
    can be brought back with `csa session restore`, until it is purged some days later (undo_days, 7). What runs, is
    pinned, or is damaged stays. In the same pass go sessions that were retired long enough ago, and what starts,
    removals and ephemeral runs that were cut off have left. With --dry-run nothing is written, and what would go is
    named.

    Exits 0 also when there is nothing to do, and 1 when something could not be removed.
    """
    client, dry_run = open_client(), arguments.dry_run
    setting = client.setting
    rule, counter = read_rule(arguments, setting), Counter()
    refuse_unknown_tools(client, [setting.store], rule.tools)
    report = collect(
        setting,
        rule,
        [setting.store],
        command="session clean",
        now=datetime.now(UTC),
        dry_run=dry_run,
        progress=counter,
    )
    counter.end()
    if arguments.json:
        print_report(report, dry_run=dry_run)
        return 1 if report.failures else 0
    print_items(report, dry_run=dry_run)
    print(summary(report, dry_run=dry_run) or "Nothing to collect")
    warn_of_rest(report, damaged=True)
    return 1 if report.failures else 0


def configure_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days", type=days, metavar="N", required=True, help="sessions not used for more than N whole days"
    )
    parser.add_argument("--all-projects", action="store_true", help="in every project below the state root")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_gc(arguments: argparse.Namespace) -> int:
    """Remove old sessions, and what ended ones have left behind: for cron.

    Does what `csa session clean --days N` does, removes the runtime directories of runs that died, and ends processes
    that ended sessions have left running, other than those that were kept with --keep-background. Detached turns that
    wait for a quota (--on-quota wait), and whose supervisor has died, as in a reboot, go on when their time has come.
    With --all-projects it does so in every project below the state root.

    Prints one line when something was done, and nothing when there was nothing to do. Exits 0 in both cases, and 1 when
    something could not be removed.
    """
    setting, dry_run, counter = open_client().setting, arguments.dry_run, Counter()
    root = setting.store.root
    stores = find_projects(root) if arguments.all_projects else [setting.store]
    woken: list[str] = []
    problems: list[str] = []
    for store in () if dry_run else stores:
        started, failed = wake_parked(store, setting.environ)
        woken += started
        problems += failed
    orphans = find_leftovers(root, (store.paths(session_id) for store in stores for session_id in store.ids()))
    report = collect(
        setting,
        read_rule(arguments, setting),
        stores,
        command="gc",
        now=datetime.now(UTC),
        dry_run=dry_run,
        with_runtime=True,
        progress=counter,
    )
    counter.end()
    ended = [] if dry_run else orphans
    report.failures += problems
    report.failures += [f"process {orphan.pid} could not be ended" for orphan in reap(ended)]
    if arguments.json:
        known = [{"pid": o.pid, "session_id": o.session_dir.name, "command": o.command} for o in orphans]
        print_report(report, dry_run=dry_run, more={"processes": known, "reaped": len(ended), "woken": woken})
        return 1 if report.failures else 0
    if dry_run:
        print_items(report, dry_run=True, with_project=arguments.all_projects)
        for orphan in orphans:
            print(f"process {orphan.pid} of session {orphan.session_dir.name}: {one_line(orphan.command)}")
    words = [summary(report, dry_run=dry_run)] + (
        [f"ended {count_of(len(ended), 'process', 'processes')}"] if ended else []
    )
    words += [f"{session_id} goes on, its quota has returned" for session_id in woken]
    if said := "; ".join(word for word in words if word):
        print(f"csa gc: {said}")
    warn_of_rest(report, damaged=dry_run or sys.stderr.isatty())
    return 1 if report.failures else 0
