"""One process of the tool, from its start until it has exited and its output is read, with its watchers.

The watchers only request the end (`Stopping.request`); one ladder executes it: TERM, a grace, KILL. The guardian
sweeps what the tool leaves.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from csa.model.adapter import BackgroundReader, Decoder, Invocation, StderrReader, ToolExit, Update
from csa.model.events import Event
from csa.process.framing import LineFramer
from csa.process.guardian import session_lock_of
from csa.process.tool import ToolProcess, cpu_ticks_below, processes_below
from csa.procfs import command_of
from csa.runner.turns.ahead import load_ahead
from csa.runner.turns.recorder import Recorder
from csa.runner.turns.stopping import Stopping
from csa.runner.turns.verdict import Stop, lock_lost, out_of_time, too_silent

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.turns.askdesk import AskDesk

FIRST_BEAT_S = 1.0
HEARTBEAT_S = 5.0
CANCEL_POLL_S = 0.2
TERM_GRACE_S = 3.0  # claude needs 1.6 s to end its shells
KILL_LIMIT_S = 10.0
REAP_GRACE_S = 5.0
BACKGROUND_LIMIT_S = 3600.0  # claude's own limit for a command in the background, which csa raises for nested agents
BACKGROUND_LOOK_S = 30.0
DRAIN_IDLE_S = 0.2
DRAIN_LOOKS = 100  # five seconds
IDLE_CPU_SHARE = 0.03
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STDERR_TAIL_BYTES = 16 << 10


def cancelled_by(asked: str) -> Stop:
    """Return why a turn with a `cancel` file ends; `asked` is the file's text."""
    return Stop("cancelled", None, f"cancelled by {asked}" if asked else "cancelled on request")


class Attempt:
    """Attends one tool. `deliver` gets the events as recorded."""

    def __init__(
        self,
        tool: ToolProcess,
        decoder: Decoder,
        recorder: Recorder,
        stopping: Stopping,
        deliver: Callable[[list[Event]], Awaitable[None]],
        *,
        desk: AskDesk | None = None,
    ) -> None:
        self._tool = tool
        self._decoder = decoder
        self._recorder = recorder
        self._stopping = stopping
        self._deliver = deliver
        self._desk = desk  # if the agent may ask
        self._drained = {"stdout": anyio.Event(), "stderr": anyio.Event()}
        self._last_output = anyio.current_time()
        self._stderr_tail = b""

    async def run(
        self,
        invocation: Invocation,
        *,
        timeout_s: float | None,
        spent_s: float = 0.0,
        idle_timeout_s: float | None = None,
        with_other_tools: bool = False,
        budgets: Callable[[Stopping, Callable[[str], None]], Coroutine[Any, Any, None]] | None = None,
        stop_at_end: Stop | None = None,
    ) -> ToolExit:
        """Run the watchers until the tool has exited and its output is drained.

        `spent_s` of the time limit has passed already. What other tools would need to take over is loaded meanwhile.
        `budgets` is a watcher that may end the tool, and has warnings. `stop_at_end` ends it when it has closed its
        stdout: it replays one that was ended.
        """
        async with anyio.create_task_group() as watchers:
            if self._desk:
                await watchers.start(self._desk.serve)
            watchers.start_soon(self._tool.feed_stdin, invocation.stdin)
            watchers.start_soon(self._pump_stdout, stop_at_end)
            watchers.start_soon(self._pump_stderr)
            watchers.start_soon(self._keep_beating)
            watchers.start_soon(self._watch_for_cancel)
            watchers.start_soon(self._watch_for_silence, idle_timeout_s)
            watchers.start_soon(self._keep_time, timeout_s, spent_s)
            watchers.start_soon(self._reap)
            watchers.start_soon(self._watch_background)
            watchers.start_soon(self._tell_of_ending)
            watchers.start_soon(self._end_on_request)
            watchers.start_soon(partial(load_ahead, with_other_tools=with_other_tools))
            if budgets:  # a consumer that does not read must not hold this up
                watchers.start_soon(budgets, self._stopping, lambda words: self._warn_of_budget(watchers, words))
            end = await self._tool.wait()
            await self._drain()
            watchers.cancel_scope.cancel()
        return ToolExit(end.code, end.signal, self._stderr_tail.decode("utf-8", "replace"))

    async def _pump_stdout(self, stop_at_end: Stop | None) -> None:
        framer = LineFramer()
        while chunk := await self._tool.read_stdout():
            self._last_output = anyio.current_time()
            self._recorder.stdout_log.write(chunk)
            await self._decode(framer, framer.feed(chunk))
            self._last_output = anyio.current_time()  # a long line takes longer than a silent moment
            self._stopping.announce(is_finished=self._decoder.is_finished)
        await self._decode(framer, framer.close())
        self._drained["stdout"].set()
        if stop_at_end is not None:
            self._stopping.request(stop_at_end)

    async def _decode(self, framer: LineFramer, lines: list[bytes]) -> None:
        updates = [update for line in lines if line for update in self._decoder.feed(line)]
        while framer.cut:
            message = f"an output line of {framer.cut.pop()} bytes was too long to parse"
            updates.append(Update("warning", {"kind": "line", "message": message}))
        await self._record(updates)
        if self._decoder.fault:
            self._stopping.request(Stop("fault", None, self._decoder.fault))

    async def _record(self, updates: list[Update]) -> None:
        if updates:
            events = self._recorder.record(updates)
            self._recorder.journal.flush()  # what has been shown must survive our death
            if self._desk:
                self._desk.note(events)
            await self._deliver(events)

    def _warn_of_budget(self, watchers: TaskGroup, message: str) -> None:
        watchers.start_soon(self._record, [Update("warning", {"kind": "budget", "message": message})])

    async def _pump_stderr(self) -> None:
        framer = LineFramer()
        while chunk := await self._tool.read_stderr():
            self._last_output = anyio.current_time()
            self._recorder.stderr_log.write(chunk)
            self._stderr_tail = (self._stderr_tail + chunk)[-STDERR_TAIL_BYTES:]
            if isinstance(self._decoder, StderrReader):
                updates = [update for line in framer.feed(chunk) for update in self._decoder.feed_stderr(line)]
                await self._record(updates)
        self._drained["stderr"].set()

    async def _drain(self) -> None:
        """Read the rest after the tool's exit; a grandchild that holds the pipes open does not hold us up."""
        self._last_output = anyio.current_time()
        for _ in range(DRAIN_LOOKS):  # slow decoding counts as one look
            is_drained = all(event.is_set() for event in self._drained.values())
            if is_drained or anyio.current_time() - self._last_output > DRAIN_IDLE_S:
                return
            with anyio.move_on_after(DRAIN_IDLE_S / 4):
                await self._drained["stdout"].wait()
                await self._drained["stderr"].wait()

    async def _keep_beating(self) -> None:
        await anyio.sleep(FIRST_BEAT_S)
        while True:
            self._recorder.beat(processes_below(self._tool.guardian_pid))
            await anyio.sleep(HEARTBEAT_S)

    async def _watch_for_cancel(self) -> None:
        """Obey the `cancel` file, the way to end a turn from another pid namespace; end a turn that lost its lock.

        Whoever wants the session renamed is heard here, too.
        """
        while True:
            await anyio.sleep(CANCEL_POLL_S)
            if not self._recorder.is_ours():
                self._stopping.request(lock_lost())
            elif (asked := self._recorder.cancellation()) is not None:
                self._stopping.request(cancelled_by(asked))
            if edited := self._recorder.apply_edits():
                self._recorder.journal.flush()
                await self._deliver(edited)

    async def _keep_time(self, limit_s: float | None, spent_s: float) -> None:
        await anyio.sleep(max(0.0, limit_s - spent_s) if limit_s is not None else math.inf)
        self._stopping.request(out_of_time(limit_s))

    async def _watch_for_silence(self, limit_s: float | None) -> None:
        """End a turn without output or CPU use for `limit_s`.

        A tool waiting for a provider, or a nested agent, still uses a little: a few per cent count as none. Looks are
        counted instead of the clock: while csa itself was stopped, nobody was reading.
        """
        if limit_s is None:
            return
        interval_s = min(1.0, limit_s / 4)
        silent_looks, ticks = 0, cpu_ticks_below(self._tool.guardian_pid)
        while silent_looks * interval_s < limit_s:
            last_output = self._last_output
            await anyio.sleep(interval_s)
            is_at_work, ticks = self._has_worked(ticks, interval_s), cpu_ticks_below(self._tool.guardian_pid)
            is_heard = self._last_output != last_output or self._tool.has_unread_output()
            waits = self._desk is not None and self._desk.is_waiting  # for a person
            silent_looks = 0 if is_at_work or is_heard or waits else silent_looks + 1
        self._stopping.request(too_silent(limit_s))

    async def _reap(self) -> None:
        """End a tool that announced the end of the turn, has not taken that back since, and does not exit."""
        announced = None
        while announced is not self._stopping.announced:
            announced = self._stopping.announced
            await announced.wait()
            await anyio.sleep(REAP_GRACE_S)
        self._stopping.request(Stop("reaped", None, "the tool finished but did not exit"))

    async def _watch_background(self) -> None:
        """End a tool that has answered, and has long been waiting only for idle background commands.

        Processes that use CPU are at work, and so is a nested csa. That is only checked at the limit, since it scans
        all processes.
        """
        quiet_looks = 0
        while quiet_looks * BACKGROUND_LOOK_S < BACKGROUND_LIMIT_S:
            last_output, is_waiting = self._last_output, self._waits_for_background()
            ticks = cpu_ticks_below(self._tool.guardian_pid) if is_waiting else 0
            await anyio.sleep(BACKGROUND_LOOK_S)
            is_waiting = is_waiting and self._waits_for_background() and self._last_output == last_output
            is_quiet = is_waiting and not self._has_worked(ticks, BACKGROUND_LOOK_S) and not self._runs_csa()
            quiet_looks = quiet_looks + 1 if is_quiet else 0
        self._stopping.announce(is_finished=True)
        self._stopping.request(Stop("reaped", None, f"it had answered {BACKGROUND_LIMIT_S / 60:g} min earlier"))

    def _waits_for_background(self) -> bool:
        return isinstance(self._decoder, BackgroundReader) and self._decoder.has_answered

    def _has_worked(self, ticks: int, seconds: float) -> bool:
        """Say whether more than a few per cent of a CPU was used; before, it had been `ticks`."""
        return abs(cpu_ticks_below(self._tool.guardian_pid) - ticks) > IDLE_CPU_SHARE * seconds * TICKS_PER_S

    def _runs_csa(self) -> bool:
        """Say whether a nested turn is running below the tool, or a csa that waits for one."""
        pids = [process.pid for process in processes_below(self._tool.guardian_pid)]
        words = (word for pid in pids for word in command_of(pid).split()[:3])
        return any(map(session_lock_of, pids)) or any(os.path.basename(word) == "csa" for word in words)

    async def _tell_of_ending(self) -> None:
        """Record what is ended with the tool, and why; apart from the ladder, since delivering may have to wait."""
        await self._stopping.requested.wait()
        background = self._decoder.background if isinstance(self._decoder, BackgroundReader) else ()
        stop = self._stopping.stop
        if stop is None or not (background or stop.reason == "reaped"):
            return
        what = f", and its background commands: {', '.join(background)}" if background else ""
        message = f"csa ended the tool ({stop.detail or stop.reason}){what}"
        await self._record([Update("warning", {"kind": "ended", "message": message})])

    async def _end_on_request(self) -> None:
        """TERM (commands first), a grace, KILL; and a limit on waiting for a guardian that reports no end."""
        await self._stopping.requested.wait()
        await self._tool.end()
        await anyio.sleep(TERM_GRACE_S)
        self._tool.signal(signal.SIGKILL)
        await anyio.sleep(KILL_LIMIT_S)
        self._tool.abandon()
