"""Tasks of a plan on other hosts: placing their turns, and landing their work. `looking.py` finds their sessions."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from csa.errors import BusyError, CsaError, NameTakenError, RefusedError, StateError, UsageError
from csa.model.config import Engine
from csa.model.configkeys import NONE, SHARED
from csa.model.plan import NAME_LENGTH, Plan, PlanTask
from csa.runner.attached import Attached, Placed, start_attached, start_placed
from csa.runner.context import Context
from csa.runner.hosts.escrow import settle_heard
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.jobs import WithdrawnError
from csa.runner.hosts.schedulers import is_scheduler
from csa.runner.hosts.sharing import allowance_for
from csa.runner.hosts.syncing import CHECK_S, Sync
from csa.runner.hosts.watching import Watching
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.landing import in_thread
from csa.runner.sessions.landing_fetched import land_fetched, last_fetched
from csa.runner.sessions.landing_outcome import Landed
from csa.store.gitplumbing import open_project
from csa.store.gitwork import refs_of
from csa.store.sessions import Record, Store, Target
from csa.store.status import session_status
from csa.structs import replace

_OPEN = frozenset({"running", "away", "unknown"})
_MOST_NAMES = 100


class Elsewhere:
    """What the scheduler of a plan does with tasks on other hosts. `tell` gets what happens, as that of a Scheduler."""

    def __init__(self, context: Context, plan: Plan, directory: str, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._context, self._plan, self._directory, self._tell = context, plan, directory, tell

    def hear(self, placed: Iterable[Target]) -> None:
        """Ask all hosts at once on which one of these sessions may be running; what has ended there is settled."""
        hosts = {str(store.host) for store, session_id in placed if _may_run(store, session_id)}
        syncs = []
        for host in sorted(hosts):
            engine = self._context.config.engine(host)
            try:
                is_queue = is_scheduler(engine)  # there it waits
            except CsaError as error:
                self._tell({"type": "warning", "text": error.message})
                continue
            syncs += [] if is_queue else [Sync(self._context.store.root_pathname, engine)]
        threads = [threading.Thread(target=self._hear, args=(sync,), daemon=True) for sync in syncs]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CHECK_S
        for sync, thread in zip(syncs, threads, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            sync.end()

    def _hear(self, sync: Sync) -> None:
        try:
            sync.once()
        except BusyError:  # whoever does it keeps the mirror fresh
            return
        except CsaError as error:
            self._tell({"type": "warning", "text": error.message})
            return
        settle_heard(self._context.store.root, sync.engine.name)

    @contextmanager
    def kept_fresh(self, hosts: set[str]) -> Iterator[None]:
        """Keep the mirrors of some hosts up to date."""
        with ExitStack() as stack:
            for host in hosts:
                watching = Watching(self._context.store.root_pathname)
                stack.callback(watching.end)
                watching.begin(self._context.config.engine(host))
            yield

    def start(self, task: PlanTask, unit: str, request: RunRequest, known: Record | None) -> Attached:
        """Start a turn of a task on the host where its session is, or else that it names.

        An agent's own plan does not wait for long in the queue of a scheduler: then a new session begins here.

        Args:
            task: what it is of.
            unit: the session's, or alternative's, name in the plan.
            request: the same as for a turn here.
            known: the record of its session; None for a new one.

        Raises as `start_placed`, and UsageError if no code goes to the host that the task would change.
        """
        host = self._host_of(task, known)
        engine = self._context.config.engine(host.partition(":")[0])
        going = replace(request, directory=None)
        if known is None:
            going = replace(going, worktree=_worktree_there(task, request, engine))
        for name in _names(request.name):
            try:
                return self._place(host, replace(going, name=name), engine, unit)
            except CsaError as error:
                if error.code == WithdrawnError.code and known is None:
                    self._say(unit, f"{error.message} The turn runs here")
                    return start_attached(self._context, request, wait_s=math.inf)
                if error.code != NameTakenError.code:
                    raise
        raise NameTakenError(
            f"Too many sessions of {host} are named '{request.name}'.", hint="--name NAME for the plan"
        )

    def _place(self, host: str, request: RunRequest, engine: Engine, unit: str) -> Placed:
        caller = self._context.caller
        is_agents = caller is not None and caller.state.parent_session_id is not None
        return start_placed(
            self._context,
            request,
            host=host,
            wait_s=math.inf,
            allowance=allowance_for(request),
            parts=sum(len(task.units) for task in self._plan.tasks.values()),
            queue_s=engine.queue_s if is_agents else None,
            tell=lambda words: self._say(unit, words),
        )

    def _host_of(self, task: PlanTask, known: Record | None) -> str:
        """Return where a turn goes: to the host of its session, through the scheduler that the task names."""
        there, named = known.store.host if known else None, (task.host or "").partition(":")[0]
        if there is None:
            return str(task.host)
        is_queued = named not in {"", there} and is_scheduler(self._context.config.engine(named))
        return f"{named}:{there}" if is_queued else there

    def _say(self, unit: str, words: str) -> None:
        self._tell({"type": "say", "text": f"{unit}: {words}"})

    async def land(self, task: PlanTask, session: Session) -> Landed:
        """Bring the work of a task into the plan's tree, after fetching what is not here yet.

        Raises as `land_fetched` and `bring_back`, and RefusedError for work that is unfinished there.
        """
        await in_thread(lambda: self._fetch(session))
        return await land_fetched(session, self._directory, check=task.check, setup=task.options.get("setup"))

    def _fetch(self, session: Session) -> None:
        context, session_id, host = self._context, session.session_id, str(session.store.host)
        git, turns = open_project(self._directory, context.environ, commits=False), session.load().turns
        if last_fetched(refs_of(git, session_id)) >= turns:
            return
        fetch_work(context, context.config.engine(host), session_id, host)
        if last_fetched(refs_of(git, session_id)) < turns:
            raise RefusedError(
                f"The work of session {session_id} on {host} is unfinished: turn {turns} has left a merge or a rebase.",
                hint=f'csa run -s {host}:{session_id} "finish it, or undo it"',
            )


def _may_run(store: Store, session_id: str) -> bool:
    record = store.record(session_id)
    try:
        return record.state is None or session_status(record.paths, record.state)[0] in _OPEN
    except StateError:
        return True


def _worktree_there(task: PlanTask, request: RunRequest, engine: Engine) -> str | None:
    """Return the name of the worktree for a task: that of one here only where the repository is the same."""
    if not task.has_worktree:
        return None
    if engine.code == NONE:
        words = f"No code goes to {engine.name} ([engines.{engine.name}] code), and {task.name} is to change some."
        raise UsageError(words, hint="worktree = false, or another host")
    return request.worktree if engine.code == SHARED else ""


def _names(name: str | None) -> Iterator[str | None]:
    """Yield what a session may be called where others may have its name: earlier ones, or those of another clone."""
    yield name
    for number in range(2, _MOST_NAMES) if name else ():
        end = f"-{number}"
        yield f"{str(name)[: NAME_LENGTH - len(end)]}{end}"
