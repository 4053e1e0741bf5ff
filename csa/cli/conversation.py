"""Print a session's conversation: prompts, answers and tool calls, in the same form for every tool.

Each tool call is shortened to one line, and thoughts to their first line; --full shows everything. On a terminal, long
conversations go through $CSA_PAGER, $PAGER or less. With --follow it is printed as it comes, until nothing runs there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from textwrap import wrap
from typing import IO

from csa.cli.output import Style, count_of, cut, one_line, print_json, printable, tell, terminal_size, terminal_width
from csa.cli.selecting import add_hosts, add_selector, find_to_read
from csa.errors import NotFoundError, UsageError
from csa.model.clock import local_clock
from csa.model.conversation import Message, ToolCall, read_conversation, shown_to_json
from csa.model.state import parse_time
from csa.store.transcript import read_events

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.session import Session

_MARKS = {"completed": "✓", "failed": "✗", "denied": "⊘", "in_progress": "…"}
_STYLES = {"completed": "dim", "failed": "red", "denied": "yellow"}
FENCES = ("```", "~~~")
_DEFAULT_PAGER = "less"
_LOOK_S = 0.05
_PIPE_RULE = 60  # columns of a heading's line


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    add_hosts(parser, several=False)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it comes, until the turn has ended")
    parser.add_argument("--turn", type=int, metavar="N", help="only turn N")
    parser.add_argument("--full", action="store_true", help="show the full output of tools, and full thoughts")
    parser.add_argument("--no-pager", action="store_true", help="do not use a pager")
    parser.add_argument("--json", action="store_true", help="print an array of messages")


def execute(arguments: argparse.Namespace) -> int:
    session = find_to_read(arguments, "session show")
    if arguments.follow:
        return _follow(session, arguments)
    paths = session.content
    messages = (m for m in read_conversation(read_events(paths.transcript)) if arguments.turn in {None, m.turn})
    first = next(messages, None)
    if first is None and arguments.turn is not None:
        raise NotFoundError(f"Session {paths.root.name} has no turn {arguments.turn}.")
    found = chain([first] if first else [], messages)  # of long sessions a turn is in memory at a time
    if arguments.json:
        print_json([shown_to_json(paths.root.name, message) for message in found])
    elif first is None:
        tell("csa", "the conversation is empty")
    else:
        renderer = Renderer(is_full=arguments.full, width=terminal_width(sys.stdout))
        _page(renderer.render(found), allowed=not arguments.no_pager)
    return 0


def _follow(session: Session, arguments: argparse.Namespace) -> int:
    """Print the conversation, and what comes, at once."""
    from csa.cli.views.signs import about_sessions, signs_of_life  # noqa: PLC0415  # only this needs them
    from csa.cli.views.streaming import Stream  # noqa: PLC0415  # as above
    from csa.runner.caller import refuse_endless_wait  # noqa: PLC0415  # as above
    from csa.store.following import follow  # noqa: PLC0415  # as above

    if arguments.json or arguments.turn is not None:
        raise UsageError("--follow shows the whole conversation, to be read.", hint="csa logs -f --json has the events")
    refuse_endless_wait(session.context.caller, session.session_id, verb="follow")
    stream = Stream(sys.stdout, is_full=arguments.full)
    with signs_of_life(session.context.caller) as signs:
        signs.about(about_sessions([session.target]))
        for look in follow(session.content):
            for event in look:
                sys.stdout.write(stream.text(event))
            sys.stdout.flush()
            time.sleep(_LOOK_S)
    sys.stdout.write(stream.close())
    return 0


class Renderer:
    """Lays a conversation out for the terminal, or for a pipe of any width.

    `markdown` renders answers for a number of columns; without it they stay as they were written.
    """

    def __init__(
        self,
        *,
        is_full: bool,
        width: int | None,
        stream: IO[str] | None = None,
        markdown: Callable[[str, int], str] | None = None,
    ) -> None:
        self._is_full = is_full
        self._style = Style(stream or sys.stdout)
        self._width = width
        self._markdown = markdown

    def render(self, messages: Iterable[Message]) -> Iterator[str]:
        turn = None
        for message in messages:
            if message.turn != turn:
                yield from ([""] if turn is not None else [])
                yield self.heading(message)
                turn = message.turn
            yield from self.words(message)
            if message.calls:
                yield ""
                for call in message.calls:
                    yield from self.call(call)

    def heading(self, message: Message) -> str:
        """Return the line above the first message of a turn."""
        when = local_clock(parse_time(message.timestamp), otherwise="")
        parts = (f"turn {message.turn}", message.tool, "replay" * message.is_replay, message.model or "", when)
        words = one_line(" · ".join(filter(None, parts)))
        width = self._width or _PIPE_RULE
        return self._style(cut(f"── {words} {'─' * max(0, width - len(words) - 4)}", width), "dim")

    def words(self, message: Message) -> Iterator[str]:
        """Yield the lines of what was said, below a blank one."""
        if message.content.strip():
            yield ""
            yield from self.said(message.role, message.content)

    def said(self, role: str, text: str) -> Iterator[str]:
        """Yield the lines of what somebody has said."""
        yield from _SAY[role](self, printable(text).rstrip())

    def _user(self, text: str) -> Iterator[str]:
        for line in self._wrapped(text, indent="> "):
            yield self._style(line, "bold")

    def _assistant(self, text: str) -> Iterator[str]:
        if self._markdown:
            yield from self._markdown(text, self._width or _PIPE_RULE).split("\n")
        else:
            yield from self._wrapped(text)

    def _thought(self, text: str) -> Iterator[str]:
        if not self._is_full:
            yield self._style(cut(f"({one_line(text)})", self._width), "dim")
            return
        for line in self._wrapped(text, indent="  "):
            yield self._style(line, "dim")

    def _system(self, text: str) -> Iterator[str]:
        for line in self._wrapped(text, indent="! "):
            yield self._style(line, "yellow")

    def call(self, call: ToolCall) -> Iterator[str]:
        """Yield the lines of a tool call: one, and with `is_full` its output."""
        title = one_line(f"$ {call.title}" if call.kind == "execute" else f"{call.kind}: {call.title}")
        code = f" (exit {call.exit_code})" if call.exit_code else ""
        lines = printable(call.content).rstrip("\n").split("\n") if call.content.strip() else []
        folded = "" if self._is_full or not lines else f"  {count_of(len(lines), 'line')}"
        head = f"  {_MARKS.get(call.status, '·')} "
        room = self._width and self._width - len(head) - len(code) - len(folded)
        style = _STYLES.get(call.status, "")
        yield f"{self._style(head, style)}{cut(title, room)}{self._style(code, style)}{self._style(folded, 'dim')}"
        if self._is_full:
            yield from (self._style(f"      {line}", "dim") for line in lines)

    def _wrapped(self, text: str, *, indent: str = "") -> Iterator[str]:
        """Fill prose to the terminal's width; what is fenced is left as it is."""
        is_code = False
        for line in text.split("\n"):
            if line.lstrip().startswith(FENCES):
                is_code = not is_code
            if self._width is None or is_code or len(line) + len(indent) <= self._width:
                yield f"{indent}{line}".rstrip()
                continue
            lead = line[: len(line) - len(line.lstrip())]
            yield from wrap(line, self._width, initial_indent=indent, subsequent_indent=indent + lead)


_SAY = {
    "user": Renderer._user,  # noqa: SLF001  # a table of this module's own
    "assistant": Renderer._assistant,  # noqa: SLF001  # as above
    "thought": Renderer._thought,  # noqa: SLF001  # as above
    "system": Renderer._system,  # noqa: SLF001  # as above
}


def _page(lines: Iterable[str], *, allowed: bool = True) -> None:
    """Print lines; through `$CSA_PAGER`, `$PAGER` or less when stdout is a terminal too small for them."""
    command = _pager_command() if allowed and sys.stdout.isatty() else ""
    if not command:
        for line in lines:
            print(line)
        return
    text = "".join(f"{line}\n" for line in lines)
    if text.count("\n") < terminal_size(sys.stdout)[1] or not _has_shown(command, text):
        sys.stdout.write(text)


def _pager_command() -> str:
    """Return the command line of the pager; empty for none."""
    command = os.environ.get("CSA_PAGER", os.environ.get("PAGER", _DEFAULT_PAGER)).strip()
    is_missing = command == _DEFAULT_PAGER and shutil.which(_DEFAULT_PAGER) is None
    return "" if command == "cat" or is_missing else command


def _has_shown(command: str, text: str) -> bool:
    """Hand the text to a pager; False when there is none."""
    environment = {"LESS": "FRX", **os.environ}  # colours stay, and what fits on a screen is just printed
    sys.stdout.flush()
    process = subprocess.Popen(  # noqa: S602  # a pager is a command line, as everywhere
        command, shell=True, stdin=subprocess.PIPE, env=environment
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's, which has its own use for it
    try:
        process.communicate(text.encode("utf-8", "replace"))
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode not in {126, 127}
