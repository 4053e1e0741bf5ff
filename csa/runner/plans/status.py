"""A plan as `csa plan status` shows it: its tasks, what they have changed and cost, and which would conflict now.

Only reads; nothing is written to the repository.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from csa.model.genealogy import Rollup
from csa.model.plan import PlanTask
from csa.model.planstates import OVER, TaskState, unit_state
from csa.model.state import format_time
from csa.model.worktree import Worktree
from csa.runner.context import Context
from csa.runner.plans.looking import Looked, look_at_plan
from csa.runner.plans.reading import ReadPlan
from csa.runner.session import Session
from csa.runner.sessions.genealogy import arrange_sessions, roll_up
from csa.runner.sessions.landed import landings_of
from csa.runner.sessions.listing import infos_of
from csa.store.commits import count_lines
from csa.store.family import find_elsewhere
from csa.store.genealogy import ancestors
from csa.store.gitplumbing import GitError
from csa.store.gitwork import find_commit, kept_last, refs_of
from csa.store.glancing import Glance, glance_at
from csa.store.sessions import Record, Store
from csa.store.trees import read_members
from csa.structs import Struct, field

MOST_PAIRS = 45  # that are merged to see whether they conflict: all of ten tasks
_MERGED = ""  # what is in the plan's tree, among what may conflict


class UnitStatus(Struct, kw_only=True):
    """A session of a task, or of one alternative of a race. Lines are None where nothing is known of a worktree."""

    unit: str
    state: TaskState
    session_id: str
    host: str | None
    tool: str | None
    changed: tuple[int, int] | None
    cost: Rollup

    @property
    def words(self) -> str:
        """Its state in words: of a race, no more than one is merged."""
        return "finished" if self.state.kind == "finished" and "." in self.unit else self.state.words


class TaskStatus(Struct, kw_only=True):
    """A task; `cost` is that of all its attempts and everything below them."""

    task: PlanTask
    state: TaskState
    units: tuple[UnitStatus, ...]
    cost: Rollup

    @property
    def changed(self) -> tuple[int, int] | None:
        """The lines that it has changed; None for what changes nothing, and for a race."""
        return self.units[0].changed if len(self.units) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return its object in `csa plan status --json`."""
        state = self.state
        return {
            "task": self.task.name,
            "state": state.kind,
            "words": state.words,
            "others": list(state.others),
            "files": list(state.files),
            "until": state.until and format_time(state.until),
            "needs": list(self.task.needs),
            "host": self.task.host,
            "usage": self.cost.usage.to_sum(),
            "time_s": round(self.cost.time_s, 3),
            "attempts": self.cost.sessions,
            "sessions": [_unit_json(unit) for unit in self.units],
        }


class Clash(Struct, kw_only=True):
    """Two units that would conflict now; one that would with what is merged has no `other`."""

    one: str
    other: str | None
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its object in `csa plan status --json`."""
        return {"sessions": [self.one, *([self.other] if self.other else [])], "files": list(self.files)}


class PlanStatus(Struct, kw_only=True):
    """A plan at a moment.

    Attributes:
        read: the plan.
        session_id: that of its session; None if it never ran.
        status: how its last run has ended, or `running`.
        tasks: in the order of the plan.
        clashes: which would conflict now.
        unchecked: how many pairs were not looked at.
        cost: of everything.
        notes: what could not be told.
    """

    read: ReadPlan
    session_id: str | None
    status: str | None
    tasks: tuple[TaskStatus, ...]
    clashes: tuple[Clash, ...] = ()
    unchecked: int = 0
    cost: Rollup = field(default_factory=Rollup)
    notes: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done."""
        return all(each.state.kind in OVER for each in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa plan status --json` prints."""
        return {
            "plan": self.read.stem,
            "file": self.read.file or None,
            "session_id": self.session_id,
            "status": self.status,
            "tasks": [each.to_json() for each in self.tasks],
            "would_conflict": [clash.to_json() for clash in self.clashes],
            "unchecked_pairs": self.unchecked,
            "usage": self.cost.usage.to_sum(),
            "time_s": round(self.cost.time_s, 3),
            "notes": list(self.notes),
        }


def _unit_json(unit: UnitStatus) -> dict[str, Any]:
    return {
        "name": unit.unit,
        "session_id": unit.session_id,
        "state": unit.state.kind,
        "words": unit.words,
        "mirror": unit.host,
        "tool": unit.tool,
        "added": unit.changed and unit.changed[0],
        "removed": unit.changed and unit.changed[1],
        "usage": unit.cost.usage.to_sum(),
        "time_s": round(unit.cost.time_s, 3),
    }


def read_status(context: Context, read: ReadPlan) -> PlanStatus:
    """Return what has become of a plan, and what its work would do now.

    Raises:
        StateError: the record of one of its sessions is damaged.
        ToolUnavailableError: git is missing, which its worktrees need.
    """
    looked = look_at_plan(context, read)
    session = looked.session
    if session is None:
        tasks = [
            TaskStatus(task=task, state=looked.states[name], units=(), cost=Rollup())
            for name, task in read.plan.tasks.items()
        ]
        return PlanStatus(read=read, session_id=None, status=None, tasks=tuple(tasks))
    costs, whole = _costs(session)
    work = _Work(session, read, looked)
    notes = work.look()
    return PlanStatus(
        read=read,
        session_id=session.session_id,
        status=session.record.status,
        tasks=tuple(_task_status(task, looked, work.changed, costs) for task in read.plan.tasks.values()),
        clashes=tuple(work.clashes),
        unchecked=work.unchecked,
        cost=whole,
        notes=tuple(notes),
    )


def _task_status(
    task: PlanTask, looked: Looked, changed: Mapping[str, tuple[int, int]], costs: Mapping[str, Rollup]
) -> TaskStatus:
    units = [
        UnitStatus(
            unit=unit,
            state=unit_state(task, known),
            session_id=known.session_id,
            host=looked.records[unit].store.host,
            tool=_tool_of(looked.records[unit]),
            changed=changed.get(unit),
            cost=costs.get(unit, Rollup()),
        )
        for unit in task.units
        if (known := looked.known.get(unit))
    ]
    cost = Rollup()
    for unit in task.units:
        cost.merge(costs.get(unit, Rollup()))
    return TaskStatus(task=task, state=looked.states[task.name], units=tuple(units), cost=cost)


def _tool_of(record: Record) -> str | None:
    return record.state.last_tool if record.state else None


def _costs(session: Session) -> tuple[dict[str, Rollup], Rollup]:
    """Return the cost of each unit, with all attempts and all below them, and that of the plan."""
    state, store = session.load(), session.store
    above = [*ancestors(store.root, state)]
    places: dict[str, list[str]] = {}
    members = read_members(store.root, above[-1] if above else state)[0]
    for member in (each for each in members if not each.host):
        places.setdefault(member.project, []).append(member.session_id)
    infos = [info for place, ids in places.items() for info in infos_of(Store(store.root_pathname, place), ids)]
    there = (place.record(session_id) for place, session_id in find_elsewhere([session.target]))
    infos += [record.examine() for record in there if record.state]
    forest = arrange_sessions(sorted(infos, key=lambda info: info.session_id, reverse=True), with_forks=False)
    sums = roll_up(forest, now=time.time())
    costs: dict[str, Rollup] = {}
    for info in infos:
        if info.parent == session.session_id and info.state and info.state.task and info.session_id in sums:
            costs.setdefault(info.state.task.name, Rollup()).merge(sums[info.session_id])
    return costs, sums.get(session.session_id, Rollup())


class _Work:
    """What the worktrees of a plan hold."""

    def __init__(self, session: Session, read: ReadPlan, looked: Looked) -> None:
        self._session, self._read, self._looked = session, read, looked
        self.changed: dict[str, tuple[int, int]] = {}
        self.clashes: list[Clash] = []
        self.unchecked = 0

    def look(self) -> list[str]:
        """Look at all of them; return what could not be told."""
        tree = self._session.load().worktree
        if tree is None:
            return []
        try:
            with glance_at(tree.checkout, self._session.context.environ) as glance:
                tips = self._tips(glance)
                tip = glance.tip(tree)
                if not glance.can_merge:
                    return ["git is older than 2.38, so csa cannot tell what would conflict"]
                self._find_clashes(glance, {_MERGED: tip, **tips} if tip else tips)
        except GitError as error:
            return [f"the worktrees cannot be looked at: {error.said}"]
        return []

    def _tips(self, glance: Glance) -> dict[str, str]:
        """Measure what each unit has changed; return the tips of those whose work is not merged."""
        tips: dict[str, str] = {}
        for unit, record in self._looked.records.items():
            tree = record.state.worktree if record.state else None
            if tree is None:
                continue
            known = self._looked.known.get(unit)
            if known and known.merged and not record.store.host:
                self.changed[unit] = _sum_of(count_lines(glance.git, _landed_by(record)).values())
            elif (tip := _tip_of(glance, record, tree)) and tree.git_dir:
                extent = glance.measure(tree.base, tip)
                self.changed[unit] = extent.added, extent.removed
                if extent.files and not self._is_over(unit):
                    tips[unit] = tip
        return tips

    def _find_clashes(self, glance: Glance, tips: Mapping[str, str]) -> None:
        """Merge each pair of tips; what a unit has in conflict with what is merged is not said of others again."""
        pairs = [pair for pair in combinations(tips, 2) if not self._is_race(*pair)]
        self.unchecked = max(0, len(pairs) - MOST_PAIRS)
        with_merged: dict[str, set[str]] = {}
        for one, other in pairs[:MOST_PAIRS]:
            files = glance.conflicts(tips[one], tips[other])
            if one == _MERGED:
                with_merged[other] = {*files}
                files = [path for path in files if path not in self._refused(other)]
            else:
                files = [
                    path for path in files if path not in with_merged.get(one, set()) | with_merged.get(other, set())
                ]
            if files:
                pair = (other, None) if one == _MERGED else (one, other)
                self.clashes.append(Clash(one=pair[0], other=pair[1], files=tuple(files)))

    def _is_over(self, unit: str) -> bool:
        """Say whether its task is merged: by another alternative in a race, if not by this one."""
        return any(
            self._looked.states[task.name].kind in OVER for task in self._read.plan.tasks.values() if unit in task.units
        )

    def _refused(self, unit: str) -> Sequence[str]:
        """Return the files of the conflict that its state names already."""
        refused = self._looked.known[unit].refused
        return refused.files if refused else ()

    def _is_race(self, one: str, other: str) -> bool:
        return any({one, other} <= {*task.units} for task in self._read.plan.tasks.values())


def _tip_of(glance: Glance, record: Record, tree: Worktree) -> str | None:
    """Return where the work of a session ends; of one on another host, what was fetched of it."""
    if not record.store.host:
        return glance.tip(tree)
    tip = kept_last(refs_of(glance.git, record.session_id))
    return tip if tip and find_commit(glance.git, tree.base) else None


def _landed_by(record: Record) -> list[str]:
    return [commit for landing in landings_of(record) for commit in landing.commits]


def _sum_of(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    lines = list(counts)
    return sum(added for added, _ in lines), sum(removed for _, removed in lines)
