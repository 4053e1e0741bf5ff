"""Where csa runs, for whom, and as what process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial

from csa.errors import RefusedError
from csa.paths import make_path
from csa.store.project import find_project, find_work_tree
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from csa.model.config import Config
    from csa.model.redaction import Redactor
    from csa.runner.atrest import Keys
    from csa.runner.caller import Caller
    from csa.store.held import HeldSession


REPLAY, REPLAY_SPEED = "CSA_REPLAY", "CSA_REPLAY_SPEED"  # what stands in for tools, and how fast


def is_sealed_after(context: Context, held: HeldSession) -> bool:
    """Say whether `seal_after` has anything to encrypt."""
    encryption = context.config.encryption
    if context.is_placed:  # the other host has yet to see how it has ended
        return False
    return encryption.seals or (held.was_sealed and bool(encryption.recipients))


def seal_after(
    context: Context, held: HeldSession, *, is_held: bool = False, heed: Callable[[], None] = lambda: None
) -> None:
    """Encrypt what is to be, now that a session is free, or `is_held` to the end: as `csa.runner.atrest.seal_tree`."""
    if is_sealed_after(context, held):
        from csa.runner.atrest import seal_tree  # noqa: PLC0415  # few sessions are

        encryption = context.config.encryption
        if context.postponed is not None:
            context.postponed.append(partial(seal_tree, held.store, held.state, encryption))
            return
        seal_tree(held.store, held.state, encryption, is_held=is_held, heed=heed)


class Context:
    """What every command starts from. The configuration is read, and the caller looked up, when first needed."""

    def __init__(
        self,
        *,
        store: Store,
        environ: Mapping[str, str],
        directory: Path | str,
        config: Callable[[Path], Config],
        caller: Callable[[], Caller | None],
        command: str = "csa",
        owns_process: bool = False,
        is_detached: bool = False,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.store = store
        self.environ = environ
        self.directory_pathname = str(directory)
        self.command = command  # how agents are told to call csa
        self.owns_process = owns_process  # this process is csa's alone (see `start_tool`)
        self.is_detached = is_detached  # it outlives whoever started it (see `start_detached`)
        self.is_placed = False  # on behalf of another host
        self.postponed: list[Callable[[], None]] | None = None  # encryption, until the command of --on-finish has ended
        self.secrets = secrets or {}  # for the environment of tools, and hidden in all that is written
        self._load_config = config
        self._find_caller = caller

    @property
    def directory(self) -> Path:
        """Where new sessions start."""
        return make_path(self.directory_pathname)

    @cached_property
    def config(self) -> Config:
        """The effective settings; ConfigError if a file or variable is wrong."""
        return self._load_config(self.config_directory)

    @cached_property
    def config_directory(self) -> Path:
        """The directory whose `.csa/config.toml` applies: the worktree we are in, if it has one, else the project."""
        return self.settings_path("config.toml").parent.parent

    def settings_path(self, name: str) -> Path:
        """Return `.csa/<name>` of the worktree we are in, if it has that, else of the project."""
        tree, project = find_work_tree(self.directory_pathname), self.store.project_pathname
        is_own = tree != project and os.path.exists(f"{tree}/.csa/{name}") and find_project(tree) == project
        return make_path(f"{tree if is_own else project}/.csa/{name}")

    def in_project(self, project: Path | str) -> Context:
        """Return the context for another project, in whose directory it then is, for the same caller."""
        return self.in_store(Store(self.store.root_pathname, project))

    def in_store(self, store: Store) -> Context:
        """Return the same for a store, which may be in a mirror of another host."""
        if store == self.store:
            return self
        return self._changed(store=store, directory=store.project_pathname, caller=lambda: self.caller)

    def with_secrets(self, secrets: Mapping[str, str]) -> Context:
        """Return the context with secrets for the tools that are run."""
        return self._changed(secrets=secrets, caller=lambda: self.caller) if secrets else self

    def on_behalf_of(self, caller: Caller | None) -> Context:
        """Return the same context for another caller, whatever the environment says."""
        return self._changed(caller=lambda: caller)

    def as_then(self, ceiling: Mapping[str, Any] | None) -> Context:
        """Return the same context for who called at another time, with no more rights than then; None: no session did.

        Its caller raises as `Caller.below`, and RefusedError if there is none any more.
        """
        return self._changed(caller=lambda: self._caller_then(ceiling))

    def _caller_then(self, ceiling: Mapping[str, Any] | None) -> Caller | None:
        if ceiling is None:  # and not a session in whose tree this process happens to be
            return None
        if self.caller is None:
            raise RefusedError("It was queued by a session that is not named.")
        return self.caller.below(ceiling)

    def _changed(self, **changes: Any) -> Context:
        same: dict[str, Any] = {
            "store": self.store,
            "environ": self.environ,
            "directory": self.directory_pathname,
            "config": self._load_config,
            "caller": self._find_caller,
            "command": self.command,
            "owns_process": self.owns_process,
            "is_detached": self.is_detached,
            "secrets": self.secrets,
        }
        changed = Context(**{**same, **changes})
        changed.is_placed, changed.postponed = self.is_placed, self.postponed
        return changed

    @property
    def replay(self) -> str:
        """The recording that stands in for tools; empty where the tools themselves run."""
        return self.environ.get(REPLAY, "")

    @cached_property
    def caller(self) -> Caller | None:
        """The session csa was called in; RefusedError if the environment names one that does not exist."""
        return self._find_caller()

    @cached_property
    def keys(self) -> Keys:
        """What opens sessions that are encrypted."""
        from csa.runner.atrest import Keys  # noqa: PLC0415  # few sessions are

        return Keys(self.config.encryption, self.environ)

    @cached_property
    def redactor(self) -> Redactor:
        """The redactor, with the secrets of this environment."""
        from csa.model.redaction import Redactor  # noqa: PLC0415  # twenty patterns, which reading does not need

        return Redactor(self.environ, self.secrets.values())
