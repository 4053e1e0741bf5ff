"""Changes of a session's name, description or pin while it runs: applied by the process that holds its lock."""

from __future__ import annotations

from typing import Any

from csa.errors import CsaError
from csa.model.events import Event
from csa.model.state import SessionState
from csa.store.edits import AskedEdit, take_edits
from csa.store.held import HeldSession
from csa.structs import replace

_WORDS = {"name": "renamed", "description": "described", "budget": "budgeted", "closed_at": "closed"}
_KINDS = {"name": (str, type(None)), "description": (str,), "pinned": (bool,)}


def word_for(field: str, after: SessionState) -> str:
    """Return what a change does, as its event has it."""
    return _WORDS.get(field) or ("pinned" if after.pinned else "unpinned")


def apply_edits(held: HeldSession) -> list[Event]:
    """Apply what is asked for; return the events, as recorded."""
    return [event for edit in take_edits(held.paths) for event in _apply(held, edit)]


def _apply(held: HeldSession, edit: AskedEdit) -> list[Event]:
    if not isinstance(edit.value, _KINDS.get(edit.field, ())):
        return []
    value: Any = held.redactor.redact(edit.value) if isinstance(edit.value, str) else edit.value
    before, events = getattr(held.state, edit.field), list[Event]()
    try:
        if value != before:
            after = replace(held.state, **{edit.field: value})
            data = {"what": word_for(edit.field, after), edit.field: value, "before": before, "by": edit.by}
            events = held.record("session_updated", data, after)
        edit.finish(before=before)
    except (CsaError, OSError) as error:
        held.losses.append(f"the {edit.field} could not be changed: {error}")
    return events
