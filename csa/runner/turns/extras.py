"""What comes along with a prompt, if the tool takes it: images and files, and flags for its own command line."""

from __future__ import annotations

from csa.errors import RefusedError, UsageError
from csa.model.adapter import Adapter
from csa.model.configkeys import NATIVE
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.toolbox import ToolChoice, loadable_adapters
from csa.structs import replace


def with_extras(context: Context, request: RunRequest, choice: ToolChoice) -> RunRequest:
    """Return the request with what the tool gets of it.

    Raises:
        UsageError: the tool takes no images, no files or no flags, and the request has some.
        RefusedError: an agent gives flags.
    """
    if request.images or request.files:
        _refuse_attachments(context, choice.adapter, request)
    return _with_flags(context, request, choice) if request.flags else request


def _refuse_attachments(context: Context, adapter: Adapter, request: RunRequest) -> None:
    """Raise UsageError if the tool takes no images, or no files, that the request has."""
    asked = {"images": request.images, "files": request.files}
    missing = [what for what, given in asked.items() if given and not getattr(adapter.capabilities, what)]
    if missing:
        known, _ = loadable_adapters(context.config)
        able = [each.name for each in known if all(getattr(each.capabilities, what) for what in missing)]
        ways = [*([f"--tool {able[0]}"] if able else []), "--transport acp"]
        raise UsageError(
            f"{adapter.name} takes no {' and no '.join(missing)} with a prompt"
            + (f"; {', '.join(able)} {'does' if len(able) == 1 else 'do'}." if able else "."),
            hint=f"use {', or '.join(ways)}",
        )


def _with_flags(context: Context, request: RunRequest, choice: ToolChoice) -> RunRequest:
    """Return the request with the flags that the tool gets: none that were for one that is not installed."""
    if context.caller is not None:
        raise RefusedError(
            f"The tool's own flags cannot be given from inside session {context.caller.session_id}.",
            hint="leave out what follows --",
        )
    if choice.is_fallback:
        return replace(request, flags=None)
    name = f"{choice.adapter.name} over ACP" if choice.transport != NATIVE else choice.adapter.name
    if not choice.adapter.capabilities.flags:
        raise UsageError(
            f"csa cannot give {name} flags of its own.",
            hint=f"put them into command in [tools.{choice.adapter.name}] of your config",
        )
    if not (request.flags or ("",))[0].startswith("-"):
        raise UsageError("What follows -- must begin with a flag of the tool.", hint="csa run PROMPT -- --flag value")
    return request
