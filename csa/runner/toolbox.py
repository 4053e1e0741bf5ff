"""The adapters there are, and which tool runs a turn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from csa.errors import ToolUnavailableError, UsageError
from csa.model.adapter import Adapter
from csa.model.config import AUTO, Config

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "csa.adapters"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The adapter that will run, the command that starts its tool, and why it was chosen."""

    adapter: Adapter
    command: tuple[str, ...]
    why: str


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  # a fifth of the start of a reading command

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def adapter_names() -> list[str]:
    """Return the names of all installed adapters."""
    return sorted(_entry_points())


@cache
def load_adapter(name: str) -> Adapter:
    """Return the adapter of that name; UsageError names the nearest when there is none."""
    point = _entry_points().get(name)
    if point is None:
        from difflib import get_close_matches  # noqa: PLC0415  # only a typo pays for it

        known = adapter_names()
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the tools are {', '.join(known)}"
        raise UsageError(f"Unknown tool '{name}'.", hint=hint)
    try:
        adapter: Adapter = point.load()()
    except Exception as error:  # third parties' code may fail in any way; it must not stop the other tools
        raise ToolUnavailableError(
            f"The adapter of {name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}.",
            hint="reinstall or remove the package that brings it",
        ) from error
    return adapter


def loadable_adapters() -> tuple[list[Adapter], list[str]]:
    """Return the adapters that load, and what is wrong with those that do not."""
    adapters: list[Adapter] = []
    problems: list[str] = []
    for name in adapter_names():
        try:
            adapters.append(load_adapter(name))
        except ToolUnavailableError as error:
            problems.append(error.message)
    return adapters, problems


def choose_tool(
    asked: str | None, previous: str | None, config: Config, environ: Mapping[str, str], *, avoid_family: str | None
) -> ToolChoice:
    """Choose by `asked`, else the session's previous tool, else the configured one, else the first usable one.

    Raises:
        UsageError: no adapter has the name.
        ToolUnavailableError: the tool, or any tool, is not installed.
    """
    if asked and asked != AUTO:
        return _named(asked, "asked for", config, environ)
    if previous and not asked:
        return _named(previous, "the session's last tool", config, environ)
    if config.tool != AUTO and not asked:
        return _named(config.tool, "configured", config, environ)
    return _first_usable(config, environ, avoid_family)


def find_command(adapter: Adapter, config: Config, environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the words that start an adapter's tool, the first an absolute path; None when it is not installed."""
    words = config.for_tool(adapter.name).command or (adapter.executable,)
    found = shutil.which(words[0], path=environ.get("PATH", os.defpath))
    return (str(Path(found).absolute()), *words[1:]) if found else None


def has_login(adapter: Adapter, environ: Mapping[str, str]) -> bool:
    """Say whether the tool shows signs of credentials: a variable that is set or a file that exists."""
    if any(environ.get(name) for name in adapter.probe.login_variables):
        return True
    return any(_expand(path, environ).exists() for path in adapter.probe.login_files)


def _expand(path: str, environ: Mapping[str, str]) -> Path:
    if path.startswith("~/"):
        return Path(environ.get("HOME", "/")) / path[2:]
    if path.startswith("$"):
        name, _, rest = path[1:].partition("/")
        return Path(environ[name]) / rest if environ.get(name) else Path("/nonexistent")
    return Path(path)


def _named(name: str, why: str, config: Config, environ: Mapping[str, str]) -> ToolChoice:
    adapter = load_adapter(name)
    command = find_command(adapter, config, environ)
    if command is None:
        wanted = (config.for_tool(name).command or (adapter.executable,))[0]
        raise ToolUnavailableError(
            f"{name} is not installed: there is no '{wanted}' on the PATH.",
            hint=f'install it, or set command in [tools.{name}] of the config: command = ["/path/to/{wanted}"]',
        )
    return ToolChoice(adapter, command, why)


def _first_usable(config: Config, environ: Mapping[str, str], avoid_family: str | None) -> ToolChoice:
    installed = [
        (adapter, command)
        for adapter in _in_order(config)
        if (command := find_command(adapter, config, environ)) is not None
    ]
    if not installed:
        tools = _in_order(config)
        names = ", ".join(adapter.executable for adapter in tools)
        install = next((adapter.probe.install for adapter in tools if adapter.probe.install), "install one")
        raise ToolUnavailableError(
            f"No AI coding tool is installed: none of {names} is on the PATH.",
            hint=f"{install}, then log in with it once; `csa doctor` says more",
        )
    adapter, command = min(
        installed,
        key=lambda found: (not has_login(found[0], environ), found[0].family == avoid_family),
    )
    why = "first usable tool" if has_login(adapter, environ) else "first installed tool; it shows no login"
    return ToolChoice(adapter, command, why)


def _in_order(config: Config) -> list[Adapter]:
    order = {name: index for index, name in enumerate(config.tools_order)}
    return sorted(loadable_adapters()[0], key=lambda adapter: order.get(adapter.name, len(order)))
