"""The library: everything the command line does. It prints nothing, and reads the environment only when asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice

from csa.errors import UsageError
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.paths import SessionPaths, home_pathname, make_path, state_root
from csa.runner.ancestry import with_identity
from csa.runner.context import Context
from csa.runner.session import Session, find_session
from csa.runner.sessions.listing import select_sessions
from csa.store.project import find_project
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

    from csa.model.config import Config
    from csa.model.events import Event
    from csa.model.genealogy import Node
    from csa.model.result import RunResult
    from csa.runner.caller import Caller
    from csa.runner.request import RunRequest
    from csa.runner.turns.plan import TurnPlan
    from csa.runner.turns.starting import StartedTurn
    from csa.runner.turns.turn import Turn
    from csa.store.liveness import Liveness
    from csa.store.shown import SessionInfo


class Csa:
    """The sessions of one project, and the means to run more."""

    def __init__(
        self,
        project: Path | str,
        *,
        root: Path | str,
        config: Config | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | str | None = None,
        caller: Caller | None = None,
        command: str = "csa",
        owns_process: bool = False,
        is_detached: bool = False,
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
            is_detached: its turns outlive whoever started this process (see `start_detached`).
        """
        project = os.path.realpath(project)
        self.context = Context(
            store=Store(os.path.realpath(root), project),
            environ=dict(environ or {}),
            directory=directory or project,
            config=lambda _: config or _defaults(),
            caller=lambda: caller,
            command=command,
            owns_process=owns_process,
            is_detached=is_detached,
        )

    @classmethod
    def from_environment(
        cls,
        directory: Path | str = ".",
        *,
        environ: Mapping[str, str] | None = None,
        command: str = "csa",
        owns_process: bool = False,
        is_detached: bool = False,
    ) -> Csa:
        """Open the project that `directory` is in, as the environment (os.environ when None) says.

        The configuration is read, and the calling session looked up, when a call needs them: `run` and `plan` raise
        ConfigError when a config file or variable is wrong, and RefusedError when the environment names a calling
        session whose record cannot be found.
        """
        variables = with_identity(os.environ if environ is None else environ)
        variables["HOME"] = home_pathname(variables)  # the tools' homes are below the same
        try:
            start = os.path.realpath(directory)
        except FileNotFoundError as error:
            raise UsageError(
                "The current directory has been deleted.", hint="cd to another, or pass --cd DIR"
            ) from error
        project = find_project(start)
        root = state_root(variables)
        client = cls(project, root=root)
        client.context = Context(
            store=client.store,
            environ=variables,
            directory=start,
            config=lambda place: _configured(place, variables),
            caller=lambda: _calling(variables, make_path(root)),
            command=command,
            owns_process=owns_process,
            is_detached=is_detached,
        )
        return client

    @property
    def store(self) -> Store:
        return self.context.store

    @property
    def caller(self) -> Caller | None:
        return self.context.caller

    def plan(self, request: RunRequest, *, new_id: str | None = None) -> TurnPlan:
        """Decide what a request means, without writing; raises as `plan_turn`. `new_id` is for a new session."""
        from csa.runner.turns.planning import plan_turn  # noqa: PLC0415  # what follows is not for commands that only read

        new_id = new_id or new_session_id(time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))
        return plan_turn(self.context, request, new_id=new_id, now=datetime.now(UTC))

    def run(self, request: RunRequest, *, new_id: str | None = None) -> Turn:
        """Return the turn that carries out a request; enter it with `async with`. Raises as `plan`."""
        from csa.runner.turns.turn import Turn  # noqa: PLC0415  # brings anyio, which reading commands do not need

        return Turn(self.plan(request, new_id=new_id))

    def begin(self, plan: TurnPlan) -> StartedTurn:
        """Begin a planned turn and launch its tool, without an event loop; `attend` has to follow at once.

        Raises as entering a turn does. Should this process end before somebody attends, the tool ends with it.
        """
        from csa.runner.turns.starting import start_turn  # noqa: PLC0415  # as above

        started = start_turn(plan)
        started.launch()
        return started

    def attend(self, started: StartedTurn) -> Turn:
        """Return the turn that has begun; enter it with `async with`."""
        from csa.runner.turns.turn import Turn  # noqa: PLC0415  # as above

        return Turn(started.plan, started)

    def session(self, selector: str, *, retired: bool = False) -> Session:
        """Return the session that a selector means, in whichever project; raises as `find_session`.

        With `retired` it may be a session that was collected, which can be read and not continued.
        """
        return find_session(self.context, selector, retired=retired)

    def resolve(self, selector: str, *, retired: bool = False) -> str:
        """Return the full id that a selector means: NotFoundError, AmbiguousError, UsageError."""
        return self.session(selector, retired=retired).session_id

    def paths(self, selector: str) -> SessionPaths:
        """Return the files of a session, for reading: it may be a collected one."""
        return self.session(selector, retired=True).files

    def sessions(self, *, limit: int | None = None) -> list[SessionInfo]:
        """Return the sessions, newest first; damaged ones too."""
        return select_sessions([self.store], limit=limit).infos

    def tree(self) -> list[Node[SessionInfo]]:
        """Return the genealogy: newest roots first, children oldest first."""
        from csa.runner.sessions.genealogy import arrange_sessions  # noqa: PLC0415  # only this needs it

        return arrange_sessions(self.sessions())

    def result(self, selector: str, *, turn: int | None = None) -> RunResult:
        """Return how the last finished turn, or the given one, ended; NotFoundError when there is none.

        StateError when its record is damaged.
        """
        return self.session(selector, retired=True).result(turn=turn)

    def events(self, selector: str, *, tail: int | None = None) -> Iterator[Event]:
        """Yield a session's events in order; the last `tail` of them where that is given."""
        from csa.store.transcript import read_events, read_events_backwards  # noqa: PLC0415  # only this needs it

        transcript = self.paths(selector).transcript
        if tail is None:
            yield from read_events(transcript)
            return
        yield from reversed(list(islice(read_events_backwards(transcript), tail)))

    def liveness(self, selector: str) -> Liveness:
        """Say whether a session runs, and who runs it."""
        return self.session(selector, retired=True).liveness()


def _defaults() -> Config:
    from csa.model.config import combine_layers  # noqa: PLC0415  # see Context

    return combine_layers([])


def _configured(place: Path, environ: Mapping[str, str]) -> Config:
    from csa.store.configfile import load_config  # noqa: PLC0415  # see Context

    return load_config(place, environ)


def _calling(environ: Mapping[str, str], root: Path) -> Caller | None:
    from csa.runner.caller import find_caller  # noqa: PLC0415  # see Context

    return find_caller(environ, root)
