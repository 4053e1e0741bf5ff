"""A chat on a terminal: reads what the person wants, runs turns and commands, one after the other."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from csa.cli import chat_commands
from csa.cli.chat import OF_NEW
from csa.cli.commands import dispatch
from csa.cli.output import Style, count_of, cut, one_line, print_error, print_problem, tell, warn
from csa.cli.views.chatview import ChatView
from csa.cli.views.lineedit import Editor, Entry
from csa.cli.views.live import Line
from csa.cli.views.signs import Signs
from csa.errors import CsaError, SettledError, UsageError
from csa.model.permission import Permission
from csa.runner.sessions.answering import refuse_agents
from csa.runner.sessions.merging import merge_sessions
from csa.runner.turns.ahead import load_at_once
from csa.runner.turns.asking import put_answer
from csa.runner.turns.plan import TurnPlan
from csa.store.prompts import PromptHistory
from csa.store.queue import Entry as Queued
from csa.store.queue import GoneError, entries, next_entry
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.cli.chat import Chat

_LEAVING_EXITS = {128 + signal.SIGTERM, 128 + signal.SIGHUP}
_CANCELLED = 128 + signal.SIGINT
_LATER = ("compress", "context", "moving", "queueing", "status", "tools", "views.progress", "views.naming")
_MOST_QUEUED = 5  # shown


def _load_rest() -> None:
    """Load what turns and commands need, since csa may be upgraded while a chat is open."""
    with suppress(ImportError):
        load_at_once(*(f"csa.cli.{name}" for name in _LATER))


class TerminalChat:
    """A person's conversation. What is entered while a turn is running waits in the session's queue."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._waiting: list[str] = []
        self._token: str | None = None  # of answers to what the agent asks for
        self._allowed = ""  # a prompt for a turn that may do everything
        self._takes = False  # what waits is to be sent now
        self._view: ChatView | None = None
        self._tool = ""
        self._was_interrupted = self._is_leaving = False
        self._first = self._plan()
        if not self._first.is_new:
            chat.stay_in(self._first.state.session_id)
        context = self._first.context
        keeps = not context.config.encryption.seals
        history = PromptHistory(chat.client.store, context.redactor.redact, keeps=keeps)
        self._editor = Editor(
            past=history.load(),
            keep=history.add,
            complete=chat_commands.complete,
            above=self._above,
            sign=lambda: f"{self._tool}> ",
        )

    def run(self) -> int:
        """Talk until the person leaves, or a signal ends it; return the exit code."""
        self._greet(self._first)
        tell("csa", "Ctrl-C ends a turn, Ctrl-D leaves; /save makes a checkpoint; see /help")
        code = None
        Thread(target=_load_rest, daemon=True).start()
        with self._editor:
            while code is None:
                try:
                    entry = self._next_queued()
                    code = self._run_turn(entry.prompt, entry) if entry else self._do(self._editor.read())
                except KeyboardInterrupt:  # between two periods of editing
                    code = self._do(Entry("interrupt"))
        self._look_at_queue()
        if self._waiting:
            tell("csa", f"{count_of(len(self._waiting), 'prompt')} not sent: csa queue {self._chat.session_id}")
        self._chat.say_how_to_resume()
        return code

    def _next_queued(self) -> Queued | None:
        """Return the next prompt of the queue, if it is to be sent now."""
        self._look_at_queue()
        paths = self._chat.paths
        return next_entry(paths) if paths and self._takes and self._waiting else None

    def _look_at_queue(self) -> None:
        paths = self._chat.paths
        self._waiting = [entry.shown for entry in entries(paths)] if paths else []

    def _do(self, entry: Entry) -> int | None:
        """Do what is wanted; return the exit code if that ends the chat."""
        before, self._was_interrupted = self._was_interrupted, entry.kind == "interrupt"
        if entry.kind == "signal":
            return 128 + entry.number
        if entry.kind == "leave" or (self._was_interrupted and before):
            return 0
        if self._was_interrupted:
            tell("csa", "Ctrl-C again, or Ctrl-D, leaves the chat")
            return None
        return self._enter(entry.text)

    def _enter(self, text: str) -> int | None:
        if not text.strip():
            return None
        if text.strip() in {"exit", "quit"}:
            return 0
        try:
            command = chat_commands.parse(text)
        except UsageError as error:
            print_problem(error.message)
            return None
        if command is None:
            return self._run_turn(text[1:] if text.startswith("//") else text)
        with self._editor.lent():
            self._obey(*command)
        if self._allowed:
            prompt, self._allowed = self._allowed, ""
            return self._run_turn(prompt, permission=Permission.FULL)
        return 0 if self._is_leaving else None

    def _obey(self, name: str, words: list[str]) -> None:
        tell("csa", f"/{name} {' '.join(words)}".rstrip())
        try:
            chat_commands.run(self, name, words)
        except KeyboardInterrupt:
            tell("csa", f"/{name} was interrupted")

    def _run_turn(
        self, prompt: str, queued: Queued | None = None, *, permission: Permission | None = None
    ) -> int | None:
        """Run one turn; return the exit code if that ends the chat."""
        print()
        self._takes = False
        code = None
        try:
            if queued:
                code = self._chat.run_queued(queued, Signs(), self._new_view)
            else:
                code = self._chat.run(prompt, Signs(), self._new_view, permission=permission)
        except GoneError:
            self._takes = True
        except CsaError as error:
            print_error(error, as_json=False)
        except (KeyboardInterrupt, SystemExit) as stop:  # before it began
            if isinstance(stop, SystemExit) and stop.code != _CANCELLED:
                raise
            tell("csa", "not sent")
        finally:
            view, self._view = self._view, None
            if view:
                view.flush()
        if code is None and not queued:
            self._editor.refill(prompt)
        return None if code is None else self._after_turn(code, denied=view.denied if view else 0)

    def _after_turn(self, code: int, *, denied: int) -> int | None:
        """Decide what comes after a turn; return the exit code if that ends the chat."""
        with suppress(CsaError):  # the next turn will say it
            self._tool = self._plan().adapter.name
        if denied:
            were = count_of(denied, "action was", "actions were")
            tell("hint", f"{were} denied; /allow lets the agent do it once")
        self._takes = code in {0, _CANCELLED}
        self._look_at_queue()
        if self._waiting and not self._takes and not self._is_leaving:
            tell("hint", "/queue resume goes on with what waits")
        return code if code in _LEAVING_EXITS else 0 if self._is_leaving else None

    def _new_view(self, plan: TurnPlan) -> ChatView:
        self._is_leaving = False
        self._token = plan.asks
        self._chat.has_begun(plan.state.session_id)
        self._look_at_queue()
        self._view = ChatView(self._chat.client, self._editor, self._heed)
        return self._view

    def _heed(self, entry: Entry) -> None:
        """Handle what the person wants while a turn is running."""
        if entry.kind == "interrupt":
            self.cancel()
        elif entry.kind == "leave" or entry.text.strip() in {"exit", "quit", "/exit"}:
            if self._is_leaving:
                self.cancel()
            self._is_leaving = True
            self._editor.print([partial(tell, "csa", "leaving when the turn has ended; once more ends it now")])
        elif entry.text.strip():
            self._take(entry.text)

    def _take(self, text: str) -> None:
        """Take a line while a turn is running: do it at once if it can be done, or queue it."""
        command = None
        try:
            command = chat_commands.parse(text)
            if command is None:
                self._chat.queue(text)
            elif chat_commands.find(command[0]).at_once:
                self._editor.print([partial(self._obey, *command)])
            else:
                raise UsageError(f"/{command[0]} has to wait until the turn has ended.", hint="/cancel ends it")
        except CsaError as error:
            self._editor.print([partial(print_error, error, as_json=False)])
            if command is None:
                self._editor.refill(text)
        self._look_at_queue()
        self._editor.refresh()

    def _above(self, width: int, height: int) -> Sequence[Line]:
        queued = [cut(one_line(f"queued: {text}"), width) for text in self._waiting]
        if len(queued) > _MOST_QUEUED:
            queued = [*queued[: _MOST_QUEUED - 1], f"... and {len(queued) - _MOST_QUEUED + 1} more"]
        lines: list[Line] = [[(text, "dim")] for text in queued[: max(0, height - 1)]]
        return [*(self._view.above(width, height - len(lines)) if self._view else [[]]), *lines][:height]

    def _plan(self, **changes: Any) -> TurnPlan:
        """Return what the next turn would be; raises what would refuse it."""
        return self._chat.client.plan(self._chat.asked("?", **changes))

    def _greet(self, plan: TurnPlan) -> None:
        self._tool = plan.adapter.name
        state = plan.state
        who = f"session {self.called}" if not plan.is_new else f"new session {state.name or ''}".rstrip()
        turns = f", {count_of(state.turns, 'turn')} so far" if not plan.is_new else ""
        model = f", {plan.model}" if plan.model else ""
        tell("csa", f"{who}{turns}: {plan.adapter.name}{model}, permission {plan.permission.value}")
        self._look_at_queue()
        if self._waiting:
            count = count_of(len(self._waiting), "prompt")
            tell("csa", f"{count} waiting: /queue lists, /queue resume sends them")

    # What chat_commands.Talk asks for.

    def csa(self, *words: str) -> None:
        """Run a command of csa."""
        with suppress(SystemExit):  # argparse has printed help
            dispatch(["--color", Style.when, *words])

    def ask(self, **changes: Any) -> None:
        """Change the next turn, if it can be planned."""
        plan = self._plan(**changes)
        self._chat.request = replace(self._chat.request, **changes)
        self._tell_next(plan)

    def _tell_next(self, plan: TurnPlan) -> None:
        self._tool = plan.adapter.name
        model = plan.model or "its default model"
        tell("csa", f"next: {plan.adapter.name}, {model}, permission {plan.permission.value}")

    def begin(self, *, name: str | None, fork: bool) -> None:
        """Have the next turn begin a new session."""
        source = self.called if fork else None
        plan = self._plan(**OF_NEW, fork_from=source, name=name)
        self._chat.begin(fork_from=source, name=name)
        what = "the next prompt begins a new session"
        tell("csa", f"{what}, with a copy of this conversation" if fork else what)
        self._tell_next(plan)

    def use(self, selector: str) -> None:
        """Go on in another session."""
        session_id = self._chat.client.resolve(selector)
        plan = self._plan(
            session=session_id,
            session_id=None,
            last=False,
            fork_from=None,
            name=None,
            tool=None,
            model=None,
            permission=None,
        )
        self._chat.use(session_id)
        self._greet(plan)

    def save(self, label: str | None) -> None:
        """Save a checkpoint."""
        self._chat.save(label)

    def queue(self, what: str | None) -> None:
        """Show the queue, or empty it, or go on with it."""
        self._look_at_queue()
        if what and not self._waiting:
            raise UsageError("Nothing is queued.")
        if what == "resume":
            self._takes = True
        else:
            self.csa("queue", "--session", self.called, *(["--clear"] if what else []))
            self._look_at_queue()

    def merge(self, selectors: Sequence[str]) -> None:
        """Go on in a session with the conversations of this and others."""
        request = replace(self._chat.asked(""), **OF_NEW, fork_from=None, name=None)
        merged = merge_sessions(self._chat.client.context, [self.called, *selectors], request)
        warn(merged.losses)
        self.use(merged.state.session_id)

    def allow(self, prompt: str) -> None:
        """Allow what the agent asks for; without a running turn, have one run with full permission, if it may."""
        if self._view:
            self._answer(allow=True)
            return
        self._plan(permission=Permission.FULL)
        self._allowed = prompt or "You may do now what was denied before. Go on."

    def deny(self) -> None:
        """Deny what the agent asks for."""
        self._answer(allow=False)

    def _answer(self, *, allow: bool) -> None:
        paths = self._chat.paths
        if not (self._view and self._view.asks and self._token and paths):
            raise UsageError("Nothing is asked.")
        refuse_agents(self._chat.client.session(self.called))
        if not put_answer(paths, self._token, self._view.asks.pop(0), allow=allow, by="user chat"):
            raise SettledError("That was answered already.")

    def cancel(self) -> None:
        """End the running turn, as SIGINT does for `csa run`."""
        if self._view is None:
            raise UsageError("No turn is running.")
        signal.raise_signal(signal.SIGINT)

    def leave(self) -> None:
        """Leave after this command."""
        self._is_leaving = True

    @property
    def directory(self) -> Path:
        """Where the agent works."""
        return Path(self._plan().cwd)

    @property
    def name(self) -> str:
        """The session's name, or its id."""
        return self._chat.client.session(self.called).record.name or self.called

    @property
    def called(self) -> str:
        """The session's id; UsageError when there is none yet."""
        if self._chat.session_id is None:
            raise UsageError("There is no session yet.", hint="it begins with your first prompt")
        return self._chat.session_id
