"""One turn of a tool in a session: an async context manager, and an async iterator of the events as they are recorded.

    async with client.run(RunRequest(prompt="...")) as turn:
        print(turn.session_id)              # durable and resolvable from here on
        async for event in turn:
            ...
    turn.result                             # there from `run_finished` on, the last event

Where the provider fails, further turns of other tools may follow in the same block (`failover`).
However the block is left (also by cancellation of the surrounding task) the tool and all it started are ended, the
outcome is written and the lock released; that part is shielded and bounded in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from csa.errors import CsaError, UnfinishedError
from csa.model.events import Event
from csa.model.result import SIGNAL_EXITS, RunResult
from csa.paths import SessionPaths
from csa.runner.turns.execution import TurnExecution
from csa.runner.turns.parking import rest_until
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.starting import StartedTurn, start_turn
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.turnrecorder import TurnRecorder
from csa.runner.turns.turnwork import release
from csa.runner.turns.verdict import Stop
from csa.store.parked import forget_parked
from csa.store.queue import count_queued, why_held
from csa.store.usage_stats import note_turn
from csa.structs import replace

_BATCHES = 64


class Turn:
    """A running turn. Enter it once, with `async with`; iterate over it with `async for`.

    However the block is left while the agent works (`break`, `return`, an exception, a cancelled task), the agent and
    all it has started are ended first, and the outcome is recorded: `result.status` is then "cancelled". An exception
    comes out of the block as it is. The session stays, and can be continued.

    Attributes:
        session_id: the session's ULID, which any process can find from the moment the block is entered.
        turn: the number of the turn; it grows when a fallback takes over.
        plan: what is being carried out: the tool, its command, the limits.
        losses: after the end, what could not be recorded.
        successor: after the end, the turn of the next queued prompt, if that has begun under the same lock.
        is_handed_over: after the end, whether another process goes on with the session's queue.
    """

    def __init__(self, plan: TurnPlan, started: StartedTurn | None = None) -> None:
        """Take a plan to execute, or with `started` one that is already being executed."""
        self.plan = plan
        self.session_id = plan.state.session_id
        self.turn = 0
        self._result: RunResult | None = None
        self.losses: list[str] = []
        # Called when the turn begins to wait for a quota, with the plan for afterwards and the time.
        self.on_parked: Callable[[TurnPlan, datetime], None] = lambda _plan, _until: None
        # Called after a success: begins the next queued prompt, whose turn the caller has to enter.
        self.pass_on: Callable[[TurnRecorder], Turn | None] = lambda _recorder: None
        # Called when the lock is released and prompts wait.
        self.hand_over: Callable[[], None] = lambda: None
        self.successor: Turn | None = None
        self.is_handed_over = False
        self._asked = plan.request
        self._started = started
        self._send, self._receive = anyio.create_memory_object_stream[list[Event]](_BATCHES)
        self._tasks: TaskGroup
        self._kill: anyio.CancelScope  # around the tool only: consumers still get the end of the turn
        self._execution: TurnExecution
        self._ended: list[RunResult] = []
        self._ended_by = ""  # the signal that came after the end

    async def __aenter__(self) -> Self:
        """Take the lock, make the session durable, start the tool. Raises as `plan_turn` and `begin` do."""
        try:
            started = self._started or start_turn(self.plan)
        except BaseException:
            self._send.close()
            self._receive.close()
            raise
        self._asked = started.plan.request  # a repair knows its prompt by now
        self._execute(started)
        self._kill = anyio.CancelScope()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._supervise)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the turn if it is still running, and wait until its end is written."""
        self.cancel(detail="abandoned by its caller")
        self._receive.close()
        try:
            if isinstance(error, Exception):  # the caller's own, which must not come out wrapped in a group
                await self._tasks.__aexit__(None, None, None)
            else:
                await self._tasks.__aexit__(kind, error, trace)
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
    def has_ended(self) -> bool:
        """Whether the turn has a result."""
        return self._result is not None

    @property
    def result(self) -> RunResult:
        """How the turn ended; UnfinishedError before its end, which the last event, `run_finished`, announces."""
        if self._result is None:
            raise UnfinishedError(
                f"The turn of session {self.session_id} has no result yet.",
                hint="read turn.result after the `async with` block, or after its last event",
            )
        return self._result

    @property
    def paths(self) -> SessionPaths:
        """The session's files."""
        return self.plan.context.store.paths(self.session_id)

    def cancel(self, *, signal_name: str | None = None, detail: str = "") -> None:
        """Ask the turn to end. Called again with a signal's name, the tool is killed at once.

        After its end a signal ends the encryption of the session, which csa gc does then.
        """
        if self._result is not None and signal_name:
            self._ended_by = signal_name
        if self._execution.stopping.stop and signal_name:
            self._kill.cancel()
        if self._result is None:
            self._execution.stopping.request(Stop("cancelled", signal_name, detail))

    async def _supervise(self) -> None:
        """Run the turn, and those that follow it by fallback."""
        limit_s = self.plan.limit_s("timeout_s")
        deadline = None if limit_s is None else anyio.current_time() + limit_s
        try:
            with self._kill:
                await self._run_execution(deadline)
                while True:
                    rested_s = await self._rest()
                    if not self._follow():
                        break
                    deadline = None if deadline is None else deadline + rested_s
                    await self._run_execution(deadline)
        finally:
            with anyio.CancelScope(shield=True):
                self._result = self._with_signal(self._ended[-1]) if self._ended else None
                with anyio.move_on_after(1):
                    await self._deliver(self._execution.last)
                recorder = self._execution.recorder
                await self._leave(recorder)
                self._send.close()
                with recorder.held.losing("usage_stats.toml"):
                    self._note_usage()
                self.losses = [*recorder.losses]
                if self.successor:
                    recorder.losses.clear()

    async def _leave(self, recorder: TurnRecorder) -> None:
        """Let the next queued prompt begin under the same lock; else release it, and have another process go on."""
        goes_on = (
            self._result is not None
            and self._result.status == "succeeded"
            and not recorder.journal.fault
            and self.plan.replay is None  # what follows would find the same recording in place of its tool
        )
        with recorder.held.losing("the session's queue", "gone on with"):
            self.successor = self.pass_on(recorder) if goes_on else None
        if self.successor:
            return
        with recorder.held.losing("the session's lock", "released"):
            await release(recorder, self._heed)
        with recorder.held.losing("the session's queue", "handed over"):
            if goes_on and count_queued(self.paths) and why_held(self.paths) is None:
                await anyio.to_thread.run_sync(self.hand_over)
                self.is_handed_over = True

    def _heed(self) -> None:
        if self._ended_by:
            raise CsaError(f"{self._ended_by} came first; csa seal --all does it")

    async def _run_execution(self, deadline: float | None) -> None:
        try:
            await self._execution.run(deadline=deadline)
        finally:
            if self._execution.result:
                self._ended.append(self._execution.result)

    async def _rest(self) -> float:
        """Wait if the next turn has to wait for a quota; return for how long."""
        execution, plan, began = self._execution, self._execution.following, anyio.current_time()
        if plan is None or plan.starts_at is None or execution.recorder.journal.fault:
            return 0.0
        execution.stopping = Stopping()  # what ended the tool does not end the wait
        parked = execution.recorder.park(plan.starts_at, kind=self._ended[-1].error_kind)
        await self._deliver([*execution.last, *parked])
        execution.last = []
        self.on_parked(plan, plan.starts_at)
        try:
            await rest_until(plan.starts_at, execution.recorder, execution.stopping)
        finally:
            stop = execution.stopping.stop
            shuts_down = plan.context.is_detached and stop and stop.signal_name  # it continues later
            if not shuts_down:
                forget_parked(self.plan.context.store, self.session_id)
        if stop:
            message = f"waiting for the quota was ended: {stop.detail or stop.signal_name or 'cancelled'}"
            execution.last = execution.recorder.append("warning", {"kind": "parked", "message": message})
        return anyio.current_time() - began

    def _with_signal(self, result: RunResult) -> RunResult:
        """Return the last turn's result with the exit code of a signal that ended the wait after it."""
        stop, plan = self._execution.stopping.stop, self._execution.following
        if plan is None or plan.starts_at is None or stop is None or stop.signal_name not in SIGNAL_EXITS:
            return result
        return replace(result, exit_code=SIGNAL_EXITS[stop.signal_name])

    def _follow(self) -> bool:
        """Begin the next turn, if one is planned; the session's lock is held throughout."""
        before, plan = self._execution, self._execution.following
        if plan is None or before.is_stopped or before.recorder.journal.fault:
            return False
        plan = replace(plan, timeout_s=before.plan.timeout_s)
        if plan.starts_at is None:  # another tool gets the whole prompt, even if this one was only asked to continue
            request = replace(plan.request, prompt=self._asked.prompt, fallback=self._asked.fallback)
            plan = replace(plan, request=request)
        recorder = before.recorder
        try:
            recorder = before.recorder.pass_to(plan)
            started = StartedTurn(recorder)
        except (CsaError, OSError) as error:
            before.recorder = recorder
            recorder.losses.append(f"{plan.adapter.name} could not continue: {error}")
            return False
        started.first = [*before.last, *started.first]
        self._execute(started)
        return True

    def _execute(self, started: StartedTurn) -> None:
        self.plan, self.turn = started.plan, started.recorder.turn
        self._execution = TurnExecution(started, deliver=self._deliver, earlier=tuple(self._ended))

    async def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        with suppress(anyio.BrokenResourceError):  # nobody reads them any more; the transcript has them
            await self._send.send(events)

    def _note_usage(self) -> None:
        """Record what the turns took, for `csa stats`; nobody waits for that, so it comes last."""
        for ended in self._ended:
            if ended.peak_rss_bytes is not None and self.plan.replay is None:
                note_turn(
                    self.plan.context.store,
                    ended.tool,
                    peak_rss_bytes=ended.peak_rss_bytes,
                    duration_s=ended.duration_s,
                )
