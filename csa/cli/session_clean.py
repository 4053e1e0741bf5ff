"""Remove the project's old sessions.

A session goes when it was last used more than so many whole days ago, or has expired. It is moved out of sight, and can
be brought back with `csa session restore`, until it is purged some days later (undo_days, 7). What runs, is pinned, or
is damaged stays. In the same pass go sessions that were retired long enough ago, and what starts, removals and
ephemeral runs that were cut off have left. With --dry-run nothing is written, and what would go is named.

Exits 0 also when there is nothing to do, and 1 when something could not be removed.
"""

from __future__ import annotations

from datetime import UTC, datetime

from csa.cli.selecting import open_client, refuse_unknown_tools

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    from csa.cli.collected import days  # noqa: PLC0415  # as in execute

    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=days, metavar="N", help="sessions not used for more than N whole days")
    which.add_argument("--older-than", metavar="TIME", help="the same, as a time: 7d, 12h, 30m")
    which.add_argument("--expired", action="store_true", help="only sessions whose --ttl has run out")
    parser.add_argument("-t", "--tool", metavar="T,..", help="only sessions all of whose tools are among these")
    parser.add_argument("--damaged", action="store_true", help="also damaged sessions whose files are as old")
    parser.add_argument("--purge", action="store_true", help="remove for good at once, also what was retired before")
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
