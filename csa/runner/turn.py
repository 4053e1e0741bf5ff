"""One turn of a tool in a session: an async context manager, and an async iterator of the events as they are recorded.

    async with client.run(RunRequest(prompt="...")) as turn:
        print(turn.session_id)              # durable and resolvable from here on
        async for event in turn:
            ...
    turn.result                             # set when the block is left

Where the provider fails, further turns of other tools may follow in the same block (`failover`).
However the block is left (also by cancellation of the surrounding task) the tool and all it started are ended, the
outcome is written and the lock released; that part is shielded and bounded in time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from csa.errors import CsaError
from csa.model.adapter import Decoder, Outcome, ToolExit
from csa.model.events import Event
from csa.model.result import RunResult, exit_code_for, link_of
from csa.model.state import ToolState
from csa.paths import SessionPaths
from csa.process.tagged import command_of
from csa.process.tool import SpawnError, ToolProcess, start_tool
from csa.runner.attempt import Attempt
from csa.runner.failover import Evidence, Tried, peak_rss, plan_fallback, total_usage
from csa.runner.fallback import FALLBACK_KINDS
from csa.runner.leftovers import describe, leftovers_of, reap
from csa.runner.plan import TurnPlan
from csa.runner.preparation import Preparation, prepare_turn
from csa.runner.recorder import Recorder, begin, publish
from csa.runner.request import RunRequest
from csa.runner.runfiles import remove_run_files, write_run_files
from csa.runner.setting import Setting
from csa.runner.stopping import Stopping
from csa.runner.verdict import Stop, Verdict, judge
from csa.store.usage_stats import note_turn

_BATCHES = 64


class Turn:
    """A turn that is being run. Enter it once."""

    def __init__(
        self,
        setting: Setting,
        plan: TurnPlan,
        request: RunRequest,
        *,
        csa_command: str,
        owns_process: bool,
        detached: bool = False,
    ) -> None:
        self.plan = plan
        self.session_id = plan.state.session_id
        self.turn = 0
        self.result: RunResult | None = None
        self.losses: list[str] = []
        self._setting = setting
        self._request = request
        self._csa_command = csa_command
        self._owns_process = owns_process
        self._detached = detached
        self._stopping = Stopping()
        self._send, self._receive = anyio.create_memory_object_stream[list[Event]](_BATCHES)
        self._recorder: Recorder
        self._tasks: TaskGroup
        self._prepared: Preparation
        self._first: list[Event] = []
        self._last: list[Event] = []
        self._known: ToolState
        self._tried: list[Tried] = []
        self._evidence = Evidence()
        self._deadline: float | None = None
        self._following: TurnPlan | None = None
        self._ended: list[RunResult] = []

    async def __aenter__(self) -> Self:
        """Take the lock, make the session durable, start the tool. Raises as `plan_turn` and `begin` do."""
        try:
            self._recorder = begin(self._setting.store, self.plan, self._setting.redactor, detached=self._detached)
            self.plan = self._recorder.plan  # which a budget may have bounded
            try:
                self._begin()
            except BaseException:
                self._recorder.close()
                raise
        except BaseException as error:
            self._send.close()
            self._receive.close()
            if isinstance(error, OSError):
                raise CsaError(
                    f"The session cannot be written: {error.strerror}: {error.filename or self._setting.store.path}.",
                    hint="make it writable, or set CSA_STATE_DIR; nothing was started",
                ) from error
            raise
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._supervise)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """End the turn if it still runs, and wait until its end is written."""
        self.cancel(detail="abandoned by its caller")
        self._receive.close()
        try:
            if isinstance(error, Exception):  # the caller's own, which must not come out wrapped in a group
                await self._tasks.__aexit__(None, None, None)
                return None
            return await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group
            raise

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events of this turn as they are recorded, the last one being `run_finished`."""
        async for batch in self._receive:
            for event in batch:
                yield event

    @property
    def paths(self) -> SessionPaths:
        """The session's files."""
        return self._setting.store.paths(self.session_id)

    def cancel(self, *, signal_name: str | None = None, detail: str = "") -> None:
        """Ask the turn to end. Called again with a signal's name, the tool is killed at once."""
        if self._stopping.stop and signal_name:
            self._tasks.cancel_scope.cancel()
        if self.result is None:
            self._stopping.request(Stop("cancelled", signal_name, detail))

    def _begin(self) -> None:
        """Steps two and three: the lock, the invocation, `run_started`, and the session in its place."""
        setting, plan, recorder = self._setting, self.plan, self._recorder
        self.turn = recorder.turn
        self._known = recorder.tool_state
        self._tried, self._evidence = [], Evidence()
        self._prepare()
        reaped = self._reap_earlier()
        self._started_at, self._began_s = datetime.now(UTC), time.monotonic()
        handoff = self._prepared.handoff
        self._first = recorder.start(
            self._request.prompt,
            list(self._prepared.invocation.argv),
            model=plan.model,
            handoff=handoff.data if handoff else None,
        )
        for problem in (*self._prepared.problems, *self._prepared.invocation.warnings):
            self._first += recorder.append("warning", {"kind": "adapter", "message": problem})
        if reaped:
            self._first += recorder.append("warning", {"kind": "leftovers", "message": reaped})
        write_run_files(recorder.paths, self._prepared.invocation.files, self._prepared.invocation.links)
        if plan.is_new:
            publish(setting.store, recorder)
        recorder.open_logs()

    def _reap_earlier(self) -> str:
        """End what a lost turn of this session has left running, since its conversation goes on without it; say so."""
        left = leftovers_of(self._recorder.paths) if self._recorder.follows_lost else []
        if not left:
            return ""
        stubborn = reap(left)
        words = f"ended what the lost turn had left running: {describe(left)}"
        if stubborn:
            words += f"; these would not end: {describe(stubborn)}"
        return words

    def _prepare(self) -> None:
        self._prepared = prepare_turn(
            self._setting,
            self.plan,
            self._request,
            turn=self.turn,
            known=self._known,
            paths=self._recorder.paths,
            csa_command=self._csa_command,
        )

    async def _supervise(self) -> None:
        """Run the turn, and those that follow it by fallback."""
        if self.plan.timeout_s is not None:
            self._deadline = anyio.current_time() + self.plan.timeout_s
        try:
            await self._run_turn()
            while self._follow():
                await self._run_turn()
        finally:
            with anyio.CancelScope(shield=True):
                self.result = self._ended[-1] if self._ended else None
                with anyio.move_on_after(1):
                    await self._deliver(self._last)
                self._send.close()
                self._recorder.close()
                self.losses = self._recorder.losses
                self._note_usage()

    async def _run_turn(self) -> None:
        try:
            await self._deliver(self._first)
            await self._try_until_settled()
        except anyio.get_cancelled_exc_class():
            self._stopping.request(Stop("cancelled", None, "cancelled by the program that ran it"))
            raise
        finally:
            self._finalise()

    async def _try_until_settled(self) -> None:
        """Run the tool; try again while its provider fails in passing and nothing has been done yet."""
        outcome = await self._try()
        if not self.plan.retries or not self._may_retry(outcome):
            return
        from csa.runner.retrying import try_again  # noqa: PLC0415  # brings tenacity, which only failures need

        await try_again(
            outcome, self._try_again, retries=self.plan.retries, may_retry=self._may_retry, pause=self._pause
        )

    async def _try(self) -> Outcome:
        """Run one process of the tool."""
        decoder = self.plan.adapter.decoder(self._prepared.asked)
        end = ToolExit(None, None)
        spawn_fault: SpawnError | None = None
        peak_rss_bytes: int | None = None
        try:
            async with start_tool(
                self._prepared.invocation.argv,
                cwd=self.plan.cwd,
                env=self._prepared.environment,
                shared_fds=self._recorder.held.shared_fds,
                owns_process=self._owns_process,
            ) as tool:
                self._recorder.note(f"started {self.plan.adapter.name}, PID {tool.pid}, guardian {tool.guardian_pid}")
                attempt = Attempt(tool, decoder, self._recorder, self._stopping, self._deliver)
                end = await attempt.run(
                    self._prepared.invocation,
                    timeout_s=self.plan.timeout_s,
                    spent_s=self._spent_s(),
                    idle_timeout_s=self.plan.idle_timeout_s,
                )
                if self._request.keep_background and self._stopping.stop is None:
                    tool.keep_background()
            peak_rss_bytes = tool.peak_rss_bytes
            await self._deliver(self._note_left(tool))
        except SpawnError as error:
            spawn_fault = error
        finally:
            self._tried.append(Tried(self._judge(decoder, end, spawn_fault), end, peak_rss_bytes))
        return self._tried[-1].outcome

    async def _try_again(self) -> Outcome:
        """Run the tool anew: in the conversation it had resumed, or in another new one."""
        before = self._tried[-1].outcome
        if self._stopping.stop:
            return before
        if self._known.provider_session_id and before.totals is not None:
            self._known = replace(self._known, totals=before.totals)
        try:
            self._prepare()
            write_run_files(self._recorder.paths, self._prepared.invocation.files, self._prepared.invocation.links)
        except (CsaError, OSError) as error:
            outcome = Outcome(succeeded=False, error_kind="internal", error_message=f"cannot try again: {error}")
            self._tried.append(Tried(outcome, ToolExit(None, None)))
            return outcome
        return await self._try()

    def _may_retry(self, outcome: Outcome) -> bool:
        return not self._is_stopped and self._evidence.allows_retry(outcome, anyio.current_time())

    @property
    def _is_stopped(self) -> bool:
        """Whether csa was asked to end the turn; that it had to end a tool which would not exit is another matter."""
        return self._stopping.stop is not None and self._stopping.stop.reason != "reaped"

    async def _pause(self, seconds: float) -> None:
        from csa.runner.retrying import rest  # noqa: PLC0415  # see _try_until_settled

        self._stopping = Stopping()
        outcome = self._tried[-1].outcome
        if outcome.retry_after_s is not None:
            self._evidence.excuse(seconds)
        data = {"kind": outcome.error_kind, "message": outcome.error_message, "retry_after_s": round(seconds, 3)}
        data |= {"attempt": len(self._tried), "max": self.plan.retries, "by": "csa"}
        events = self._recorder.append("retry", data)
        self._recorder.journal.flush()
        await self._deliver(events)
        await rest(seconds, self._recorder, self._stopping, deadline=self._deadline, limit_s=self.plan.timeout_s)

    def _spent_s(self) -> float:
        """Return how much of the time limit is over."""
        if self._deadline is None or self.plan.timeout_s is None:
            return 0.0
        return anyio.current_time() - (self._deadline - self.plan.timeout_s)

    def _follow(self) -> bool:
        """Begin the next turn, by another tool, where one is planned; the session's lock is held throughout."""
        plan, before = self._following, self.plan
        if plan is None or self._is_stopped or self._recorder.journal.fault:
            return False
        ended, self._stopping = self._last, Stopping()
        try:
            self._recorder = self._recorder.pass_to(plan)
            self.plan = replace(plan, timeout_s=before.timeout_s)
            self._begin()
        except (CsaError, OSError) as error:
            self._recorder.losses.append(f"{plan.adapter.name} could not go on: {error}")
            self.plan, self.turn = before, self._ended[-1].turn
            return False
        self._first, self._last = [*ended, *self._first], []
        return True

    async def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        self._evidence.note(events, anyio.current_time())
        with suppress(anyio.BrokenResourceError):  # nobody listens any more; the transcript has them
            await self._send.send(events)

    def _note_left(self, tool: ToolProcess) -> list[Event]:
        """Record what the tool had left running, and what became of it."""
        if tool.kept:
            kept = ", ".join(f"{pid} {command_of(pid)[:60]}" for pid in tool.kept)
            return self._recorder.append("warning", {"kind": "background", "message": f"left running: {kept}"})
        if not tool.swept:
            return []
        count = tool.swept
        words = (
            f"{count} processes the tool had left behind were ended" if count > 0 else "some processes would not die"
        )
        return self._recorder.append("warning", {"kind": "leftovers", "message": words})

    def _judge(self, decoder: Decoder, end: ToolExit, spawn_fault: SpawnError | None) -> Outcome:
        if spawn_fault:
            return Outcome(succeeded=False, error_kind="spawn", error_message=str(spawn_fault))
        # A tool that had announced the end of its turn is judged by that, and not by how csa then ended it.
        was_announced = self._stopping.stop is not None and self._stopping.was_announced
        return decoder.close(ToolExit(None, None, end.stderr_tail) if was_announced else end)

    def _finalise(self) -> None:
        """Steps six and seven."""
        remove_run_files(self._recorder.paths)
        stop = self._stopping.stop
        tried = self._tried[-1] if self._tried else Tried(Outcome(succeeded=False), ToolExit(None, None))
        outcome, end = tried.outcome, tried.end
        verdict = judge(outcome, end, stop)
        passed_over = self._plan_fallback(verdict)
        now = datetime.now(UTC)
        result = RunResult(
            session_id=self.session_id,
            turn=self.turn,
            tool=self.plan.adapter.name,
            status=verdict.status,
            exit_code=exit_code_for(
                verdict.status, error_kind=verdict.error_kind, signal_name=stop.signal_name if stop else None
            ),
            tool_exit_code=end.code,
            signal=end.signal,
            model=self.plan.model,
            provider_session_id=self._recorder.tool_state.provider_session_id,
            stop_reason=outcome.stop_reason,
            text=self._setting.redactor.redact_answer(outcome.text),
            error_kind=verdict.error_kind,
            error_message=verdict.error_message,
            usage=total_usage(self._tried),
            duration_s=round(time.monotonic() - self._began_s, 3),  # the clock may have been set meanwhile
            started_at=self._started_at,
            finished_at=now,
            peak_rss_bytes=peak_rss(self._tried),
            denied=outcome.denied,
        )
        if self._ended:
            result = replace(result, chain=(*(link_of(ended) for ended in self._ended), link_of(result)))
        result, events = self._recorder.finish(result, outcome, goes_on=self._following is not None)
        self._recorder.note(f"turn {result.turn}: {result.status}, {verdict.error_message or 'no error'}")
        self._last = [*passed_over, *events]
        self._ended.append(result)

    def _note_usage(self) -> None:
        """Keep what the turns took, for `csa stats`; nobody waits for that, so it comes last."""
        for ended in self._ended:
            if ended.peak_rss_bytes is not None:
                note_turn(
                    self._setting.store,
                    ended.tool,
                    peak_rss_bytes=ended.peak_rss_bytes,
                    duration_s=ended.duration_s,
                )

    def _plan_fallback(self, verdict: Verdict) -> list[Event]:
        """Look for a tool that can go on, and record which cannot, while the turn is still the current one."""
        self._following = None
        if verdict.status != "failed" or verdict.error_kind not in FALLBACK_KINDS or self._is_stopped:
            return []
        self._following, problems = plan_fallback(self._setting, self._request, self.plan, kind=verdict.error_kind)
        data = [{"kind": "fallback", "message": problem} for problem in problems]
        return [event for one in data for event in self._recorder.append("warning", one)]
