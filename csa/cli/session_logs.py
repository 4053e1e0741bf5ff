"""Print what happened in a session, event by event.

Each line has the time, the turn and what happened. With --events, the transcript's own lines, which are JSON. With
--raw what the tool wrote to its standard output, and with --system what csa noted of the turn, both of the last turn
unless --turn says otherwise. With --follow it goes on with what happens, until the turn that runs has ended. All of it
is redacted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from csa.cli.event_lines import EventPrinter, join_chunks, print_file, print_transcript, select_events
from csa.cli.output import print_json
from csa.cli.reads import find_to_read
from csa.cli.selecting import add_selector
from csa.errors import NotFoundError, UsageError
from csa.paths import SessionPaths
from csa.store.following import follow

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_LOOK_S = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N events, or lines")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the turn has ended")
    parser.add_argument("--turn", type=int, metavar="N", help="only turn N")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--events", action="store_true", help="print the events as JSON lines")
    kinds.add_argument("--json", action="store_true", help="the same")
    kinds.add_argument("--raw", action="store_true", help="print what the tool wrote to its standard output")
    kinds.add_argument("--system", action="store_true", help="print what the turn's supervisor wrote")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.tail is not None and arguments.tail < 0:
        raise UsageError("--tail takes a number from 0 up.")
    session = find_to_read(arguments, "session logs")
    paths = session.files
    if arguments.follow:
        from csa.runner.caller import refuse_endless_wait  # noqa: PLC0415  # only this waits

        refuse_endless_wait(session.setting.caller, session.session_id, verb="follow")
        from csa.cli.signs import about_sessions, signs_of_life  # noqa: PLC0415  # as above

        with signs_of_life(session.setting.caller) as signs:
            signs.about(about_sessions([session.target]))
            _follow(paths, arguments)
        return 0
    if arguments.raw or arguments.system:
        log = _log(paths, arguments.turn, "stdout.log" if arguments.raw else "supervisor.log")
        print_file(log, tail=arguments.tail, is_stamped=not arguments.raw)
        return 0
    count = _print_transcript(paths, arguments)
    if arguments.turn is not None and not count and arguments.tail != 0:
        raise NotFoundError(f"Session {paths.root.name} has no turn {arguments.turn}.")
    return 0


def _follow(paths: SessionPaths, arguments: argparse.Namespace) -> None:
    """Print what there is, and what comes; that is printed at once, also in a pipe."""
    if arguments.raw or arguments.system or arguments.turn is not None:
        raise UsageError(
            "--follow shows the events of the session as they come.", hint="leave out --turn, --raw, --system"
        )
    printer = EventPrinter()
    for look in follow(paths, tail=arguments.tail):
        for event in look:
            if arguments.json or arguments.events:
                print_json(event.to_dict())
            else:
                printer.print(event)
        sys.stdout.flush()
        time.sleep(_LOOK_S)


def _print_transcript(paths: SessionPaths, arguments: argparse.Namespace) -> int:
    """Print the events; return how many there were."""
    if arguments.json or arguments.events:
        return print_transcript(paths.transcript, tail=arguments.tail, turn=arguments.turn)
    printer, count = EventPrinter(), 0
    for event in join_chunks(select_events(paths.transcript, tail=arguments.tail, turn=arguments.turn)):
        printer.print(event)
        count += 1
    return count


def _log(paths: SessionPaths, turn: int | None, name: str) -> Path:
    """Return a log of a turn; of the last one that has begun where none is given."""
    if turn is None:
        turn = max((int(path.name[5:]) for path in paths.output.glob("turn-*") if path.name[5:].isdigit()), default=0)
    if not turn or not paths.turn_output(turn).is_dir():
        raise NotFoundError(f"Session {paths.root.name} has {f'no turn {turn}' if turn else 'not run yet'}.")
    path = paths.turn_output(turn) / name
    if path.is_file():
        return path
    raise NotFoundError(f"Turn {turn} of session {paths.root.name} has no {name}.")
