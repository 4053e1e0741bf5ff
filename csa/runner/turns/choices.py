"""Which model and effort a turn asks its tool for, and where they come from: a conversation keeps them.

An option comes first, then what the session has kept for the tool, then the configuration; else the tool decides.
The session keeps what an option or the configuration asked for. `default` as an option forgets it.
"""

from __future__ import annotations

from csa.errors import UsageError
from csa.model.config import Config
from csa.model.state import ToolState
from csa.runner.request import RunRequest
from csa.structs import Struct

FORGET = "default"
KEPT, TOOLS_OWN = "session", "tool"


class Choice(Struct):
    """A value, None for the tool's own, and its origin: an option, `session`, a configuration source, or `tool`."""

    value: str | None
    origin: str


def choose(option: str, asked: str | None, kept: str | None, config: Config, key: str) -> Choice:
    """Choose one value: what was `asked` for by `option`, what the session has `kept`, else the configured one."""
    if asked == "":
        raise UsageError(f"{option} is empty.", hint=f"to go back to the tool's own: {option} {FORGET}")
    if asked and asked != FORGET:
        return Choice(asked, option)
    if kept and not asked:
        return Choice(kept, KEPT)
    configured, origin = config.values.get(key, ("", ""))
    return Choice(configured, origin) if configured else Choice(None, TOOLS_OWN)


def choose_model(request: RunRequest, known: ToolState, config: Config, tool: str) -> tuple[Choice, Choice]:
    """Return the model and the effort of a turn by `tool`; UsageError where one was asked for without a name."""
    return (
        choose(request.origin_of("model", "--model"), request.model, known.model, config, f"tools.{tool}.model"),
        choose(request.origin_of("effort", "--effort"), request.effort, known.effort, config, f"tools.{tool}.effort"),
    )
