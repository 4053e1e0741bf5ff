"""Merging sessions: a new one that goes on with the histories of several.

The sources are only read, and stay as they are. The new session's record names them, and how far each was; what was
merged into what is read from there, in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from csa.errors import UsageError
from csa.model.permission import Permission
from csa.model.state import SessionState
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session, follow_resumed
from csa.runner.sessions.acting import record_act
from csa.runner.turns.forking import load_source
from csa.runner.turns.founding import found_session
from csa.runner.turns.planning import plan_session
from csa.structs import Struct, replace

_MOST = 20
_SHOWN = 10  # characters of the id of a session without a name


class Merged(Struct):
    """The new session, and what it was merged from, in the order in which the sources were named."""

    state: SessionState
    sources: tuple[SessionState, ...]
    losses: tuple[str, ...] = ()


def merge_sessions(context: Context, selectors: Sequence[str], request: RunRequest) -> Merged:
    """Make a session that begins with the histories of others, in this project; `request` says what else it is.

    Its first turn's tool gets a summary of all of them. That tool is the one asked for, else that of the source used
    last. It may do what each of the sources may, unless the request says otherwise.

    Raises:
        UsageError: fewer than two sessions are named, one twice, or one in which nothing was said.
        NotFoundError, RetiredError, AmbiguousError, StateError: of a source.
        BusyError, RefusedError: a source is running; or as `found_session`.
    """
    sessions = _find(context, selectors)
    sources = [load_source(session, verb="merge") for session in sessions]
    latest = max(sources, key=lambda state: state.last_accessed)
    names = [state.name or state.session_id[:_SHOWN] for state in sources]
    about = f"merge of {', '.join(names[:-1])} and {names[-1]}"
    plan = plan_session(
        context,
        replace(request, description=request.description or about),
        previous=latest.last_tool,
        permission=_least(sources),
        sources=sources,
    )
    facts = [
        {"from": state.session_id, "turns": state.turns, "since": state.window.since_turn or None} for state in sources
    ]
    state = found_session(plan, "merged", {"sources": facts})
    loss = record_act(context, "session merge", state.session_id, what="merged", sources=list(state.merged_from))
    return Merged(state, tuple(sources), (loss,) if loss else ())


def _find(context: Context, selectors: Sequence[str]) -> list[Session]:
    if not 1 < len(selectors) <= _MOST:
        raise UsageError(f"Name two to {_MOST} sessions to merge.", hint="csa merge A B")
    found: dict[str, str] = {}
    sessions = []
    for selector in selectors:
        session = follow_resumed(find_session(context, selector), retired=False)
        if other := found.get(session.paths.pathname):
            raise UsageError(f"'{other}' and '{selector}' are the same session, {session.session_id}.")
        found[session.paths.pathname] = selector
        sessions.append(session)
    return sessions


def _least(sources: Sequence[SessionState]) -> str | None:
    """Return the permission that all sources have."""
    known = {level.value: level for level in Permission}
    levels = [known[state.permission] for state in sources if state.permission in known]
    return min(levels, key=lambda level: level.rank).value if levels else None
