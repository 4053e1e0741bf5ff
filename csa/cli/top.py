"""Show what runs, in all projects: each session with what its agent is doing, for how long, its tokens and its cost.

On a terminal the view covers the screen and is drawn anew four times a second; q or Ctrl-C ends it. Elsewhere it is
printed once. With --all it shows the 50 newest of the other sessions as well.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from csa.cli.describe import describe
from csa.cli.live import Line, group, lay_out
from csa.cli.output import can_redraw, print_json, shorten, terminal_width
from csa.cli.selecting import find_projects
from csa.paths import home, state_root
from csa.runner.sessions.observing import LiveSessions
from csa.store.stores import find_stores

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

OTHERS_SHOWN = 50
_PIPE_WIDTH = 160


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"also the {OTHERS_SHOWN} newest sessions that do not run")
    parser.add_argument("--json", action="store_true", help="print an array of objects, once")


def execute(arguments: argparse.Namespace) -> int:
    root = Path(state_root(os.environ))
    is_live = can_redraw(sys.stdout) and not arguments.json
    # the live view has no place for warnings
    find = find_stores if is_live else partial(find_projects, with_retired=False)
    sessions = LiveSessions(lambda: find(root), describe)
    others = OTHERS_SHOWN if arguments.all else 0
    if arguments.json:
        print_json([info.to_live_json(time.time()) for info in sessions.running(others=others)])
        return 0
    empty = "No sessions found" if arguments.all else "Nothing runs; with --all the newest sessions are shown"
    place = partial(shorten, user_home=home(os.environ))

    def frame(width: int, height: int) -> list[Line]:
        forest = group(sessions.running(others=others))
        return lay_out(forest, width=width, height=height, now=time.time(), title="csa top", empty=empty, place=place)

    if is_live:
        from csa.cli.screen import watch  # noqa: PLC0415  # brings rich, which only a terminal needs

        return watch(frame)
    lines = frame(terminal_width(sys.stdout) or _PIPE_WIDTH, sys.maxsize)
    print("\n".join("".join(text for text, _ in line).rstrip() for line in lines))
    return 0
