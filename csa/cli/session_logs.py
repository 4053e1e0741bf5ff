"""Print what happened in a session, event by event.

Each line has the time, the turn and what happened. With --json, the transcript's own lines. With --follow it goes on
with what happens, until the turn that runs has ended.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import datetime

from csa.cli.describe import describe
from csa.cli.output import Style, cut, print_json, terminal_width
from csa.cli.selecting import add_selector, open_client, selected
from csa.errors import UsageError
from csa.model.events import Event
from csa.runner.client import Csa
from csa.store.following import follow

_LOOK_S = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N events")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the turn has ended")
    parser.add_argument("--json", action="store_true", help="print the events as JSON lines")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.tail is not None and arguments.tail < 0:
        raise UsageError("--tail takes a number from 0 up.")
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    for event in _events(open_client(arguments), arguments):
        if arguments.json:
            print_json(event.to_dict())
        elif (line := describe(event)) is not None:
            clock = datetime.fromisoformat(event.ts).astimezone().strftime("%H:%M:%S")
            print(f"{style(f'{clock} {event.turn:>3}', 'dim')}  {cut(line, width and width - 14)}")
    return 0


def _events(client: Csa, arguments: argparse.Namespace) -> Iterator[Event]:
    """Yield what there is, and with --follow what comes; that is printed at once, also in a pipe."""
    if not arguments.follow:
        yield from client.events(selected(arguments), tail=arguments.tail)
        return
    for look in follow(client.paths(selected(arguments)), tail=arguments.tail):
        yield from look
        sys.stdout.flush()
        time.sleep(_LOOK_S)
