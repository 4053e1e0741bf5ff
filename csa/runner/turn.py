"""One turn of a tool in a session: an async context manager, and an async iterator of the events as they are recorded.

    async with client.run(RunRequest(prompt="...")) as turn:
        print(turn.session_id)              # durable and resolvable from here on
        async for event in turn:
            ...
    turn.result                             # set when the block is left

However the block is left (also by cancellation of the surrounding task) the tool and all it started are ended, the
outcome is written and the lock released; that part is shielded and bounded in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from csa.errors import CsaError
from csa.model.adapter import Decoder, Outcome, ToolExit
from csa.model.events import Event
from csa.model.result import RunResult, exit_code_for
from csa.process.tool import SpawnError, start_tool
from csa.runner.attempt import Attempt
from csa.runner.plan import TurnPlan
from csa.runner.preparation import Preparation, prepare_turn
from csa.runner.recorder import Recorder, begin, publish
from csa.runner.request import RunRequest
from csa.runner.runfiles import remove_run_files, write_run_files
from csa.runner.setting import Setting
from csa.runner.stopping import Stopping
from csa.runner.verdict import Stop, judge

_BATCHES = 64


class Turn:
    """A turn that is being run. Enter it once."""

    def __init__(
        self, setting: Setting, plan: TurnPlan, request: RunRequest, *, csa_command: str, owns_process: bool
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
        self._stopping = Stopping()
        self._send, self._receive = anyio.create_memory_object_stream[list[Event]](_BATCHES)
        self._recorder: Recorder
        self._tasks: TaskGroup
        self._prepared: Preparation
        self._first: list[Event] = []
        self._last: list[Event] = []

    async def __aenter__(self) -> Self:
        """Take the lock, make the session durable, start the tool. Raises as `plan_turn` and `begin` do."""
        try:
            self._recorder = begin(self._setting.store, self.plan, self._setting.redactor)
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
        self._prepared = prepare_turn(
            setting,
            plan,
            self._request,
            turn=self.turn,
            known=recorder.tool_state,
            paths=recorder.paths,
            csa_command=self._csa_command,
        )
        self._started_at = datetime.now(UTC)
        handoff = self._prepared.handoff
        self._first = recorder.start(
            self._request.prompt,
            list(self._prepared.invocation.argv),
            model=plan.model,
            handoff=handoff.data if handoff else None,
        )
        for problem in (*self._prepared.problems, *self._prepared.invocation.warnings):
            self._first += recorder.append("warning", {"kind": "adapter", "message": problem})
        write_run_files(recorder.paths, self._prepared.invocation.files)
        if plan.is_new:
            publish(setting.store, recorder)
        recorder.open_logs()

    async def _supervise(self) -> None:
        decoder = self.plan.adapter.decoder(self._prepared.asked)
        end = ToolExit(None, None)
        spawn_fault: SpawnError | None = None
        peak_rss: int | None = None
        try:
            await self._deliver(self._first)
            async with start_tool(
                self._prepared.invocation.argv,
                cwd=self.plan.cwd,
                env=self._prepared.environment,
                shared_fds=self._recorder.held.shared_fds,
                owns_process=self._owns_process,
            ) as tool:
                attempt = Attempt(tool, decoder, self._recorder, self._stopping, self._deliver)
                end = await attempt.run(self._prepared.invocation, timeout_s=self.plan.timeout_s)
            peak_rss = tool.peak_rss_bytes
            if tool.swept:
                await self._note_swept(tool.swept)
        except SpawnError as error:
            spawn_fault = error
        except anyio.get_cancelled_exc_class():
            self._stopping.request(Stop("cancelled", None, "cancelled by the program that ran it"))
            raise
        finally:
            with anyio.CancelScope(shield=True):
                self._finalise(decoder, end, spawn_fault, peak_rss)
                with anyio.move_on_after(1):
                    await self._deliver(self._last)
                self._send.close()
                self._recorder.close()
                self.losses = self._recorder.losses

    async def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        with suppress(anyio.BrokenResourceError):  # nobody listens any more; the transcript has them
            await self._send.send(events)

    async def _note_swept(self, count: int) -> None:
        left = f"{count} processes the tool had left behind were ended" if count > 0 else "some processes would not die"
        await self._deliver(self._recorder.append("warning", {"kind": "leftovers", "message": left}))

    def _finalise(self, decoder: Decoder, end: ToolExit, spawn_fault: SpawnError | None, peak_rss: int | None) -> None:
        """Steps six and seven."""
        remove_run_files(self._recorder.paths)
        stop = self._stopping.stop
        # A tool that had announced the end of its turn is judged by that, and not by how csa then ended it.
        judged_end = ToolExit(None, None, end.stderr_tail) if stop and self._stopping.was_announced else end
        outcome = (
            Outcome(succeeded=False, error_kind="spawn", error_message=str(spawn_fault))
            if spawn_fault
            else decoder.close(judged_end)
        )
        verdict = judge(outcome, end, stop)
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
            usage=outcome.usage,
            duration_s=round((now - self._started_at).total_seconds(), 3),
            started_at=self._started_at,
            finished_at=now,
            peak_rss_bytes=peak_rss,
            denied=outcome.denied,
        )
        self.result, self._last = self._recorder.finish(result, outcome)
