"""Talk with an agent, turn by turn, in one session.

Without a terminal each line of stdin is a prompt, and stdout has the answers; the first turn that fails ends it.
Exits as csa run does, and 0 when there was nothing to do.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator

from csa.cli.output import can_redraw, tell, warn
from csa.cli.records import save_checkpoint
from csa.cli.run import own_command, run_when_free, wake_abandoned
from csa.cli.run_options import add_agent_options, defaults_of_run
from csa.cli.run_request import request_from
from csa.cli.views.signs import signs_of_life
from csa.errors import UsageError
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.runner.client import Csa
from csa.runner.current import make_current
from csa.runner.request import going_on
from csa.runner.session import find_last, refuse_idle
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from csa.cli.views.progress import Progress
    from csa.cli.views.signs import Signs

# What the session keeps once it was asked for, so that it is asked for once.
_KEPT: dict[str, None] = dict.fromkeys(
    ("tool", "model", "permission", "context_window", "context_tokens", "budget_tokens", "budget_usd", "budget_time_s")
)

_SHOWN = 12  # characters of a commit's name


def configure(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which session")
    which.add_argument("-s", "--session", metavar="S", help="continue session S (an id, a unique prefix or a name)")
    which.add_argument("-c", "--last", action="store_true", help="continue the session used last")
    which.add_argument(
        "--session-id", metavar="ID", help="continue the session of this ULID, UUID or name, or create it"
    )
    which.add_argument("--fork-from", metavar="S", help="start a new session with a copy of S's conversation")
    which.add_argument("--name", metavar="NAME", help="a name for the session, unique in the project")
    parser.add_argument("--auto-save", type=int, metavar="N", help="save a checkpoint after every N turns")
    parser.add_argument("-q", "--quiet", action="store_true", help="without a terminal: no progress on stderr")
    add_agent_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    if arguments.auto_save is not None and arguments.auto_save < 1:
        raise UsageError("--auto-save takes a number of turns, 1 or more.")
    chat = Chat(arguments)
    if not (sys.stdin.isatty() and can_redraw(sys.stdout)):
        return _chat_by_lines(chat)
    from csa.cli.chat_terminal import TerminalChat  # noqa: PLC0415  # pipes need no prompt_toolkit

    return TerminalChat(chat).run()


class Chat:
    """The session that is talked to, and what its next turn is to be like."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.client = Csa.from_environment(command=own_command(), owns_process=True)
        given = {**vars(arguments), "prompt": "", "is_literal": True, "wait": math.inf}
        self._words = argparse.Namespace(**{**defaults_of_run(), **given})
        self._words.verbose = True  # on a terminal the answer stands there already
        self._auto_save = arguments.auto_save
        self._turns = 0
        self.request = request_from(self._words)
        self.is_quiet = bool(arguments.quiet)
        self.session_id = self._known_id()
        if self.client.caller is None:
            wake_abandoned(self.client)

    def run(self, prompt: str, signs: Signs, view: Callable[[Csa], Progress] | None = None) -> int:
        """Run one turn; return its exit code. From then on the chat continues in its session."""
        request = replace(self.request, prompt=prompt)
        if self.session_id is None and request.session_id is None:
            request = replace(request, session_id=_new_id())
        code = run_when_free(self.client, request, self._words, signs, view)
        self.use(self.session_id or self.client.resolve(str(request.session_id)))
        self._turns += 1
        if self._auto_save and self._turns % self._auto_save == 0:
            self.save("auto-save")
        return code

    def use(self, session_id: str) -> None:
        """Go on in a session."""
        self.session_id = session_id
        self.request = going_on(self.request, session=session_id, steal=False, **_KEPT)
        if loss := make_current(self.client.context, session_id):
            warn([loss])

    def begin(self, *, fork_from: str | None, name: str | None) -> None:
        """Have the next turn begin a new session."""
        self.session_id = None
        self.request = replace(self.request, session=None, fork_from=fork_from, name=name)

    def save(self, label: str | None) -> None:
        """Save a checkpoint of the session."""
        if self.session_id is None:
            raise UsageError("There is nothing to save yet.", hint="the session begins with your first prompt")
        made = save_checkpoint(self.client.session(self.session_id), label=label)
        tell("csa", f"saved checkpoint {made.commit[:_SHOWN]}{f' ({label})' if label else ''}")

    def say_how_to_resume(self) -> None:
        """Say how to go on another time."""
        if self.session_id and not self.is_quiet:
            tell("csa", f"to go on: csa chat --session {self.session_id}")

    def _known_id(self) -> str | None:
        """Return the id of the session that is continued, if it is there."""
        request = self.request
        if request.last:
            return refuse_idle(find_last(self.client.context, is_open=not request.reopen)).session_id
        return None if request.session is None else self.client.resolve(request.session)


def _new_id() -> str:
    return new_session_id(time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))


def _chat_by_lines(chat: Chat) -> int:
    """Run a turn for each line; lines are never commands, since they may be what another agent has written."""
    with signs_of_life(chat.client.caller, quiet=chat.is_quiet) as signs:
        for prompt in _prompts(sys.stdin):
            if code := chat.run(prompt, signs):
                return code
            sys.stdout.flush()  # the next stage of a pipeline may go on
    chat.say_how_to_resume()
    return 0


def _prompts(lines: IO[str]) -> Iterator[str]:
    """Yield the prompts; a line that ends with a backslash goes on in the next one, and empty ones are left out."""
    begun = ""
    for line in lines:
        text = begun + line.rstrip("\n")
        if text.endswith("\\"):
            begun = text[:-1] + "\n"
            continue
        begun = ""
        if text.strip():
            yield text
    if begun.strip():
        yield begun
