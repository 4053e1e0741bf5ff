"""The available adapters, and which tool runs a turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from csa.errors import ConfigError, CsaError, StateError, ToolUnavailableError, UsageError
from csa.model.adapter import Adapter, Login, LoginJudge, LoginRequest
from csa.model.config import Config
from csa.model.configkeys import AUTO, NATIVE
from csa.model.limits import PLAN
from csa.ownership import explain_denial, owner_above, quoted
from csa.runner.entrypoints import EntryPoint, entry_points
from csa.runner.namedfiles import expand_place, read_named_files
from csa.store.atomic import open_regular
from csa.structs import Struct

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint as StandardEntryPoint

ENTRY_POINT_GROUP = "csa.adapters"
# Classes that talk to any tool in one way, made with the tool's name and its own adapter, if it has one.
TRANSPORT_GROUP = "csa.transports"
_DOUBT = {True: 0, None: 1, False: 2}  # of whether a tool is logged in


class ToolChoice(Struct):
    """The adapter that will run, the command that starts its tool, and why it was chosen."""

    adapter: Adapter
    command: tuple[str, ...]
    why: str
    transport: str = NATIVE
    is_fallback: bool = False  # it replaces another one that is not installed
    model: str | None = None  # named with a fallback


def adapter_names(config: Config | None = None) -> list[str]:
    """Return the names of all installed adapters, and of the agents in the configuration."""
    return sorted({*entry_points(ENTRY_POINT_GROUP), *(_configured_agents(config) if config else ())})


def tool_names(config: Config | None = None) -> list[str]:
    """Return `adapter_names`, and the agents known only by name."""
    return sorted({*adapter_names(config), *known_agents()})


@cache
def known_agents() -> dict[str, str]:
    """Return the tools without an adapter that a transport can start, each with that transport."""
    found: dict[str, str] = {}
    for way, point in entry_points(TRANSPORT_GROUP).items():
        with suppress(Exception):  # as in _make; it is reported when somebody asks for that transport
            found |= dict.fromkeys(getattr(point.load(), "known", ()), way)
    return {name: way for name, way in found.items() if name not in entry_points(ENTRY_POINT_GROUP)}


def _configured_agents(config: Config) -> set[str]:
    """Return the tools made out of a transport, and the known agents that have a table or a place in the order."""
    tables = {key.split(".")[1] for key in config.values if key.startswith("tools.")}
    others = {*tables, *config.tools_order} - {*entry_points(ENTRY_POINT_GROUP), *config.acp_tools}
    return {*config.acp_tools, *(others & known_agents().keys() if others else ())}


def transport_of(name: str, config: Config, asked: str | None = None) -> str:
    """Return the transport for a tool: as asked, else as configured, else the only one there is."""
    configured = asked or config.for_tool(name).transport
    if configured or name in entry_points(ENTRY_POINT_GROUP):
        return configured or NATIVE
    return known_agents().get(name, NATIVE)


@cache
def load_adapter(name: str) -> Adapter:
    """Return the adapter with that name; UsageError suggests the closest if there is none."""
    point = entry_points(ENTRY_POINT_GROUP).get(name)
    if point is None:
        raise unknown_tool(name, adapter_names())
    return _make(name, point)


def find_adapter(name: str, config: Config, transport: str | None = None) -> Adapter:
    """Return what runs a tool by `transport`, else as configured.

    Raises:
        UsageError: there is no such tool, or it does not support that transport.
        ConfigError: the configuration gives no command for a tool that only it knows.
        ToolUnavailableError: the adapter cannot be loaded.
    """
    has_own = name in entry_points(ENTRY_POINT_GROUP)
    is_configured = name in config.acp_tools
    way = transport_of(name, config, transport)
    if way == NATIVE:
        if not has_own and (is_configured or name in known_agents()):
            raise UsageError(f"csa can run {name} over ACP only.", hint="--transport acp")
        if not has_own:
            raise unknown_tool(name, adapter_names(config))
        return load_adapter(name)
    adapter = _make(name, entry_points(TRANSPORT_GROUP)[way], name, load_adapter(name) if has_own else None)
    if adapter.executable or (is_configured and config.for_tool(name).command):
        return adapter
    three = f'[tools.{name}], transport = "acp", command = ["PROGRAM", "ARGUMENT"]'
    if is_configured:
        raise ConfigError(f'[tools.{name}] has transport = "acp" and no command.', hint=three)
    if has_own:
        raise UsageError(f"csa does not know how to start {name} as an ACP agent.", hint=f"in your config: {three}")
    raise unknown_tool(name, adapter_names(config))


def _make(name: str, point: EntryPoint | StandardEntryPoint, *given: object) -> Adapter:
    try:
        adapter: Adapter = point.load()(*given)
    except Exception as error:  # third-party code may fail in any way; it must not affect the other tools
        raise ToolUnavailableError(
            f"The adapter for {name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}.",
            hint="reinstall or remove the package that provides it",
        ) from error
    return adapter


def unknown_tool(name: str, known: list[str]) -> UsageError:
    """Say that there is no such tool, and which one may be meant: a known tool, or a known agent."""
    from csa.nearest import did_you_mean  # noqa: PLC0415  # only a typo pays for it

    if name == PLAN:
        return UsageError("csa runs plans itself: plan is no tool that can be asked for.", hint="csa plan run FILE")
    others = f", and {len(known_agents())} known agents (docs/acp-transport.md)"
    hint = did_you_mean(name, [*known, *known_agents()]) or f"the tools are {', '.join(known)}{others}"
    return UsageError(f"Unknown tool '{name}'.", hint=hint)


def check_names(config: Config, *keys: str) -> None:
    """Raise ConfigError if one of these settings names an unknown tool; it names the setting's origin."""
    for key in keys:
        value, origin = config.values[key]
        names = [value] if isinstance(value, str) else [name.partition(":")[0].strip() for name in value]
        known = adapter_names(config)
        for name in names if origin != "default" else ():
            if name not in known and (key, name) != ("tool", AUTO) and name not in known_agents():
                error = unknown_tool(name, known)
                raise ConfigError(f"{origin}: '{key}': {error.message}", hint=error.hint)


def check_tables(config: Config) -> None:
    """Raise ConfigError for settings of an unknown tool, which would have no effect."""
    known = adapter_names(config)
    for key, (_, origin) in config.values.items():
        if not key.startswith("tools."):
            continue
        name = key.removeprefix("tools.").rpartition(".")[0]
        if name not in known:
            error = unknown_tool(name, known)
            raise ConfigError(f"{origin}: '[tools.{name}]': {error.message}", hint=error.hint)


def check_config(config: Config) -> None:
    """Raise ConfigError for any setting with an unknown tool, or a configured agent that cannot be started."""
    check_names(config, "tool", "tools_order", "fallback")
    check_tables(config)
    for name in config.acp_tools:
        find_adapter(name, config)


def loadable_adapters(config: Config, transport: str | None = None) -> tuple[list[Adapter], list[str]]:
    """Return the adapters that load, and what is wrong with those that do not."""
    adapters: list[Adapter] = []
    problems: list[str] = []
    for name in adapter_names(config):
        try:
            adapters.append(find_adapter(name, config, transport))
        except (ToolUnavailableError, ConfigError) as error:
            problems.append(error.message)
        except UsageError:  # it does not support that transport
            continue
    return adapters, problems


def installed_agents(config: Config, environ: Mapping[str, str]) -> list[Adapter]:
    """Return the known agents that are installed and not in the configuration."""
    others = sorted(known_agents().keys() - {*adapter_names(config)})
    found = [find_adapter(name, config) for name in others]
    return [adapter for adapter in found if find_command(adapter, config, environ)]


def startable_tools(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return the names of the tools that can be started; csa doctor says why others cannot."""
    found = []
    for name in adapter_names(config):
        with suppress(CsaError):
            if find_command(find_adapter(name, config), config, environ):
                found.append(name)
    return found


def choose_tool(
    asked: str | None,
    previous: str | None,
    config: Config,
    environ: Mapping[str, str],
    *,
    avoid_family: str | None,
    transport: str | None = None,
) -> ToolChoice:
    """Choose by `asked`, else the session's previous tool, else the configured one, else the first usable one.

    Raises:
        UsageError, ConfigError: as `find_adapter`.
        ConfigError: the configured tool, or one of the order, is unknown.
        ToolUnavailableError: the tool, or any tool, is not installed.
    """
    check_tables(config)
    if asked is not None and asked != AUTO:
        return _named(asked, "asked for", config, environ, transport)
    if previous and asked is None:
        return _named(previous, "the session's last tool", config, environ, transport)
    if config.tool != AUTO and asked is None:
        check_names(config, "tool")
        return _named(config.tool, "configured", config, environ, transport)
    check_names(config, "tools_order")
    return _first_usable(config, environ, avoid_family, transport)


def plan_tool() -> ToolChoice:
    """Return csa's own scheduler of plans, which is among no tools that can be asked for."""
    from csa_adapters.plan import PlanAdapter  # noqa: PLC0415  # few sessions are plans

    adapter = PlanAdapter()
    return ToolChoice(adapter, (adapter.executable,), "csa plan run")


def find_command(adapter: Adapter, config: Config, environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the command of an adapter's tool, starting with an absolute path; None if it is not installed."""
    words = config.for_tool(adapter.name).command or (adapter.executable,)
    found = _which(words[0], environ.get("PATH", os.defpath))
    return (str(Path(found).absolute()), *words[1:]) if found else None


def _which(program: str, search: str) -> str | None:
    """Return the first executable with that name, as shutil.which, whose import costs a tenth of the time to a tool."""
    directories = search.split(os.pathsep) if search else []
    paths = [program] if os.path.dirname(program) else [os.path.join(place, program) for place in directories]
    return next((each for each in paths if _is_executable(each)), None)


def _is_executable(path: str) -> bool:
    return os.path.exists(path) and os.access(path, os.X_OK) and not os.path.isdir(path)


def check_files(adapter: Adapter, environ: Mapping[str, str], directory: str = ".") -> list[tuple[str, str]]:
    """Say what is wrong with a tool's own files, each with a next step. Nothing is changed.

    The place of its state may belong to another user, and so may its login and settings.
    """
    files = dict.fromkeys((*adapter.probe.login_files, *adapter.capabilities.reads))
    places = [place for name in files if (place := expand_place(name, environ, directory))]
    homes = (problem for home in adapter.homes(environ) if (problem := _check_home(adapter.name, home)))
    faults = (problem for place in places if (problem := _check_file(adapter.name, place)))
    return [*islice(homes, 1)] or [*faults]  # anything else is wrong for the same reason


def _check_home(tool: str, home: str) -> tuple[str, str] | None:
    if owner := owner_above(home) or owner_above(os.path.dirname(home)):
        words = f"csa runs as root under the home of {owner}: what {tool} writes to {home} will belong to root"
        return words, f"use sudo -u {owner}, or sudo -H"
    place = home
    while not os.path.lexists(place) and place != "/":
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        return f"{tool} keeps its state in {home}, and {place} is no directory", f"check it, then: rm {quoted(place)}"
    if os.access(place, os.W_OK | os.X_OK):
        return None
    what = f"{tool} cannot {'write' if place == home else 'create'} {home}"
    if denial := explain_denial(place):
        return f"{what}: {denial[0]}", denial[1]
    if os.stat(place).st_mode & 0o300 == 0o300:  # noqa: PLR2004  # its owner may write it
        return f"{what}: {place} is read-only here", f"outside this sandbox: mkdir -p {quoted(home)}"
    return f"{what}: {place} is not writable", f"chmod u+rwx {quoted(place)}"


def _check_file(tool: str, path: Path) -> tuple[str, str] | None:
    try:
        os.close(open_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        denied = StateError.denied(path, f"cannot be read by {tool}", error)
        return denied.message.rstrip("."), denied.hint or f"check {quoted(str(path))}"
    return None


def find_login(
    adapter: Adapter, config: Config, environ: Mapping[str, str], *, command: tuple[str, ...] = (), directory: str = "."
) -> Login:
    """Say whether the tool would send credentials, as far as its adapter can tell: for a turn in `directory`."""
    probe, environ = adapter.probe, config.for_tool(adapter.name).environment(environ)
    files = read_named_files((*probe.login_files, *adapter.capabilities.reads), environ, directory)
    if isinstance(adapter, LoginJudge):
        return adapter.login(LoginRequest(command=command or (adapter.executable,), environ=environ, files=files))
    found = [name for name in probe.login_variables if environ.get(name)] + [n for n in probe.login_files if n in files]
    return Login(is_there=bool(found), why=found[0] if found else "")


def _named(name: str, why: str, config: Config, environ: Mapping[str, str], transport: str | None) -> ToolChoice:
    adapter = find_adapter(name, config, transport)
    command = find_command(adapter, config, environ)
    if command is None:
        wanted = (config.for_tool(name).command or (adapter.executable,))[0]
        raise ToolUnavailableError(
            f"{name} is not installed: there is no '{wanted}' on the PATH.",
            hint=f'install it, or set command in [tools.{name}] of the config: command = ["/path/to/{wanted}"]',
        )
    return ToolChoice(adapter, command, why, transport_of(name, config, transport))


def _first_usable(
    config: Config, environ: Mapping[str, str], avoid_family: str | None, transport: str | None
) -> ToolChoice:
    candidates = _in_order(config, transport)
    installed = [
        (adapter, command) for adapter in candidates if (command := find_command(adapter, config, environ)) is not None
    ]
    if not installed:
        names = ", ".join(adapter.executable or adapter.name for adapter in candidates)
        install = next((adapter.probe.install for adapter in candidates if adapter.probe.install), "install one")
        raise ToolUnavailableError(
            f"No AI coding tool is installed: none of {names} is on the PATH.",
            hint=f"{install}, then log in with it once; `csa doctor` shows more",
        )
    logins = {
        adapter.name: find_login(adapter, config, environ, command=command).is_there for adapter, command in installed
    }
    adapter, command = min(
        installed,
        key=lambda found: (_DOUBT[logins[found[0].name]], found[0].family == avoid_family),
    )
    is_missing = logins[adapter.name] is False
    why = "first installed tool; not logged in as far as csa can see" if is_missing else "first usable tool"
    return ToolChoice(adapter, command, why, transport_of(adapter.name, config, transport))


def _in_order(config: Config, transport: str | None) -> list[Adapter]:
    order = {name: index for index, name in enumerate(config.tools_order)}
    return sorted(loadable_adapters(config, transport)[0], key=lambda adapter: order.get(adapter.name, len(order)))
