"""`csa plan drop`: take away the worktrees of a plan that are not needed any more."""

from __future__ import annotations

import argparse

from csa.cli.output import hint_of, print_json, print_problem, tell, warn
from csa.cli.plan_status import PLAN_HELP
from csa.cli.selecting import open_client
from csa.errors import RefusedError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    from csa.runner.plans.dropping import Kept
    from csa.runner.sessions.worktrees import Dropped


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help=PLAN_HELP.partition(" (")[0])
    parser.add_argument("task", nargs="*", metavar="TASK", help="only those of these tasks")
    parser.add_argument("--force", action="store_true", help="also those whose work has not landed")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    """Take away the worktrees and branches of a plan whose work has landed.

    Those whose work has not landed are named, and stay; the exit code is 5 then. With --force they are taken away as
    well: their directories and the refs of their work are kept for undo_days, and a later turn of a session makes its
    worktree again. Branches that csa has not made, or that somebody has moved, are never touched.
    """
    from csa.cli.plan_finding import find_plan_session  # noqa: PLC0415  # completion and help need none of it
    from csa.runner.plans.dropping import Kept, drop_plan  # noqa: PLC0415  # as above

    client = open_client()
    session = find_plan_session(client, arguments.plan)
    found = list(drop_plan(session, arguments.task, force=arguments.force))
    kept = [each for each in found if isinstance(each, Kept)]
    dropped = [each for each in found if not isinstance(each, Kept)]
    if arguments.json:
        print_json([_to_json(each) for each in found])
    for name, each in [] if arguments.json else dropped:
        print(f"dropped {name}")
        warn(each.warnings)
    if not found and not arguments.json:
        tell("csa", "nothing to drop")
    for one in [] if arguments.json else kept:
        print_problem(f"{one.name}: {one.error.message}", hint=hint_of(one.error))
    return RefusedError.exit_code if kept else 0


def _to_json(each: tuple[str, Dropped] | Kept) -> dict[str, Any]:
    if isinstance(each, tuple):
        name, dropped = each
        aside = str(dropped.aside) if dropped.aside else None
        return {
            "session_id": dropped.session_id,
            "name": name,
            "dropped": True,
            "branch": dropped.branch,
            "tip": dropped.tip,
            "aside": aside,
            "unlanded": list(dropped.unlanded),
            "warnings": list(dropped.warnings),
            "error": None,
        }
    return {
        "session_id": each.session_id,
        "name": each.name,
        "dropped": False,
        "branch": None,
        "tip": None,
        "aside": None,
        "unlanded": [],
        "warnings": [],
        "error": each.error.to_json(),
    }
