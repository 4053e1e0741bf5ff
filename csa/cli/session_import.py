"""Take the sessions of an archive, as `csa session export` writes it, into this project.

They keep their ids, and nothing that is there is overwritten: when a session of one of the ids exists, nothing is
imported. With --new-ids copies are made, in which the ids are replaced consistently. Each imported session's id is
printed.

Exits 2 when a session of one of the ids exists, 6 when the archive or a record in it is damaged.

A copy, or a session that another project here has as well, begins conversations of its own: its next turn is told
what was said, as the tool's own conversation belongs to the other one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from csa.cli.output import one_line, print_json, warn
from csa.cli.selecting import open_client
from csa.errors import NotFoundError, UsageError
from csa.runner.sessions.acting import record_act
from csa.runner.sessions.importing import Imported, import_archive

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="FILE", help="the archive; `-` reads it from stdin")
    parser.add_argument("--new-ids", action="store_true", help="make copies with ids of their own")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    setting = open_client().setting
    if arguments.archive == "-":
        if sys.stdin.isatty():
            raise UsageError("An archive is not read from a terminal.", hint="csa session import FILE")
        imported = import_archive(setting, sys.stdin.buffer, new_ids=arguments.new_ids)
    else:
        with _open(arguments.archive) as file:
            imported = import_archive(setting, file, new_ids=arguments.new_ids)
    for item in imported:
        loss = record_act(setting, "session import", item.session_id, what="imported", old_id=item.old_id)
        warn([loss] if loss else [])
    if arguments.json:
        print_json([_to_json(item) for item in imported])
        return 0
    for item in imported:
        print(f"{item.session_id}  {one_line(item.description)}")
        if item.dropped_name:
            name = one_line(item.dropped_name)
            print(f"{item.session_id} lost its name '{name}', which another session has", file=sys.stderr)
    return 0


def _open(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {path}.") from error


def _to_json(item: Imported) -> dict[str, object]:
    return {
        "id": item.session_id,
        "old_id": item.old_id,
        "description": item.description,
        "dropped_name": item.dropped_name,
        "is_copy": item.is_copy,
    }
