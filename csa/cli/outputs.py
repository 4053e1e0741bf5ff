"""What agents have left: the events of their sessions, and their files."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from csa.cli.output import Style, cut, one_line, print_json, printable, tell, terminal_width, text_for
from csa.cli.selecting import add_hosts, add_selector, find_to_read, find_to_show
from csa.cli.views.signs import about_sessions, signs_of_life
from csa.errors import NotFoundError, UsageError
from csa.model.clock import local_clock
from csa.model.events import Event
from csa.model.state import parse_time
from csa.model.wording import describe
from csa.paths import SessionPaths
from csa.runner.caller import refuse_endless_wait
from csa.store.artifacts import Artifact, copy_artifacts, find_artifacts, find_log
from csa.store.atomic import open_regular
from csa.store.following import follow
from csa.store.mirrors import refuse_unseen
from csa.store.sessions import format_age
from csa.store.transcript import parse_line, read_events, read_events_backwards, read_lines
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.session import Session

_LOOK_S = 0.05


def configure_logs(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    add_hosts(parser, several=False)
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N events or lines")
    parser.add_argument("--tree", action="store_true", help="with all descendants; each line begins with the session")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing until the turn has ended")
    parser.add_argument("--turn", type=int, metavar="N", help="only turn N")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--events", action="store_true", help="print the events as JSON lines")
    kinds.add_argument("--json", action="store_true", help="same as --events")
    kinds.add_argument("--raw", action="store_true", help="print the tool's own standard output")
    kinds.add_argument("--system", action="store_true", help="print the log of the turn's supervisor")


def execute_logs(arguments: argparse.Namespace) -> int:
    """Print what happened in a session, event by event (for the git history, see `csa log`).

    Each line has the time, the turn and the event. --events prints the transcript's own lines, which are JSON. --raw
    prints the tool's standard output, and --system csa's own log, both of the last turn unless --turn says otherwise.
    --follow continues with new events until the running turn has ended. --tree does the same for the session and all
    its descendants together, also those that begin meanwhile. Everything is redacted.
    """
    if arguments.tail is not None and arguments.tail < 0:
        raise UsageError("--tail takes a number, 0 or more.")
    session = find_to_read(arguments, "session logs")
    paths = session.content
    if arguments.follow:
        refuse_endless_wait(session.context.caller, session.session_id, verb="follow")
        with signs_of_life(session.context.caller) as signs:
            signs.about(about_sessions([session.target]))
            if arguments.tree:
                _print_tree(session, arguments)
            else:
                _follow_events(paths, arguments)
        return 0
    if arguments.tree:
        _print_tree(session, arguments)
        return 0
    if arguments.raw or arguments.system:
        refuse_unseen(session.store.host, session.session_id, "Logs")
        log = find_log(paths, "raw" if arguments.raw else "system", turn=arguments.turn)
        _copy_log(log, tail=arguments.tail, is_stamped=not arguments.raw)
        return 0
    count = _print_transcript(paths, arguments)
    if arguments.turn is not None and not count and arguments.tail != 0:
        raise NotFoundError(f"Session {paths.root.name} has no turn {arguments.turn}.")
    return 0


def _print_tree(session: Session, arguments: argparse.Namespace) -> None:
    if arguments.json or arguments.events or arguments.raw or arguments.system or arguments.turn is not None:
        raise UsageError("--tree prints events to read; it cannot be combined with --turn, --json, --raw or --system.")
    from csa.cli.views.tree_logs import print_tree  # noqa: PLC0415  # one session needs none of it

    print_tree(session, follows=arguments.follow, tail=arguments.tail)


def _follow_events(paths: SessionPaths, arguments: argparse.Namespace) -> None:
    """Print the existing events, and new ones at once, also in a pipe."""
    if arguments.raw or arguments.system or arguments.turn is not None:
        raise UsageError("--follow shows events as they happen; it cannot be combined with --turn, --raw or --system.")
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
        return _copy_transcript(paths.transcript, tail=arguments.tail, turn=arguments.turn)
    printer, count = EventPrinter(), 0
    for event in _join_chunks(_select_events(paths.transcript, tail=arguments.tail, turn=arguments.turn)):
        printer.print(event)
        count += 1
    return count


_KIB = 1024


_BLOCK = 1 << 20
_LEAD = 14  # columns of the time and the turn


class EventPrinter:
    """Prints events as text."""

    def __init__(self, width: int | None = None) -> None:
        self._style = Style(sys.stdout)
        self._width = width or terminal_width(sys.stdout)

    def print(self, event: Event) -> None:
        """Print an event, if it is relevant to people."""
        if (line := self.line(event)) is not None:
            print(line)

    def line(self, event: Event, *, taken: int = 0) -> str | None:
        """Return an event as text, if it is relevant to people; `taken` columns precede it."""
        if (line := describe(event)) is None:
            return None
        head = self._style(f"{_event_clock(event.ts)} {event.turn:>3}", "dim")
        return f"{head}  {cut(line, self._width and max(0, self._width - _LEAD - taken))}"


def event_lines(events: Iterable[Event], width: int) -> Iterator[str]:
    """Yield events as text, for a terminal of that width."""
    printer = EventPrinter(width)
    return (line for event in _join_chunks(events) if (line := printer.line(event)) is not None)


def _select_events(transcript: Path, *, tail: int | None, turn: int | None) -> Iterator[Event]:
    """Yield the events of a transcript, or of one turn; only the last `tail` of them if given."""
    if tail is None:
        yield from (event for event in read_events(transcript) if turn in {None, event.turn})
        return
    yield from reversed(list(islice(_of_turn(read_events_backwards(transcript), turn), tail)))


def _join_chunks(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events with each streamed message as one, with its last chunk's number and time."""
    held: Event | None = None
    for event in events:
        is_next = held is not None and (event.type, event.turn) == (held.type, held.turn)
        if held and not (is_next and event.data.get("chunk")):
            yield held
            held = None
        if not event.data.get("chunk"):
            yield event
        else:
            before = str(held.data.get("text", "")) if held else ""
            held = replace(event, data={**event.data, "text": before + str(event.data.get("text", ""))})
    if held:
        yield held


def _of_turn(backwards: Iterable[Event], turn: int | None) -> Iterator[Event]:
    """Yield the events of a turn, without reading on to the transcript's beginning."""
    for event in backwards:
        if turn is not None and event.turn < turn:
            return
        if turn in {None, event.turn}:
            yield event


def _copy_transcript(transcript: Path, *, tail: int | None, turn: int | None) -> int:
    """Print the transcript's complete lines unchanged; return their number."""
    sys.stdout.flush()
    lines: Iterable[bytes] = (line for line in _whole_lines(transcript) if turn is None or _turn_of(line) == turn)
    count = 0
    for line in lines if tail is None else deque(lines, maxlen=tail):
        _write_block(line)
        count += 1
    return count


def _whole_lines(transcript: Path) -> Iterator[bytes]:
    yield from (line for line in read_lines(transcript) if line.endswith(b"\n"))  # one without is still being written


def _turn_of(line: bytes) -> int | None:
    event = parse_line(line)
    return event.turn if event else None


def _copy_log(path: Path, *, tail: int | None, is_stamped: bool = False) -> None:
    """Copy a log, or its last lines, to stdout; to a pipe unchanged, except for the times at line starts."""
    sys.stdout.flush()
    with open(open_regular(path), "rb") as file:
        if tail is None and not is_stamped and not sys.stdout.isatty():
            while block := file.read(_BLOCK):
                _write_block(block)
        else:
            for line in file if tail is None else deque(file, maxlen=tail):
                _write_block(_with_local_stamp(line) if is_stamped else line)


def _with_local_stamp(line: bytes) -> bytes:
    stamp, _, rest = line.partition(b" ")
    moment = parse_time(stamp.decode(errors="replace")) if stamp.endswith(b"Z") else None
    return f"{local_clock(moment, '%Y-%m-%d %H:%M:%S')} ".encode() + rest if moment else line


def _write_block(content: bytes) -> None:
    """Write complete lines, or, if stdout is not a terminal, any part of them."""
    if sys.stdout.isatty():
        content = printable(content.decode(errors="replace")).encode()
    view = memoryview(content)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def _event_clock(stamp: str) -> str:
    return local_clock(parse_time(stamp), "%H:%M:%S", otherwise="--:--:--")


def configure_artifacts(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--turn", type=int, metavar="N", help="only those of turn N")
    parser.add_argument("--copy-to", metavar="DIR", help="copy them into DIR")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_artifacts(arguments: argparse.Namespace) -> int:
    """List the files that agents have left in a session's output, csa's own apart; or copy them somewhere.

    In a pipe each line is the path of a file. Copies keep their names below output/; nothing is ever overwritten, and
    links that lead out of the output are refused.
    """
    session = find_to_show(arguments)
    refuse_unseen(session.store.host, session.session_id, "Files")
    paths = session.content
    artifacts = find_artifacts(paths, turn=arguments.turn)
    copies: list[Path] = []
    if arguments.copy_to is not None:
        copies = copy_artifacts(artifacts, Path(arguments.copy_to).absolute())
    if paths.is_in_memory:
        artifacts = [replace(each, path=Path(paths.in_place(each.path))) for each in artifacts]
        if artifacts and not copies:
            tell("csa", "the session is encrypted, its files are not there: --copy-to DIR gets them")
    if arguments.json:
        targets: list[str | None] = [str(path) for path in copies] or [None] * len(artifacts)
        print_json([item.to_json(copied_to=target) for item, target in zip(artifacts, targets, strict=True)])
    elif copies:
        print("\n".join(text_for(sys.stdout, str(path)) for path in copies))
    else:
        _print_artifacts(artifacts)
    return 0


def _print_artifacts(artifacts: Sequence[Artifact]) -> None:
    if not artifacts:
        tell("csa", "no artifacts")
        return
    if not sys.stdout.isatty():
        print("\n".join(str(item.path) for item in artifacts))
        return
    style, now = Style(sys.stdout), datetime.now(UTC)
    for item in artifacts:
        numbers = f"{human_bytes(item.size_bytes):>6} {format_age(now, item.modified_at):>4}"
        out = style(f"  (link to {one_line(str(item.path.readlink()))})", "yellow") if item.leads_out else ""
        print(f"{style(numbers, 'dim')}  {one_line(item.name)}{out}")


def human_bytes(count: float) -> str:
    """Render a size in at most six characters: 512B, 3.4K, 120M, 1.0G."""
    for unit in ("B", "K", "M", "G"):
        if count < _KIB or unit == "G":
            break
        count /= _KIB
    return f"{count:.0f}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{unit}"  # noqa: PLR2004  # three digits
