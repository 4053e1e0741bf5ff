"""Take over the sessions of a project whose directory has moved to here.

Sessions belong to a project by its path. After `mv old new`, `cd new; csa session adopt ../old` moves them, retired
ones too, and tells them and their tools' conversations where the project is now. What runs, is damaged, or exists here
already stays behind and is named. Done again, it goes on where it was cut off.

Exits 3 when there are no sessions of that directory, 4 when some had to stay behind, and 5 when the directory is still
there (--force takes its sessions nevertheless).
"""

from __future__ import annotations

from csa.cli.output import print_json, warn
from csa.cli.selecting import open_client

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

EXIT_LEFT = 4


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="DIR", help="where the project was")
    parser.add_argument("-f", "--force", action="store_true", help="also if that directory is still there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be moved; change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.runner.sessions.adoption import adopt_project  # noqa: PLC0415  # help needs none of it

    client = open_client()
    adoption = adopt_project(client.setting, arguments.old, force=arguments.force, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(
            {
                "dry_run": arguments.dry_run,
                "old_project": str(adoption.old),
                "project": str(client.store.project),
                "moved": adoption.moved,
                "left": [{"session_id": session_id, "why": why} for session_id, why in adoption.left],
                "renamed": [{"session_id": session_id, "name": name} for session_id, name in adoption.renamed],
            }
        )
    else:
        verb = "would adopt" if arguments.dry_run else "adopted"
        for session_id in adoption.moved:
            print(f"{verb} {session_id}")
        count = len(adoption.moved)
        print(f"{verb} {count} session{'' if count == 1 else 's'} of {adoption.old}")
    warn(f"{session_id} stays behind: {why}" for session_id, why in adoption.left)
    warn(f"{session_id} is no longer called {name}: a session here is" for session_id, name in adoption.renamed)
    warn(adoption.warnings)
    return EXIT_LEFT if adoption.left else 0
