"""`csa compress`: has a tool compact its conversation, under the session's lock and the guardian, like a turn.

It is not a turn: `turns` stays, and the events have the last turn's number. The session counts as compacted only with
a proof from the tool's adapter. Without it, whatever the reason, state.toml and result.toml stay byte for byte the
same; the transcript keeps the attempt.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from csa.errors import CsaError
from csa.model.adapter import CompactionOutcome, Compactor, ToolExit
from csa.model.events import Event
from csa.model.limits import Spent
from csa.model.result import exit_code_for, told_error
from csa.model.state import SessionState, ToolState, format_time
from csa.ownership import make_directory
from csa.paths import SessionPaths
from csa.process.launch import SpawnError
from csa.process.tool import start_tool
from csa.runner.caller import refuse_own_lineage
from csa.runner.context import is_sealed_after, seal_after
from csa.runner.environment import refuse_in_replay
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.turns.attempt import Attempt
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_resume
from csa.runner.turns.recorder import Recorder, end_lost_compaction
from csa.runner.turns.runfiles import remove_run_files, write_run_files
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.toolcommand import ToolCommand, make_command
from csa.runner.turns.verdict import Stop, judge, lock_lost
from csa.runner.turns.window import refuse_pruned
from csa.runner.turns.worktree import have_worktree
from csa.store.held import HeldSession, open_session
from csa.store.owner import COMPACTION
from csa.store.taking import refuse_busy
from csa.store.turns import usage_of_compaction
from csa.structs import Struct, replace

if TYPE_CHECKING:
    from csa.model.result import Status

_FAILURE = 1  # of any kind: the codes of `run` are about turns
_STOPPED = ("cancelled", "timed_out")


class CompactionResult(Struct, kw_only=True):
    """The result. `compacted_at` is None if nothing was compacted."""

    session_id: str
    tool: str
    status: Status
    exit_code: int
    duration_s: float
    outcome: CompactionOutcome
    compacted_at: str | None = None
    error_kind: str | None = None
    error_message: str | None = None

    def to_event(self) -> dict[str, Any]:
        """Return the data of the `compaction` event."""
        return {
            "status": self.status,
            "tool": self.tool,
            "proof": self.outcome.proof if self.status == "succeeded" else None,
            "tokens_before": self.outcome.tokens_before,
            "tokens_after": self.outcome.tokens_after,
            "usage": self.outcome.usage.to_dict() if self.outcome.usage else None,
            "error": {"kind": self.error_kind or "", "message": self.error_message or ""} if self._failed else None,
            "duration_s": self.duration_s,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session compress --json` prints; its keys are fixed."""
        known = {"session_id": self.session_id, **self.to_event(), "last_compacted_at": self.compacted_at}
        usage = self.outcome.usage and self.outcome.usage.to_sum()
        return {**known, "error": told_error(known["error"]), "usage": usage}

    @property
    def _failed(self) -> bool:
        return self.status != "succeeded"


def plan_compaction(session: Session, *, tool: str | None, timeout_s: float | None) -> TurnPlan:
    """Decide what to compact: the conversation of `tool`, else of the session's last tool.

    Raises:
        CsaError: there is no such conversation, or its tool cannot compact one.
        RefusedError: it is the calling session, or an ancestor of it.
        BusyError: its turn is running.
        Others as `plan_resume`.
    """
    session_id = session.session_id
    refuse_in_replay(session.context, "a compaction")
    refuse_own_lineage(session.context.caller, session_id, verb="compress")
    refuse_busy(session.paths)  # before judging a record that its turn is about to change
    tool = tool or session.load().last_tool
    if tool is None:
        raise CsaError(f"Nothing to compact: session {session_id} never ran.")
    request = RunRequest(prompt="compact", session=session_id, tool=tool, timeout_s=timeout_s)
    plan = plan_resume(session, request, now=datetime.now(UTC))
    if plan.tool_state.provider_session_id is None:
        others = ", ".join(name for name, known in plan.state.tools.items() if known.provider_session_id)
        raise CsaError(
            f"Nothing to compact: session {session_id} has no conversation with {plan.adapter.name}.",
            hint=f"it has conversations with {others}; name one with --tool" if others else None,
        )
    if not isinstance(plan.adapter, Compactor):
        raise CsaError(
            f"{plan.adapter.name} cannot compact a conversation on request.",
            hint=f'csa run --fork-from {session_id} "..." starts a new session with a summary of this one',
        )
    refuse_pruned(plan.state, plan.tool_state, plan.adapter.name, session.content)
    return replace(plan, compacts=True)


class Compaction:
    """One compaction. Call `run` once; `stopping` may be asked to end it meanwhile."""

    def __init__(self, plan: TurnPlan) -> None:
        self.stopping = Stopping()
        self.losses: list[str] = []  # what could not be written of its end
        self._ended_by = ""  # a signal
        self._context = plan.context
        self._plan = plan

    def cancel(self, signal_name: str) -> None:
        """Ask it to end."""
        self._ended_by = signal_name
        self.stopping.request(Stop("cancelled", signal_name))

    async def run(self) -> CompactionResult:
        """Compact; BusyError when the session is locked, CsaError when its files cannot be written."""
        session_id = self._plan.state.session_id
        try:
            name, store, keys = self._plan.adapter.name, self._context.store, lambda: self._context.keys.found
            held = open_session(store, session_id, self._context.redactor, tool=name, errand=COMPACTION, keys=keys)
            try:
                with held:
                    return await self._run_held(held)
            finally:
                await self._seal(held)
        except OSError as error:
            raise CsaError(
                f"The session cannot be written: {error.strerror}: "
                f"{error.filename or self._context.store.paths(session_id).root}.",
                hint="make it writable, or free space; nothing was compacted",
            ) from error

    async def _seal(self, held: HeldSession) -> None:
        """Encrypt the session again, beside the event loop; a signal ends that."""
        self._ended_by = ""
        with held.losing("the session", "encrypted"), anyio.CancelScope(shield=True):
            if is_sealed_after(self._context, held):
                await anyio.to_thread.run_sync(partial(seal_after, self._context, held, heed=self._heed))

    def _heed(self) -> None:
        if self._ended_by:
            raise CsaError(f"{self._ended_by} came first; csa seal --all does it")

    async def _run_held(self, held: HeldSession) -> CompactionResult:
        known = held.state.tools.get(self._plan.adapter.name, ToolState())  # as it is, now that it is ours
        plan = replace(self._plan, state=replace(self._plan.state, turns=held.state.turns))
        have_worktree(held, self._context.environ, directory=plan.cwd)
        command = make_command(plan, known, turn=plan.state.turns, paths=held.paths)
        self.losses = held.losses
        try:
            return await self._carry_out(plan, command, _CompactionRecorder(held))
        finally:
            if held.is_ours():
                remove_run_files(held.paths)

    async def _carry_out(self, plan: TurnPlan, command: ToolCommand, recorder: _CompactionRecorder) -> CompactionResult:
        began = anyio.current_time()
        assert isinstance(plan.adapter, Compactor)  # plan_compaction has seen to it
        decoder = plan.adapter.compaction_decoder(command.asked)
        recorder.start(command, tool=plan.adapter.name)
        end, spawn_fault = ToolExit(None, None), None
        try:
            async with start_tool(
                command.invocation.argv,
                cwd=plan.cwd,
                env=command.environment,
                shared_fds=recorder.held.shared_fds,
                owns_process=plan.context.owns_process,
            ) as tool:
                attempt = Attempt(tool, decoder, recorder, self.stopping, _ignore)
                end = await attempt.run(command.invocation, timeout_s=plan.timeout_s)
        except SpawnError as error:
            spawn_fault = error
        except anyio.get_cancelled_exc_class():
            self.stopping.request(Stop("cancelled", None, "cancelled by the program that ran it"))
            recorder.abandon(plan.adapter.name)
            raise
        outcome = (
            CompactionOutcome(succeeded=False, error_kind="spawn", error_message=str(spawn_fault))
            if spawn_fault
            else decoder.close(end)
        )
        if not recorder.is_ours():
            self.stopping.request(lock_lost())
        recorder.meter.settle(outcome.usage)
        outcome = replace(outcome, usage=recorder.meter.total)
        result = self._judge(plan, outcome, end, duration_s=round(anyio.current_time() - began, 3))
        recorder.finish(result)
        return result

    def _judge(
        self, plan: TurnPlan, outcome: CompactionOutcome, end: ToolExit, *, duration_s: float
    ) -> CompactionResult:
        stop = self.stopping.stop
        proven = replace(outcome, succeeded=outcome.succeeded and outcome.proof is not None)
        verdict = judge(proven, end, stop)
        code = exit_code_for(verdict.status, signal_name=stop.signal_name if stop else None)
        redact = self._context.redactor.redact
        is_late = verdict.status == "timed_out"
        message = f"it took longer than {plan.timeout_s:g} s" if is_late else verdict.error_message
        return CompactionResult(
            session_id=plan.state.session_id,
            tool=plan.adapter.name,
            status=verdict.status,
            exit_code=code if verdict.status in ("succeeded", *_STOPPED) else _FAILURE,
            duration_s=duration_s,
            outcome=proven,
            compacted_at=format_time(datetime.now(UTC)) if verdict.status == "succeeded" else None,
            error_kind=verdict.error_kind,
            error_message=redact(message) if message else None,
        )


class _CompactionRecorder(Recorder):
    """Writes the results of a compaction: events, logs in output/compaction-NNNN/, and at the end the state."""

    def __init__(self, held: HeldSession) -> None:
        super().__init__(held)
        self._saved = held.state
        self._mark = held.journal.mark()
        end_lost_compaction(held)

    def start(self, command: ToolCommand, *, tool: str) -> None:
        """Write what the tool needs, and durably that it begins; OSError if that is impossible."""
        write_run_files(self.paths, command.invocation.files, command.invocation.links)
        directory = _new_directory(self.paths)
        try:
            self.open_logs(directory)
            self.append("compaction", {"status": "started", "tool": tool, "argv": list(command.invocation.argv)})
            for problem in command.invocation.warnings:
                self.append("warning", {"kind": "adapter", "message": problem})
            self.held.require()
        except OSError:
            self.journal.return_to(self._mark)
            self.close_logs()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self.beat()

    def finish(self, result: CompactionResult) -> None:
        """Write the end: the event (durable), the usage, and if it was proven, that the session is compacted."""
        self.close_logs()
        is_told = self._tell_end(result.to_event())
        self.held.attempt("state.toml", lambda: self._save(result, counts=is_told))  # it is compacted anyway
        with suppress(OSError):  # whoever opens the session next removes it as well
            if self.held.is_ours():
                self.paths.cancel.unlink(missing_ok=True)

    def abandon(self, tool: str) -> None:
        """Write the end of one whose program has abandoned it; quickly, since that program waits."""
        self.close_logs()
        used = self.meter.total
        event = {"status": "cancelled", "tool": tool, "usage": used.to_dict() if used else None}
        if self._tell_end(event, is_durable=False):
            state = self.held.state.having_spent(Spent(usage_of_compaction(used, "cancelled")))
            self.held.attempt("state.toml", lambda: self._write(state))

    def _tell_end(self, event: dict[str, Any], *, is_durable: bool = True) -> bool:
        """Write the final event; return whether it was written: if not, the next opener counts the attempt as lost."""
        (end,) = self.append("compaction", event)
        if is_durable:
            self.journal.sync()
        return self.journal.mark().seq >= end.seq

    def _save(self, result: CompactionResult, *, counts: bool) -> None:
        """Count the tool's usage, by which its running totals have grown; note that it is compacted, if it is."""
        state, outcome = self.held.state, result.outcome
        known = state.tools[result.tool]
        totals = outcome.totals if outcome.totals is not None else known.totals
        if counts:
            state = state.having_spent(Spent(usage_of_compaction(outcome.usage, result.status)))
        if result.status == "succeeded":
            state = replace(state, phase="available", is_compacted=True, last_compacted_at=result.compacted_at)
        self._write(replace(state, tools={**state.tools, result.tool: replace(known, totals=totals)}))

    def _write(self, state: SessionState) -> None:
        if state != self._saved:
            self.held.save(state)


def _new_directory(paths: SessionPaths) -> Path:
    number = 1 + sum(1 for _ in paths.output.glob("compaction-*"))
    directory = paths.output / f"compaction-{number:04d}"
    make_directory(directory)
    return directory


async def _ignore(events: list[Event]) -> None:
    """Discard the events: the transcript has them."""
