"""Making a session in which nothing has run yet."""

from __future__ import annotations

from typing import Any

from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.acting import record_act
from csa.runner.turns.founding import found_session
from csa.runner.turns.planning import plan_session
from csa.structs import Struct


class Created(Struct):
    """A session that was made, its tool and the model it asks for; `loss` is what could not be written of that."""

    session: Session
    tool: str
    model: str | None
    loss: str | None

    @property
    def session_id(self) -> str:
        return self.session.session_id

    def to_json(self) -> dict[str, Any]:
        """Return what `session new --json` prints of it."""
        state = self.session.load()
        return {
            "session_id": state.session_id,
            "project": state.project_path,
            "name": state.name,
            "description": state.description,
            "parent_session_id": state.parent_session_id,
            "tool": self.tool,
            "model": self.model,
            "permission": state.permission,
        }


def make_session(context: Context, request: RunRequest) -> Created:
    """Make the session that a run of the request would, without a turn; raises as `plan_session`, `found_session`."""
    plan = plan_session(context, request)
    session_id = found_session(plan, "created", {}).session_id
    loss = record_act(context, "session new", session_id, what="created")
    return Created(Session(plan.context, session_id), plan.adapter.name, plan.model, loss)
