"""Making a session without a turn, which begins with whatever its first turn is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.errors import CsaError, DeniedError, StateError
from csa.model.state import SessionState
from csa.runner.caller import owner_name
from csa.runner.turns.admission import open_admission
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.turnrecorder import publish, with_tool
from csa.store.held import build_session
from csa.store.owner import CHANGE
from csa.store.trees import leave_tree


def found_session(plan: TurnPlan, what: str, facts: Mapping[str, Any]) -> SessionState:
    """Create the session of a `plan_session`, durably; `what` and `facts` are the first event of its transcript.

    It resolves from then on, and has not run. Its tool is the one of its first turn, if that names no other.

    Raises:
        RefusedError: a limit of its tree or of the project, or a budget, forbids it.
        BusyError: another process has just made a session with its name or id.
        CsaError: it cannot be written; nothing is left.
    """
    context = plan.context
    try:
        with open_admission(plan, runs=False) as admission:
            held = build_session(
                context.store,
                with_tool(plan.state, plan),
                context.redactor,
                tool=plan.adapter.name,
                errand=CHANGE,
                max_sessions=context.config.max_sessions,
            )
            admission.admit(held)
        with held:
            try:
                held.record("session_updated", {"what": what, **facts, "by": owner_name(context.environ)})
                publish(held)
            finally:
                if not held.is_published:
                    held.attempt("the tree's list", lambda: leave_tree(held.store.root, held.state))
            return held.state
    except OSError as error:
        place = error.filename or context.store.path
        if isinstance(denied := StateError.denied(place, "cannot be written", error), DeniedError):
            raise denied from error
        raise CsaError(f"The session cannot be written: {error.strerror}: {place}.") from error
