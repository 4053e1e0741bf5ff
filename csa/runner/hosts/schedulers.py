"""What a scheduler's adapter has to offer: pure functions, of a module, that make the arguments of its commands.

An adapter is found by the kind of an engine, among the entry points `csa.engines`. It gets a job's name, which no other
job has, and gives the job a handle. A job is begun at most once: by the scheduler's own means, and because its process,
`csa supervise --job`, begins a turn only once somebody holds its order there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

from csa.errors import ConfigError
from csa.model.config import Engine
from csa.model.configkeys import SSH
from csa.runner.entrypoints import entry_points
from csa.structs import Struct

PENDING, RUNNING, GONE = "pending", "running", "gone"
ENTRY_POINT_GROUP = "csa.engines"
_NO_COMMAND = (126, 127)


class Look(Struct):
    """How a job is. One that is gone may have been on a host, and what it has done there is not known."""

    state: str
    host: str = ""
    reason: str = ""
    exit_code: int | None = None

    @property
    def is_without_csa(self) -> bool:
        """Whether its script has found no csa to start."""
        return self.exit_code in _NO_COMMAND


class Scheduler(Protocol):
    """An adapter. What makes arguments may raise UsageError for an engine that is not set up as it needs."""

    @property
    def MOST_SCRIPT(self) -> int:  # noqa: N802  # a constant of the module
        """How many bytes a job may have."""

    def place(self, engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
        """Return what submits the job that it reads."""

    def script(self, engine: Engine, name: str, order: bytes) -> bytes:
        """Return the job, for what its `csa supervise` hears."""

    def handle(self, said: str) -> str:
        """Return the job that `place` has said; empty if it makes no sense."""

    def look(self, engine: Engine, job: str) -> tuple[str, ...]:
        """Return what tells how a job is."""

    def read_look(self, code: int, said: str, complaint: str) -> Look | None:
        """Return how it is; None if that could not be found out."""

    def check(self, engine: Engine) -> tuple[str, ...]:
        """Return what succeeds if the scheduler is there."""

    def keep(self, engine: Engine, job: str) -> tuple[str, ...]:
        """Return what has a job that waits not begin, and does nothing to another one; empty if there is no such thing.

        Then its turn begins only while somebody waits for it, also with `--detach`.
        """

    def cancel(self, engine: Engine, job: str) -> tuple[str, ...]:
        """Return what ends a job."""

    def find(self, engine: Engine, name: str) -> tuple[str, ...]:
        """Return what says, as `place` does, the job that was submitted by a name, also one that is over."""

    def reach(self, engine: Engine, job: str) -> tuple[str, ...]:
        """Return what runs a command on the host of a job that runs; empty if that is done as for any host."""

    def lasts(self, engine: Engine) -> bool:
        """Say whether its hosts, and the sessions there, are left when a job has ended."""

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment for its commands."""


def is_scheduler(engine: Engine) -> bool:
    """Say whether an engine is not a host, but gives orders to hosts; ConfigError if it is neither."""
    return engine.kind != SSH and not engine.job and adapter_of(engine) is not None


def adapter_of(engine: Engine) -> Scheduler:
    """Return the adapter for an engine that is a scheduler, or is reached through one.

    ConfigError if there is none, or it is none.
    """
    points = entry_points(ENTRY_POINT_GROUP)
    where = f"[engines.{engine.name}]"
    if engine.kind not in points:
        kinds = ", ".join([SSH, *points])
        raise ConfigError(f"{where}: there is no kind '{engine.kind}'.", hint=f"the kinds are {kinds}")
    try:
        return _load(engine.kind)
    except Exception as error:  # another package's, whatever is wrong with it
        words = f"{where}: the adapter for '{engine.kind}' cannot be loaded: {type(error).__name__}: {error}."
        raise ConfigError(words, hint="the package that provides it has to fit this version of csa") from error


@cache
def _load(kind: str) -> Scheduler:
    found = entry_points(ENTRY_POINT_GROUP)[kind].load()
    if missing := [name for name in vars(Scheduler) if not name.startswith("_") and not hasattr(found, name)]:
        raise ImportError(f"it has no {', '.join(missing)}")
    return cast("Scheduler", found)
