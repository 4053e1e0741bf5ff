"""Recording that a session was taken from an owner whose lock is not visible here: in transcript and audit.jsonl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csa.runner.caller import owner_name
from csa.store.audit import append_audit

if TYPE_CHECKING:
    from csa.runner.context import Context
    from csa.store.owner import Owner
    from csa.store.sessions import Store
    from csa.store.writer import SessionWriter

_OF_OWNER = ("host", "pid", "tool", "turn", "errand", "since")


def note_theft(context: Context, store: Store, writer: SessionWriter, loser: Owner, *, command: str) -> None:
    """Record who took the writer's session from whom; what cannot be written is a loss of the writer."""
    by = owner_name(context.environ)
    lost = {name: value for name in _OF_OWNER if (value := getattr(loser, name)) != ""}
    with writer.losing("the transcript"):
        writer.append("session_updated", {"what": "stolen", "from": lost, "by": by})
    with writer.losing("audit.jsonl"):
        append_audit(
            store,
            command,
            session_id=writer.paths.session_id,
            what={"what": "stolen", "from": lost},
            who=by,
            caller=context.caller.session_id if context.caller else None,
        )
