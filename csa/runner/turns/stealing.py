"""Noting that a session was taken from an owner whose lock is not seen here: in its transcript, and in audit.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from csa.runner.caller import owner_name
from csa.store.audit import append_audit

if TYPE_CHECKING:
    from csa.runner.setting import Setting
    from csa.store.owner import Owner
    from csa.store.sessions import Store

_OF_OWNER = ("host", "pid", "tool", "turn", "errand", "since")


def note_theft(
    setting: Setting,
    store: Store,
    session_id: str,
    loser: Owner,
    *,
    command: str,
    append: Callable[[str, Mapping[str, Any]], object] | None,
) -> str | None:
    """Say who took a session from whom; `append` records an event. Return why audit.jsonl does not tell, if so."""
    by = owner_name(setting.environ)
    lost = {name: value for name in _OF_OWNER if (value := getattr(loser, name)) != ""}
    if append:
        append("session_updated", {"what": "stolen", "from": lost, "by": by})
    try:
        append_audit(
            store,
            command,
            session_id=session_id,
            what={"what": "stolen", "from": lost},
            who=by,
            caller=setting.caller.session_id if setting.caller else None,
        )
    except OSError as error:
        return f"audit.jsonl could not be written: {error.strerror or error}"
    return None
