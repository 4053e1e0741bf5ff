"""Clean-up: one planner, which only reads, and the executor that carries its plan out.

Every item is judged again under its lock, by the same rule, so a session that was used in between stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from csa.errors import BusyError, RefusedError, StateError
from csa.model.collection import Rule
from csa.model.state import SessionState, format_time
from csa.paths import NEW_PREFIX, SessionPaths
from csa.runner.context import Context
from csa.runner.sessions.acting import record_act
from csa.runner.sessions.worktrees import give_up, put_away, why_kept
from csa.runner.turns.runfiles import run_directory
from csa.store.current import forget_unused
from csa.store.gitplumbing import GitError
from csa.store.gonetrees import find_gone, find_orphans, forget_work, is_published
from csa.store.retiring import hold, purge, remove_empty_directories, remove_remains, remove_tree, retire
from csa.store.searchindex import forget, index_name
from csa.store.sessions import Store
from csa.store.statefile import load_state
from csa.store.survey import measure
from csa.store.sweep import (
    Candidate,
    find_backups,
    find_candidates,
    find_remains,
    find_runtime,
    is_abandoned,
    is_forgotten,
    is_running,
    judge,
    retired_at,
)
from csa.store.worktrees import take_away_unbegun
from csa.structs import Struct, field

Action = Literal["retire", "purge"]
_PREVIEW_LIMIT_S = 0.05  # a dry run names sessions; computing their size is worth no more time than this
_MEASURE_LIMIT_S = 10.0
_ORPHANED_AFTER = timedelta(hours=1)  # a worktree whose session is gone: somebody may be moving it
_UNUSED_AFTER = timedelta(days=30)  # the pointer of a terminal, which hardly is still open


class Item(Struct):
    """One thing to clean up: a session, one in the trash, or remains of something interrupted."""

    store: Store
    session_id: str
    path: Path
    action: Action
    reason: str  # old, expired, ephemeral, damaged, retired, remains, runtime, backup, worktree
    state: SessionState | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        state = self.state
        return {
            "session_id": self.session_id,
            "project": str(self.store.project),
            "name": state.name if state else None,
            "description": state.description if state else None,
            "action": self.action,
            "reason": self.reason,
            "tools": list(state.tools) if state else [],
            "last_accessed": format_time(state.last_accessed) if state else None,
            "id": self.session_id,
        }


class Kept(Struct):
    """A session that stays although it is old enough, and why: its work has not landed."""

    store: Store
    session_id: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {"session_id": self.session_id, "project": str(self.store.project), "why": self.why}


class Plan(Struct, frozen=False):
    """What a rule selects in a store, and what it leaves although it is old enough."""

    store: Store
    rule: Rule
    now: datetime
    items: list[Item] = field(default_factory=list)
    damaged: list[tuple[str, StateError]] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class Report(Struct, frozen=False):
    """What was done, or in a dry run would be. `failures` are texts."""

    retired: list[Item] = field(default_factory=list)
    purged: list[Item] = field(default_factory=list)
    damaged: list[tuple[str, StateError]] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    retired_bytes: int = 0
    freed_bytes: int = 0
    is_size_whole: bool = True

    def add(self, other: Report) -> None:
        """Add what was done in another store."""
        for name in ("retired", "purged", "damaged", "running", "kept", "failures"):
            getattr(self, name).extend(getattr(other, name))
        self.retired_bytes += other.retired_bytes
        self.freed_bytes += other.freed_bytes
        self.is_size_whole = self.is_size_whole and other.is_size_whole


def collect(
    context: Context,
    rule: Rule,
    stores: Iterable[Store],
    *,
    command: str,
    now: datetime,
    dry_run: bool,
    with_runtime: bool = False,
    progress: Callable[[Item], None] = lambda _item: None,
) -> Report:
    """Clean up what a rule selects in some stores, or report what that would be.

    `with_runtime`: also the runtime directories of sessions whose supervisor died, and old backups of repairs.

    Raises:
        RefusedError: the calling session's record cannot be found.
    """
    spared = frozenset(context.caller.lineage() if context.caller else ())
    report = Report()
    for store in stores:
        plan = plan_collection(context, store, rule, now, spared=spared)
        if with_runtime:
            plan.items += _leftovers(plan)
        report.add(preview(plan) if dry_run else carry_out(context, plan, command, progress=progress))
    return report


def plan_collection(
    context: Context, store: Store, rule: Rule, now: datetime, *, spared: frozenset[str] = frozenset()
) -> Plan:
    """Return what a rule selects in a store, without writing. `spared` stay: the calling session and its ancestors."""
    plan = Plan(store, rule, now)
    for found in find_candidates(store, rule, now):
        if found.fault is not None and found.reason is None:
            plan.damaged.append((found.session_id, found.fault))
        elif found.is_running or found.session_id in spared:
            plan.running.append(found.session_id)
        elif why := why_kept(context, store, found.session_id, found.state):
            plan.kept.append(Kept(store, found.session_id, why))
        else:
            plan.items.append(_item(store, rule, found))
    plan.items += _retired(store, rule, now)
    plan.items += [
        Item(store, path.name.rpartition("-")[2], path, "purge", "remains") for path in find_remains(store, now)
    ]
    plan.items += _worktrees(store, rule, now)
    return plan


def preview(plan: Plan) -> Report:
    """Return what carrying a plan out would do. Writes nothing."""
    report = Report(damaged=plan.damaged, running=plan.running, kept=plan.kept)
    deadline = time.monotonic() + _PREVIEW_LIMIT_S
    for item in plan.items:
        size = 0
        if report.is_size_whole:
            size, report.is_size_whole = measure(item.path, limit_s=deadline - time.monotonic())
        _add_to_report(report, item, size)
    return report


def carry_out(
    context: Context, plan: Plan, command: str, *, progress: Callable[[Item], None] = lambda _item: None
) -> Report:
    """Clean up what the plan names, if it still applies under its lock; record each in audit.jsonl.

    Terminals' pointers to a current session that nobody uses any more are removed as well.
    """
    report = Report(damaged=plan.damaged, running=plan.running, kept=plan.kept)
    for item in plan.items:
        progress(item)
        try:
            size = _collect(context, plan, item)
        except RefusedError as error:  # something was written since the plan
            plan.kept.append(Kept(plan.store, item.session_id, error.message.rstrip(".")))
            continue
        except (OSError, BusyError, StateError, GitError) as error:
            if not isinstance(error, FileNotFoundError | BlockingIOError):  # else another process was first, or uses it
                report.failures.append(f"{item.path}: {error}")
            continue
        if size is None:
            continue
        _add_to_report(report, item, size)
        done = "retired" if item.action == "retire" else "purged"
        loss = record_act(context, command, item.session_id, store=plan.store, what=done, reason=item.reason)
        if loss and loss not in report.failures:
            report.failures.append(loss)
    forget_unused(plan.store, plan.now - _UNUSED_AFTER)
    if report.purged:
        forget(plan.store.root, [index_name(plan.store, item.session_id) for item in report.purged])
        remove_empty_directories(plan.store)
    return report


def _item(store: Store, rule: Rule, found: Candidate) -> Item:
    is_undoable = not rule.purge and found.reason != "ephemeral"
    action: Action = "retire" if is_undoable else "purge"
    return Item(store, found.session_id, found.paths.root, action, str(found.reason), found.state)


def _retired(store: Store, rule: Rule, now: datetime) -> Iterator[Item]:
    for session_id in store.retired_ids():
        paths = store.retired_paths(session_id)
        try:
            state, since = retired_at(paths)
        except OSError:
            continue
        if rule.takes_retired(state, since, now) and (not is_running(paths) or is_forgotten(paths, rule, now)):
            yield Item(store, session_id, paths.root, "purge", "retired", state)


def _worktrees(store: Store, rule: Rule, now: datetime) -> Iterator[Item]:
    """Yield worktrees whose session is gone, and what is to be deleted of those that were taken away."""
    for path in find_orphans(store, now - _ORPHANED_AFTER):
        yield Item(store, path.name, path, "retire", "worktree")
    for gone in find_gone(store, now - timedelta(days=rule.undo_days)):
        yield Item(store, gone.session_id, gone.place, "purge", "worktree")


def _leftovers(plan: Plan) -> Iterator[Item]:
    """Yield the runtime directories that killed runs have left, and old backups of repairs, of sessions that stay."""
    going = {item.session_id for item in plan.items}
    for session_id in find_runtime(plan.store):
        paths = plan.store.paths(session_id)
        if session_id not in going and not is_running(paths):
            yield Item(plan.store, session_id, run_directory(paths), "purge", "runtime")
    for session_id, path in find_backups(plan.store, plan.now - timedelta(days=plan.rule.undo_days)):
        if session_id not in going:
            yield Item(plan.store, session_id, path, "purge", "backup")


def _collect(context: Context, plan: Plan, item: Item) -> int | None:
    """Clean up one item; return its size, or None if it stays after all."""
    paths = SessionPaths(item.path)
    if item.reason == "remains":
        return _remove_remains(context, plan, item)
    if item.reason == "worktree":
        return _remove_worktrees(context, plan, item)
    if item.reason in {"runtime", "backup"}:
        with hold(plan.store.paths(item.session_id)):
            return remove_tree(item.path)
    size, _ = measure(paths.root, limit_s=_MEASURE_LIMIT_S)
    with hold(paths, steal=is_forgotten(paths, plan.rule, plan.now)):
        if not _is_still_to_go(plan, item, paths):
            return None
        give_up(
            context, plan.store, paths, _state_of(paths), force=item.reason == "retired", purge=item.action == "purge"
        )
        if item.action == "purge":
            return purge(paths)
        retire(plan.store, paths, plan.now)
        return size


def _state_of(paths: SessionPaths) -> SessionState | None:
    with suppress(StateError):
        return load_state(paths.state)
    return None


def _remove_remains(context: Context, plan: Plan, item: Item) -> int | None:
    """Remove what a start or a deletion has left, with the worktree that was made for it: nothing has run there."""
    if not is_abandoned(item.path, plan.now):
        return None
    state = _state_of(SessionPaths(item.path)) if item.path.name.startswith(NEW_PREFIX) else None
    if state and state.worktree and not is_published(plan.store, item.session_id):
        take_away_unbegun(state.worktree, plan.store, item.session_id, context.environ)
    return remove_remains(item.path)


def _remove_worktrees(context: Context, plan: Plan, item: Item) -> int:
    """Move a worktree without a session aside, or delete those that were taken away long enough ago, and their refs."""
    if item.action == "retire":
        size, _ = measure(item.path, limit_s=_MEASURE_LIMIT_S)
        put_away(item.path, item.session_id)
        return size
    freed = 0
    for gone in find_gone(plan.store, plan.now - timedelta(days=plan.rule.undo_days), session_id=item.session_id):
        freed += sum(remove_tree(path) for path in gone.paths)
        if gone.is_last:
            forget_work(plan.store, gone, context.environ)
    return freed


def _is_still_to_go(plan: Plan, item: Item, paths: SessionPaths) -> bool:
    """Judge again, under the lock. Its owner is then this process, so whether the session is running is settled."""
    if item.reason == "retired":
        return plan.rule.takes_retired(*retired_at(paths), plan.now)
    found = judge(paths, plan.rule, plan.now)
    return found is not None and found.reason is not None


def _add_to_report(report: Report, item: Item, size: int) -> None:
    if item.action == "retire":
        report.retired.append(item)
        report.retired_bytes += size
    else:
        report.purged.append(item)
        report.freed_bytes += size
