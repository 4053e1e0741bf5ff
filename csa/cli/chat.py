"""Talk with an agent, turn by turn, in one session.

Without a terminal each line of stdin is a prompt, and stdout has the answers; the first turn that fails ends it.
Exits as csa run does, and 0 when there was nothing to do.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from csa.cli.ourselves import own_command
from csa.cli.output import can_redraw, tell, warn
from csa.cli.run import follow_up, run_when_free, settled, wake_abandoned
from csa.cli.run_options import add_agent_options, add_session_options, add_template_options, defaults_of_run
from csa.cli.run_request import request_from
from csa.cli.templates import chosen_template, made_from
from csa.cli.views.signs import signs_of_life
from csa.errors import CsaError, MirroredError, UsageError
from csa.runner.client import Csa
from csa.runner.current import make_current
from csa.runner.ordered import plan_entry
from csa.runner.queueing import queue_prompt
from csa.runner.request import going_on
from csa.runner.session import find_last, refuse_idle
from csa.runner.turns.asking import asking
from csa.runner.turns.planning import new_id_now
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from csa.cli.views.progress import Progress
    from csa.cli.views.signs import Signs
    from csa.model.permission import Permission
    from csa.paths import SessionPaths
    from csa.runner.request import RunRequest
    from csa.runner.turns.plan import TurnPlan
    from csa.store.queue import Entry

# What is asked for once, since the session keeps it or it goes with one prompt; and what a session has of its own.
_KEPT: dict[str, Any] = {"images": (), "files": (), "ttl": None, "shared": None, "steal": False}
_KEPT |= dict.fromkeys(("context_window", "context_tokens", "budget_tokens", "budget_usd", "budget_time_s"))
_OF_SESSION: dict[str, None] = dict.fromkeys(("tool", "model", "permission"))
OF_NEW: dict[str, Any] = {"session": None, "session_id": None, "last": False}  # what a new session is asked for with

_SHOWN = 12  # characters of a commit's name


def configure(parser: argparse.ArgumentParser) -> None:
    add_session_options(parser)
    add_template_options(parser)
    parser.add_argument("--auto-save", type=int, metavar="N", help="save a checkpoint after every N turns")
    parser.add_argument("-q", "--quiet", action="store_true", help="without a terminal: no progress on stderr")
    add_agent_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    if arguments.auto_save is not None and arguments.auto_save < 1:
        raise UsageError("--auto-save takes a number of turns, 1 or more.")
    is_on_terminal = sys.stdin.isatty() and can_redraw(sys.stdout) and can_redraw(sys.stderr)
    chat = Chat(arguments, is_on_terminal=is_on_terminal)
    if not is_on_terminal:
        return _chat_by_lines(chat)
    from csa.cli.chat_terminal import TerminalChat  # noqa: PLC0415  # pipes need no prompt_toolkit

    return TerminalChat(chat).run()


class Chat:
    """The session that is talked to, and what its next turn is to be like."""

    def __init__(self, arguments: argparse.Namespace, *, is_on_terminal: bool) -> None:
        self.client = Csa.from_environment(command=own_command(), owns_process=True)
        self._template = chosen_template(self.client.context, arguments)
        given = {**vars(arguments), "template": None, "prompt": "", "is_literal": True, "wait": math.inf}
        given |= {"verbose": is_on_terminal}  # the answer stands there already
        self._words = argparse.Namespace(**{**defaults_of_run(), **given})
        self.request = settled(self.client, request_from(self._words))
        self.is_quiet = bool(arguments.quiet)
        self.session_id: str | None = None
        if known := self._known_id():
            self.stay_in(known)
        self._turns, self._auto_save = 0, arguments.auto_save
        warn(self.client.context.config.warnings)
        if self.client.caller is None:
            wake_abandoned(self.client)

    def stay_in(self, session_id: str) -> None:
        """Have the first turn go on in this session, whichever is used last, or has its name, when the prompt comes."""
        self.session_id = session_id
        self.request = replace(self.request, session=session_id, session_id=None, last=False)

    def asked(self, prompt: str, **changes: Any) -> RunRequest:
        """Return the request of a turn; its first prompt goes where the template has a place for it."""
        request = replace(self.request, prompt=prompt, **changes)
        return made_from(self._template, request, self._words.variables) if self._template else request

    def run(
        self,
        prompt: str,
        signs: Signs,
        view: Callable[[TurnPlan], Progress] | None = None,
        *,
        permission: Permission | None = None,
    ) -> int:
        """Run one turn; return its exit code. From its beginning on the chat continues in its session.

        A `permission` is for this turn alone.
        """
        request = self.asked(prompt)

        def make_plan() -> TurnPlan:
            plan = self.client.plan(request)
            if permission is not None:
                once = self.client.plan(replace(request, permission=permission))
                plan = replace(once, state=replace(once.state, permission=plan.state.permission))
            return asking(plan) if view else plan

        if self.session_id is None and request.session_id is None:
            request = replace(request, session_id=new_id_now())
        code = run_when_free(self.client, make_plan, self._words, signs, view)
        self.has_begun(request.session_id)
        self._count_turn()
        return code

    def has_begun(self, session_id: str | None) -> None:
        """Have later turns go on in the session that has begun; this may be said twice."""
        if self._template:
            self.request, self._template = self.asked(""), None
        if self.session_id is None:
            self.session_id = self.client.resolve(str(session_id))
        self.request = going_on(self.request, session=self.session_id, **_KEPT)

    def queue(self, prompt: str) -> None:
        """Queue a prompt, which `run_queued` sends later, here or in another chat; raises as `queue_prompt`."""
        after = follow_up(self.client, self._words)
        queue_prompt(self.client.context, self.asked(prompt), on_finish=after, starts=False)

    @property
    def paths(self) -> SessionPaths | None:
        """The session's files, once there are any; somebody may have deleted it."""
        with suppress(CsaError):
            return self.client.session(self.session_id).paths if self.session_id else None
        return None

    def run_queued(self, entry: Entry, signs: Signs, view: Callable[[TurnPlan], Progress]) -> int:
        """Run the turn of a prompt that was queued, with the rights of who did; return its exit code.

        GoneError if it does not wait any more.
        """
        after = entry.order["on_finish"] or {"command": "", "timeout_s": None}
        words = {"on_finish": after["command"], "on_finish_timeout": after["timeout_s"] or 0}
        code = run_when_free(
            self.client,
            lambda: asking(plan_entry(entry, os.environ, is_detached=False)),
            argparse.Namespace(**{**vars(self._words), **words}),
            signs,
            view,
        )
        self._count_turn()
        return code

    def _count_turn(self) -> None:
        self._turns += 1
        if self._auto_save and self._turns % self._auto_save == 0:
            self.save("auto-save")

    def use(self, session_id: str) -> None:
        """Go on in another session, and make it the current one."""
        loss = make_current(self.client.context, session_id)
        warn([loss] if loss else [])
        self.session_id = session_id
        self.request = going_on(self.request, session=session_id, **_KEPT, **_OF_SESSION)

    def begin(self, *, fork_from: str | None, name: str | None) -> None:
        """Have the next turn begin a new session."""
        self.session_id = None
        self.request = replace(self.request, **OF_NEW, fork_from=fork_from, name=name)

    def save(self, label: str | None) -> None:
        """Save a checkpoint of the session."""
        if self.session_id is None:
            raise UsageError("There is nothing to save yet.", hint="the session begins with your first prompt")
        from csa.cli.records import save_checkpoint  # noqa: PLC0415  # brings git, which few chats need

        made = save_checkpoint(self.client.session(self.session_id), label=label)
        tell("csa", f"saved checkpoint {made.commit[:_SHOWN]}{f' ({label})' if label else ''}")

    def say_how_to_resume(self) -> None:
        """Say how to go on another time."""
        if self.paths and not self.is_quiet:
            tell("csa", f"to go on: csa chat --session {self.session_id}")

    def _known_id(self) -> str | None:
        """Return the id of the session that is continued, if it is there."""
        request = self.request
        if request.last:
            return refuse_idle(find_last(self.client.context, is_open=not request.reopen)).session_id
        try:
            return None if request.session is None else self.client.resolve(request.session)
        except MirroredError as error:
            way = f"ssh -t {error.host} csa chat -s {error.session_id}"
            error.hint = f"talk there: {way}; or csa run -s {error.host}:{error.session_id} for each prompt"
            raise


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
