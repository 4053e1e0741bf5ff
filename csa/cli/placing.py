"""`csa run --on HOST`: a turn on another host, shown here as one of this host's, from the mirror that it is seen in."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module

from csa.cli.output import print_json, tell, warn
from csa.cli.placed import Watch, Watching, recording
from csa.cli.run import (
    carry_out,
    follow_up,
    heeded_signals,
    noted_signals,
    refuse_output,
)
from csa.cli.run_request import unread_stdin_told
from csa.cli.views.signs import Signs, about_sessions, signs_of_life
from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, UsageError
from csa.model.config import SHARED, Engine
from csa.model.limits import Budget
from csa.runner.client import Csa
from csa.runner.detach import AppearedError
from csa.runner.environment import outer_sandbox
from csa.runner.hosts.code import Outgoing, outgoing
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.escrow import Escrow, reserve, settle_heard
from csa.runner.hosts.jobs import WithdrawnError, words_of
from csa.runner.hosts.placing import Begun, StoppedError, Tether, directory_there, order_of, refuse_elsewhere
from csa.runner.hosts.scheduled import QueuedTether
from csa.runner.hosts.schedulers import is_scheduler
from csa.runner.hosts.syncing import Sync
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session
from csa.runner.turns.checks import asked_id, check_request
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.planning import new_id_now
from csa.store.mirrors import is_host_name
from csa.structs import Struct, replace


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


def run_there(client: Csa, request: RunRequest, arguments: argparse.Namespace, host: str | None) -> int:
    """Run the turn on the host that is named, or that a session's name names; return its exit code."""
    refuse_elsewhere(request)
    check_request(request, may_lack_prompt=False)
    if arguments.queue or arguments.steal:
        raise UsageError("--queue and --steal are for sessions of this host.", hint=f"ssh {host} csa run --queue ...")
    if arguments.detach:
        refuse_output(arguments, "--detach")
        if arguments.on_finish:
            raise UsageError("--on-finish runs here when a turn has ended; with --detach nobody waits for that.")
    after = None if arguments.detach else follow_up(client, arguments)
    where = replace(_find(client, request, host, arguments.cd), after=after)
    if arguments.dry_run:
        _print_plan(where, as_json=arguments.json)
        return 0
    with unread_stdin_told(arguments), signs_of_life(client.caller, quiet=arguments.quiet) as signs:
        signs.about(lambda: f"waiting for {where.engine.name}")
        try:
            with noted_signals() as noted:
                return _place(client, where, arguments, signs=signs, noted=noted)
        except WithdrawnError as withdrawn:
            if not where.is_new:
                raise
            if not arguments.quiet:
                tell("csa", f"{withdrawn.message} The turn runs here")
    return carry_out(client, request, arguments)


def _find(client: Csa, request: RunRequest, host: str | None, directory: str | None) -> Where:
    named, _, typed = (request.session or "").rpartition(":")
    engine, node = _engine(client, host or named, named)
    if named and named != (node or engine).name:
        raise UsageError(f"Session {typed} is on {named}, and stays there.", hint=f"leave --on {host} out")
    if not typed:
        session_id = asked_id(request) or new_id_now()
        there = directory_there(client.context, engine, directory)
        code = outgoing(client.context, engine)
        return Where(engine, request, session_id, there, is_new=True, code=code, node=node)
    session = _find_there(client, node or engine, typed)
    request = replace(request, session=session.session_id)
    directory = session.store.project_pathname
    return Where(engine, request, session.session_id, directory, is_new=False, node=node)


def _engine(client: Csa, host: str, named: str) -> tuple[Engine, Engine | None]:
    """Return the host that is meant; or a scheduler, and the node that is asked for, or where the session is."""
    host, _, node = host.partition(":")
    for name in filter(None, (host, node)):
        if not is_host_name(name):
            words = f"'{name}' cannot name a host here."
            raise UsageError(words, hint=f'[engines.NAME] reach = ["ssh", "{name}"] does')
    config = client.context.config
    engine = config.engine(host)
    if is_scheduler(engine):
        node = node or (named if named != host else "")
        return engine, config.engine(node) if node else None
    if node:
        raise UsageError(f"{host} is a host, and has no {node}.", hint=f"--on {node}, if that is a host")
    return engine, None


def _find_there(client: Csa, engine: Engine, typed: str) -> Session:
    """Return a session of the host; if its mirror does not have it, as the host has it now."""
    selector = f"{engine.name}:{typed}"
    with suppress(NotFoundError):
        return find_session(client.context, selector, retired=True)
    Sync(client.store.root_pathname, engine).once()
    try:
        return find_session(client.context, selector, retired=True)
    except NotFoundError as error:
        here = _find_here(client, typed)
        if here is None:
            raise
        words = f"Session {here.session_id} is on this host, and stays here."
        raise RefusedError(words, hint=f"leave --on {engine.name} out") from error


def _find_here(client: Csa, typed: str) -> Session | None:
    try:
        return find_session(client.context, typed)
    except CsaError:
        return None


def _print_plan(where: Where, *, as_json: bool) -> None:
    engine, code = where.engine, "bundle" if where.code else where.engine.code
    goes = code if where.is_new and (where.code or code == SHARED) else None
    facts = {
        "session_id": None if where.is_new else where.session_id,
        "mirror": where.host.name,
        "reach": words_of(engine, where.node.name if where.node else None),
        "code": goes,
        "directory": None if where.code else where.directory or "~",
        "tool": where.request.tool,
        "leash_s": engine.leash_s,
    }
    if as_json:
        print_json(facts)
        return
    words = {"session": where.session_id if not where.is_new else "new", "host": engine.name, **facts}
    for name, value in words.items():
        if value is not None and name not in {"session_id", "mirror"}:
            print(f"{name:<11} {' '.join(value) if isinstance(value, list) else value}")


def _place(client: Csa, where: Where, arguments: argparse.Namespace, *, signs: Signs, noted: list[int]) -> int:
    warn(where.code.warnings if where.code else ())
    sync = Watching(client)
    if not (arguments.detach or is_scheduler(where.engine)):
        sync.begin(where.engine)
    try:
        while True:
            try:
                with _reserved_when_free(client, where, arguments, noted) as escrow:
                    code = _place_once(client, where, escrow, arguments, sync=sync, signs=signs, noted=noted)
            except AppearedError as appeared:  # its name means a session that was not seen here
                if not where.is_new or where.session_id == appeared.session_id:
                    raise
                named = replace(where.request, session=f"{where.engine.name}:{appeared.session_id}", session_id=None)
                where = replace(_find(client, named, None, None), after=where.after)
                continue
            if sync.engine:
                settle_heard(client.store.root, sync.engine.name)  # if it was not the connection that said so
            return code
    except StoppedError as stopped:
        return 128 + signal.Signals[stopped.name]
    finally:
        sync.end()


def _reserved_when_free(client: Csa, where: Where, arguments: argparse.Namespace, noted: list[int]) -> Escrow:
    """Book what the session takes along; with `--wait` as soon as what it took the last time is settled."""
    if arguments.wait is None:
        return _reserved(client, where, arguments)
    tell_wait = (lambda _: None) if arguments.quiet else (lambda words: tell("csa", f"waiting: {words}"))
    return try_until_free(
        lambda: _reserved(client, where, arguments), limit_s=arguments.wait, tell=tell_wait, check=lambda: _heed(noted)
    )


def _reserved(client: Csa, where: Where, arguments: argparse.Namespace) -> Escrow:
    """Book what the session takes along; what it took the last time is settled if it has ended meanwhile."""
    allowance = Budget(
        tokens=arguments.allow_tokens or 0, usd=arguments.allow_usd or 0.0, time_s=arguments.allow_time or 0.0
    )
    try:
        return reserve(client.context, where.host, where.session_id, allowance)
    except BusyError:
        if is_scheduler(where.host):
            raise
        with suppress(BusyError):  # it is being brought up to date
            Sync(client.store.root_pathname, where.host).once()
        settle_heard(client.store.root, where.host.name)
        return reserve(client.context, where.host, where.session_id, allowance)
    except OSError as error:
        raise _is_unrecorded(error) from error


def _is_unrecorded(error: OSError) -> CsaError:
    """Return the error for what cannot be booked, and so is not sent."""
    words = f"What is to be sent cannot be recorded here: {error.strerror}."
    return CsaError(words, hint="free space on the disk; nothing was sent")


def _place_once(
    client: Csa,
    where: Where,
    escrow: Escrow,
    arguments: argparse.Namespace,
    *,
    sync: Watching,
    signs: Signs,
    noted: list[int],
) -> int:
    """Send the order, and see to what has begun."""

    def announce(words: str) -> None:
        if not arguments.quiet:
            tell("csa", words)

    tether = _tether(client, where, escrow, is_detached=arguments.detach, noted=noted, tell=announce)
    try:
        begun = _begin(client, where, escrow, arguments, tether=tether, noted=noted)
        with recording(begun.host):
            escrow.placed(begun.to_json(), awaits_code=where.code is not None)
        if arguments.detach:
            return _tell_detached(client, tether, begun, arguments)
        if not sync.engine:
            sync.begin(tether.engine)
        watch = Watch(client, begun, where=where, tether=tether, sync=sync, arguments=arguments)
        signs.about(about_sessions([watch.target]))
        return watch.run(noted, escrow)
    finally:
        tether.close()


def _tether(
    client: Csa, where: Where, escrow: Escrow, *, is_detached: bool, noted: list[int], tell: Callable[[str], None]
) -> Tether:
    if not is_scheduler(where.engine):
        return Tether(where.engine, escrow.id, is_detached=is_detached, tell=tell)
    return QueuedTether(
        client.context.config,
        where.engine,
        escrow.id,
        node=where.node.name if where.node else None,
        queue_s=where.engine.queue_s if client.caller else None,
        is_detached=is_detached,
        noted=lambda: signal.Signals(noted[0]).name if noted else "",
        moved=escrow.moved,
        tell=tell,
    )


def _begin(
    client: Csa, where: Where, escrow: Escrow, arguments: argparse.Namespace, *, tether: Tether, noted: list[int]
) -> Begun:
    try:
        order = order_of(
            client.context,
            where.request,
            escrow,
            session_id=where.session_id,
            directory=where.directory,
            wait_s=arguments.wait,
        )
        with nullcontext() if is_scheduler(where.engine) else _stopping_signals():
            if not is_scheduler(where.engine):
                _heed(noted)
            return tether.begin(
                order, passport=escrow.passport, code=where.code, before_sending=escrow.sent, meanwhile=_load
            )
    except BaseException as error:
        if not tether.is_sent or (isinstance(error, CsaError) and not isinstance(error, HostError)):
            with recording(where.engine.name):
                escrow.give_back()  # nothing has begun
        if isinstance(error, OSError) and not tether.is_sent:
            raise _is_unrecorded(error) from error
        if isinstance(error, HostError) and (sandbox := outer_sandbox()):
            error.hint = f"the {sandbox} sandbox that csa was called in has no network: --permission full has"
        raise


def _heed(noted: list[int]) -> None:
    """Raise StoppedError for a signal that came before anything was sent."""
    if noted:
        raise StoppedError(signal.Signals(noted[0]).name)


def _load() -> None:
    """Load what shows the turn."""
    for name in ("anyio", "anyio._backends._asyncio", "csa.cli.views.naming"):
        import_module(name)


@contextmanager
def _stopping_signals() -> Iterator[None]:
    """Have a signal end what is waited for, by StoppedError."""

    def stop(number: int, _frame: object) -> None:
        raise StoppedError(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in heeded_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_detached(client: Csa, tether: Tether, begun: Begun, arguments: argparse.Namespace) -> int:
    """Print the id of a turn that runs there by itself, which is then found here, too."""
    try:
        Sync(client.store.root_pathname, tether.engine).once()
    except BusyError:  # whoever keeps the mirror up to date will have it in a moment
        pass
    except CsaError as error:
        warn([f"{error.message} csa sync {begun.host} will find the session"])
    if arguments.json:
        print_json(begun.to_json())
    else:
        print(begun.session_id)
    if not arguments.quiet:
        what = f"{begun.tool}, turn {begun.turn}, PID {begun.pid} there"
        tell("csa", f"session {begun.session_id} is running on {begun.host} ({what})")
        tell("hint", f"csa sync {begun.host}; csa status {begun.session_id}")
    return 0
