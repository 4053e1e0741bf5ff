"""Mend what can safely be mended in a session's record, and say what was done.

That is: a last line of the transcript that was cut off is dropped; a state.toml that cannot be read is made anew from
the transcript, and the old file kept beside it; one that lacks what the end of the last turn tells, and an end that
only result.toml tells, are brought up to date; a result.toml that is not what the transcript says is written anew, and
so is a final.md that is missing, from what was said last. Nothing else is touched. A session that runs is refused.

--steal takes a session that another machine ran and that is not known to have ended: on a shared disk, or in a copy of
a store. Only you can know that it does not run there any more; if it does, its turn ends as soon as that is noticed.

Exits 0 when nothing is damaged any more, and 6 when something is.
"""

from __future__ import annotations

from csa.cli.output import one_line, print_json, warn
from csa.cli.selecting import add_selector, find_one
from csa.errors import StateError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--steal", action="store_true", help="free it, though another machine may still run it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.runner.sessions.repairing import repair_session  # noqa: PLC0415  # help needs none of it

    session = find_one(arguments, retired=True, acts=not arguments.dry_run)
    repair = repair_session(session, dry_run=arguments.dry_run, steal=arguments.steal)
    if arguments.json:
        left = [problem.to_json() for problem in repair.left]
        print_json({"session_id": repair.session_id, "dry_run": arguments.dry_run, "done": repair.done, "left": left})
    else:
        for done in repair.done:
            print(f"{'would mend' if arguments.dry_run else 'mended'} {one_line(done)}")
        if not repair.done:
            print("Nothing to mend")
    warn(repair.losses)
    if not arguments.json:
        words = "cannot be mended" if arguments.dry_run else "still wrong"
        warn(f"{words}: {problem}" for problem in repair.left)
    return StateError.exit_code if repair.left else 0
