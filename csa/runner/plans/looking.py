"""What has become of a plan: from the records of its sessions and from git. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime

from csa.model.plan import Plan, session_name
from csa.model.planstates import Known, TaskState, judge
from csa.model.state import SessionState, parse_time
from csa.model.worktree import Refused, Worktree
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.runner.plans.reading import ReadPlan
from csa.runner.plans.requests import session_of_plan
from csa.runner.session import Session
from csa.store.family import find_placed
from csa.store.integration import Integration, read_integration
from csa.store.reception import Reception
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
    """Return the records of a plan's units that have a session, by the names of units, in the order of the plan.

    One here has the unit's name; of those on other hosts, and that, the newest counts.
    """
    units = {session_name(stem, unit): unit for task in plan.tasks.values() for unit in task.units}
    store, found = session.store, dict[str, Record]()
    for record in Siblings(store, store.ids()).children(session.session_id):
        if unit := units.get(record.name or ""):
            found[unit] = record
    for record in _placed_records(session):
        unit = record.state.task.name if record.state and record.state.task else ""
        if unit not in found or found[unit].session_id < record.session_id:
            found[unit] = record
    return {unit: found[unit] for unit in units.values() if unit in found}


def _placed_records(session: Session) -> Iterator[Record]:
    """Yield the records of a plan's own children on other hosts, as far as mirrors have them."""
    for store, session_id in find_placed([session.target]):
        record = store.record(session_id)
        if record.state and record.state.task and record.state.parent_session_id == session.session_id:
            yield record


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
        self._hosts = {unit: record.store.host for unit, record in records.items()}
        self._tree = session.load().worktree
        self._git: Integration | None = read_integration(self._tree, environ) if self._tree else None
        self._receptions: dict[str, Reception | None] = {}
        looked_at = [self._landed_as(unit) for unit in self._states if only in {None, unit}]
        landed = {commit for commit in looked_at if commit}
        self._missing = self._git.missing(landed, self._tree.branch) if self._git and self._tree else landed
        asked = (record for unit, record in records.items() if unit == only or not record.store.host)
        if fault := next((record.fault for record in asked if record.fault), None):
            raise fault  # but a mirror may not have all yet

    def all(self) -> dict[str, Known]:
        return {unit: self.one(unit) for unit in self._states}

    def one(self, unit: str) -> Known:
        state, paths = self._states[unit], self._paths[unit]
        status, event = session_status(paths, state)
        error = event.data.get("error") if event else None
        error = error if isinstance(error, Mapping) else {}
        tree, is_over = state.worktree, status == "succeeded"
        if self._hosts[unit]:
            is_merged = is_over and self._is_received(unit)
            refused = None if is_merged else self._refused_here(unit, is_over=is_over)
        else:
            is_merged = tree is not None and is_over and self._is_merged(tree)
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
            rivals=tuple(self._rivals(state, refused)) if refused else (),
        )

    def _landed_as(self, unit: str) -> str | None:
        """Return the last commit that a unit's work has become here."""
        if self._hosts[unit]:
            return found.landed if (found := self._reception(unit)) else None
        return tree.landed if (tree := self._states[unit].worktree) else None

    def _reception(self, unit: str) -> Reception | None:
        """Return what has become here of the work of a session on another host."""
        if unit not in self._receptions:
            self._receptions[unit] = self._git.reception(self._states[unit].session_id) if self._git else None
        return self._receptions[unit]

    def _is_received(self, unit: str) -> bool:
        """Say whether the work of a session on another host is in the plan's branch, with nothing after it."""
        found = self._reception(unit)
        if found is None or found.landed is None or found.turn < self._states[unit].turns:
            return False
        return self._went_on_after(found.at) or found.landed not in self._missing

    def _refused_here(self, unit: str, *, is_over: bool) -> Refused | None:
        """Return why that was refused last; nothing of it if a turn has succeeded since."""
        found = self._reception(unit)
        return found.refused if found and (found.turn >= self._states[unit].turns or not is_over) else None

    def _went_on_after(self, landed_at: datetime) -> bool:
        """Say whether the plan's own work was landed since then, which may have made other commits of it."""
        return self._tree is not None and self._tree.landed_at is not None and self._tree.landed_at >= landed_at

    def _is_merged(self, tree: Worktree) -> bool:
        """Say whether the work of a worktree is in the plan's branch, or there is none."""
        tip = self._git.tips.get(tree.branch) if self._git else None
        if tree.landed is None or tree.landed_at is None:
            return tip is not None and tip == tree.base
        has_more = tip not in {None, tree.landed, tree.base}
        return not has_more and (self._went_on_after(tree.landed_at) or tree.landed not in self._missing)

    def _rivals(self, state: SessionState, refused: Refused) -> Iterator[str]:
        """Yield the tasks that were merged since a session began and before its work was refused.

        In a conflict, only those that have changed the files in it.
        """
        changed = {*self._git.commits_of(refused.onto, refused.files)} if self._git and refused.onto else set()
        for unit in self._states:
            landed_at, commits = self._landing_of(unit)
            if landed_at and landed_at > state.created_at and commits() & changed:
                yield unit

    def _landing_of(self, unit: str) -> tuple[datetime | None, Callable[[], set[str]]]:
        """Return when a unit's work was landed last, and what finds its commits."""
        if self._hosts[unit]:
            found = self._reception(unit)
            return (found.at, lambda: {*found.commits}) if found and found.landed else (None, set)
        tree = self._states[unit].worktree
        return tree.landed_at if tree else None, lambda: landed_commits(self._paths[unit])


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
