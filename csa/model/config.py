"""The configuration: how its layers combine. Pure: files and environment are read elsewhere.

Layers, weakest first: defaults, the user's file, the project's file, the environment. A project's file may tighten
safety settings but not loosen them, and may not set commands or variables for the tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

from csa.errors import ConfigError
from csa.ids import is_session_id
from csa.model.configkeys import (
    ALIASES,
    BUNDLE,
    ENGINE_KEYS,
    FINISHED,
    KEYS,
    KUBERNETES,
    NOT_FOR_PROJECTS,
    SSH,
    STORE,
    STORE_KEYS,
    STORES,
    TABLES,
    Key,
    checked,
    parse_text,
    unknown_key,
)
from csa.model.duration import parse_duration, parse_on_quota
from csa.model.limits import COUNTS, Limits
from csa.model.permission import Permission
from csa.structs import Struct, field, replace

_T = TypeVar("_T")


class Layer(Struct):
    """The values of one source; `origin` is its name in `csa config show`."""

    origin: str
    values: Mapping[str, Any]
    is_project: bool = False

    @property
    def is_strange(self) -> bool:
        """Whether it belongs to the other program that keeps its configuration in a project's `.csa/config.toml`."""
        return self.is_project and ("schema_version" in self.values or isinstance(self.values.get("project"), Mapping))


class ToolConfig(Struct):
    """`[tools.<name>]`."""

    command: tuple[str, ...] = ()
    transport: str | None = None
    model: str | None = None
    effort: str | None = None
    auth_method: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    env_drop: tuple[str, ...] = ()

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what the tool gets of an environment."""
        dropped = self.dropped(environ)
        return {**{name: value for name, value in environ.items() if name not in dropped}, **self.env}

    def dropped(self, environ: Mapping[str, str]) -> list[str]:
        """Return the variables that the tool does not get; csa's own, HOME and PATH stay whatever the patterns say."""
        if not self.env_drop:
            return []
        from fnmatch import fnmatchcase  # noqa: PLC0415  # few have set any

        names = (name for name in environ if not name.startswith("CSA_") and name not in {"HOME", "PATH"})
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in self.env_drop)]


class Engine(Struct):
    """`[engines.<name>]`: a host, and how it is reached."""

    name: str
    kind: str = SSH
    reach: tuple[str, ...] = ()  # empty: as `kind` says
    csa: tuple[str, ...] = ("csa",)
    code: str = BUNDLE
    directory: str = ""  # empty: the home directory there; with `shared` the one here
    leash_s: float = 120.0
    options: tuple[str, ...] = ()  # of a scheduler's command
    queue_s: float = 60.0
    template: str = ""
    host: str = ""  # what a scheduler's hosts are called, if all of them have one state root
    linger_s: float = 600.0
    job: str = ""  # of the scheduler, through which the host is reached


class Encryption(Struct):
    """`[store]`: whether sessions are encrypted, for whom, and where the key is that opens them."""

    seals: bool = False  # those that have finished, by themselves
    recipients: tuple[str, ...] = ()
    identity: str = ""
    identity_command: tuple[str, ...] = ()


class _Value(Generic[_T]):
    """An attribute of a configuration: the effective value of the key with its name."""

    def __init__(self, kind: Callable[[Any], _T]) -> None:
        self._key, self._kind = "", kind

    def __set_name__(self, _owner: type[Config], name: str) -> None:
        self._key = name

    def __get__(self, config: Config, _owner: type[Config]) -> _T:
        return self._kind(config.values[self._key][0])


def _limit(seconds: float) -> float | None:
    """Return None for 0, which means no limit."""
    return float(seconds) or None


class Config(Struct):
    """The effective values, by dotted key, each with its origin."""

    values: Mapping[str, tuple[Any, str]]
    warnings: tuple[str, ...] = ()
    ignored: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # what a project's file asked for in vain

    tool = _Value(str)
    tools_order = _Value(tuple[str, ...])
    permission = _Value(Permission)
    ask = _Value(bool)
    ask_timeout_s = _Value(_limit)
    max_depth = _Value(int)
    timeout_s = _Value(_limit)
    idle_timeout_s = _Value(_limit)
    checkpoint_every_turns = _Value(int)  # 0: never
    retries = _Value(int)
    fallback = _Value(tuple[str, ...])
    context_turns = _Value(int)
    context_tokens = _Value(int)
    context_window = _Value(int)  # 0: all turns
    context_window_tokens = _Value(int)  # 0: no limit
    max_sessions = _Value(int)  # 0: no limit
    undo_days = _Value(int)
    on_finish_timeout_s = _Value(_limit)
    audit_reads = _Value(bool)
    worktree_hooks = _Value(bool)
    one_writer = _Value(bool)

    @property
    def park_limit_s(self) -> float:
        """0: do not wait for a used-up quota."""
        limit = parse_on_quota(str(self.values["on_quota"][0]))
        return limit.total_seconds() if limit else 0.0

    @property
    def hands_over(self) -> bool:
        return bool(self.values["handoff"][0] == "on")

    @property
    def shares(self) -> bool:
        return bool(self.values["shared"][0] == "on")

    @property
    def limits(self) -> Limits:
        """The limits that records pass on; depth is stored separately there."""
        words = {
            key: key.split(".") for key in self.values if key.startswith("tools.") and key.endswith(".max_running")
        }
        tools = {".".join(parts[1:-1]): int(self.values[key][0]) for key, parts in words.items()}
        return Limits(**{name: int(self.values[name][0]) for name in COUNTS}, tools=tools)

    @property
    def session_ttl(self) -> timedelta | None:
        """None: sessions do not expire."""
        text = str(self.values["session_ttl"][0])
        return parse_duration(text) if text else None

    @property
    def session_timeout(self) -> timedelta | None:
        """None: however long a session was idle."""
        text = str(self.values["session_timeout"][0])
        return parse_duration(text) if text else None

    @property
    def on_finish(self) -> str | None:
        """None: nothing is run."""
        return str(self.values["on_finish"][0]) or None

    @property
    def worktree_setup(self) -> str | None:
        """None: nothing is run."""
        return str(self.values["worktree_setup"][0]) or None

    @property
    def acp_tools(self) -> tuple[str, ...]:
        """The tools whose configured transport is acp."""
        names = (key.split(".") for key, (value, _) in self.values.items() if value == "acp")
        return tuple(words[1] for words in names if words[::2] == ["tools", "transport"])

    @property
    def engines(self) -> dict[str, Engine]:
        """The hosts that are named, by their names."""
        names = {key[len("engines.") :].rpartition(".")[0]: None for key in self.values if key.startswith("engines.")}
        return {name: self.engine(name) for name in names}

    def engine(self, name: str) -> Engine:
        """Return a host by its name, which need not be in the configuration: a pod, or what ssh knows."""
        settings = {key: self.values.get(f"engines.{name}.{key}", (None, ""))[0] for key in ENGINE_KEYS}
        given: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in settings.items() if each is not None
        }
        return (self._engine_of_pod(name) if not given else None) or Engine(name, **given)

    def _engine_of_pod(self, name: str) -> Engine | None:
        """Return how a pod is reached, by its name: that of its engine, and an order's id, and what Kubernetes adds."""
        job = name.rpartition("-")[0]
        engine, _, order = job.rpartition("-")
        is_pods = is_session_id(order.upper()) and self.values.get(f"engines.{engine}.kind", ("", ""))[0] == KUBERNETES
        return replace(self.engine(engine), name=name, job=job) if is_pods else None

    @property
    def encryption(self) -> Encryption:
        known = {key: self.values.get(f"{STORE}.{key}", (STORE_KEYS[key].default, ""))[0] for key in STORE_KEYS}
        return Encryption(
            seals=known["encrypt"] == FINISHED,
            recipients=tuple(known["recipients"]),
            identity=str(known["identity"]),
            identity_command=tuple(known["identity_command"]),
        )

    @property
    def copies(self) -> dict[str, str]:
        """Where `csa mirror` may copy sessions to, by name."""
        urls = {key: str(value) for key, (value, _) in self.values.items() if key.startswith("copies.")}
        return {key.removeprefix("copies.").removesuffix(".to"): url for key, url in urls.items()}

    def for_tool(self, name: str) -> ToolConfig:
        """Return the settings of one tool."""

        def value(key: str) -> Any:
            return self.values.get(f"tools.{name}.{key}", (None, ""))[0]

        return ToolConfig(
            command=tuple(value("command") or ()),
            transport=value("transport"),
            model=value("model") or None,
            effort=value("effort") or None,
            auth_method=value("auth_method") or None,
            env=dict(value("env") or {}),
            env_drop=tuple(value("env_drop") or ()),
        )


def combine_layers(layers: list[Layer]) -> Config:
    """Check and combine the layers, weakest first; ConfigError names the source and key that is wrong."""
    found: dict[str, tuple[Any, str]] = {name: (key.default, "default") for name, key in KEYS.items()}
    ignored: dict[str, tuple[Any, str]] = {}
    strange = [layer for layer in layers if layer.is_strange]
    for layer in layers:
        for name, value in () if layer in strange else _flatten(layer).items():
            key = _key_of(name)
            wanted = checked(layer.origin, name, key, value)
            current = found[name][0] if name in found else key.default
            loosens = layer.is_project and key.limits and _loosens(name, wanted, current)
            (ignored if loosens else found)[name] = (wanted, layer.origin)
    value, origin = found.get(f"{STORE}.encrypt", ("", ""))
    if value == FINISHED and not found.get(f"{STORE}.recipients", ((), ""))[0]:
        hint = "age-keygen -o KEYFILE makes a key, and prints its public one"
        raise ConfigError(f"{origin}: store.encrypt needs store.recipients, for whom it is encrypted.", hint=hint)
    words = "belongs to another program (it has schema_version or [project]) and is ignored"
    return Config(found, tuple(f"{layer.origin}: {words}." for layer in strange), ignored)


def from_environment(environ: Mapping[str, str]) -> list[Layer]:
    """Return a layer for each `CSA_CONF_<KEY>`; ConfigError for an unknown key."""
    layers = []
    for name, text in environ.items():
        if not name.startswith("CSA_CONF_"):
            continue
        key = name.removeprefix("CSA_CONF_").lower()
        key = ALIASES.get(key, key)
        if key not in KEYS:
            raise unknown_key(name, key, [*KEYS], prefix="CSA_CONF_")
        layers.append(Layer(name, {key: parse_text(name, KEYS[key].kind, text)}))
    return layers


def _flatten(layer: Layer) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in layer.values.items():
        if name in {"engines", "copies", STORE} and layer.is_project:
            _refuse_table(layer, name)
        elif name == STORE and isinstance(value, Mapping) and value.keys() <= STORE_KEYS.keys():
            flat.update({f"{name}.{key}": each for key, each in value.items()})
        elif name in STORES:
            raise _not_a_store(layer.origin, name, value)
        elif name in TABLES:
            flat.update(_flatten_tables(layer, name, value))
        elif key := ALIASES.get(name):
            if key in layer.values:
                raise ConfigError(f"{layer.origin}: '{name}' and '{key}' are the same.", hint="set one of them")
            flat[key] = value
        elif name in KEYS:
            _refuse_to_project(layer, name, name)
            flat[name] = value
        else:
            raise unknown_key(layer.origin, name, [*KEYS, *TABLES])
    return flat


def _flatten_tables(layer: Layer, group: str, tables: Any) -> dict[str, Any]:
    """Return the settings of `[tools.NAME]`, or another group of tables."""
    flat: dict[str, Any] = {}
    keys = TABLES[group]
    for each, table in _checked_table(layer.origin, group, tables).items():
        for name, value in _checked_table(layer.origin, f"{group}.{each}", table).items():
            if name not in keys:
                raise unknown_key(layer.origin, name, [*keys], where=f"{group}.{each}.")
            _refuse_to_project(layer, name, f"{group}.{each}.{name}")
            flat[f"{group}.{each}.{name}"] = value
    return flat


def _refuse_to_project(layer: Layer, key: str, name: str) -> None:
    if layer.is_project and key in NOT_FOR_PROJECTS:
        _refuse_table(layer, name)


def _refuse_table(layer: Layer, name: str) -> None:
    raise ConfigError(f"{layer.origin}: a project file may not set '{name}'.", hint="move it to your own config file")


def _not_a_store(origin: str, name: str, value: Any) -> ConfigError:
    if name == STORE and isinstance(value, Mapping) and not {"backend", "url", "kind", "type"} & value.keys():
        return unknown_key(origin, next(key for key in value if key not in STORE_KEYS), [*STORE_KEYS], where="store.")
    return ConfigError(
        f"{origin}: there is no [{name}]: sessions are files, as with a database every turn would end when it is away.",
        hint="csa mirror --to redis://... or postgresql://... keeps a copy in one, for other programs",
    )


def _checked_table(origin: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: '{name}' must be a table.")
    return value


def _key_of(name: str) -> Key:
    return KEYS[name] if name in KEYS else TABLES[name.partition(".")[0]][name.rpartition(".")[2]]


def _loosens(name: str, new: Any, current: Any) -> bool:
    if _key_of(name).kind == "switch":
        return bool(new == "on" and current == "off")
    if name == "permission":
        return Permission(new).rank > Permission(current).rank
    if _key_of(name).grows:
        return bool(new < current)
    if not _key_of(name).default:  # 0, and 0 is no limit
        return bool(current) and (not new or new > current)
    return bool(new > current)
