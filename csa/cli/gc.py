"""Remove old sessions, and what ended ones have left behind: for cron.

Does what `csa session clean --days N` does, removes the runtime directories of runs that died, and ends processes that
ended sessions have left running, other than those that were kept with --keep-background. Detached turns that wait for a
quota (--on-quota wait), and whose supervisor has died, as in a reboot, go on when their time has come. With
--all-projects it does so in every project below the state root.

Prints one line when something was done, and nothing when there was nothing to do. Exits 0 in both cases, and 1 when
something could not be removed.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from csa.cli.output import one_line
from csa.cli.selecting import find_projects, open_client

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    from csa.cli.collected import days  # noqa: PLC0415  # as in execute

    parser.add_argument(
        "--days", type=days, metavar="N", required=True, help="sessions not used for more than N whole days"
    )
    parser.add_argument("--all-projects", action="store_true", help="in every project below the state root")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.cli.collected import (  # noqa: PLC0415  # help needs none of it
        Counter,
        print_items,
        print_report,
        read_rule,
        summary,
        warn_of_rest,
    )
    from csa.runner.sessions.collecting import collect  # noqa: PLC0415  # as above
    from csa.runner.turns.leftovers import find_leftovers, reap  # noqa: PLC0415  # as above
    from csa.runner.waking import wake_parked  # noqa: PLC0415  # as above

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
    words = [summary(report, dry_run=dry_run)] + ([f"ended {_processes(len(ended))}"] if ended else [])
    words += [f"{session_id} goes on, its quota has returned" for session_id in woken]
    if said := "; ".join(word for word in words if word):
        print(f"csa gc: {said}")
    warn_of_rest(report, damaged=dry_run or sys.stderr.isatty())
    return 1 if report.failures else 0


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"
