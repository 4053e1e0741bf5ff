"""What has become of a plan: from the records of its sessions and from git. Nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from csa.model.plan import Plan, session_name
from csa.model.planstates import Known, TaskState, judge
from csa.model.state import SessionState, parse_time
from csa.model.worktree import Worktree
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.runner.plans.reading import ReadPlan
from csa.runner.plans.requests import session_of_plan
from csa.runner.session import Session
from csa.store.integration import Integration, read_integration
from csa.store.sessions import Record
from csa.store.shown import Siblings
from csa.store.status import session_status
from csa.store.transcript import last_started, read_events_backwards
from csa.structs import Struct

_LAST_EVENTS = 20  # of a turn that waits: warnings may follow


class Looked(Struct, kw_only=True):
    """A plan's sessions at a moment.

    Attributes:
        session: its own session; None if it never ran.
        states: of its tasks, by name.
        known: what is known of the units of tasks that have a session, by name.
        records: the records of these sessions.
    """

    session: Session | None
    states: Mapping[str, TaskState]
    known: Mapping[str, Known]
    records: Mapping[str, Record]


def look_at_plan(context: Context, read: ReadPlan, *, tried: Collection[str] | None = None) -> Looked:
    """Find out what has become of a plan; `tried` is as for `judge`.

    Raises:
        UsageError: its session's name is that of another plan's, or of no plan's.
        StateError: the record of one of its sessions is damaged.
        ToolUnavailableError: git is missing, which its worktrees need.
    """
    session = session_of_plan(context, read)
    records = find_records(session, read.plan, read.stem) if session else {}
    known = _Look(context, session, records).all() if session else {}
    return Looked(session=session, states=judge(read.plan, known, tried=tried), known=known, records=records)


def find_records(session: Session, plan: Plan, stem: str) -> dict[str, Record]:
    """Return the records of a plan's units that have a session, by the names of units, in the order of the plan."""
    units = {session_name(stem, unit): unit for task in plan.tasks.values() for unit in task.units}
    store = session.store
    children = {record.name: record for record in Siblings(store, store.ids()).children(session.session_id)}
    return {unit: children[name] for name, unit in units.items() if name in children}


def look_at_unit(context: Context, session: Session, records: Mapping[str, Record], unit: str) -> Known:
    """Find out about one session again; `records` are those of all units."""
    return _Look(context, session, records, only=unit).one(unit)


class _Look:
    """One look at the sessions of a plan."""

    def __init__(
        self, context: Context, session: Session, records: Mapping[str, Record], *, only: str | None = None
    ) -> None:
        environ = context.environ
        self._states = {unit: state for unit, record in records.items() if (state := record.state)}
        self._paths = {unit: record.paths for unit, record in records.items()}
        self._tree = session.load().worktree
        self._git: Integration | None = read_integration(self._tree, environ) if self._tree else None
        looked_at = [state.worktree for unit, state in self._states.items() if only in {None, unit}]
        landed = {tree.landed for tree in looked_at if tree and tree.landed}
        self._missing = self._git.missing(landed, self._tree.branch) if self._git and self._tree else landed
        if fault := next((record.fault for record in records.values() if record.fault), None):
            raise fault

    def all(self) -> dict[str, Known]:
        return {unit: self.one(unit) for unit in self._states}

    def one(self, unit: str) -> Known:
        state, paths = self._states[unit], self._paths[unit]
        status, event = session_status(paths, state)
        error = event.data.get("error") if event else None
        error = error if isinstance(error, Mapping) else {}
        tree = state.worktree
        is_merged = tree is not None and status == "succeeded" and self._is_merged(tree)
        refused = None if is_merged or tree is None else tree.refused
        return Known(
            session_id=state.session_id,
            digest=state.task.digest if state.task else None,
            status=None if status == "idle" else status,
            is_repair=status == "running" and is_repair(paths),
            parked_until=parked_until(paths) if status == "running" else None,
            retry_at=parse_time(error.get("retry_at")),
            error_kind=str(error["kind"]) if error.get("kind") else None,
            merged=is_merged,
            refused=refused,
            rivals=tuple(self._rivals(state, tree)) if refused and tree else (),
        )

    def _is_merged(self, tree: Worktree) -> bool:
        """Say whether the work of a worktree is in the plan's branch, or there is none."""
        tip = self._git.tips.get(tree.branch) if self._git else None
        if tree.landed is None or tree.landed_at is None:
            return tip is not None and tip == tree.base
        has_more = tip not in {None, tree.landed, tree.base}
        plan = self._tree
        went_on = plan is not None and plan.landed_at is not None and plan.landed_at >= tree.landed_at
        return not has_more and (went_on or tree.landed not in self._missing)

    def _rivals(self, state: SessionState, tree: Worktree) -> Iterator[str]:
        """Yield the tasks that were merged since a session began and before its work was refused.

        In a conflict, only those that have changed the files in it.
        """
        refused = tree.refused
        assert refused is not None
        changed = {*self._git.commits_of(refused.onto, refused.files)} if self._git and refused.onto else set()
        for unit, other in self._states.items():
            landed_at = other.worktree and other.worktree.landed_at
            if landed_at and landed_at > state.created_at and landed_commits(self._paths[unit]) & changed:
                yield unit


def landed_commits(paths: SessionPaths) -> set[str]:
    """Return the commits that a session's work became when it was landed last."""
    for event in read_events_backwards(paths.transcript):
        if event.type == "session_updated" and event.data.get("what") == "landed":
            commits = event.data.get("commits")
            return {str(commit) for commit in commits} if isinstance(commits, list) else set()
    return set()


def parked_until(paths: SessionPaths) -> datetime | None:
    """Return until when a running turn waits for a quota; None if it does not."""
    for count, event in enumerate(read_events_backwards(paths.transcript)):
        if event.type == "parked":
            return parse_time(event.data.get("until"))
        if event.type not in {"run_finished", "warning"} or count > _LAST_EVENTS:
            return None
    return None


def is_repair(paths: SessionPaths) -> bool:
    """Say whether the last turn that has begun is a repair."""
    started = last_started(paths.transcript)
    return bool(started and started.data.get("repair"))
