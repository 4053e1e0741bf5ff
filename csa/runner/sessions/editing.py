"""Giving a session another name, description or budget, protecting it from clean-up, and closing it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from csa.errors import BusyError, StateError, UsageError
from csa.model.limits import Budget
from csa.model.state import SessionState, format_time
from csa.runner.caller import owner_name, refuse_own_lineage
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, record_act, record_update
from csa.runner.turns.checks import check_name, is_unicode
from csa.runner.turns.drafting import description_of
from csa.runner.turns.edits import word_for
from csa.runner.turns.grants import AskedBudget, changed_budget
from csa.runner.turns.planning import new_id_now
from csa.store.edits import answer_to, ask_for_edit, forget, withdraw
from csa.store.held import HeldSession, store_lock
from csa.store.liveness import probe
from csa.store.owner import COMPACTION
from csa.store.parked import forget_parked
from csa.structs import Struct, replace

ANSWER_S, _LOOK_S = 1.5, 0.02  # how long the holder of a session has to apply a change


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
    return _change(session, "name", name)


def describe_session(session: Session, text: str) -> Edit:
    """Give a session another description: one line, redacted, cut to 80 characters."""
    if not is_unicode(text):
        raise UsageError("The description must be valid UTF-8.")
    return _change(session, "description", description_of(session.context, text))


def pin_session(session: Session, *, pinned: bool) -> Edit:
    """Protect a session from clean-up and deletion, or stop doing so."""
    return _change(session, "pinned", pinned)


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
        return _save(session.context, held, after, "closed_at")


def budget_session(session: Session, asked: AskedBudget) -> Edit:
    """Give a session another budget; RefusedError from inside any session, as `csa run --budget-tokens` has it."""
    changed_budget(session.context, session.load(), asked)  # an agent's own session runs: that is not the reason
    with hold_session(session) as held:
        budget = changed_budget(session.context, held.state, asked)
        return _save(session.context, held, replace(held.state, budget=budget), "budget")


def _change(session: Session, field: str, value: Any) -> Edit:
    """Change a field of the record: under the lock, or by asking the process that holds it.

    Raises as `open_session`; BusyError only after a moment in which the holder did not respond.
    """
    if field != "name":
        return _change_held(session, field, value)
    with store_lock(session.store):  # nobody else takes the name meanwhile
        other = session.store.find_name(value) if isinstance(value, str) else None
        if other not in {None, session.session_id}:
            raise UsageError(f"A session named '{value}' exists.", hint=f"csa rename {other} --clear")
        return _change_held(session, field, value)


def _change_held(session: Session, field: str, value: Any) -> Edit:
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            with hold_session(session, with_text=field == "description") as held:
                return _save(session.context, held, replace(held.state, **{field: value}), field)
        except BusyError:
            if edit := _ask_holder(session, field, value, deadline=deadline):
                return _noted(session, field, edit)
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_S)


def _ask_holder(session: Session, field: str, value: Any, *, deadline: float) -> Edit | None:
    """Have the process that works in the session change its record; None if it does not respond, or there is none."""
    paths, edit_id = session.paths, new_id_now()
    if not _has_holder(session):
        return None
    try:
        ask_for_edit(paths, edit_id, {"field": field, "value": value, "by": owner_name(session.context.environ)})
        while (said := answer_to(paths, edit_id)) is None:
            is_over = time.monotonic() > deadline or not _has_holder(session)
            if is_over and (withdraw(paths, edit_id) or time.monotonic() > deadline + ANSWER_S):
                return None
            time.sleep(_LOOK_S)
    except OSError as error:
        raise StateError.denied(paths.edits, "cannot be written", error) from error
    finally:
        forget(paths, edit_id)
    now = session.load()
    return Edit(replace(now, **{field: said["before"]}), replace(now, **{field: value}))


def _has_holder(session: Session) -> bool:
    """Say whether a process works in the session that looks for such requests."""
    found = probe(session.paths)
    return found.state == "alive" and found.owner is not None and found.owner.errand in {"", COMPACTION}


def _noted(session: Session, field: str, edit: Edit) -> Edit:
    """Record the act, which the holder has applied."""
    if not edit.is_change:
        return edit
    changes = {field: getattr(edit.after, field), "before": getattr(edit.before, field)}
    what = word_for(field, edit.after)
    loss = _record(session.context, session.session_id, field, what, changes)
    return replace(edit, losses=(loss,) if loss else ())


_COMMANDS = {
    "name": "session rename",
    "description": "session describe",
    "pinned": "session pin",
    "budget": "session budget",
    "closed_at": "session close",
}


def _save(context: Context, held: HeldSession, after: SessionState, field: str) -> Edit:
    edit = Edit(held.state, after)
    if not edit.is_change:
        return edit
    what = word_for(field, after)
    values = {field: getattr(after, field), "before": getattr(edit.before, field)}
    changes = {key: _as_json(value) for key, value in values.items()}
    record_update(context, held, what, changes, after)
    loss = _record(context, after.session_id, field, what, changes)
    return replace(edit, losses=(loss,) if loss else ())


def _record(context: Context, session_id: str, field: str, what: str, changes: Mapping[str, Any]) -> str | None:
    is_hidden = field == "description" and context.config.encryption.seals  # audit.jsonl is not encrypted
    return record_act(context, _COMMANDS[field], session_id, what=what, **({} if is_hidden else changes))


def _as_json(value: Any) -> Any:
    if isinstance(value, Budget):
        return value.to_record()
    return format_time(value) if isinstance(value, datetime) else value
