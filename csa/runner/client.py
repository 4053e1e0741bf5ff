"""The library: everything the command line does. It prints nothing, and reads the environment only when asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.errors import UsageError
from csa.ids import ENTROPY_BYTES, new_session_id, unique_prefix_length
from csa.paths import SessionPaths, state_root
from csa.runner.ancestry import with_identity
from csa.runner.setting import Setting, resolve_selector
from csa.store.liveness import Liveness, probe
from csa.store.project import find_project
from csa.store.sessions import Record, Store

if TYPE_CHECKING:
    from csa.model.config import Config
    from csa.model.events import Event
    from csa.model.result import RunResult
    from csa.model.tree import Node
    from csa.runner.caller import Caller
    from csa.runner.plan import TurnPlan
    from csa.runner.request import RunRequest
    from csa.runner.turn import Turn


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as `list` shows it."""

    record: Record
    prefix: str  # the shortest unique prefix, at least 10 characters
    status: str
    children: int

    @property
    def session_id(self) -> str:
        return self.record.session_id

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session list --json` prints; a damaged session has `error` and few other keys."""
        from csa.model.state import format_time  # noqa: PLC0415  # loaded with the state

        state = self.record.state
        if state is None:
            error = str(self.record.fault)
            return {"id": self.session_id, "prefix": self.prefix, "status": self.status, "error": error}
        return {
            "id": self.session_id,
            "prefix": self.prefix,
            "name": state.name,
            "description": state.description,
            "status": self.status,
            "phase": state.phase,
            "tools": list(state.tools),
            "depth": state.depth,
            "parent_session_id": state.parent_session_id,
            "root_session_id": state.root_session_id,
            "children": self.children,
            "turns": state.turns,
            "branch": state.branch,
            "created_at": format_time(state.created_at),
            "last_accessed": format_time(state.last_accessed),
            "usage": state.usage.to_dict(),
        }


class Csa:
    """The sessions of one project, and the means to run more."""

    def __init__(
        self,
        project: Path | str,
        *,
        root: Path,
        config: Config | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        caller: Caller | None = None,
        command: str = "csa",
        owns_process: bool = False,
    ) -> None:
        """Open a project's store explicitly.

        Args:
            project: the project's directory.
            root: the state root.
            config: the configuration; the defaults when None.
            environ: what the tools' environment is made from, and where secrets are recognised; empty when None.
            directory: where new sessions start; the project when None.
            caller: the session on whose behalf this runs.
            command: how agents are told to call csa.
            owns_process: this process is csa's alone (see `start_tool`).
        """
        project = Path(project).resolve()
        self.setting = Setting(
            store=Store(root.resolve(), project),
            environ=dict(environ or {}),
            directory=directory or project,
            config=lambda: config or _defaults(),
            caller=lambda: caller,
        )
        self.command = command
        self._owns_process = owns_process

    @classmethod
    def from_environment(
        cls,
        directory: Path | str = ".",
        *,
        environ: Mapping[str, str] | None = None,
        command: str = "csa",
        owns_process: bool = False,
    ) -> Csa:
        """Open the project that `directory` is in, as the environment (os.environ when None) says.

        The configuration is read, and the calling session looked up, when a call needs them: `run` and `plan` raise
        ConfigError when a config file or variable is wrong, and RefusedError when the environment names a calling
        session whose record cannot be found.
        """
        variables = with_identity(os.environ if environ is None else environ)
        try:
            start = Path(directory).resolve()
        except FileNotFoundError as error:
            raise UsageError(
                "The current directory has been deleted.", hint="cd to another, or pass --cd DIR"
            ) from error
        project = find_project(start)
        root = state_root(variables)
        client = cls(project, root=root, environ=variables, directory=start, command=command, owns_process=owns_process)
        client.setting = Setting(
            store=client.store,
            environ=variables,
            directory=start,
            config=lambda: _configured(project, variables),
            caller=lambda: _calling(variables, root),
        )
        return client

    @property
    def store(self) -> Store:
        return self.setting.store

    @property
    def caller(self) -> Caller | None:
        return self.setting.caller

    def plan(self, request: RunRequest, *, new_id: str | None = None) -> TurnPlan:
        """Decide what a request means, without writing; raises as `plan_turn`. `new_id` is for a new session."""
        from csa.runner.plan import plan_turn  # noqa: PLC0415  # what follows is not for commands that only read

        new_id = new_id or new_session_id(time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))
        return plan_turn(self.setting, request, new_id=new_id, now=datetime.now(UTC))

    def run(self, request: RunRequest, *, new_id: str | None = None, detached: bool = False) -> Turn:
        """Return the turn that carries out a request; enter it with `async with`. Raises as `plan`.

        `detached` says that the turn is to outlive whoever started this process (see `start_detached`).
        """
        from csa.runner.turn import Turn  # noqa: PLC0415  # brings anyio, which reading commands do not need

        return Turn(
            self.setting,
            self.plan(request, new_id=new_id),
            request,
            csa_command=self.command,
            owns_process=self._owns_process,
            detached=detached,
        )

    def resolve(self, selector: str) -> str:
        """Return the full id that a selector means: NotFoundError, AmbiguousError, UsageError."""
        return resolve_selector(self.setting, selector)

    def paths(self, selector: str) -> SessionPaths:
        """Return the files of a session."""
        return self.store.paths(self.resolve(selector))

    def sessions(self, *, limit: int | None = None) -> list[SessionInfo]:
        """Return the sessions, newest first; damaged ones too."""
        records = list(self.store.records())
        ordered = sorted(record.session_id for record in records)
        children: dict[str, int] = {}
        for record in records:
            if record.state and record.state.parent_session_id:
                parent = record.state.parent_session_id
                children[parent] = children.get(parent, 0) + 1
        return [
            SessionInfo(
                record,
                record.session_id[: unique_prefix_length(record.session_id, ordered)],
                record.status,
                children.get(record.session_id, 0),
            )
            for record in (records if limit is None else records[:limit])
        ]

    def tree(self) -> list[Node[SessionInfo]]:
        """Return the genealogy: newest roots first, children oldest first."""
        from csa.model.tree import build_forest  # noqa: PLC0415  # only this needs it

        infos = self.sessions()
        forest = build_forest(
            [(i.session_id, i.record.state.parent_session_id if i.record.state else None, i) for i in reversed(infos)]
        )
        return forest[::-1]

    def result(self, selector: str, *, turn: int | None = None) -> RunResult:
        """Return how the last finished turn, or the given one, ended; NotFoundError when there is none."""
        from csa.store.results import load_result  # noqa: PLC0415  # only this needs it

        session_id = self.resolve(selector)
        return load_result(self.store.paths(session_id), session_id, turn=turn)

    def events(self, selector: str, *, tail: int | None = None) -> Iterator[Event]:
        """Yield a session's events in order; the last `tail` of them where that is given."""
        from csa.store.transcript import read_events, read_events_backwards  # noqa: PLC0415  # only this needs it

        transcript = self.paths(selector).transcript
        if tail is None:
            yield from read_events(transcript)
            return
        backwards = read_events_backwards(transcript)
        yield from reversed([event for event, _ in zip(backwards, range(tail), strict=False)])

    def liveness(self, selector: str) -> Liveness:
        """Say whether a session runs, and who runs it."""
        return probe(self.paths(selector))


def _defaults() -> Config:
    from csa.model.config import combine_layers  # noqa: PLC0415  # see Setting

    return combine_layers([])


def _configured(project: Path, environ: Mapping[str, str]) -> Config:
    from csa.store.configfile import load_config  # noqa: PLC0415  # see Setting

    return load_config(project, environ)


def _calling(environ: Mapping[str, str], root: Path) -> Caller | None:
    from csa.runner.caller import find_caller  # noqa: PLC0415  # see Setting

    return find_caller(environ, root)
