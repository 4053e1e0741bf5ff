"""One turn by one tool, once begun: attempted until settled, and judged. The session stays locked throughout.

A turn with a transient provider error and no effect so far is retried with another process of the tool. So is a turn
whose conversation the tool no longer knows: in a new one, which gets a summary of the whole transcript.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from csa.errors import CsaError
from csa.model.adapter import Decoder, Outcome, ToolExit
from csa.model.events import Event
from csa.model.result import (
    NO_NEW_CONVERSATION,
    UNKNOWN_CONVERSATION,
    RunResult,
    exit_code_for,
    json_text,
    link_of,
)
from csa.model.state import ToolState
from csa.model.usage import Usage
from csa.process.launch import SpawnError
from csa.process.memory import count_kills, explain_kill
from csa.process.tool import ToolProcess, attend_tool
from csa.procfs import command_of
from csa.runner.turns.attempt import Attempt
from csa.runner.turns.budgets import BudgetWatch
from csa.runner.turns.failover import RetryGate, Tried, peak_rss, plan_fallback
from csa.runner.turns.fallback import FALLBACK_KINDS
from csa.runner.turns.parking import plan_return, retry_moment, with_stated_delay
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.records import read_records
from csa.runner.turns.runfiles import remove_run_files
from csa.runner.turns.starting import StartedTurn
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import Stop, Verdict, judge, lock_lost
from csa.store.project import git_head
from csa.store.turns import NOTHING_USED
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.turns.askdesk import AskDesk
    from csa.runner.turns.structuring import Answer


class _Ending(Struct):
    outcome: Outcome
    end: ToolExit
    stop: Stop | None
    verdict: Verdict


class TurnExecution:
    """Runs one turn. `following` is the turn that continues it, by another tool or later, once it has ended."""

    def __init__(
        self,
        started: StartedTurn,
        *,
        deliver: Callable[[list[Event]], Awaitable[None]],
        earlier: Sequence[RunResult] = (),
    ) -> None:
        self.recorder = started.recorder
        self.stopping = Stopping()
        self.result: RunResult | None = None
        self.following: TurnPlan | None = None
        self.last: list[Event] = []
        self._started = started
        self._hand_on = deliver
        self._earlier = earlier  # the turns of this run that failed before
        self._known = started.recorder.tool_state
        self._tried: list[Tried] = []
        self._retry_gate = RetryGate()
        self._output: Any = None  # the value of the answer, where a schema asks for one
        self._checked: Outcome | None = None  # the outcome with that answer
        self._deadline: float | None = None
        self._kills = count_kills()
        self._budgets = BudgetWatch(started.recorder, began_s=started.began_s)

    @property
    def plan(self) -> TurnPlan:
        """The plan; with another fork if the conversation had to be renewed."""
        return self._started.plan

    async def run(self, *, deadline: float | None) -> None:
        """Run the turn to its end, which is always written; `deadline` limits all turns of the run."""
        self._deadline = deadline
        try:
            await self._deliver(self._started.first)
            await self._try_until_settled()
            await self._check_answer()
        except anyio.get_cancelled_exc_class():
            self.stopping.request(Stop("cancelled", None, "cancelled by the program that ran it"))
            raise
        finally:
            try:
                await self._end_unattended()
            finally:
                await self._finalise()

    async def _end_unattended(self) -> None:
        """End a tool that was launched early, if the turn was cancelled before anybody attended to it."""
        if self._started.is_ahead:
            with anyio.CancelScope(shield=True), suppress(SpawnError):
                async with attend_tool(self._started.take(), owns_process=self.plan.context.owns_process):
                    pass

    async def _try_until_settled(self) -> None:
        """Run the tool; retry transient provider errors while nothing has been done yet."""
        if (setup := self._started.setup) is not None and not await self._set_up(setup):
            return
        outcome = await self._try()
        if not self.plan.retries or not self._may_retry(outcome):
            return
        from csa.runner.turns.retrying import try_again  # noqa: PLC0415  # imports tenacity, which only failures need

        await try_again(
            outcome, self._try_again, retries=self.plan.retries, may_retry=self._may_retry, pause=self._pause
        )

    async def _set_up(self, command: str) -> bool:
        """Run what prepares the session's worktree; say whether the tool may start."""
        from csa.runner.turns.setup import fault_of_setup, run_setup  # noqa: PLC0415  # few turns need one

        end = ToolExit(None, None)
        try:
            end = await run_setup(
                command,
                self._started,
                self.stopping,
                self._deliver,
                spent_s=self._spent_s(),
                budgets=self._budgets.keep,
            )
        finally:
            fault = fault_of_setup(command, end)
            if fault or self.stopping.stop:
                outcome = Outcome(succeeded=False, error_kind="setup", error_message=fault)
                self._tried.append(Tried(outcome, end))
        return not self._tried

    async def _try(self) -> Outcome:
        """Run the tool; if it does not know the conversation, once more in a new one that gets a summary."""
        outcome = await self._run_tool()
        if outcome.error_kind != UNKNOWN_CONVERSATION or self.is_stopped or self._retry_gate.has_acted:
            return outcome
        known = replace(self._known, provider_session_id=None, totals=None)
        try:
            renewed = self._started.renew(known, self._tried[-1].end)
        except (CsaError, OSError) as error:
            outcome = replace(outcome, error_message=f"{outcome.error_message}; {NO_NEW_CONVERSATION}: {error}")
            self._tried[-1] = replace(self._tried[-1], outcome=outcome)
            return outcome
        if renewed is None:
            return outcome
        self._known, self.stopping = known, Stopping()
        self._tried.clear()  # it has only searched for a missing conversation
        await self._deliver(renewed)
        return await self._run_tool()

    async def _run_tool(self) -> Outcome:
        """Run one process of the tool."""
        command = self._started.command
        decoder = self.plan.adapter.decoder(command.asked)
        end = ToolExit(None, None)
        spawn_fault: SpawnError | None = None
        peak_rss_bytes: int | None = None
        try:
            async with attend_tool(self._started.take(), owns_process=self.plan.context.owns_process) as tool:
                self.recorder.note(f"started {self.plan.adapter.name}, PID {tool.pid}, guardian {tool.guardian_pid}")
                attempt = Attempt(tool, decoder, self.recorder, self.stopping, self._deliver, desk=self._open_desk())
                end = await attempt.run(
                    command.invocation,
                    timeout_s=self.plan.limit_s("timeout_s"),
                    spent_s=self._spent_s(),
                    idle_timeout_s=self.plan.limit_s("idle_timeout_s"),
                    with_other_tools=bool(self.plan.fallback),
                    budgets=self._budgets.keep,
                    stop_at_end=command.stand_in.stop if command.stand_in else None,
                )
                if self.plan.request.keep_background and self.stopping.stop is None:
                    tool.keep_background()
            peak_rss_bytes = tool.peak_rss_bytes
            await self._deliver(self._note_left(tool))
            told = []
            with self.recorder.held.losing("the tool's own records", "read"):
                records = command.stand_in.records if command.stand_in else read_records(decoder)
                told = self.recorder.record(records)
            await self._deliver(told)
        except SpawnError as error:
            spawn_fault = error
        finally:
            self._tried.append(Tried(self._judge(decoder, end, spawn_fault), end, peak_rss_bytes))
            if spawn_fault is None and self._tried[-1].outcome.error_kind not in NOTHING_USED:
                self.recorder.meter.settle(self._tried[-1].outcome.usage)
        return self._tried[-1].outcome

    def _open_desk(self) -> AskDesk | None:
        if self.plan.asks is None or self._started.command.stand_in:
            return None
        from csa.runner.turns.askdesk import AskDesk  # noqa: PLC0415  # few turns ask

        return AskDesk(self.plan.asks, self.recorder, self.stopping, limit_s=self.plan.ask_timeout_s)

    async def _try_again(self) -> Outcome:
        """Run the tool again: in the conversation it had resumed, or in another new one."""
        before = self._tried[-1].outcome
        if self.stopping.stop:
            return before
        if self._known.provider_session_id and before.totals is not None:
            self._known = replace(self._known, totals=before.totals)
        try:
            self._started.command_again(self._known)
        except (CsaError, OSError) as error:
            outcome = Outcome(succeeded=False, error_kind="internal", error_message=f"cannot retry: {error}")
            self._tried.append(Tried(outcome, ToolExit(None, None)))
            return outcome
        return await self._try()

    async def _check_answer(self) -> None:
        """Read the value that was asked for; if the answer does not conform, ask once more in the same conversation."""
        if (schema := self.plan.request.schema) is None or not self._tried[-1].outcome.succeeded:
            return
        from csa.runner.turns.structuring import plan_correction, read_answer  # noqa: PLC0415  # see there

        first = self._tried[-1].outcome
        answer = await read_answer(first.text, schema)
        self._take_answer(answer)
        if not answer.fault or answer.fault.is_of_schema or self.is_stopped:
            return
        known = self.recorder.tool_state
        is_known = known.provider_session_id is not None and not self.plan.state.ephemeral
        plan = plan_correction(self.plan, answer.fault, first.text, is_known=is_known)
        known = replace(known, totals=first.totals) if is_known else ToolState()
        second = await self._ask_again(plan, known, answer.fault.message)
        if second is not None and second.succeeded:
            self._take_answer(await read_answer(second.text, schema))

    def _take_answer(self, answer: Answer) -> None:
        """Judge the last attempt by its answer, too; without that it has not succeeded, whatever ends the turn."""
        from csa.runner.turns.structuring import judged  # noqa: PLC0415  # see there

        self._output, self._checked = answer.value, judged(self._tried[-1].outcome, answer)
        self._tried[-1] = replace(self._tried[-1], outcome=self._checked)

    async def _ask_again(self, plan: TurnPlan, known: ToolState, fault: str) -> Outcome | None:
        """Run the tool with another prompt of this turn; None if it cannot be."""
        try:
            self._started.command_again(known, plan)
        except (CsaError, OSError) as error:
            data = {"kind": "invalid_output", "message": f"cannot ask again: {error}"}
            await self._deliver(self.recorder.append("warning", data))
            return None
        self._known, self.stopping = known, Stopping()
        again = {"kind": "invalid_output", "message": fault, "attempt": 1, "max": 1, "by": "csa"}
        again |= {"process": self.recorder.end_process(self._tried[-1].end)}
        told = self.recorder.append("retry", again)
        await self._deliver(told + self.recorder.append("user_message", {"text": plan.request.prompt}))
        denied = self._tried[-1].outcome.denied
        await self._run_tool()
        outcome = self._tried[-1].outcome
        outcome = replace(outcome, text=outcome.text or self._tried[-2].outcome.text, denied=(*denied, *outcome.denied))
        self._tried[-1] = replace(self._tried[-1], outcome=outcome)
        return outcome

    def _may_retry(self, outcome: Outcome) -> bool:
        return not self.is_stopped and self._retry_gate.allows_retry(outcome, anyio.current_time())

    @property
    def is_stopped(self) -> bool:
        """Whether csa was asked to end the turn; ending a tool that did not exit does not count."""
        return self.stopping.stop is not None and self.stopping.stop.reason != "reaped"

    async def _pause(self, seconds: float) -> None:
        from csa.runner.turns.retrying import rest  # noqa: PLC0415  # see _try_until_settled

        self.stopping = Stopping()
        outcome = self._tried[-1].outcome
        if outcome.retry_after_s is not None:
            self._retry_gate.excuse(seconds)
        data: dict[str, Any] = {"kind": outcome.error_kind, "message": outcome.error_message}
        data |= {"retry_after_s": round(seconds, 3)}
        data |= {"attempt": len(self._tried), "max": self.plan.retries, "by": "csa"}
        data |= {"process": self.recorder.end_process(self._tried[-1].end)}
        events = self.recorder.append("retry", data)
        self.recorder.journal.flush()
        await self._deliver(events)
        async with anyio.create_task_group() as watchers:

            def warn(message: str) -> None:
                data = {"kind": "budget", "message": message}
                watchers.start_soon(self._deliver, self.recorder.append("warning", data))

            watchers.start_soon(self._budgets.keep, self.stopping, warn)
            await rest(seconds, self.recorder, self.stopping, deadline=self._deadline, limit_s=self.plan.timeout_s)
            watchers.cancel_scope.cancel()

    def _spent_s(self) -> float:
        """Return how much of the time limit has passed."""
        if self._deadline is None or self.plan.timeout_s is None:
            return 0.0
        return anyio.current_time() - (self._deadline - self.plan.timeout_s)

    async def _deliver(self, events: list[Event]) -> None:
        self._retry_gate.note(events, anyio.current_time())
        self.recorder.journal.flush()  # what is shown must survive our death
        await self._hand_on(events)

    def _note_left(self, tool: ToolProcess) -> list[Event]:
        """Record what the tool had left running, and what happened to it."""
        if tool.kept:
            kept = ", ".join(f"{pid} {command_of(pid)[:60]}" for pid in tool.kept)
            return self.recorder.append("warning", {"kind": "background", "message": f"left running: {kept}"})
        if not tool.swept:
            return []
        count = tool.swept
        ended = f"ended {count} process{'es' * (count != 1)} that the tool had left running"
        words = ended if count > 0 else "some processes did not die"
        return self.recorder.append("warning", {"kind": "leftovers", "message": words})

    def _judge(self, decoder: Decoder, end: ToolExit, spawn_fault: SpawnError | None) -> Outcome:
        if spawn_fault:
            return Outcome(succeeded=False, error_kind="spawn", error_message=str(spawn_fault))
        # A tool that had announced the end of its turn is judged by that, not by how csa then ended it.
        was_announced = self.stopping.stop is not None and self.stopping.was_announced
        outcome = decoder.close(ToolExit(None, None, end.stderr_tail) if was_announced else end)
        if (stand_in := self._started.command.stand_in) and stand_in.records:
            outcome = replace(outcome, usage=Usage.from_dict(stand_in.records[-1].data))
        return with_stated_delay(outcome)

    async def _finalise(self) -> None:
        """Steps six to eight. Whatever interrupts the keeping of the work, the end is recorded."""
        ending = self._conclude()
        head: str | None = None
        commit: str | None = None
        with self.recorder.held.losing("the project's commit", "read"):
            head = git_head(Path(self.plan.cwd))
        try:
            if self.recorder.held.state.worktree is not None:
                with self.recorder.held.losing("what is in the worktree", "committed"), anyio.CancelScope(shield=True):
                    from csa.runner.turns.turnwork import keep_turn  # noqa: PLC0415  # few sessions have a worktree

                    kept, problems = await keep_turn(self.recorder)
                    self.last += problems
                    head, commit = (kept.tip, kept.commit) if kept else (head, None)
        finally:
            self._record_end(ending, head, commit)

    def _conclude(self) -> _Ending:
        """Judge the turn, and plan which tool takes over."""
        if self.recorder.is_ours():
            remove_run_files(self.recorder.paths)
        else:
            self.stopping.request(lock_lost())
        stop = self.stopping.stop
        tried = self._tried[-1] if self._tried else Tried(Outcome(succeeded=False), ToolExit(None, None))
        outcome, end = tried.outcome, tried.end
        if self.plan.request.schema is not None and outcome.succeeded and outcome is not self._checked:
            message = "the turn ended before its answer was checked"
            outcome = replace(outcome, succeeded=False, error_kind="invalid_output", error_message=message)
        verdict = judge(outcome, end, stop, explain=lambda: explain_kill(self._kills, count_kills()))
        with self.recorder.held.losing("a fallback", "planned"):
            self.last += self._plan_fallback(verdict)
        if verdict.status == "succeeded" and not outcome.text.strip():
            data = {"kind": "no_answer", "message": "the turn succeeded without an answer"}
            self.last += self.recorder.append("warning", data)
        return _Ending(outcome, end, stop, verdict)

    def _record_end(self, ending: _Ending, head: str | None, commit: str | None) -> None:
        """Record how the turn ended, and what comes next."""
        outcome, end, stop, verdict = ending.outcome, ending.end, ending.stop, ending.verdict
        now = datetime.now(UTC)
        result = RunResult(
            session_id=self.plan.state.session_id,
            name=self.recorder.held.state.name,  # it may have been renamed
            project=self.plan.context.store.project_pathname,
            turn=self.recorder.turn,
            tool=self.plan.adapter.name,
            status=verdict.status,
            exit_code=exit_code_for(
                verdict.status, error_kind=verdict.error_kind, signal_name=stop.signal_name if stop else None
            ),
            tool_exit_code=end.code,
            signal=end.signal,
            model=self.plan.model,
            provider_session_id=self.recorder.tool_state.provider_session_id,
            stop_reason=outcome.stop_reason,
            text=self.plan.context.redactor.redact_answer(outcome.text),
            error_kind=verdict.error_kind,
            error_message=verdict.error_message,
            retry_at=retry_moment(outcome, now) if verdict.status == "failed" else None,
            usage=self.recorder.meter.total,
            duration_s=round(time.monotonic() - self._started.began_s, 3),  # the clock may have been set meanwhile
            started_at=self._started.started_at,
            finished_at=now,
            peak_rss_bytes=peak_rss(self._tried),
            denied=outcome.denied,
            head=head,
            commit=commit,
        )
        if self.plan.request.schema is not None and verdict.status == "succeeded":
            output = self.plan.context.redactor.redact_output(self._output)
            result = replace(result, output=output, text=json_text(output))
        if self._earlier:
            result = replace(result, chain=(*(link_of(ended) for ended in self._earlier), link_of(result)))
        with self.recorder.held.losing("the quota's return", "waited for"):
            self.last += self._plan_return(result)
        result, events = self.recorder.finish(result, outcome, goes_on=self.following is not None)
        self.recorder.note(f"turn {result.turn}: {result.status}, {verdict.error_message or 'no error'}")
        if self.plan.context.config.checkpoint_every_turns:
            with self.recorder.held.losing("the checkpoint"):
                from csa.runner.turns.checkpointing import checkpoint_turn  # noqa: PLC0415  # imports git plumbing

                checkpoint_turn(self.recorder)
        self.last += events
        self.result = result

    def _plan_return(self, result: RunResult) -> list[Event]:
        """Check whether the same tool should continue later, if nobody can take over now."""
        if self.following is not None or self.is_stopped:
            return []
        try:
            self.following = plan_return(self.plan, result, has_acted=self._retry_gate.has_acted)
        except CsaError as error:
            message = f"{self.plan.adapter.name} cannot continue when its quota resets: {error.message}"
            return self.recorder.append("warning", {"kind": "parked", "message": message})
        if self.following is None and self.plan.park_limit_s and result.error_kind == "quota":
            why = "the time is not stated" if result.retry_at is None else "it is beyond the limit, or past"
            message = f"not waiting for the quota to reset: {why}"
            return self.recorder.append("warning", {"kind": "parked", "message": message})
        return []

    def _plan_fallback(self, verdict: Verdict) -> list[Event]:
        """Look for a tool that can take over, and record which cannot, while the turn is still the current one."""
        self.following = None
        if verdict.status != "failed" or verdict.error_kind not in FALLBACK_KINDS or self.is_stopped:
            return []
        self.following, problems = plan_fallback(self.plan, kind=verdict.error_kind)
        data = [{"kind": "fallback", "message": problem} for problem in problems]
        return [event for one in data for event in self.recorder.append("warning", one)]
