"""The start of a turn: its lock, the tool's command, `run_started`, the session in its place.

None of it needs an event loop. A process that runs only one turn can also launch its tool here, and load what attends
to it while the tool starts: that takes as long as everything before it.
"""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime

from csa.errors import CsaError, DeniedError, StateError
from csa.model.conversation import count_told
from csa.model.result import UNKNOWN_CONVERSATION
from csa.process.launch import Launched, SpawnError, launch_tool
from csa.runner.turns.asking import is_mute
from csa.runner.turns.leftovers import describe, leftovers_of, reap
from csa.runner.turns.runfiles import remove_run_files, write_run_files
from csa.runner.turns.stealing import note_theft
from csa.runner.turns.toolcommand import make_command
from csa.runner.turns.turnrecorder import TurnRecorder, begin, publish
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.adapter import ToolExit
    from csa.model.events import Event
    from csa.model.state import ToolState
    from csa.runner.turns.plan import TurnPlan


_DESCRIPTORS = 18
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StartedTurn:
    """A turn that has begun: it is durable, and its session resolves. `first` has its first events."""

    def __init__(self, recorder: TurnRecorder) -> None:
        """Begin the turn that `recorder` has a plan for, under its lock, which it still holds if this raises."""
        self.recorder = recorder
        self._ahead: Launched | SpawnError | None = None
        self._starts = 0  # how often the tool was started again
        if recorder.held.state.worktree is None:
            self._begin([])
            return
        from csa.runner.turns.worktree import prepare_worktree, undo_worktree  # noqa: PLC0415  # few sessions have one

        problems = prepare_worktree(recorder)
        try:
            self._begin(problems)
        except BaseException:
            undo_worktree(recorder)
            raise

    def _begin(self, problems: list[str]) -> None:
        """Record the turn; `problems` are of its worktree."""
        recorder = self.recorder
        reaped = self._reap_earlier()
        if recorder.plan.request.repair:
            from csa.runner.turns.repair import prepare_repair  # noqa: PLC0415  # few turns are one

            prepare_repair(recorder)
        self.plan = recorder.plan
        self.command = make_command(self.plan, recorder.tool_state, turn=recorder.turn, paths=recorder.paths)
        self.started_at, self.began_s = datetime.now(UTC), time.monotonic()
        self.first = self._record(reaped) + self._keep_lost(problems)

    def command_again(self, known: ToolState, plan: TurnPlan | None = None) -> None:
        """Decide again what the tool is started with; `known` is its conversation by now, `plan` another than ours."""
        self._starts += 1
        turn, paths = self.recorder.turn, self.recorder.paths
        self.command = make_command(plan or self.plan, known, turn=turn, paths=paths, start=self._starts)
        self._write_run_files()

    def renew(self, known: ToolState, end: ToolExit) -> list[Event] | None:
        """Prepare a new conversation in place of one that the tool, which has ended, does not know; return its events.

        The tool gets a summary of all turns, including its own. None if there is to be no summary (`--no-handoff`).

        Raises:
            CsaError: there is nothing to summarise, or the adapter refuses.
            OSError: the files of the run cannot be written.
        """
        gone = self.command.asked.conversation
        if gone is None or not self.plan.hands_over:
            return None
        if self.plan.fork:
            self.plan = replace(self.plan, fork=self.plan.fork.for_another_tool())
        self.command_again(known)
        if (handoff := self.command.handoff) is None:
            raise CsaError("csa has no transcript of it")
        tool, count = self.plan.adapter.name, count_told(handoff.data)
        message = (
            f"{tool} no longer knows its conversation {gone}: it continues in a new one, "
            f"with a summary of {count} earlier turn{'s' * (count != 1)}"
        )
        events = self.recorder.append("warning", {"kind": UNKNOWN_CONVERSATION, "message": message})
        told = {**handoff.data, "reason": UNKNOWN_CONVERSATION, "replaces": gone}
        events += self.recorder.append("handoff", {**told, "process": self.recorder.end_process(end)})
        return events + (self.recorder.append("fork", self.plan.fork.to_event()) if self.plan.fork else [])

    def launch(self) -> None:
        """Start the tool ahead of `take`, and write its input; `take` raises if it cannot be started.

        Not where something else has to be done first.
        """
        if self.setup is not None:
            return
        try:
            self._ahead = self._launch()
            self._ahead.feed(self.command.invocation.stdin)
        except SpawnError as fault:
            self._ahead = fault
        except OSError as error:  # no descriptor is left: the turn has begun, and has to be ended properly
            self._ahead = SpawnError(self.command.invocation.argv[0], str(error))

    @property
    def setup(self) -> str | None:
        """The shell command that has to prepare the session's worktree before the tool starts."""
        tree = self.recorder.held.state.worktree
        return None if tree is None or tree.is_ready or self.plan.replay else tree.setup

    @property
    def is_ahead(self) -> bool:
        """Whether a tool was launched that nobody attends to yet."""
        return isinstance(self._ahead, Launched)

    def take(self) -> Launched:
        """Return the tool that was launched early, or launch it; SpawnError if it cannot be started."""
        ahead, self._ahead = self._ahead, None
        if isinstance(ahead, SpawnError):
            raise ahead
        return ahead or self._launch()

    def _launch(self) -> Launched:
        return launch_tool(
            self.command.invocation.argv,
            cwd=self.plan.cwd,
            env=self.command.environment,
            shared_fds=self.recorder.held.shared_fds,
        )

    def _write_run_files(self) -> None:
        invocation, attachments = self.command.invocation, self.command.asked.attachments
        write_run_files(self.recorder.paths, invocation.files, invocation.links, attachments)

    def _reap_earlier(self) -> str:
        """End what a lost turn of this session has left running, as its conversation continues without it."""
        left = leftovers_of(self.recorder.paths) if self.recorder.follows_lost else []
        if not left:
            return ""
        stubborn = reap(left)
        words = f"ended processes that the lost turn had left running: {describe(left)}"
        if stubborn:
            words += f"; these did not end: {describe(stubborn)}"
        return words

    def _keep_lost(self, problems: list[str]) -> list[Event]:
        """Note problems of the session's worktree, and commit what a lost turn has left: its processes are gone now."""
        if self.recorder.held.state.worktree is None:
            return []
        from csa.runner.turns.turnwork import keep_lost, warn_of_worktree  # noqa: PLC0415  # few sessions have one

        return warn_of_worktree(self.recorder, problems) + keep_lost(self.recorder)

    def _record(self, reaped: str) -> list[Event]:
        """Make the turn durable and a new session visible; return the events. Refusals come first."""
        plan, recorder, command = self.plan, self.recorder, self.command
        try:
            self._write_run_files()
            events = recorder.start(list(command.argv), handoff=command.handoff.data if command.handoff else None)
        except BaseException:
            remove_run_files(recorder.paths)
            raise
        if plan.fork:
            events += recorder.append("fork", plan.fork.to_event())
        mute = [f"{plan.adapter.name} cannot ask for permission: its level decides"] if is_mute(plan) else []
        for problem in (*mute, *command.problems, *command.invocation.warnings):
            events += recorder.append("warning", {"kind": "adapter", "message": problem})
        if reaped:
            events += recorder.append("warning", {"kind": "leftovers", "message": reaped})
        if plan.is_new:
            publish(recorder.held)
        recorder.open_logs(recorder.paths.turn_output(recorder.turn))
        return events


def _require_descriptors() -> None:
    """Refuse a turn that could begin, but not be attended to, because there are too few descriptors."""
    taken: list[int] = []
    try:
        taken += (os.open("/", os.O_PATH | os.O_CLOEXEC) for _ in range(_DESCRIPTORS))
    except OSError as error:
        raise CsaError(
            f"A turn needs {_DESCRIPTORS} more open files: {error.strerror}.", hint="raise the limit: ulimit -n 1024"
        ) from error
    finally:
        for fd in taken:
            os.close(fd)


def start_turn(plan: TurnPlan) -> StartedTurn:
    """Take the lock and begin the turn. Raises as `turnrecorder.begin`, with CsaError instead of OSError."""
    _require_descriptors()
    try:
        recorder = begin(plan)
        try:
            if loser := recorder.held.stolen_from:
                note_theft(plan.context, plan.context.store, recorder.held, loser, command="run --steal")
            return StartedTurn(recorder)
        except BaseException:
            recorder.close()
            raise
    except OSError as error:
        place = error.filename or plan.context.store.path
        if isinstance(denied := StateError.denied(place, "cannot be written", error), DeniedError):
            raise denied from error
        way = "free space on the disk" if error.errno in _NO_ROOM else "make it writable, or set CSA_STATE_DIR"
        raise CsaError(
            f"The session cannot be written: {error.strerror}: {place}.", hint=f"{way}; nothing was started"
        ) from error
