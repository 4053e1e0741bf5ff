"""Beginning a turn on another host: which session of which host is meant, what is booked for it, and its order.

Who watches the turn then is somebody else: a command that shows it (`csa/cli/placed.py`), or the process of an attached
one (`csa/runner/placed.py`). Signals that come meanwhile are in a list, `noted`; while a host is being reached they
raise StoppedError.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, UsageError
from csa.model.config import Engine
from csa.model.limits import Budget
from csa.model.state import SessionState
from csa.process.wakeup import handled
from csa.runner.context import Context
from csa.runner.detach import AppearedError
from csa.runner.environment import outer_sandbox
from csa.runner.hosts.code import Outgoing, outgoing
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.escrow import Escrow, reserve, settle_heard
from csa.runner.hosts.passport import with_repository
from csa.runner.hosts.placing import directory_there, order_of
from csa.runner.hosts.scheduled import QueuedTether
from csa.runner.hosts.schedulers import is_scheduler
from csa.runner.hosts.syncing import Sync
from csa.runner.hosts.tether import Begun, StoppedError, Tether
from csa.runner.hosts.watching import Watching
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session
from csa.runner.turns.checks import asked_id
from csa.runner.turns.planning import new_id_now
from csa.store.gitplumbing import open_project
from csa.store.gitwork import find_commit
from csa.store.mirrors import is_host_name
from csa.store.reception import read_reception
from csa.store.sentcode import note_sent
from csa.structs import Struct, asdict, replace

_EXIT_AWAY = 4


class Where(Struct):
    """What is to be run where: in a new session of the host, or in one of its own."""

    engine: Engine
    request: RunRequest
    session_id: str
    directory: str
    is_new: bool
    code: Outgoing | None = None  # what goes along
    node: Engine | None = None  # which a scheduler is asked for
    link: Link | None = None  # if the host is being reached

    @property
    def host(self) -> Engine:
        """The host, or the scheduler that finds one."""
        return self.node or self.engine


def find_where(context: Context, request: RunRequest, host: str | None, directory: str | None) -> Where:
    """Return what a request means on a host that is named so, or that the name of its session names.

    `directory` is where a new session starts there if no code goes along. Raises as `find_session` and `outgoing`, and
    RefusedError for a session that is here.
    """
    named, _, typed = (request.session or "").rpartition(":")
    engine, node = _engine(context, host or named, named)
    if named and named != (node or engine).name:
        raise UsageError(f"Session {typed} is on {named}, and stays there.", hint=f"leave --on {host} out")
    if not typed:
        session_id = asked_id(request) or new_id_now()
        there = directory_there(context, engine, directory)
        is_here = directory is None or os.path.isdir(directory)
        code = outgoing(context, engine) if is_here else None  # that of another directory is not meant
        return Where(engine, request, session_id, there, is_new=True, code=code, node=node)
    session = _find_there(context, node or engine, typed)
    request = replace(request, session=session.session_id)
    code = None
    if request.repair:
        request, onto = _with_refusal(context, request, session)
        code = outgoing(context, engine, commit=onto, session_id=session.session_id)
    directory = session.store.project_pathname
    return Where(engine, request, session.session_id, directory, is_new=False, code=code, node=node)


def where_appeared(context: Context, where: Where, appeared: AppearedError) -> Where:
    """Return where the session is that has the name of a new one there, and was not seen here; else raise the error."""
    if not where.is_new or where.session_id == appeared.session_id:
        raise appeared
    named = replace(where.request, session=f"{where.engine.name}:{appeared.session_id}", session_id=None)
    return find_where(context, named, None, None)


def _with_refusal(context: Context, request: RunRequest, session: Session) -> tuple[RunRequest, str | None]:
    """Return the request with why the work of a session could not be landed here, and the commit it was to follow."""
    git = open_project(context.directory_pathname, context.environ)
    found = read_reception(git, session.session_id)
    if found is None or found.refused is None:
        name = f"{session.store.host}:{session.session_id}"
        raise UsageError(f"Nothing of {name} was refused here, so there is nothing to repair.", hint=f"csa land {name}")
    onto = find_commit(git, "HEAD") if found.refused.kind == "conflict" else found.refused.onto
    return replace(request, refused=asdict(replace(found.refused, onto=onto))), onto


def host_called(context: Context, name: str) -> Engine:
    """Return the host, or the scheduler, that is called so; UsageError if none can be."""
    if not is_host_name(name):
        words = f"'{name}' cannot name a host here."
        raise UsageError(words, hint=f'[engines.NAME] reach = ["ssh", "{name}"] does')
    return context.config.engine(name)


def _engine(context: Context, host: str, named: str) -> tuple[Engine, Engine | None]:
    """Return the host that is meant; or a scheduler, and the node that is asked for, or where the session is."""
    host, _, node = host.partition(":")
    engine = host_called(context, host)
    if is_scheduler(engine):
        node = node or (named if named != host else "")
        return engine, host_called(context, node) if node else None
    if node:
        raise UsageError(f"{host} is a host, and has no {node}.", hint=f"--on {node}, if that is a host")
    return engine, None


def _find_there(context: Context, engine: Engine, typed: str) -> Session:
    """Return a session of the host; if its mirror does not have it, as the host has it now."""
    selector = f"{engine.name}:{typed}"
    with suppress(NotFoundError):
        return find_session(context, selector, retired=True)
    Sync(context.store.root_pathname, engine).once()
    try:
        return find_session(context, selector, retired=True)
    except NotFoundError as error:
        here = _find_here(context, typed)
        if here is None:
            raise
        words = f"Session {here.session_id} is on this host, and stays here."
        raise RefusedError(words, hint=f"leave --on {engine.name} out") from error


def _find_here(context: Context, typed: str) -> Session | None:
    try:
        return find_session(context, typed)
    except CsaError:
        return None


def reserve_for(context: Context, where: Where, allowance: Budget) -> Escrow:
    """Book what the session takes along; what it took the last time is settled if it has ended meanwhile.

    Raises as `reserve`, but CsaError if it cannot be written, and as `Sync.once`.
    """
    try:
        return reserve(context, where.host, where.session_id, allowance)
    except BusyError:
        if is_scheduler(where.host):
            raise
        with suppress(BusyError):  # it is being brought up to date
            Sync(context.store.root_pathname, where.host).once()
        settle_heard(context.store.root, where.host.name)
        return reserve(context, where.host, where.session_id, allowance)
    except OSError as error:
        raise _is_unrecorded(error) from error


def _is_unrecorded(error: OSError) -> CsaError:
    """Return the error for what cannot be booked, and so is not sent."""
    words = f"What is to be sent cannot be recorded here: {error.strerror}."
    return CsaError(words, hint="free space on the disk; nothing was sent")


def tether_to(
    context: Context,
    where: Where,
    escrow: Escrow,
    *,
    is_detached: bool,
    queue_s: float | None,
    noted: Sequence[int],
    tell: Callable[[str], None],
    watching: Watching | None = None,
) -> Tether:
    """Return the connection, not yet made, to the host, or to what finds one; `queue_s` as of a QueuedTether."""
    if not is_scheduler(where.engine):
        return Tether(where.engine, escrow.id, is_detached=is_detached, tell=tell, watching=watching, link=where.link)
    return QueuedTether(
        context.config,
        where.engine,
        escrow.id,
        node=where.node.name if where.node else None,
        queue_s=queue_s,
        is_detached=is_detached,
        noted=lambda: signal.Signals(noted[0]).name if noted else "",
        moved=escrow.moved,
        tell=tell,
    )


def begin_there(
    context: Context,
    where: Where,
    escrow: Escrow,
    tether: Tether,
    *,
    wait_s: float | None,
    noted: Sequence[int] | None,
    warn: Callable[[Sequence[str]], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> Begun:
    """Send the order, and return the turn that has begun; if none has, what was booked is given back.

    With `noted` None signals are somebody else's: it may be called in any thread. Raises as `Tether.begin`.
    """
    try:
        order = order_of(
            context, where.request, escrow, session_id=where.session_id, directory=where.directory, wait_s=wait_s
        )
        passport = with_repository(escrow.passport, context, where.engine)
        with nullcontext() if noted is None or is_scheduler(where.engine) else handled(_stop):
            if noted and not is_scheduler(where.engine):
                heed(noted)
            begun = tether.begin(
                order, passport=passport, code=where.code, before_sending=escrow.sent, meanwhile=meanwhile
            )
    except BaseException as error:
        if not tether.is_sent or (isinstance(error, CsaError) and not isinstance(error, HostError)):
            with recording(where.engine.name, warn):
                escrow.give_back()  # nothing has begun
        if isinstance(error, OSError) and not tether.is_sent:
            raise _is_unrecorded(error) from error
        if isinstance(error, HostError) and (sandbox := outer_sandbox()):
            error.hint = f"the {sandbox} sandbox that csa was called in has no network: --permission full has"
        raise
    with recording(begun.host, warn):
        escrow.placed(begun.to_json(), awaits_code=where.code is not None)
        if where.code:
            note_sent(context.store.root, where.code.key, context.store.project_pathname)
    return begun


@contextmanager
def recording(host: str, warn: Callable[[Sequence[str]], None]) -> Iterator[None]:
    """Warn if what has become of a turn cannot be recorded here: it goes on all the same."""
    try:
        yield
    except OSError as error:
        warn([f"what became of the turn could not be recorded: {error.strerror}; csa sync {host} tries again"])


def heed(noted: Sequence[int]) -> None:
    """Raise StoppedError for a signal that came before anything was sent."""
    if noted:
        raise StoppedError(signal.Signals(noted[0]).name)


def _stop(number: int, _frame: object) -> None:
    """Have a signal end what is waited for."""
    raise StoppedError(signal.Signals(number).name)


def has_code(where: Where, state: SessionState | None) -> bool:
    """Say whether commits of a session come back."""
    return where.code is not None or (state is not None and state.worktree is not None)


def unseen(begun: Begun, tether: Tether, sync: Watching, *, stopped_by: str = "") -> CsaError:
    """Return what is known of a turn whose end was not seen; `stopped_by` is the signal that was to end it."""
    ended = tether.ended
    what = f"Turn {begun.turn} of {begun.session_id} on {begun.host}"
    hint = f"csa sync {begun.host}; csa status {begun.session_id}"
    if ended is None:
        left = f"{begun.host} cannot be reached." if tether.is_lost else "it was left before its end was seen."
        why = tether.failure.message if tether.failure else left
        failure = CsaError(f"{what} is away: {why}", hint=hint)
        failure.exit_code = 128 + signal.Signals[stopped_by] if stopped_by else _EXIT_AWAY
    elif ended.get("lost"):
        sync.catch_up(tether.engine_now())  # then csa status says so, too
        failure = CsaError(f"{what} was lost: its supervisor there was killed.", hint=hint)
    else:
        why = f": {sync.failure.message}" if sync.failure else "."
        failure = CsaError(f"{what} has ended with {ended['ended']}, but its answer has not come{why}", hint=hint)
        failure.exit_code = int(ended["ended"]) or CsaError.exit_code
    return failure
