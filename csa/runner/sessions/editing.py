"""Giving a session another name, description or budget, protecting it from clean-up, and closing it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from csa.errors import UsageError
from csa.model.limits import Budget
from csa.model.state import SessionState, format_time
from csa.runner.caller import refuse_own_lineage
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, record_act, record_update
from csa.runner.turns.checks import check_name, is_unicode
from csa.runner.turns.planning import AskedBudget, changed_budget, description_of
from csa.store.held import HeldSession, store_lock
from csa.store.parked import forget_parked
from csa.structs import Struct, replace


class Edit(Struct):
    """The change of a session's record; nothing was written if `before` and `after` are the same."""

    before: SessionState
    after: SessionState
    losses: tuple[str, ...] = ()

    @property
    def is_change(self) -> bool:
        return self.before != self.after


def rename_session(session: Session, name: str | None) -> Edit:
    """Give a session a name, unique in its project, or take it away (None).

    Raises:
        UsageError: the name is invalid, or another session has it.
        NotFoundError, AmbiguousError, BusyError, StateError: of the session.
    """
    check_name(name)
    with hold_session(session) as held, store_lock(session.store):
        other = session.store.find_name(name) if name is not None else None
        if other not in {None, held.state.session_id}:
            raise UsageError(f"A session named '{name}' exists.", hint=f"csa rename {other} --clear")
        return _save(session.context, held, replace(held.state, name=name), "session rename")


def describe_session(session: Session, text: str) -> Edit:
    """Give a session another description: one line, redacted, cut to 80 characters."""
    if not is_unicode(text):
        raise UsageError("The description must be valid UTF-8.")
    line = description_of(session.context, text)
    with hold_session(session) as held:
        return _save(session.context, held, replace(held.state, description=line), "session describe")


def pin_session(session: Session, *, pinned: bool) -> Edit:
    """Protect a session from clean-up and deletion, or stop doing so."""
    with hold_session(session) as held:
        return _save(session.context, held, replace(held.state, pinned=pinned), "session pin")


def close_session(session: Session) -> Edit:
    """Close a session: from now on it is continued only with `reopen`; one that waits for a quota no longer does.

    Raises:
        RefusedError: it is the calling session, or above it.
        BusyError: it is running.
    """
    refuse_own_lineage(session.context.caller, session.session_id, verb="close")
    with hold_session(session) as held:
        forget_parked(session.store, session.session_id)
        after = replace(held.state, closed_at=held.state.closed_at or datetime.now(UTC))
        return _save(session.context, held, after, "session close")


def budget_session(session: Session, asked: AskedBudget) -> Edit:
    """Give a session another budget; RefusedError from inside any session, as `csa run --budget-tokens` has it."""
    changed_budget(session.context, session.load(), asked)  # an agent's own session runs: that is not the reason
    with hold_session(session) as held:
        budget = changed_budget(session.context, held.state, asked)
        return _save(session.context, held, replace(held.state, budget=budget), "session budget")


_WORDS = {
    "session rename": ("renamed", "name"),
    "session describe": ("described", "description"),
    "session budget": ("budgeted", "budget"),
    "session close": ("closed", "closed_at"),
}


def _save(context: Context, held: HeldSession, after: SessionState, command: str) -> Edit:
    edit = Edit(held.state, after)
    if not edit.is_change:
        return edit
    what, field = _WORDS.get(command, ("pinned" if after.pinned else "unpinned", "pinned"))
    values = {field: getattr(after, field), "before": getattr(edit.before, field)}
    changes = {key: _as_json(value) for key, value in values.items()}
    record_update(context, held, what, changes, after)
    loss = record_act(context, command, after.session_id, what=what, **changes)
    return replace(edit, losses=(loss,) if loss else ())


def _as_json(value: Any) -> Any:
    if isinstance(value, Budget):
        return value.to_record()
    return format_time(value) if isinstance(value, datetime) else value
