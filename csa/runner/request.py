"""What a caller of the library asks for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from csa.model.permission import Permission
from csa.structs import Struct, replace


class RunRequest(Struct, kw_only=True):
    """One turn. At most one of `session`, `last` and `session_id` is given; none begins a new session."""

    prompt: str
    tool: str | None = None  # a tool's name, or "auto"
    transport: str | None = None  # "native" or "acp"; None as configured
    session: str | None = None  # a selector: resume that session
    last: bool = False  # resume the session used last
    session_id: str | None = None  # a ULID or a name: continue that session, or create it
    description: str | None = None
    name: str | None = None
    model: str | None = None  # "default": the configured one, or the tool's own; None as the session has kept
    effort: str | None = None  # likewise
    extra_writable: tuple[str, ...] | None = None  # directories, in place of those that the session has kept
    permission: Permission | None = None
    system: str | None = None  # text to add to the tool's system prompt
    ephemeral: bool = False
    fork_from: str | None = None  # a selector: begin the new session with a copy of that one's conversation
    timeout_s: float | None = None  # of wall time
    idle_timeout_s: float | None = None  # of silence: neither output nor processor time
    keep_background: bool = False  # what the tool leaves running when it has ended well lives on
    retries: int | None = None  # how often csa tries again after a passing failure; None as configured
    fallback: tuple[str, ...] | None = None  # TOOL[:MODEL]s that go on when the provider fails; None as configured
    park_limit_s: float | None = None  # how long to wait for a used-up quota, 0 for not; None as configured
    handoff: bool | None = None  # tell the tool of the turns that others have run; None as configured
    budget_tokens: int | None = None  # of the session and all below it; 0 is none, None leaves it as it is
    budget_usd: float | None = None
    budget_time_s: float | None = None  # the time of all turns, added up
    ttl: timedelta | None = None  # after which the session expires; default: as configured
    steal: bool = False  # resume it though another machine, as far as is known, may still run it
    directory: Path | None = None  # where a new session starts; default: where the library was opened


def going_on(request: RunRequest, **changes: Any) -> RunRequest:
    """Return the same request, but for `changes`, for the next turn of the session there is by now.

    What was said of the session, and of the tool's conversation, is in its record and in the plan by now.
    """
    said = {"session": None, "session_id": None, "last": False, "ephemeral": False, "fork_from": None}
    said |= {"name": None, "description": None, "effort": None, "extra_writable": None}
    return replace(request, **{**said, **changes})
