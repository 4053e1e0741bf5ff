"""Whether several tools may work in a session, or get its history: `shared`, of the session or as configured.

Where it is off, csa hands nothing of a session to a tool other than its own: no second tool, no fallback to another,
no fork and no merge for another.
"""

from __future__ import annotations

from collections.abc import Iterable

from csa.errors import RefusedError
from csa.model.state import SessionState
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.toolbox import loadable_adapters

_VENDORS = {"openai": "OpenAI", "anthropic": "Anthropic", "google": "Google", "opencode": "any provider"}


def is_shared(context: Context, state: SessionState) -> bool:
    """Say whether other tools may get what is said in a session."""
    return context.config.shares if state.shared is None else state.shared


def asked_sharing(context: Context, request: RunRequest, state: SessionState) -> bool | None:
    """Return what a session is to keep; RefusedError for an agent that would open what is not shared.

    What was said while sharing was off stays so: whoever is asked next may have another configuration, as an agent.
    """
    if request.shared and context.caller is not None and not is_shared(context, state):
        raise RefusedError(
            f"Session {context.caller.session_id} cannot have a session shared that is not.",
            hint="leave --shared to whoever started this tree",
        )
    if request.shared is None:
        return False if state.shared is None and not context.config.shares else state.shared
    return request.shared


def refuse_second_tool(context: Context, state: SessionState, tool: str) -> None:
    """Raise RefusedError if a session is not shared, and something was said in it with another tool than this."""
    if (state.turns or state.merged_from) and tool != state.last_tool and not is_shared(context, state):
        raise RefusedError(
            f"Session {state.session_id} is not shared: only {state.last_tool} may work in it, not {tool}.",
            hint=f'csa run --tool {tool} "..." starts a new session, which knows nothing of it',
        )


def refuse_to_hand_over(context: Context, sources: Iterable[SessionState], tool: str) -> None:
    """Raise RefusedError if a fork or a merge would give what is not shared to another tool."""
    for source in sources:
        refuse_second_tool(context, source, tool)


def vendor_given(context: Context, tool: str, told: Iterable[str]) -> str | None:
    """Return the vendor of a tool that is told of the turns of others, if theirs was another."""
    families = {adapter.name: adapter.family for adapter in loadable_adapters(context.config)[0]}
    own = families.get(tool, tool)
    return _VENDORS.get(own, own) if any(families.get(other) != own for other in told) else None
