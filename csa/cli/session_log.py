"""Print the git history of a session, newest first: its checkpoints, and the project's commits made during its turns.

The commits are those between the heads that csa saw before and after each turn; what others committed meanwhile is
among them. Works without a repository, where there are only checkpoints.
"""

from __future__ import annotations

import sys

from csa.cli.output import Style, cut, one_line, print_json, terminal_width, warn
from csa.cli.selecting import add_selector, find_one
from csa.model.clock import local_clock

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_COLOURS = {"commit": "yellow", "checkpoint": "cyan", "head": "dim"}
_SHOWN = 12  # characters of a commit's name


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    from csa.runner.sessions.history import session_log  # noqa: PLC0415  # --help needs none of it

    session = find_one(arguments, retired=True)
    refusals: dict[str, None] = {}  # each is said once
    entries = session_log(session, on_refusal=refusals.setdefault)
    warn(refusals)
    if arguments.json:
        print_json([entry.to_json() for entry in entries])
        return 0
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    for entry in entries:
        name = entry.commit[:_SHOWN] if width else entry.commit
        clock = local_clock(entry.at)
        head = f"{style(name, _COLOURS[entry.kind])}  {clock}  turn {entry.turn:<3} "
        text = f"{entry.kind}: {one_line(entry.subject)}" if entry.kind != "commit" else one_line(entry.subject)
        print(head + cut(text, width and width - len(name) - 2 - len(clock) - 2 - 9))
    if not entries:
        print("Nothing in the git history of this session yet")
        print(f"hint: csa session checkpoint --session {session.session_id} makes a checkpoint", file=sys.stderr)
    return 0
