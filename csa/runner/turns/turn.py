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

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from csa.errors import CsaError
from csa.model.events import Event
from csa.model.result import SIGNAL_EXITS, RunResult
from csa.paths import SessionPaths
from csa.runner.request import RunRequest
from csa.runner.setting import Setting
from csa.runner.turns.course import Course
from csa.runner.turns.opening import Opening, open_turn
from csa.runner.turns.parking import Parking, rest_until
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import Stop
from csa.store.parked import forget_parked
from csa.store.usage_stats import note_turn
from csa.structs import replace

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
        opening: Opening | None = None,
    ) -> None:
        """Take a plan that is to be carried out, or already is being: then with its `opening`."""
        self.plan = plan
        self.session_id = plan.state.session_id
        self.turn = 0
        self.result: RunResult | None = None
        self.losses: list[str] = []
        self.on_parked: Callable[[Parking], None] = lambda _: None  # is told when the turn begins to wait for a quota
        self._setting = setting
        self._request = request
        self._csa_command = csa_command
        self._owns_process = owns_process
        self._detached = detached
        self._opening = opening
        self._send, self._receive = anyio.create_memory_object_stream[list[Event]](_BATCHES)
        self._tasks: TaskGroup
        self._kill: anyio.CancelScope  # around the tool alone: who listens still hears how the turn has ended
        self._course: Course
        self._ended: list[RunResult] = []

    async def __aenter__(self) -> Self:
        """Take the lock, make the session durable, start the tool. Raises as `plan_turn` and `begin` do."""
        try:
            opening = self._opening or open_turn(
                self._setting, self.plan, self._request, csa_command=self._csa_command, detached=self._detached
            )
        except BaseException:
            self._send.close()
            self._receive.close()
            raise
        self._take(self._new_course(opening))
        self._kill = anyio.CancelScope()
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
        if self._course.stopping.stop and signal_name:
            self._kill.cancel()
        if self.result is None:
            self._course.stopping.request(Stop("cancelled", signal_name, detail))

    async def _supervise(self) -> None:
        """Run the turn, and those that follow it by fallback."""
        limit_s = self.plan.timeout_s
        deadline = None if limit_s is None else anyio.current_time() + limit_s
        try:
            with self._kill:
                await self._run_course(deadline)
                while True:
                    rested_s = await self._rest()
                    if not self._follow():
                        break
                    deadline = None if deadline is None else deadline + rested_s
                    await self._run_course(deadline)
        finally:
            with anyio.CancelScope(shield=True):
                self.result = self._with_signal(self._ended[-1]) if self._ended else None
                with anyio.move_on_after(1):
                    await self._deliver(self._course.last)
                self._send.close()
                recorder = self._course.recorder
                with recorder.held.losing("the session's lock", "released"):
                    recorder.close()
                self.losses = recorder.losses
                with recorder.held.losing("usage_stats.toml"):
                    self._note_usage()

    async def _run_course(self, deadline: float | None) -> None:
        try:
            await self._course.run(deadline=deadline)
        finally:
            if self._course.result:
                self._ended.append(self._course.result)

    async def _rest(self) -> float:
        """Wait where the next turn is to wait for a quota; return for how long."""
        course, parking, began = self._course, self._course.parking, anyio.current_time()
        if parking is None or course.recorder.journal.fault:
            return 0.0
        course.stopping = Stopping()  # what ended the tool does not end the waiting
        parked = course.recorder.park(parking.until, kind=self._ended[-1].error_kind)
        await self._deliver([*course.last, *parked])
        course.last = []
        self.on_parked(parking)
        try:
            await rest_until(parking, course.recorder, course.stopping)
        finally:
            stop = course.stopping.stop
            if not (self._detached and stop and stop.signal_name):  # a machine shuts down so, and it goes on later
                forget_parked(self._setting.store, self.session_id)
        if stop:
            message = f"the waiting for the quota was ended: {stop.detail or stop.signal_name or 'cancelled'}"
            course.last = course.recorder.append("warning", {"kind": "parked", "message": message})
        return anyio.current_time() - began

    def _with_signal(self, result: RunResult) -> RunResult:
        """Return the last turn's result with the exit code of a signal that ended the waiting after it."""
        stop = self._course.stopping.stop
        if self._course.parking is None or stop is None or stop.signal_name not in SIGNAL_EXITS:
            return result
        return replace(result, exit_code=SIGNAL_EXITS[stop.signal_name])

    def _follow(self) -> bool:
        """Begin the next turn, where one is planned; the session's lock is held throughout."""
        before, plan = self._course, self._course.following
        if plan is None or before.is_stopped or before.recorder.journal.fault:
            return False
        recorder = before.recorder
        try:
            recorder = before.recorder.pass_to(plan)
            plan = replace(plan, timeout_s=before.plan.timeout_s)
            request = before.parking.request if before.parking else self._request
            opening = Opening(self._setting, plan, request, recorder, csa_command=self._csa_command)
        except (CsaError, OSError) as error:
            before.recorder = recorder
            recorder.losses.append(f"{plan.adapter.name} could not go on: {error}")
            return False
        course = self._new_course(opening)
        course.first = [*before.last, *course.first]
        self._take(course)
        return True

    def _new_course(self, opening: Opening) -> Course:
        return Course(opening, owns_process=self._owns_process, deliver=self._deliver, earlier=tuple(self._ended))

    def _take(self, course: Course) -> None:
        self._course, self.plan, self.turn = course, course.plan, course.turn

    async def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        with suppress(anyio.BrokenResourceError):  # nobody listens any more; the transcript has them
            await self._send.send(events)

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
