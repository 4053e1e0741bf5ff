"""What a scheduler's adapter has to offer: pure functions, of a module, that make the arguments of its commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from csa.model.config import Engine
from csa.structs import Struct

PENDING, RUNNING, GONE = "pending", "running", "gone"
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
    """An adapter."""

    @property
    def MOST_SCRIPT(self) -> int:  # noqa: N802  # a constant of the module
        """How many bytes a job may have."""

    def place(self, engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
        """Return what submits the job that it reads."""

    def script(self, engine: Engine, order: bytes) -> bytes:
        """Return the job, for what its `csa supervise` hears."""

    def handle(self, said: str) -> str:
        """Return the job that `place` has said; empty if it makes no sense."""

    def look(self, job: str) -> tuple[str, ...]:
        """Return what tells how a job is."""

    def read_look(self, code: int, said: str, complaint: str) -> Look | None:
        """Return how it is; None if that could not be found out."""

    def check(self) -> tuple[str, ...]:
        """Return what succeeds if the scheduler is there."""

    def keep(self, job: str) -> tuple[str, ...]:
        """Return what has a job that waits not begin, and does nothing to another one."""

    def cancel(self, job: str) -> tuple[str, ...]:
        """Return what ends a job."""

    def cancel_named(self, name: str) -> tuple[str, ...]:
        """Return what ends the jobs that are called so."""

    def reach(self, job: str) -> tuple[str, ...]:
        """Return what runs a command on the host of a job that runs."""

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment for its commands."""
