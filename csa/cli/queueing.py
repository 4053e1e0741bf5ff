"""The prompts that wait for a session: adding one, and listing, moving and removing them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from csa.cli.output import cut, one_line, print_json, tell, terminal_width, text_for, warn
from csa.cli.selecting import add_selector, announce, find_one, find_to_read
from csa.errors import NotFoundError, UsageError
from csa.model.clock import local_clock
from csa.model.state import parse_time
from csa.runner.queueing import Queued
from csa.runner.session import Session
from csa.store.queue import Entry, GoneError, count_queued, entries, why_held

_ENDINGS, _TEENS = {1: "st", 2: "nd", 3: "rd"}, {11, 12, 13}
_LEAST_PREFIX = 4  # characters of an id
_SHOWN = 60  # characters of what matches nothing


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="ID", help="print the whole prompt; ID is its id or its position in the list")
    what.add_argument("--move", nargs=2, metavar=("ID", "POSITION"), help="put a prompt at this position; 1 is next")
    what.add_argument("--remove", metavar="ID", action="append", help="remove a prompt; repeatable")
    what.add_argument("--clear", action="store_true", help="remove all prompts")
    what.add_argument("--resume", action="store_true", help="go on with a queue that is held, in the background")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    """List the prompts that wait for a session (csa run --queue), the next one first, or change them.

    Each prompt's turn begins when the one before has succeeded. When a turn fails, is cancelled or is killed, the queue
    is held: nothing is lost, and nothing begins until --resume, or until another turn of the session has succeeded.
    """
    if not (arguments.move or arguments.remove or arguments.clear or arguments.resume):
        session = find_to_read(arguments, "session queue")
        if arguments.show is None or arguments.json:
            return _print(session, arguments)
        entry = _find(entries(session.files), arguments.show)
        print(text_for(sys.stdout, session.context.redactor.redact(entry.shown)))
        return 0
    session = find_one(arguments, acts=True)
    if arguments.resume:
        return _resume(session, arguments)
    return _move(session, arguments) if arguments.move else _remove(session, arguments)


def _move(session: Session, arguments: argparse.Namespace) -> int:
    from csa.runner.queueing import move_queued  # noqa: PLC0415  # listing needs none of it

    text, position = arguments.move
    if (at := _position(position)) is None:
        raise UsageError(
            f"'{cut(position, _SHOWN)}' is not a position.", hint="csa queue S --move ID 1 makes it the next"
        )
    warn(move_queued(session, _find(entries(session.paths), text).entry_id, at))
    return _print(session, arguments)


def _remove(session: Session, arguments: argparse.Namespace) -> int:
    from csa.runner.queueing import remove_queued  # noqa: PLC0415  # as above

    known = entries(session.paths)
    wanted = known if arguments.clear else _each_once(_find(known, text) for text in arguments.remove)
    removed, losses = remove_queued(session, [entry.entry_id for entry in wanted])
    warn(losses)
    for entry in () if arguments.json else wanted:
        if entry.entry_id in removed:
            print(f"removed {_in_words(session, entry)}")
    late = [entry.entry_id for entry in wanted if entry.entry_id not in removed]
    if late and not arguments.clear:
        raise GoneError(session.paths, late[0])
    return _print(session, arguments) if arguments.json else 0


def queue_and_tell(queued: Queued, arguments: argparse.Namespace, *, project: str) -> int:
    """Print what has become of a prompt that was queued."""
    if arguments.json:
        print_json(queued.to_json())
    else:
        print(queued.session_id)
    if queued.project != project:
        announce(queued.session_id, queued.project)
    if arguments.quiet:
        return 0
    session_id, turn = queued.session_id, queued.started
    if turn:
        what = f"{turn.tool}, turn {turn.turn}, PID {turn.pid}"
        tell("csa", f"session {session_id} is running in the background ({what})")
    if turn is None or queued.position > 1:
        tell("csa", f"queued as {ordinal(queued.position)} for {session_id}")
    if queued.held:
        tell("csa", f"the queue is held: {queued.held}")
        tell("hint", f"csa queue {session_id} --resume")
    else:
        tell("hint", f"csa wait {session_id}" if turn else f"csa queue {session_id}")
    return 0


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` and so on."""
    ending = "th" if number in _TEENS else _ENDINGS.get(number % 10, "th")
    return f"{number}{ending}"


def _resume(session: Session, arguments: argparse.Namespace) -> int:
    from csa.runner.queueing import resume_queue  # noqa: PLC0415  # listing needs none of it

    started = resume_queue(session)
    if arguments.json:
        return _print(session, arguments, started=started and started.to_json())
    if started is None:
        tell("csa", f"nothing is queued for {session.session_id}")
        return 0
    what = f"{started.tool}, turn {started.turn}, PID {started.pid}"
    tell("csa", f"session {session.session_id} is running in the background ({what})")
    return 0


def _find(known: list[Entry], text: str) -> Entry:
    """Return the prompt that an id, a unique part of its beginning, or a position means."""
    if (at := _position(text)) is not None and 1 <= at <= len(known):
        return known[at - 1]
    matches = [entry for entry in known if len(text) >= _LEAST_PREFIX and entry.entry_id.startswith(text.upper())]
    if len(matches) != 1:
        words = cut(one_line(text), _SHOWN)
        raise NotFoundError(f"No prompt, or more than one, matches '{words}'.", hint="csa queue S lists them")
    return matches[0]


def _position(text: str) -> int | None:
    """Return the number that a text is; None if it is none, or longer than any position."""
    return int(text) if text.isdecimal() and len(text) < _SHOWN else None


def _each_once(found: Iterable[Entry]) -> list[Entry]:
    return list({entry.entry_id: entry for entry in found}.values())


def tell_queue(session: Session) -> None:
    """Say on stderr why queued prompts do not begin, and what to do; nothing if they do."""
    if count_queued(session.files) and not session.liveness().runs_turn:
        held = why_held(session.files)
        tell("csa", f"the queue is held: {held}" if held else "no turn is running that goes on with the queue")
        tell("hint", f"csa queue {session.session_id} --resume")


def _print(session: Session, arguments: argparse.Namespace, **more: Any) -> int:
    known = entries(session.files)
    held = None if not known or session.liveness().runs_turn else why_held(session.files)
    if arguments.json:
        prompts = [_entry_json(session, entry, at) for at, entry in enumerate(known, 1)]
        facts = {"session_id": session.session_id, "name": session.record.name, "project": str(session.project)}
        print_json({**facts, "held": held, "prompts": prompts, "started": None, **more})
        return 0
    width = terminal_width(sys.stdout)
    for at, entry in enumerate(known, 1):
        when = local_clock(parse_time(entry.at), "%H:%M") if entry.at else "-"
        whose = f" (from {entry.by})" if entry.by else ""
        name = f"{at:>2}" if width else entry.entry_id
        print(cut(f"{name}  {when}  {_in_words(session, entry)}{whose}", width))
    if not known:
        tell("csa", f"nothing is queued for {session.session_id}")
    tell_queue(session)
    return 0


def _in_words(session: Session, entry: Entry) -> str:
    if entry.fault:
        return f"cannot be read: {one_line(entry.fault)}"
    return one_line(session.context.redactor.redact(entry.shown))


def _entry_json(session: Session, entry: Entry, position: int) -> dict[str, Any]:
    redactor, request = session.context.redactor, entry.order.get("request", {})
    return {
        "id": entry.entry_id,
        "position": position,
        "prompt": redactor.redact(entry.shown),
        "at": entry.at or None,
        "by": entry.by,
        "tool": request.get("tool"),
        "fault": entry.fault,
    }
