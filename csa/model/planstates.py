"""What has become of each task of a plan, and what may start next: from what is known of their sessions. Pure.

Nothing of this is stored: a task is done if its session's last turn has succeeded with what the plan says now, and
merged if its work is in the plan's tree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from csa.model.clock import LOCAL
from csa.model.globs import overlapping
from csa.model.plan import Plan, PlanTask
from csa.model.worktree import Refused
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal[
        "to_do",  # nothing has been done
        "changed",  # the plan says something else than its session was told
        "stopped",  # its last turn was ended before it was over
        "waiting",  # for what it needs
        "running",
        "repairing",
        "away",  # it ran on another host, which was not heard of lately
        "parked",  # until a quota resets
        "finished",  # its turn has succeeded, and its work is to be merged
        "to_choose",  # a race: one of its sessions is to be taken
        "merged",
        "done",  # it changes nothing
        "conflict",
        "check_failed",
        "failed",
        "blocked",  # by what it needs
    ]

OVER = frozenset({"merged", "done"})  # what it was for is there
STUCK = frozenset({"conflict", "check_failed", "failed", "blocked", "to_choose"})  # somebody has to do something
ACTIVE = frozenset({"running", "repairing"})
TO_START = frozenset({"to_do", "changed", "stopped"})
_TRIED_AGAIN = frozenset(
    {"away", "conflict", "check_failed", "failed", "stopped", "parked"}
)  # by another run of the plan
_FIRST = (  # of the states in a race, which is that of the task
    *("merged", "running", "repairing", "away", "changed", "stopped", "to_do", "parked", "done"),
    *("finished", "conflict", "check_failed"),
)
_STATED = frozenset({"quota", "rate_limit"})


class Known(Struct, kw_only=True):
    """What is known of the session of a unit.

    Attributes:
        session_id: its id.
        digest: that of the task when it was told last.
        status: how its last turn has ended, `running`, or None if it never had one.
        is_repair: whether the turn that runs repairs.
        parked_until: until when it waits for a quota, in a turn.
        retry_at: when the provider that has ended its last turn can be used again, if that was stated.
        error_kind: of its last turn.
        merged: whether its work is in the plan's tree, with nothing after it.
        refused: why it could not be merged last.
        rivals: the tasks whose merged work is in the way of its own.
    """

    session_id: str
    digest: str | None = None
    status: str | None = None
    is_repair: bool = False
    parked_until: datetime | None = None
    retry_at: datetime | None = None
    error_kind: str | None = None
    merged: bool = False
    refused: Refused | None = None
    rivals: tuple[str, ...] = ()


class TaskState(Struct, kw_only=True):
    """What has become of a task. `others` are the tasks that it waits for, is blocked by, or is in conflict with."""

    kind: Kind
    others: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    until: datetime | None = None

    @property
    def words(self) -> str:
        """The state in words, as `waiting for api`."""
        names, files = ", ".join(self.others), ", ".join(self.files)
        said = {
            "to_do": "to do",
            "waiting": f"waiting for {names}",
            "parked": f"parked until {self.until.astimezone(LOCAL):%H:%M}" if self.until else "parked",
            "finished": "finished, to be merged",
            "to_choose": "finished, to be chosen",
            "conflict": "conflict" + (f" with {names}" if names else "") + (f": {files}" if files else ""),
            "check_failed": "check failed" + (f" together with {names}" if names else ""),
            "blocked": f"blocked by {names}",
        }
        return said.get(self.kind, self.kind)


def judge(plan: Plan, known: Mapping[str, Known], *, tried: Collection[str] | None = None) -> dict[str, TaskState]:
    """Return the state of each task; `known` is by the names of units.

    Args:
        plan: what is to be done.
        known: what is known of the units that have a session.
        tried: in a run of the plan, the tasks that it has tried: of all others, what failed before is to be done
            again. None if no run is looking.
    """
    states: dict[str, TaskState] = {}
    for task in plan.tasks.values():
        state = _state_of(task, {unit: known[unit] for unit in task.units if unit in known})
        if tried is not None and task.name not in tried and state.kind in _TRIED_AGAIN and not _is_resting(task, known):
            state = replace(state, kind="to_do" if state.kind != "stopped" else "stopped")
        states[task.name] = _held_up(task, state, states)
    return states


def _is_resting(task: PlanTask, known: Mapping[str, Known]) -> bool:
    """Say whether a turn of it waits for a quota."""
    return any(known[unit].parked_until for unit in task.units if unit in known)


def _held_up(task: PlanTask, state: TaskState, states: Mapping[str, TaskState]) -> TaskState:
    """Return the state of a task that cannot start yet, or at all, because of what it needs."""
    missing = [need for need in task.needs if states[need].kind not in OVER]
    if state.kind not in TO_START or not missing:
        return state
    if stuck := tuple(need for need in missing if states[need].kind in STUCK):
        return TaskState(kind="blocked", others=stuck)
    return TaskState(kind="waiting", others=tuple(missing))


def _state_of(task: PlanTask, known: Mapping[str, Known]) -> TaskState:
    """Return the state of a task by itself."""
    states = [unit_state(task, each) for each in known.values()]
    if not task.tools:
        return states[0] if states else TaskState(kind="to_do")
    by_kind = {state.kind: state for state in reversed(states)}
    if len(states) < len(task.units):
        by_kind.setdefault("to_do", TaskState(kind="to_do"))
    found = next((by_kind[kind] for kind in _FIRST if kind in by_kind), None)
    if found is None or found.kind in {"finished", "conflict", "check_failed"}:
        return TaskState(kind="to_choose" if found else "failed")
    return found


def unit_state(task: PlanTask, known: Known) -> TaskState:
    """Return the state of a session by itself."""
    if known.parked_until:
        return TaskState(kind="parked", until=known.parked_until)
    if known.status == "running":
        return TaskState(kind="repairing" if known.is_repair else "running")
    if known.status == "away":
        return TaskState(kind="away")
    if known.status is None:
        return TaskState(kind="to_do")
    return TaskState(kind="changed") if known.digest != task.digest else _ended_state(task, known)


def _ended_state(task: PlanTask, known: Known) -> TaskState:
    if known.merged and task.has_worktree:
        return TaskState(kind="merged")
    if known.refused:
        kind: Kind = "conflict" if known.refused.kind in {"conflict", "markers"} else "check_failed"
        return TaskState(kind=kind, others=known.rivals, files=known.refused.files)
    if known.status == "succeeded":
        return TaskState(kind="finished" if task.has_worktree else "done")
    if known.error_kind in _STATED and known.retry_at:
        return TaskState(kind="parked", until=known.retry_at)
    return TaskState(kind="failed" if known.status in {"failed", "timed_out"} else "stopped")


def may_start(plan: Plan, states: Mapping[str, TaskState], wanted: Collection[str]) -> list[str]:
    """Return the tasks that may start now, in order: as many as there is room for.

    What overlaps by `touches` with one that runs, waits for a quota, or is to be merged, has to wait.
    """
    room = plan.max_running - sum(state.kind in ACTIVE for state in states.values())
    in_work = [name for name, state in states.items() if state.kind in {*ACTIVE, "parked", "finished"}]
    found: list[str] = []
    for name, state in states.items():
        if len(found) >= room:
            break
        if name in wanted and state.kind in TO_START and not _collides(plan, name, [*in_work, *found]):
            found.append(name)
    return found


def _collides(plan: Plan, name: str, others: Iterable[str]) -> bool:
    task = plan.tasks[name]
    return bool(task.touches) and any(
        overlapping(task.touches, plan.tasks[other].touches) for other in others if other != name
    )


def exit_code(states: Iterable[TaskState]) -> int:
    """Return that of a plan's run: 0 if all is merged or done, 8 if only quotas are in the way, else 1."""
    kinds = {state.kind for state in states} - OVER
    if not kinds:
        return 0
    return 8 if "parked" in kinds and kinds <= {"parked", "waiting", "blocked"} else 1
