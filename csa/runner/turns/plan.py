"""What a turn will do, as values: made in `planning`, executed by everything that follows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from csa.model.adapter import Adapter, SchemaTool
from csa.model.permission import Permission
from csa.model.state import SessionState, ToolState
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.turns.handoff import History
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.turns.recorded import Replay


class Fork(Struct):
    """What a new session begins with. `provider_session_id` is None if only a summary can be given."""

    source: SessionPaths
    turns: int
    provider_session_id: str | None
    totals: Mapping[str, float] | None
    since: int = 0  # turns with a lower number had been pruned
    history: History = ()  # of the source, for a summary

    def for_another_tool(self) -> Fork:
        """Return the fork for a tool that cannot have a copy."""
        return replace(self, provider_session_id=None, totals=None)

    def to_event(self) -> dict[str, Any]:
        """Return the data of the `fork` event."""
        how = "native" if self.provider_session_id else "handoff"
        data = {"from": self.source.session_id, "turns": self.turns, "how": how, "of": self.provider_session_id}
        return {**data, **({"since": self.since} if self.since else {})}


class TurnPlan(Struct, kw_only=True):
    """A turn that may be run. `state` is the session's before the turn; `is_new` says that it must be created."""

    request: RunRequest
    context: Context  # of the session's own project
    is_new: bool
    state: SessionState
    adapter: Adapter
    command: tuple[str, ...]
    why_tool: str
    transport: str
    permission: Permission
    cwd: str
    account: str
    model: str | None
    effort: str | None
    origins: Mapping[str, str]  # where the model, the effort and the limits come from, by key
    timeout_s: float | None
    idle_timeout_s: float | None
    max_depth: int
    retries: int = 0
    fallback: tuple[str, ...] = ()  # the TOOL[:MODEL]s that take over, in this order, when the provider fails
    park_limit_s: float = 0.0  # how long to wait for a used-up quota, if its reset is stated
    hands_over: bool = True
    callers: tuple[str, ...] = ()  # the calling session and its ancestors: they continue when this turn has ended
    fork: Fork | None = None
    asks: str | None = None  # a token: somebody may answer permission requests (see `csa.runner.turns.asking`)
    ask_timeout_s: float | None = None
    compacts: bool = False  # the tool is to compact its conversation; the prompt is not used
    queued: str | None = None  # the id of the queued prompt that it sends
    starts_at: datetime | None = None  # when a quota resets: the session waits until then
    replay: Replay | None = None  # what was recorded, and stands in for the tool
    dirty: tuple[str, ...] = ()  # what is not committed in the checkout that a worktree is made from

    def limit_s(self, name: str) -> float | None:
        """Return a time limit to keep, `timeout_s` or `idle_timeout_s`.

        A recorded one is not: what had ended by it ends in the same way when all that was recorded has been sent.
        """
        limit: float | None = getattr(self, name)
        return None if self.replay and limit == self.replay.turn.span.started.data.get(name) else limit

    @property
    def tool_state(self) -> ToolState:
        """What the session knows about the tool's conversation; empty for a tool it has not used."""
        return self.state.tools.get(self.adapter.name, ToolState())

    @property
    def is_held_to_schema(self) -> bool:
        """Whether the tool itself makes the answer conform to the request's schema; else the agent is asked to."""
        schema, adapter = self.request.schema, self.adapter
        return schema is not None and isinstance(adapter, SchemaTool) and adapter.accepts_schema(schema)
