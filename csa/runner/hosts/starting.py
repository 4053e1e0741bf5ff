"""Starting turns on other hosts: what is to run where, what is booked for it, and the order that is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, UsageError
from csa.model.config import Engine
from csa.model.limits import Budget
from csa.runner.context import Context
from csa.runner.detach import AppearedError
from csa.runner.environment import outer_sandbox
from csa.runner.hosts.code import Outgoing, outgoing
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.escrow import Escrow, reserve, settle_heard
from csa.runner.hosts.jobs import is_scheduler
from csa.runner.hosts.placing import Begun, Tether, directory_there, order_of, refuse_elsewhere
from csa.runner.hosts.scheduled import QueuedTether
from csa.runner.hosts.syncing import Sync
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session
from csa.runner.turns.checks import asked_id, check_request
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.planning import new_id_now
from csa.store.mirrors import is_host_name
from csa.structs import Struct, replace

Tell = Callable[[str], None]


class Where(Struct):
    """What is to be run where: in a new session of the host, or in one of its own."""

    engine: Engine
    request: RunRequest
    session_id: str
    directory: str
    is_new: bool
    code: Outgoing | None = None  # what goes along
    after: FollowUp | None = None  # what is run here at its end
    node: Engine | None = None  # which a scheduler is asked for

    @property
    def host(self) -> Engine:
        """The host, or the scheduler that finds one."""
        return self.node or self.engine


@contextmanager
def recording(host: str, tell: Tell) -> Iterator[None]:
    """Tell if what has become of a turn cannot be recorded here: it goes on all the same."""
    try:
        yield
    except OSError as error:
        tell(f"what became of the turn could not be recorded: {error.strerror}; csa sync {host} tries again")


def find_where(context: Context, request: RunRequest, host: str | None, directory: str | None) -> Where:
    """Return where a request is to be carried out: on the host that is named, or that its session's name names.

    Raises:
        UsageError: that is no host; or the session is on another one.
        NotFoundError, RefusedError: the host has no such session; it is here.
        HostError: the host, which has to be asked for a session that was not seen here, cannot be reached.
    """
    named, _, typed = (request.session or "").rpartition(":")
    engine, node = _engine(context, host or named, named)
    if named and named != (node or engine).name:
        raise UsageError(f"Session {typed} is on {named}, and stays there.", hint=f"leave --on {host} out")
    if not typed:
        session_id = asked_id(request) or new_id_now()
        there = directory_there(context, engine, directory)
        code = outgoing(context, engine)
        return Where(engine, request, session_id, there, is_new=True, code=code, node=node)
    session = _find_there(context, node or engine, typed)
    request = replace(request, session=session.session_id)
    directory = session.store.project_pathname
    return Where(engine, request, session.session_id, directory, is_new=False, node=node)


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


def reserve_there(context: Context, where: Where, allowance: Budget) -> Escrow:
    """Book what the session takes along; what it took the last time is settled if it has ended meanwhile.

    Raises as `reserve`, but CsaError if it cannot be written.
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


def make_tether(
    context: Context,
    where: Where,
    escrow: Escrow,
    *,
    is_detached: bool,
    queue_s: float | None,
    noted: Callable[[], str],
    tell: Tell,
) -> Tether:
    """Return what sends the order, and holds the turn: see Tether and QueuedTether."""
    if not is_scheduler(where.engine):
        return Tether(where.engine, escrow.id, is_detached=is_detached, tell=tell)
    return QueuedTether(
        context.config,
        where.engine,
        escrow.id,
        node=where.node.name if where.node else None,
        queue_s=queue_s,
        is_detached=is_detached,
        noted=noted,
        moved=escrow.moved,
        tell=tell,
    )


def send_order(
    context: Context,
    where: Where,
    escrow: Escrow,
    tether: Tether,
    *,
    wait_s: float | None,
    warn: Tell,
    meanwhile: Callable[[], None] = lambda: None,
    around: AbstractContextManager[object] | None = None,
) -> Begun:
    """Send the order, and return the turn that has begun, which is recorded; if nothing has, give back what is booked.

    `around` is entered while it is sent, `meanwhile` called while the host is reached. Raises as `Tether.begin`.
    """
    try:
        order = order_of(
            context, where.request, escrow, session_id=where.session_id, directory=where.directory, wait_s=wait_s
        )
        with around or nullcontext():
            begun = tether.begin(
                order, passport=escrow.passport, code=where.code, before_sending=escrow.sent, meanwhile=meanwhile
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
    return begun


class Open(Struct):
    """A turn that has begun on another host, and what holds it: who has this closes it."""

    begun: Begun
    escrow: Escrow
    tether: Tether
    awaits_code: bool

    def close(self) -> None:
        """Leave it; then others may settle it."""
        self.tether.close()
        self.escrow.close()


def begin_there(
    context: Context,
    request: RunRequest,
    host: str | None,
    *,
    is_detached: bool = True,
    wait_s: float | None = None,
    allowance: Budget | None = None,
    directory: str | None = None,
    tell: Tell = lambda _: None,
) -> Open:
    """Start a turn on another host, and return when it has begun there.

    Args:
        context: where, and by whom, it is asked for.
        request: what is to be run; its `directory` is of this host.
        host: the host, or a scheduler; None if the session's name has it, as in `gpu:auth`.
        is_detached: it goes on there by itself. Else it ends when its leash has run out, unless somebody attends.
        wait_s: how long to wait for a busy session or a full limit there; in a scheduler's queue at most as long, or
            for `queue_s`.
        allowance: of the budgets above it here: see `reserve`.
        directory: there, for a session without code.
        tell: gets what may interest who asked.

    Raises as `find_where`, `reserve_there` and `send_order`, and:
        UsageError: the request makes no sense elsewhere.
        WithdrawnError: it has waited in the queue for too long, and will never begin.
    """
    refuse_elsewhere(request)
    check_request(request)
    if request.images or request.files:
        from csa.runner.attaching import with_contents  # noqa: PLC0415  # few turns have some

        request = with_contents(request, context.directory_pathname)
    where = find_where(context, request, host, directory)

    def begin(where: Where) -> Open:
        return _begin_once(context, where, allowance or Budget(), is_detached=is_detached, wait_s=wait_s, tell=tell)

    try:
        return begin(where)
    except AppearedError as appeared:  # its name means a session that was not seen here
        if not where.is_new or where.session_id == appeared.session_id:
            raise
        named = replace(request, session=f"{where.engine.name}:{appeared.session_id}", session_id=None)
        return begin(find_where(context, named, None, None))


def start_there(context: Context, request: RunRequest, host: str | None, **options: Any) -> tuple[Begun, Engine]:
    """Start a turn on another host that goes on by itself, and bring the mirror of that up to date.

    Return how the host is reached, too. Options and errors are those of `begin_there`.
    """
    open_turn = begin_there(context, request, host, **options)
    open_turn.close()
    engine = open_turn.tether.engine_now()
    with suppress(CsaError):  # whoever looks for it brings it up to date
        Sync(context.store.root_pathname, engine).once()
    return open_turn.begun, engine


def _begin_once(
    context: Context, where: Where, allowance: Budget, *, is_detached: bool, wait_s: float | None, tell: Tell
) -> Open:
    for words in where.code.warnings if where.code else ():
        tell(words)

    def reserve_now() -> Escrow:
        return reserve_there(context, where, allowance)

    with ExitStack() as stack:
        escrow = try_until_free(reserve_now, limit_s=wait_s, tell=tell) if wait_s else reserve_now()
        stack.callback(escrow.close)
        tether = make_tether(
            context,
            where,
            escrow,
            is_detached=is_detached,
            queue_s=wait_s or where.engine.queue_s,
            noted=lambda: "",
            tell=tell,
        )
        stack.callback(tether.close)
        begun = send_order(context, where, escrow, tether, wait_s=wait_s, warn=tell)
        stack.pop_all()
    return Open(begun, escrow, tether, awaits_code=where.code is not None)
