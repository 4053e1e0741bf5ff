"""Which tools replace one whose provider fails, or that is not installed: TOOL, or TOOL:MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from csa.errors import ConfigError, ToolUnavailableError, UsageError
from csa.model.config import Config
from csa.model.configkeys import AUTO
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.toolbox import ToolChoice, choose_tool, find_adapter
from csa.structs import replace

# What another provider may do better. `invalid_request` and `context_overflow` are about what was asked.
FALLBACK_KINDS = frozenset({"rate_limit", "overloaded", "server", "network", "quota", "auth", "spawn"})


def fallback_of(context: Context, request: RunRequest) -> tuple[str, ...]:
    """Return what to fall back to, as asked for or configured; UsageError or ConfigError for what csa cannot run.

    Whether they are installed is checked when they are needed.
    """
    names = context.config.fallback if request.fallback is None else request.fallback
    for name, model in map(split_fallback, names):
        if name in {AUTO, ""} or model == "":
            raise UsageError("--fallback takes TOOL or TOOL:MODEL, in order.", hint="--fallback claude-code:opus,codex")
        with suppress(ToolUnavailableError):  # its adapter does not load: like one that is not installed
            _check_known(name, context.config, is_configured=request.fallback is None)
    return tuple(dict.fromkeys(names))


def split_fallback(words: str) -> tuple[str, str | None]:
    """Return the named tool and model, which may contain colons itself; None: as for any turn of the tool."""
    tool, colon, model = words.partition(":")
    return tool.strip(), model.strip() if colon else None


def others(names: tuple[str, ...], tool: str, model: str | None) -> tuple[str, ...]:
    """Return those that differ from `tool` with `model`: the same tool with another model, too."""
    return tuple(name for name in names if (parts := split_fallback(name))[0] != tool or parts[1] not in {None, model})


def _check_known(name: str, config: Config, *, is_configured: bool) -> None:
    try:
        find_adapter(name, config)
    except UsageError as error:
        if not is_configured:
            raise
        origin = config.values["fallback"][1]
        raise ConfigError(f"{origin}: 'fallback': {error.message}", hint=error.hint) from error


def first_installed(
    names: tuple[str, ...], config: Config, environ: Mapping[str, str], missing: ToolUnavailableError
) -> ToolChoice | None:
    """Choose the first installed tool, in place of the `missing` one."""
    for name, model in map(split_fallback, names):
        with suppress(ToolUnavailableError):
            choice = choose_tool(name, None, config, environ, avoid_family=None)
            why = missing.message.partition(":")[0].rstrip(".")
            return replace(choice, why=f"fallback: {why}", is_fallback=True, model=model)
    return None
