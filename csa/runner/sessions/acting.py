"""What every command that changes sessions has in common: who may, under which lock, and how it is noted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from csa.errors import NotFoundError, RefusedError
from csa.model.permission import Permission
from csa.model.state import SessionState
from csa.runner.caller import Caller, owner_name, refuse_own_lineage
from csa.runner.context import Context, seal_after
from csa.runner.session import Session
from csa.store.audit import append_audit
from csa.store.family import find_placed
from csa.store.genealogy import ancestors
from csa.store.held import HeldSession, open_session
from csa.store.owner import CHANGE
from csa.store.sessions import Store
from csa.store.taking import RETRY


@contextmanager
def hold_session(
    session: Session, *, errand: str = CHANGE, advice: str = RETRY, with_text: bool = False
) -> Iterator[HeldSession]:
    """Take the lock of a session; raises as `open_session`. One that is encrypted is opened meanwhile `with_text`."""
    context = session.context
    keys = (lambda: context.keys.found) if with_text or errand != CHANGE else None
    try:
        held = open_session(
            session.store, session.session_id, context.redactor, errand=errand, advice=advice, keys=keys
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"Session {session.session_id} has just been deleted.", hint="csa ls") from error
    with ExitStack() as ending:
        if keys:
            ending.callback(seal_after, context, held)
        yield ending.enter_context(held)


def record_act(
    context: Context, command: str, session_id: str | None, *, store: Store | None = None, **what: Any
) -> str | None:
    """Append an act to audit.jsonl of the store, redacted. Return the reason if that fails: the act itself is valid."""
    try:
        append_audit(
            store or context.store,
            command,
            session_id=session_id,
            what=context.redactor.redact_data(what),
            who=owner_name(context.environ),
            caller=context.caller.session_id if context.caller else None,
        )
    except OSError as error:
        return f"audit.jsonl could not be written: {error.strerror or error}"
    return None


def record_update(
    context: Context, held: HeldSession, what: str, changes: Mapping[str, Any], after: SessionState | None = None
) -> None:
    """Append a `session_updated` event to a session that is held, and save the state it describes: both or neither.

    Raises:
        StateError, OSError: one of them cannot be written.
    """
    held.record("session_updated", {"what": what, **changes, "by": owner_name(context.environ)}, after)


def refuse_others_work(session: Session, *, verb: str) -> None:
    """Raise RefusedError where an agent would do something with the work of a session that it has not started."""
    caller = session.context.caller
    if caller is None:
        return
    refuse_own_lineage(caller, session.session_id, verb=verb)
    if caller.permission is Permission.READ_ONLY:
        raise RefusedError(f"Session {caller.session_id} may only read, so it cannot {verb} anything.")
    state = session.load()
    line = [state, *ancestors(session.store.root, state)]  # of one on another host up to where that was placed
    if session.store.host:
        is_its = _has_placed(caller, session.store.host, {each.session_id for each in line})
    else:
        is_its = caller.session_id in {each.session_id for each in line[1:]}
    if not is_its:
        raise RefusedError(
            f"Session {session.session_id} was not started by the calling session {caller.session_id}.",
            hint="leave that to whoever started it",
        )


def _has_placed(caller: Caller, host: str, session_ids: set[str]) -> bool:
    """Say whether a session, or one below it, has placed one of these on a host.

    The list of its tree says it: the records there are the host's, which could name any session as their parent.
    """
    founder = Store(caller.root, caller.state.project_path), caller.session_id
    return any(store.host == host and each in session_ids for store, each in find_placed([founder]))
