"""Show a recorded session again as it happened: what was said and done, in the recorded order, with the pauses.

SESSION may also be an archive of `csa export`, as bug.tar.gz, or bug.tar.gz#ID for one of its sessions. With --tree,
all sessions below it are shown too: on a terminal as the live tree of `csa run`, elsewhere as lines. Pauses of more
than 3 seconds are cut. Nothing is run: for that, see CSA_REPLAY in docs/replaying.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import merge

from csa.cli.output import Style, can_redraw, lossy, tell, terminal_width, text_for
from csa.cli.selecting import add_selector, find_to_read, open_client, selected_if_any
from csa.model.events import Event
from csa.model.pacing import parse_speed, pause_s
from csa.runner.turns.recorded import is_archive, open_recording
from csa.store.recording import RecordedSession
from csa.store.shown import seconds_of
from csa.store.transcript import read_events

Told = tuple[RecordedSession, Event]
Show = Callable[[RecordedSession, Event], None]

_ROWS = 30


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tree", action="store_true", help="show it and all sessions below it")
    parser.add_argument(
        "--speed", default="1", metavar="X", help="how fast: 1 (default) as recorded, 2 twice as fast, 0 or max at once"
    )
    parser.add_argument("--full", action="store_true", help="show the full output of tools, and full thoughts")


def execute(arguments: argparse.Namespace) -> int:
    speed = parse_speed(arguments.speed)
    with _recorded(arguments) as sessions:
        if not arguments.tree:
            _talk(sessions, speed, is_full=arguments.full)
        elif can_redraw(sys.stdout):
            _draw_tree(sessions, speed)
        else:
            _print_tree(sessions, speed)
    return 0


@contextmanager
def _recorded(arguments: argparse.Namespace) -> Iterator[list[RecordedSession]]:
    """Yield the sessions to show, the one that is named first."""
    named = selected_if_any(arguments)
    if named is not None and is_archive(named):
        context = open_client().context
    else:
        session = find_to_read(arguments, "session replay")
        context, named = session.context, session.session_id
    _end_tidily()
    with open_recording(context, named) as (recording, session_id, _):
        yield recording.below(session_id) if arguments.tree else [recording.session(session_id)]


def _end_tidily() -> None:
    """Have signals end the command as Ctrl-C does, so that an archive that was unpacked is removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _told(sessions: Iterable[RecordedSession]) -> Iterator[Told]:
    """Yield the events of all sessions, in the order in which they happened."""

    def of(session: RecordedSession) -> Iterator[Told]:
        return ((session, event) for event in read_events(session.paths.transcript))

    return merge(*map(of, sessions), key=lambda told: told[1].ts)


def _play(told: Iterable[Told], speed: float, show: Show, rest: Callable[[float, float], None]) -> None:
    """Show events, each after its pause; `rest` gets that, and the recorded time when it begins."""
    now: float | None = None
    for session, event in told:
        at = seconds_of(event.ts)
        if at is not None:
            if now is not None and (seconds := pause_s(at - now, speed)):
                rest(seconds, now)
            now = max(at, now or at)
        show(session, event)


def _sleep(seconds: float, _now: float) -> None:
    sys.stdout.flush()
    time.sleep(seconds)


def _talk(sessions: list[RecordedSession], speed: float, *, is_full: bool) -> None:
    """Print a conversation as it came, as `csa show -f` does."""
    from csa.cli.views.streaming import Stream  # noqa: PLC0415  # only this needs it

    stream = Stream(sys.stdout, is_full=is_full)

    def show(_session: RecordedSession, event: Event) -> None:
        sys.stdout.write(stream.text(event))

    try:
        _play(_told(sessions), speed, show, _sleep)
    finally:
        sys.stdout.write(stream.close())


def _print_tree(sessions: list[RecordedSession], speed: float) -> None:
    """Print the events of a tree, as `csa logs -f --tree` does."""
    from csa.cli.views.tree_logs import TreeLines, Whose  # noqa: PLC0415  # only this needs it

    lines = TreeLines()
    whose = {
        each.session_id: Whose.of(each.session_id, each.state.name, number) for number, each in enumerate(sessions)
    }
    _play(_told(sessions), speed, lambda session, event: lines.print(whose[session.session_id], event), _sleep)


def _draw_tree(sessions: list[RecordedSession], speed: float) -> None:
    """Draw a tree as it was, as `csa run` does; at the end its outcome stays, and the answer."""
    from csa.cli.views.live import REFRESH_S  # noqa: PLC0415  # only this needs it
    from csa.cli.views.replayedtree import ReplayedTree  # noqa: PLC0415  # as above
    from csa.cli.views.screen import Screen  # noqa: PLC0415  # imports rich, which only a terminal needs

    tree, screen = ReplayedTree(open_client()), Screen(sys.stdout)

    def draw(now: float) -> None:
        width, height = screen.size
        with lossy(sys.stdout):
            screen.draw(tree.lines(width, min(_ROWS, height - 1), now))

    def rest(seconds: float, now: float) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            draw(now + passed * speed)
            time.sleep(min(REFRESH_S, seconds - passed))

    with screen:
        _play(_told(sessions), speed, tree.note, rest)
    style, (lines, total) = Style(sys.stdout), tree.last_lines(terminal_width(sys.stdout) or screen.size[0])
    for line in lines:
        print("".join(style(text, look) for text, look in line).rstrip())
    tell("csa", total)
    if answer := sessions[0].answer():
        print(text_for(sys.stdout, answer))
