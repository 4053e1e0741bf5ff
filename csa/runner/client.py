"""The library: everything the command line does. It prints nothing, and reads the environment only when asked to."""

from __future__ import annotations

import os
from collections.abc import Mapping

from csa.errors import MirroredError, UsageError
from csa.paths import home_pathname, make_path, state_root
from csa.runner.ancestry import with_identity
from csa.runner.context import Context
from csa.runner.verbs import SessionVerbs
from csa.store.project import find_project
from csa.store.sessions import Store
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from csa.model.config import Config
    from csa.model.limits import Budget
    from csa.model.result import RunResult
    from csa.runner.attached import Attached
    from csa.runner.caller import Caller
    from csa.runner.detach import Detached
    from csa.runner.on_finish import FollowUp
    from csa.runner.queueing import Queued
    from csa.runner.request import RunOptions, RunRequest
    from csa.runner.sessions.creating import Created
    from csa.runner.sessions.landing_outcome import Landed
    from csa.runner.sessions.merging import Merged
    from csa.runner.turns.compaction import CompactionResult
    from csa.runner.turns.plan import TurnPlan
    from csa.runner.turns.starting import StartedTurn
    from csa.runner.turns.turn import Turn


class Csa(SessionVerbs):
    """The sessions of one project, and the means to run more.

    `run`, `ask`, `compress` and `land` are for async code. All else is plain calls, of which `ask_sync`, `wait`,
    `kill` and `events` with `follow` block: in async code, `await anyio.to_thread.run_sync(client.wait, "api")`.
    A *selector* is a session's id, a unique prefix of one, its name, or `@last`, `@self`, `@parent`, `@root`.
    """

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
                "The current directory has been deleted.", hint="cd to another one, or use --cd DIR"
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
    def caller(self) -> Caller | None:
        """The session on whose behalf this runs; None outside of agents. RefusedError when its record is missing."""
        return self.context.caller

    def run(self, prompt: str | RunRequest, *, new_id: str | None = None, **options: Unpack[RunOptions]) -> Turn:
        """Return the turn that runs a prompt; enter it with `async with`, and iterate over its events.

        Args:
            prompt: what the agent is to do; or a RunRequest, of which `options` replace fields.
            new_id: the ULID that a new session gets.
            options: the other fields of RunRequest by name, as `tool="codex"`, `session="api"`, `timeout_s=60`.

        Raises:
            UsageError: the request contradicts itself, or a value is out of range.
            NotFoundError, AmbiguousError, StateError: of the session that is to be continued.
            ConfigError: a config file or variable is wrong.
            ToolUnavailableError: the tool is not installed.
            RefusedError: a limit, a budget or the calling session forbids it.
        And when the turn is entered: BusyError if the session is running, FullError if too many turns are running.
        """
        from csa.runner.request import request_of  # noqa: PLC0415  # reading commands do not need it

        return self.turn_of(self.plan(request_of(prompt, options), new_id=new_id))

    async def ask(self, prompt: str | RunRequest, **options: Unpack[RunOptions]) -> RunResult:
        """Run a turn to its end and return how it ended; the answer is `.text`, and `.status` is "succeeded" or not.

        A turn that fails raises nothing: its `error_kind` and `error_message` say why. Arguments and errors are those
        of `run`, those of entering the turn included. When the task is cancelled the turn is, too.
        """
        async with self.run(prompt, **options) as turn:
            async for _ in turn:
                pass  # the transcript has them
        return turn.result

    def ask_sync(self, prompt: str | RunRequest, **options: Unpack[RunOptions]) -> RunResult:
        """Do the same as `ask` without an event loop: block until the turn has ended.

        Ctrl-C in the main thread ends the agent, records the turn as cancelled, and raises KeyboardInterrupt.

        Raises:
            UsageError: an event loop runs in this thread; use `await client.ask(...)` there. Else as `ask`.
        """
        import anyio  # noqa: PLC0415  # as above

        if _is_in_event_loop():
            raise UsageError("ask_sync cannot run inside an event loop.", hint="use `await client.ask(...)`")
        return anyio.run(lambda: self.ask(prompt, **options))

    def start(
        self,
        prompt: str | RunRequest,
        *,
        wait_s: float | None = None,
        on_finish: FollowUp | None = None,
        on: str | None = None,
        allowance: Budget | None = None,
        **options: Unpack[RunOptions],
    ) -> Detached:
        """Start a turn in the background, and return as soon as any process can find its session.

        The turn outlives this process. `wait`, `result`, `events` and `kill` take its `session_id`.

        Args:
            prompt: as for `run`, like `options`.
            wait_s: for how many seconds to wait for a busy session or while too many turns run; None is not at all.
            on_finish: a shell command for when the turn has ended.
            on: another host, or a scheduler, that runs it; a session of another host (`gpu:auth`) goes on where it is.
            allowance: what it and all below it may use there, of the budgets above it.

        Raises:
            UsageError: the session was to be ephemeral; or as `run`, like all others.
            HostError: a host cannot be reached: nothing has begun there, or the error says that this is not known.
        """
        from csa.runner.detach import start_detached  # noqa: PLC0415  # as above
        from csa.runner.request import request_of  # noqa: PLC0415  # as above

        request = request_of(prompt, options)
        try:
            if on is None and ":" not in (request.session or ""):
                return start_detached(self.context, request, wait_s=wait_s, on_finish=on_finish)
        except MirroredError as error:
            if request.session is None:
                raise
            request = replace(request, session=f"{error.host}:{error.session_id}")
        if on_finish:
            raise UsageError("What follows a turn runs where somebody waits for it; nobody does here.")
        from csa.runner.hosts.starting import start_there  # noqa: PLC0415  # most turns run here

        return start_there(self.context, request, on, wait_s=wait_s, allowance=allowance)[0].as_detached()

    def start_attached(
        self,
        prompt: str | RunRequest,
        *,
        wait_s: float | None = None,
        on_finish: FollowUp | None = None,
        **options: Unpack[RunOptions],
    ) -> Attached:
        """Start a turn in a process of its own that ends with this one; return as soon as its session can be found.

        However this process ends, also by SIGKILL, the turn then ends as cancelled. Arguments are those of `start`.

        Raises as `start`; but a sandbox does not forbid it.
        """
        from csa.runner.attached import start_attached  # noqa: PLC0415  # as above
        from csa.runner.request import request_of  # noqa: PLC0415  # as above

        return start_attached(self.context, request_of(prompt, options), wait_s=wait_s, on_finish=on_finish)

    def create(self, request: RunRequest | None = None, **options: Unpack[RunOptions]) -> Created:
        """Make a session without a turn; `options` are as for `run`. The first turn in it uses what is asked for here.

        Raises as `run`, and as entering a turn does.
        """
        from csa.runner.request import request_of  # noqa: PLC0415  # as above
        from csa.runner.sessions.creating import make_session  # noqa: PLC0415  # as above

        return make_session(self.context, request_of(request or "", options))

    def merge(self, *selectors: str, **options: Unpack[RunOptions]) -> Merged:
        """Make a session without a turn that goes on with several others; `options` are as for `create`.

        Raises as `create`, and UsageError, NotFoundError, BusyError or StateError for what cannot be merged.
        """
        from csa.runner.request import request_of  # noqa: PLC0415  # as above
        from csa.runner.sessions.merging import merge_sessions  # noqa: PLC0415  # as above

        return merge_sessions(self.context, selectors, request_of("", options))

    async def compress(
        self, selector: str, *, tool: str | None = None, timeout_s: float | None = None
    ) -> CompactionResult:
        """Have a tool compact its conversation; without `tool`, the session's last one.

        It has succeeded only if the tool confirms it: `.status` is "succeeded" then. Else the session is as it was, and
        `.error_message` says why.

        Raises as `session`, and:
            CsaError: there is nothing to compact, or the tool cannot.
            BusyError: the session is running.
            RefusedError: it is the calling session, or above it.
        """
        from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # as above
        from csa.runner.turns.compaction import Compaction, plan_compaction  # noqa: PLC0415  # as above

        plan = plan_compaction(self.session(selector), tool=tool, timeout_s=timeout_s)
        result = await Compaction(plan).run()
        record_act(plan.context, "session compress", result.session_id, what=result.status)
        return result

    async def land(
        self,
        selector: str,
        *,
        into: Path | str | None = None,
        squash: bool = False,
        check: str | None = None,
        dry_run: bool = False,
        keep: bool = False,
    ) -> Landed:
        """Bring the work of a session that runs in a worktree of its own into a checkout of the same repository.

        Of a session on another host (`gpu:auth`), what `fetch` has brought is landed, and `keep` means nothing.

        Args:
            selector: the session.
            into: a directory in the checkout; where the client was opened when None.
            squash: as one commit.
            check: a shell command that must succeed in a worktree before, with the work on the checkout's commit.
            dry_run: say what would be landed, and what is in the way, and change nothing.
            keep: leave the worktree and its branch where they are.

        Raises as `session`, and:
            LandError: it conflicts with the checkout, or the check failed: `.kind`, `.files`, `.said`. The checkout is
                as it was; `run(..., session=selector, repair=True)` hands that to the agent.
            RefusedError: a changed file is in the way; or it is no checkout of the repository; or an agent may not.
            BusyError: the session is running.
        """
        from csa.runner.sessions.landing import land_session  # noqa: PLC0415  # as above

        place, session = self.context.directory if into is None else into, self.session(selector, mirrored=True)
        if session.store.host is None:
            return await land_session(session, into=place, squash=squash, check=check, dry_run=dry_run, keep=keep)
        from csa.runner.sessions.landing_fetched import land_fetched  # noqa: PLC0415  # few are on other hosts

        return await land_fetched(session, place, squash=squash, check=check, dry_run=dry_run)

    def plan(self, request: RunRequest, *, new_id: str | None = None) -> TurnPlan:
        """Decide what a request means, without writing anything: the tool, its command, the limits. Raises as `run`."""
        from csa.runner.turns.planning import plan_turn  # noqa: PLC0415  # as above

        return plan_turn(self.context, request, new_id=new_id)

    def from_template(
        self,
        name: str,
        prompt: str = "",
        /,
        *,
        variables: Mapping[str, str] | None = None,
        **options: Unpack[RunOptions],
    ) -> RunRequest:
        """Return the request for a prompt with a template; what `options` say comes before what the template says.

        Raises:
            NotFoundError: there is no template with that name.
            ConfigError: its file is wrong.
            UsageError: a variable is missing, or is none of its own.
        """
        from csa.runner.request import request_of  # noqa: PLC0415  # as above
        from csa.runner.templates import apply_template, find_template  # noqa: PLC0415  # as above

        return apply_template(find_template(self.context, name), request_of(prompt, options), variables or {})

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
        return self.turn_of(started.plan, started)

    def turn_of(self, plan: TurnPlan, started: StartedTurn | None = None) -> Turn:
        """Return the turn that carries out a plan, perhaps one that has begun; what is queued goes on after it."""
        from csa.runner.detach import hand_over_queue  # noqa: PLC0415  # reading commands do not need it
        from csa.runner.turns.turn import Turn  # noqa: PLC0415  # as above, like anyio, which this brings

        turn = Turn(plan, started)
        turn.hand_over = lambda: hand_over_queue(plan.context, plan.state.session_id)
        return turn

    def queue(
        self, prompt: str | RunRequest, *, on_finish: FollowUp | None = None, **options: Unpack[RunOptions]
    ) -> Queued:
        """Add a prompt to the queue of its session, whose turns begin one after the other, in the background.

        If the session is not running, the turn begins at once, as with `start`: `.started` of what this returns.

        Args:
            prompt: as for `run`, like `options`.
            on_finish: a shell command for when its turn has ended.

        Raises:
            RefusedError: the queue is full; or as `start`, like all others.
        """
        from csa.runner.queueing import queue_prompt  # noqa: PLC0415  # as above
        from csa.runner.request import request_of  # noqa: PLC0415  # as above

        return queue_prompt(self.context, request_of(prompt, options), on_finish=on_finish)


def _is_in_event_loop() -> bool:
    import asyncio  # noqa: PLC0415  # only `ask_sync` needs it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _defaults() -> Config:
    from csa.model.config import combine_layers  # noqa: PLC0415  # see Context

    return combine_layers([])


def _configured(place: Path, environ: Mapping[str, str]) -> Config:
    from csa.store.configfile import load_config  # noqa: PLC0415  # see Context

    return load_config(place, environ)


def _calling(environ: Mapping[str, str], root: Path) -> Caller | None:
    from csa.runner.caller import find_caller  # noqa: PLC0415  # see Context

    return find_caller(environ, root)
