"""What is asked of another host by `csa run --on`: what a request means there, and its order as it travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.config import Engine
from csa.model.configkeys import SHARED
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.caller import owner_name
from csa.runner.context import Context
from csa.runner.detach import request_to_json
from csa.runner.hosts.escrow import Escrow
from csa.runner.request import RunRequest
from csa.runner.turns.checks import check_request
from csa.runner.turns.grants import is_not_agents
from csa.structs import replace

_NOT_ELSEWHERE = {
    "secrets": "--secret: no secret leaves this host; give it to the tool there",
    "ephemeral": "--ephemeral: the answer is read from the session's record",
    "fork_from": "--fork-from: the conversation is here",
    "last": "--last: that is of this host; name the session: -s HOST:NAME",
    "plan": "a plan: its scheduler runs here",
}


def for_elsewhere(context: Context, request: RunRequest) -> RunRequest:
    """Return a request as it can travel: with the contents of what it names; UsageError for what cannot."""
    for field, words in _NOT_ELSEWHERE.items():
        if getattr(request, field):
            raise UsageError(f"Another host cannot be given {words}.", hint="leave it out, or leave --on out")
    check_request(request, may_lack_prompt=request.repair)
    if not (request.images or request.files):
        return request
    from csa.runner.attaching import with_contents  # noqa: PLC0415  # few turns have some

    return with_contents(request, context.directory_pathname)


def order_of(
    context: Context,
    request: RunRequest,
    escrow: Escrow,
    *,
    session_id: str,
    directory: str,
    wait_s: float | None,
) -> dict[str, Any]:
    """Return what a supervisor on another host is to do; `request` has what it names with its contents."""
    if request.session is None:
        request = replace(request, owner=request.owner or owner_name(context.environ))
    elif context.caller and any(getattr(request, f"budget_{name}") is not None for name in ("tokens", "usd", "time_s")):
        raise is_not_agents(session_id, context.caller)  # there, what is asked for counts as allowed here
    return {
        "id": escrow.id,
        "request": request_to_json(replace(_within(request, escrow.allowance), directory=None)),
        "session_id": session_id,
        "directory": directory,
        "command": "csa",
        "caller": dict.fromkeys(IDENTITY_VARIABLES),
        "variables": None,
        "wait_s": wait_s,
        "on_finish": None,
    }


def _within(request: RunRequest, allowance: Mapping[str, Any] | None) -> RunRequest:
    """Return the request with what the session may use there as its budget, unless that asked for is less."""
    bounds = {}
    for name, most in (allowance or {}).items():
        asked = getattr(request, f"budget_{name}")
        if most:
            bounds[f"budget_{name}"] = min(asked or most, most)
    return replace(request, **bounds)


def directory_there(context: Context, engine: Engine, given: str | None) -> str:
    """Return where a new session starts on a host if no code goes along; empty for the home directory there.

    `given` is what `--cd` says; a relative one is below the directory here.
    """
    if engine.code == SHARED:
        return context.directory_pathname
    if given is not None:
        return given if given.startswith(("/", "~")) else context.directory_pathname
    return engine.directory
