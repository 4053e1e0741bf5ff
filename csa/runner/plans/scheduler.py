"""Runs the tasks of a plan, as many at once as it allows, and merges their work one after the other.

Each turn has a supervisor of its own (`csa/runner/attached.py`), which ends with this process however that ends: a
task can be killed, wait for a slot, or crash, and the others go on. What has happened is in the sessions and in git;
another run begins with a look at these, and goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread

from csa.errors import CsaError, UsageError
from csa.model.globs import outside
from csa.model.plan import PlanTask, plan_session_name, session_name
from csa.model.planstates import ACTIVE, OVER, Known, TaskState, exit_code, judge, may_start, unit_state
from csa.runner.attached import Attached, Placed, start_attached
from csa.runner.client import Csa
from csa.runner.plans.looking import look_at_plan, look_at_unit, parked_until
from csa.runner.plans.reading import ReadPlan
from csa.runner.plans.requests import TaskRequests, aside_name
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.editing import rename_session
from csa.runner.sessions.landing import land_session
from csa.runner.sessions.landing_outcome import Landed, LandError
from csa.store.family import find_placed
from csa.store.gitwork import list_dirty
from csa.store.results import read_final_text
from csa.structs import Struct, replace

if TYPE_CHECKING:
    from csa.runner.plans.elsewhere import Elsewhere
    from csa.store.sessions import Record

_T = TypeVar("_T")
_LOOK_S = 1.0  # at whether a turn waits for a quota
_STRANGER_S = 0.2
_ENDING_S = 2.5  # csa gives a tool three seconds
_THREADS = 10_000
_NAMED = 5
_MOST_TOLD = 40  # tasks
_SETTLED = frozenset({"finished", "conflict", "check_failed", "merged", "done"})  # its turn need not run again
Tell = Callable[[Mapping[str, Any]], None]


class Order(Struct, kw_only=True):
    """What to run of a plan.

    Attributes:
        tasks: with all they need; all there are if none is named.
        fresh: tasks that begin again, in new sessions.
        takes: alternatives of races that are to be merged.
    """

    tasks: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


class Scheduler:
    """One run of a plan, inside the plan's session. `tell` gets what happens."""

    def __init__(self, client: Csa, read: ReadPlan, order: Order, *, directory: str, tell: Tell) -> None:
        self._context, self._read, self._order = client.context, read, order
        self._plan, self._stem = read.plan, read.stem
        self._directory, self._tell = directory, tell
        self._requests = TaskRequests(client.context, read, directory)
        self._wanted = self._plan.with_needs(order.tasks)
        self._known: dict[str, Known] = {}  # by unit, like the following
        self._records: dict[str, Record] = {}
        self._faults: dict[str, str] = {}  # why it could not go on, where no session says so
        self._calls: dict[str, int] = {}  # how often it was begun
        self._tried: set[str] = set()  # tasks
        self._busy: set[str] = set()  # tasks that something is done for
        self._told: list[dict[str, str]] = []  # how far they are
        self._strays: set[str] = set()  # paths in the plan's tree that nobody has merged there
        self._changed = anyio.Event()
        self._landing = anyio.Lock()
        self._room = anyio.CapacityLimiter(self._plan.max_running)
        self._threads = anyio.CapacityLimiter(_THREADS)  # those that wait for a slot take nothing
        if client.context.caller is None:
            raise UsageError("This program runs in the session of a plan.", hint="csa plan run FILE")
        self._session = Session(client.context, client.context.caller.session_id)

    async def run(self) -> int:
        """Run what is not done; return the exit code of the plan."""
        await self._in_thread(self._begin)
        async with anyio.create_task_group() as tasks:
            for name, state in self._states().items():
                if state.kind in {*ACTIVE, "parked"} and self._runs(name):
                    self._busy.add(name)
                    tasks.start_soon(self._await_stranger, name)
            for unit in self._order.takes:
                self._busy.add(name := unit.partition(".")[0])
                tasks.start_soon(self._take, self._plan.tasks[name], unit)
            while True:
                self._changed = anyio.Event()
                for name in self._next(self._states()):
                    self._tried.add(name)
                    self._busy.add(name)
                    tasks.start_soon(self._carry_out, self._plan.tasks[name], self._begun(self._plan.tasks[name]))
                if not self._busy:
                    break
                await self._changed.wait()
        return self._conclude()

    def _begin(self) -> None:
        """Look at what there is by now; what is to begin again is put aside."""
        if placed := find_placed([self._session.target]):
            self._elsewhere.hear(placed)
        self._look()
        for name in self._order.fresh:
            for unit in self._plan.tasks[name].units:
                if self._known.pop(unit, None):
                    self._put_aside(unit)

    def _look(self) -> None:
        looked = look_at_plan(self._context, self._read)
        self._known, self._records = dict(looked.known), dict(looked.records)

    def _states(self) -> dict[str, TaskState]:
        return judge(self._plan, self._known, tried=self._tried)

    def _runs(self, name: str) -> bool:
        units = self._plan.tasks[name].units
        return any(unit in self._known and self._known[unit].status == "running" for unit in units)

    def _next(self, states: Mapping[str, TaskState]) -> list[str]:
        """Return the tasks to go on with: finished ones, which are only to be merged, and those that may start."""
        open_ones = [name for name in self._wanted if name not in self._tried and name not in self._busy]
        finished = [name for name in open_ones if states[name].kind == "finished" and self._has_needs(name, states)]
        return finished + may_start(self._plan, states, open_ones)

    def _has_needs(self, name: str, states: Mapping[str, TaskState]) -> bool:
        return all(states[need].kind in OVER for need in self._plan.tasks[name].needs)

    def _begun(self, task: PlanTask) -> dict[str, Known | None]:
        """Return the units of a task that a turn is to run in, with what was known of them, and count them as running.

        A unit whose turn has succeeded only waits to be merged.
        """
        due = {unit: known for unit in task.units if not _is_settled(task, known := self._known.get(unit))}
        for unit, known in due.items():
            session_id = known.session_id if known else ""
            self._known[unit] = Known(session_id=session_id, digest=task.digest, status="running")
        return due

    async def _carry_out(self, task: PlanTask, due: Mapping[str, Known | None]) -> None:
        """Run a task, and merge its work."""
        try:
            async with anyio.create_task_group() as tasks:
                for unit, before in due.items():
                    tasks.start_soon(self._run_unit, task, unit, before)
            if not task.has_worktree:
                await self._in_thread(partial(self._tell_strays, task.name))
            elif not task.tools and self._known[task.name].status == "succeeded":
                await self._merge(task, task.name)
        finally:
            self._leave(task.name)

    def _tell_strays(self, name: str) -> None:
        """Warn of what a task has left in the plan's own tree, where it was only to read."""
        strays: list[str] = []
        with suppress(CsaError):  # what is wrong with the tree, the next merge says
            strays = list_dirty(self._directory, self._context.environ) if self._plan.has_worktrees else []
        if new := [path for path in strays if path not in self._strays]:
            self._strays.update(new)
            words = "was to read only, and has left in the plan's tree what is committed there when this run ends"
            self._tell({"type": "warning", "text": f"{name} {words}: {_some(new)}"})

    def _leave(self, name: str) -> None:
        self._busy.discard(name)
        self._tell_progress()
        self._changed.set()

    def _tell_progress(self) -> None:
        """Tell how far the tasks are, if that has changed and they are not too many to be told again and again."""
        if len(self._wanted) <= _MOST_TOLD:
            states = self._states()
            entries = [{"content": name, "status": _progress_of(states[name])} for name in self._wanted]
            if entries != self._told:
                self._tell({"type": "plan", "entries": entries})
            self._told = entries

    async def _run_unit(self, task: PlanTask, unit: str, before: Known | None) -> None:
        """Run a turn in the session of a unit, or in a new one."""
        try:
            if before and before.merged and before.digest != task.digest:
                await self._in_thread(partial(self._put_aside, unit))
                before = None
            if before is None and task.host is None:
                await self._in_thread(partial(self._free_name, unit))
            await self._turn(task, unit, await self._in_thread(lambda: self._request(task, unit, before)))
        except CsaError as error:
            self._fail(task, unit, error)

    def _request(self, task: PlanTask, unit: str, before: Known | None) -> RunRequest:
        if before:
            return self._requests.next(task, unit, before)
        answers = {need: self._answer_of(need) for need in task.needs}
        return self._requests.first(task, unit, answers)

    def _answer_of(self, name: str) -> str:
        """Return what a task that is over has answered; of a race, the alternative that was merged."""
        task = self._plan.tasks[name]
        over = [unit for unit in task.units if unit_state(task, self._known[unit]).kind in OVER]
        record = self._records[over[0]]
        if record.store.host:
            return self._session_of(over[0]).result().text
        return read_final_text(self._session_of(over[0]).content, record.state.turns) if record.state else ""

    async def _turn(self, task: PlanTask, unit: str, request: RunRequest, *, what: str = "") -> None:
        """Run a turn of a unit to its end; CsaError if it cannot begin, or its end was not seen."""
        self._calls[unit] = self._calls.get(unit, 0) + 1
        async with self._room:
            attached = await self._in_thread(partial(self._start, task, unit, request))
            call, name = f"{unit}#{self._calls[unit]}", session_name(self._stem, unit)
            where = f"--on {attached.host} " if isinstance(attached, Placed) else ""
            words = what or f"--tool {attached.tool}"
            self._tell({"type": "begin", "id": call, "text": f"csa run {where}{name} {words}"})
            self._tell_progress()
            self._keep(unit, attached)
            self._known[unit] = replace(self._known[unit], session_id=attached.session_id)
            await self._attend(unit, attached)
        await self._look_again(unit)
        if isinstance(attached, Placed) and (failure := await self._in_thread(attached.failure)):
            self._tell({"type": "end", "id": call, "ok": False, "text": self._known[unit].status or ""})
            raise failure
        known = self._known[unit]
        words = known.error_kind or known.status or ""
        self._tell({"type": "end", "id": call, "ok": known.status == "succeeded", "text": words})

    def _start(self, task: PlanTask, unit: str, request: RunRequest) -> Attached:
        """Start a turn where the session of a unit is; a new one where the task says."""
        known = self._records[unit] if request.session else None
        if (known.store.host if known else task.host) is None:
            return start_attached(self._context, request, wait_s=math.inf)
        return self._elsewhere.start(task, unit, request, known)

    @cached_property
    def _elsewhere(self) -> Elsewhere:
        from csa.runner.plans.elsewhere import Elsewhere  # noqa: PLC0415  # few plans are on several hosts

        return Elsewhere(self._context, self._plan, self._directory, self._tell)

    async def _attend(self, unit: str, attached: Attached) -> None:
        """Wait for the end of a turn; if this run is ended, the turn is, too."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, unit)
                await anyio.wait_readable(attached)
                tasks.cancel_scope.cancel()
        finally:
            attached.end()
            with anyio.move_on_after(_ENDING_S, shield=True):
                await anyio.wait_readable(attached)

    async def _watch(self, unit: str) -> None:
        """Let another task begin while a turn waits for a quota."""
        until = None
        try:
            while True:
                await anyio.sleep(_LOOK_S)
                found = parked_until(self._records[unit].paths)
                if found != until:
                    self._room.total_tokens += (found is not None) - (until is not None)
                    until = found
                    self._known[unit] = replace(self._known[unit], parked_until=found)
                    self._changed.set()
        finally:
            self._room.total_tokens -= until is not None

    async def _merge(self, task: PlanTask, unit: str) -> None:
        """Bring the work of a unit into the plan's tree; its agent may repair what is in the way."""
        try:
            for left in range(task.repairs, -1, -1):
                if await self._land(task, unit) or not left:
                    return
                if not await self._repair(task, unit):
                    return
        except CsaError as error:
            self._fail(task, unit, error)

    async def _repair(self, task: PlanTask, unit: str) -> bool:
        """Have the agent of a unit resolve what keeps its work out; say whether it has ended well."""
        before = self._known[unit]
        self._known[unit] = replace(before, status="running", is_repair=True)
        try:
            await self._turn(task, unit, self._requests.repair(task, unit, before), what="--repair")
        except CsaError as error:
            self._known[unit] = before
            self._tell({"type": "warning", "text": f"{unit} cannot be repaired: {error.message}"})
            return False
        return self._known[unit].status == "succeeded"

    async def _land(self, task: PlanTask, unit: str) -> bool:
        """Say whether the work of a unit is in the plan's tree now; what keeps it out is recorded there."""
        session = self._session_of(unit)
        async with self._landing:
            try:
                if session.store.host:
                    landed = await self._elsewhere.land(task, session)
                else:
                    landed = await land_session(session, into=self._directory, check=task.check)
            except LandError as error:
                await self._look_again(unit)
                self._tell({"type": "warning", "text": f"{unit}: {error.message}"})
                return False
            await self._look_again(unit)
        if self._known[unit].merged:
            self._tell_landed(task, unit, landed)
        else:
            ways = (
                f"csa land {plan_session_name(self._stem)} brings the plan onto it; --fresh {task.name} does it again"
            )
            self._tell({"type": "warning", "text": f"{unit} was landed elsewhere, not in the plan: {ways}"})
        return True

    def _session_of(self, unit: str) -> Session:
        store = self._records[unit].store
        return Session(self._context.in_store(store), self._known[unit].session_id)

    def _tell_landed(self, task: PlanTask, unit: str, landed: Landed) -> None:
        count, files = len(landed.commits), len(landed.files)
        words = f"{count} commit{'s' * (count != 1)}, {files} file{'s' * (files != 1)}" if count else "nothing to merge"
        self._tell({"type": "say", "text": f"merged {unit}: {words}"})
        if task.touches and (others := outside(landed.files, task.touches)):
            self._tell({"type": "warning", "text": f"{unit} has changed what it was not to touch: {_some(others)}"})
        for warning in landed.warnings:
            self._tell({"type": "warning", "text": f"{unit}: {warning}"})

    async def _take(self, task: PlanTask, unit: str) -> None:
        """Merge the alternative of a race that somebody has chosen."""
        self._tried.add(task.name)
        try:
            if unit not in self._known or self._known[unit].status != "succeeded":
                raise UsageError(f"{unit} has not succeeded, so it cannot be taken.")
            await self._merge(task, unit)
        except CsaError as error:
            self._fail(task, unit, error)
        finally:
            self._leave(task.name)

    async def _await_stranger(self, name: str) -> None:
        """Wait for turns that run without us: an earlier run of the plan has just been killed, or somebody is at it."""
        units = [unit for unit in self._plan.tasks[name].units if unit in self._known]
        try:
            hosts = {host for unit in units if (host := self._records[unit].store.host)}
            with self._elsewhere.kept_fresh(hosts) if hosts else nullcontext():
                while self._runs(name):
                    await anyio.sleep(_STRANGER_S)
                    for unit in units:
                        await self._look_again(unit)
        finally:
            self._leave(name)

    async def _look_again(self, unit: str) -> None:
        self._records[unit] = self._session_of(unit).record
        look = partial(look_at_unit, self._context, self._session, self._records, unit)
        self._known[unit] = await self._in_thread(look)

    def _keep(self, unit: str, attached: Attached) -> None:
        here = self._context.store
        store = attached.target(here.root_pathname)[0] if isinstance(attached, Placed) else here
        self._records[unit] = store.record(attached.session_id)

    def _free_name(self, unit: str) -> None:
        """Put aside what has the name of a unit: the session of a plan that is gone. UsageError for any other."""
        name = session_name(self._stem, unit)
        if session_id := self._context.store.find_name(name):
            state = self._context.store.record(session_id).state
            if state is None or state.task is None:
                hint = f"csa rename {name} OTHER, or --name NAME for the plan"
                raise UsageError(f"The session named '{name}' is not of this plan.", hint=hint)
            self._rename_aside(unit, session_id)

    def _put_aside(self, unit: str) -> None:
        """Have a unit begin again in a new session; the old one keeps its work. On another host it stays as it is."""
        record = self._records.pop(unit)
        if record.store.host:
            earlier = f"{record.store.host}:{record.session_id}"
            self._tell({"type": "say", "text": f"{unit} begins again; its earlier session is {earlier}"})
        else:
            self._rename_aside(unit, record.session_id)

    def _rename_aside(self, unit: str, session_id: str) -> None:
        """Give the session of a unit another name."""
        store, name = self._context.store, session_name(self._stem, unit)
        aside = aside_name(name, store.names(newest=0))
        rename_session(Session(self._context, session_id), aside)
        self._tell({"type": "say", "text": f"{unit} begins again; its earlier session is {aside} now"})

    def _fail(self, task: PlanTask, unit: str, error: CsaError) -> None:
        known = self._known.get(unit)
        session_id = known.session_id if known else ""
        self._known[unit] = Known(session_id=session_id, digest=task.digest, status="failed", error_kind=error.code)
        self._faults[unit] = error.message
        hint = f" ({error.hint})" if error.hint else ""
        self._tell({"type": "warning", "text": f"{unit}: {error.message}{hint}"})

    def _conclude(self) -> int:
        """Tell how it has ended; return the exit code."""
        states = self._states()
        wanted = {name: states[name] for name in self._wanted}
        code = exit_code(wanted.values())
        left = [f"{name} ({state.words})" for name, state in wanted.items() if state.kind not in OVER]
        until = min((state.until.timestamp() for state in wanted.values() if state.until), default=None)
        message = f"{len(left)} of {len(wanted)} tasks are not done: {_some(left)}" if left else ""
        said: dict[str, Any] = {"type": "ended", "code": code, "text": _table(wanted, self._faults)}
        self._tell({**said, "message": message, "retry_at": until})
        return code

    async def _in_thread(self, act: Callable[[], _T]) -> _T:
        """Do what blocks without holding up the others. Nobody waits for it when this run is ended."""
        return await to_thread.run_sync(act, abandon_on_cancel=True, limiter=self._threads)


def _progress_of(state: TaskState) -> str:
    """Return the state of a task as that of a step of an agent's plan."""
    if state.kind in OVER:
        return "completed"
    return "in_progress" if state.kind in {*ACTIVE, "finished"} else "pending"


def _is_settled(task: PlanTask, known: Known | None) -> bool:
    return known is not None and unit_state(task, known).kind in _SETTLED


def _table(states: Mapping[str, TaskState], faults: Mapping[str, str]) -> str:
    width = max(map(len, states))
    lines = (f"{name:<{width}}  {state.words}{_because(faults.get(name))}" for name, state in states.items())
    return "\n".join(lines)


def _because(fault: str | None) -> str:
    return f": {fault}" if fault else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
