"""Which tools stand in for one whose provider fails, or that is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from csa.errors import ConfigError, ToolUnavailableError, UsageError
from csa.model.config import AUTO, Config
from csa.runner.request import RunRequest
from csa.runner.setting import Setting
from csa.runner.toolbox import ToolChoice, choose_tool, find_adapter
from csa.structs import replace

# What another provider may do better. `invalid_request` and `context_overflow` are about what was asked.
FALLBACK_KINDS = frozenset({"rate_limit", "overloaded", "server", "network", "quota", "auth", "spawn"})


def fallback_of(setting: Setting, request: RunRequest) -> tuple[str, ...]:
    """Return the tools to fall back to, as asked for or configured; UsageError or ConfigError for one csa cannot run.

    Whether they are installed shows when they are needed.
    """
    names = setting.config.fallback if request.fallback is None else request.fallback
    if AUTO in names:
        raise UsageError("--fallback takes the names of tools, in order.", hint="--fallback claude-code,gemini-cli")
    for name in names:
        with suppress(ToolUnavailableError):  # its adapter does not load: like one that is not installed
            _check_known(name, setting.config, is_configured=request.fallback is None)
    return tuple(dict.fromkeys(names))


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
    """Choose the first tool that is installed, in place of the one that is `missing`."""
    for name in names:
        with suppress(ToolUnavailableError):
            choice = choose_tool(name, None, config, environ, avoid_family=None)
            why = missing.message.partition(":")[0].rstrip(".")
            return replace(choice, why=f"fallback: {why}", is_fallback=True)
    return None
