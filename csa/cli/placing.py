"""`csa run --on HOST`: a turn on another host, shown here as one of this host's, from the mirror that it is seen in."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from typing import NoReturn

from csa.cli.fetching import next_steps
from csa.cli.output import lossy, print_json, tell, to_json, warn
from csa.cli.run import (
    carry_out,
    follow_up,
    heeded_signals,
    noted_signals,
    print_outcome,
    refuse_output,
    room_for,
    run_follow_up,
    write_text,
)
from csa.cli.run_request import unread_stdin_told
from csa.cli.views.progress import Progress, Subject, make_progress
from csa.cli.views.signs import Signs, about_sessions, signs_of_life
from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, UsageError
from csa.model.config import SHARED, Engine
from csa.model.events import Event
from csa.model.limits import Budget
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.detach import AppearedError
from csa.runner.environment import outer_sandbox
from csa.runner.hosts.code import Outgoing, bring_back, outgoing
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.escrow import Escrow, reserve, settle_heard
from csa.runner.hosts.jobs import WithdrawnError, is_scheduler, words_of
from csa.runner.hosts.placing import Begun, StoppedError, Tether, directory_there, order_of, refuse_elsewhere
from csa.runner.hosts.scheduled import QueuedTether
from csa.runner.hosts.syncing import Sync
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session
from csa.runner.turns.checks import asked_id, check_request
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.planning import new_id_now
from csa.store.following import Follower
from csa.store.liveness import probe
from csa.store.mirrors import is_host_name, mirror_for
from csa.store.sessions import Store, Target
from csa.structs import Struct, replace

_LOOK_S = 0.02
_LOOK_AT_END_S = 0.5
_SEEN_WITHIN_S = 5.0  # of the end, over the connection that keeps the mirror up to date
_TRIES = 3  # to bring it up to date after that
_EXIT_AWAY = 4


class _Where(Struct):
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


def _find(client: Csa, request: RunRequest, host: str | None, directory: str | None) -> _Where:
    named, _, typed = (request.session or "").rpartition(":")
    engine, node = _engine(client, host or named, named)
    if named and named != (node or engine).name:
        raise UsageError(f"Session {typed} is on {named}, and stays there.", hint=f"leave --on {host} out")
    if not typed:
        session_id = asked_id(request) or new_id_now()
        there = directory_there(client.context, engine, directory)
        code = outgoing(client.context, engine)
        return _Where(engine, request, session_id, there, is_new=True, code=code, node=node)
    session = _find_there(client, node or engine, typed)
    request = replace(request, session=session.session_id)
    directory = session.store.project_pathname
    return _Where(engine, request, session.session_id, directory, is_new=False, node=node)


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


def _print_plan(where: _Where, *, as_json: bool) -> None:
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


def _place(client: Csa, where: _Where, arguments: argparse.Namespace, *, signs: Signs, noted: list[int]) -> int:
    warn(where.code.warnings if where.code else ())
    sync = _Watching(client)
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


def _reserved_when_free(client: Csa, where: _Where, arguments: argparse.Namespace, noted: list[int]) -> Escrow:
    """Book what the session takes along; with `--wait` as soon as what it took the last time is settled."""
    if arguments.wait is None:
        return _reserved(client, where, arguments)
    tell_wait = (lambda _: None) if arguments.quiet else (lambda words: tell("csa", f"waiting: {words}"))
    return try_until_free(
        lambda: _reserved(client, where, arguments), limit_s=arguments.wait, tell=tell_wait, check=lambda: _heed(noted)
    )


def _reserved(client: Csa, where: _Where, arguments: argparse.Namespace) -> Escrow:
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
    where: _Where,
    escrow: Escrow,
    arguments: argparse.Namespace,
    *,
    sync: _Watching,
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
        with _recording(begun.host):
            escrow.placed(begun.to_json(), awaits_code=where.code is not None)
        if arguments.detach:
            return _tell_detached(client, tether, begun, arguments)
        if not sync.engine:
            sync.begin(tether.engine)
        watch = _Watch(client, begun, where=where, tether=tether, sync=sync, arguments=arguments)
        signs.about(about_sessions([watch.target]))
        return watch.run(noted, escrow)
    finally:
        tether.close()


def _tether(
    client: Csa, where: _Where, escrow: Escrow, *, is_detached: bool, noted: list[int], tell: Callable[[str], None]
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
    client: Csa, where: _Where, escrow: Escrow, arguments: argparse.Namespace, *, tether: Tether, noted: list[int]
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
            with _recording(where.engine.name):
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


@contextmanager
def _recording(host: str) -> Iterator[None]:
    """Warn if what has become of a turn cannot be recorded here: it goes on all the same."""
    try:
        yield
    except OSError as error:
        warn([f"what became of the turn could not be recorded: {error.strerror}; csa sync {host} tries again"])


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


class _Watching:
    """Keeps the mirror of a host up to date, in a thread, for as long as a turn is watched."""

    def __init__(self, client: Csa) -> None:
        self._root = client.store.root_pathname
        self.engine: Engine | None = None
        self.failure: CsaError | None = None  # to catch up
        self._sync: Sync | None = None
        self._thread: threading.Thread | None = None

    def begin(self, engine: Engine) -> None:
        """Begin with this host."""
        self.engine = engine
        self._sync = Sync(self._root, engine)
        self._thread = threading.Thread(target=self._sync.watch, daemon=True)
        self._thread.start()

    def catch_up(self, engine: Engine) -> None:
        """Bring it up to date over a connection of its own, as the host is reached now."""
        self.end()
        for _ in range(_TRIES):
            try:
                Sync(self._root, engine).once()
            except CsaError as error:
                self.failure = error
                time.sleep(1)
            else:
                self.failure = None
                return

    def end(self) -> None:
        """End it; harmless when repeated, or if it has not begun."""
        if self._sync and self._thread:
            self._sync.end()
            self._thread.join()


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


class _Watch:
    """A turn on another host, as it is seen here."""

    def __init__(
        self,
        client: Csa,
        begun: Begun,
        *,
        where: _Where,
        tether: Tether,
        sync: _Watching,
        arguments: argparse.Namespace,
    ) -> None:
        self._client, self._begun, self._where = client, begun, where
        self._tether, self._sync, self._arguments = tether, sync, arguments
        mirror = mirror_for(client.store.root_pathname, begun.host)
        self._store = Store(mirror.pathname, begun.project)
        self._paths = self._store.paths(begun.session_id)
        self._follower: Follower | None = None
        self._finished = 0  # the last turn whose end was seen
        self._ended_at = self._looked_at = 0.0
        self._faults: list[OSError] = []  # of stdout
        self._stops = [tether.cancelled] if tether.cancelled else []  # the names of signals
        self._is_left = False

    @property
    def has_ended(self) -> bool:
        return self._tether.ended is not None or self._tether.failure is not None

    @property
    def target(self) -> Target:
        return self._store, self._begun.session_id

    def run(self, noted: list[int], escrow: Escrow) -> int:
        """Show the turn to its end, and print its answer; return its exit code. `noted` are signals from before."""
        import anyio  # noqa: PLC0415  # loaded while the host is reached

        arguments, begun = self._arguments, self._begun
        self._tether.attend()
        plain = arguments.stream_json and sys.stdout.isatty()
        there = Csa(begun.project, root=self._store.root_pathname)
        there.context = self._client.context.in_store(self._store)
        progress = make_progress(there, quiet=arguments.quiet, plain=plain, verbose=arguments.verbose)
        try:
            anyio.run(self._show, progress, noted)
        finally:
            if self._follower:
                self._follower.close()
        if self._tether.ended:
            with _recording(self._begun.host):
                escrow.ended(self._tether.ended)
        return self._conclude(escrow)

    def _conclude(self, escrow: Escrow) -> int:
        ended = self._tether.ended or {}
        turn = max(self._finished, int(ended.get("turn") or 0))
        if turn < self._begun.turn or turn > self._finished:
            self._raise_unseen()
        context = self._client.context.in_store(self._store)
        result = Session(context, self._begun.session_id).result(turn=turn)
        unprinted = print_outcome(result, self._arguments, [])
        self._fetch(escrow, context)
        if self._where.after:
            run_follow_up(self._where.after, self._client, result, context.redactor)
        if self._faults and not isinstance(self._faults[0], BrokenPipeError):
            raise self._faults[0]
        if unprinted:
            raise unprinted
        if self._stops and result.status == "cancelled":
            return 128 + signal.Signals[self._stops[0]]
        return result.exit_code

    def _fetch(self, escrow: Escrow, context: Context) -> None:
        """Have the commits of the session here, and say what to do with them."""
        state = context.store.record(self._begun.session_id).state
        if self._where.code is None and (state is None or state.worktree is None):
            return
        try:
            brought = bring_back(self._client.context, self._tether.engine_now(), self._begun.session_id)
        except (CsaError, OSError) as error:
            if self._where.code is not None:
                warn([f"the commits on {self._begun.host} are not here yet: {error}"])
                tell("hint", f"csa fetch {self._begun.session_id}")
            return
        with _recording(self._begun.host):
            escrow.fetched()
        warn(brought.problems)
        if not self._arguments.quiet:
            for step in next_steps(brought):
                tell("hint", step)

    def _raise_unseen(self) -> NoReturn:
        """Say what is known of a turn whose end was not seen."""
        begun, ended = self._begun, self._tether.ended
        what = f"Turn {begun.turn} of {begun.session_id} on {begun.host}"
        hint = f"csa sync {begun.host}; csa status {begun.session_id}"
        if ended is None:
            why = self._tether.failure.message if self._tether.failure else f"{begun.host} cannot be reached."
            failure = CsaError(f"{what} is away: {why}", hint=hint)
            failure.exit_code = 128 + signal.Signals[self._stops[-1]] if self._stops else _EXIT_AWAY
        elif ended.get("lost"):
            self._sync.catch_up(self._tether.engine_now())  # then csa status says so, too
            failure = CsaError(f"{what} was lost: its supervisor there was killed.", hint=hint)
        else:
            why = f": {self._sync.failure.message}" if self._sync.failure else "."
            failure = CsaError(f"{what} has ended with {ended['ended']}, but its answer has not come{why}", hint=hint)
            failure.exit_code = int(ended["ended"]) or CsaError.exit_code
        raise failure

    async def _show(self, progress: Progress, noted: list[int]) -> None:
        import anyio  # noqa: PLC0415  # as above

        with anyio.open_signal_receiver(*heeded_signals()) as signals:
            async with anyio.create_task_group() as tasks:

                async def obey() -> None:
                    for number in noted:
                        self._stop(signal.Signals(number).name)
                    async for number in signals:
                        self._stop(signal.Signals(number).name)

                tasks.start_soon(obey)
                await self._await_record()
                with lossy(sys.stderr):
                    progress.begin(self._subject())
                try:
                    tasks.start_soon(progress.keep_fresh)
                    while not self._is_over():
                        await self._show_new(progress)
                        await anyio.sleep(_LOOK_S)
                        if self._lags():
                            await anyio.to_thread.run_sync(self._sync.catch_up, self._tether.engine_now())
                            await self._show_new(progress)
                            break
                    await self._show_new(progress)
                finally:
                    with lossy(sys.stderr):
                        progress.end()
                tasks.cancel_scope.cancel()

    def _stop(self, name: str) -> None:
        """Have the turn end; the second time, do not wait for a host that is not there."""
        if self._stops and self._tether.is_lost:
            self._is_left = True
        self._stops.append(name)
        self._tether.cancel(name)

    async def _await_record(self) -> None:
        """Wait until the session is in the mirror, where everything finds it; but not for long."""
        import anyio  # noqa: PLC0415  # as above

        with anyio.move_on_after(_SEEN_WITHIN_S):
            while not self._paths.transcript.exists() and self._tether.ended is None and not self._is_left:  # noqa: ASYNC110  # files set no event
                await anyio.sleep(_LOOK_S)

    def _subject(self) -> Subject:
        begun = self._begun
        return Subject(
            record=self._store.record(begun.session_id),
            turn=begun.turn,
            verb="session" if self._where.is_new else "continuing session",
            facts=f"{begun.tool} on {begun.host}",
            tool=begun.tool,
            is_new=self._where.is_new,
            started_at=time.time(),
        )

    def _is_over(self) -> bool:
        """Say whether all has been seen, or no more will be."""
        if self._is_left or self._tether.failure is not None:
            return True
        if (ended := self._tether.ended) is not None:
            return bool(ended.get("lost")) or self._finished >= max(int(ended["turn"]), self._begun.turn)
        now = time.monotonic()
        if self._finished < self._begun.turn or now - self._looked_at < _LOOK_AT_END_S:
            return False
        self._looked_at = now  # nothing is heard of the supervisor: perhaps its connection stands still
        return probe(self._paths).state == "not_alive"

    def _lags(self) -> bool:
        """Say whether the end was told, and is not seen in the mirror for long."""
        if self._tether.ended is None:
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at > _SEEN_WITHIN_S

    async def _show_new(self, progress: Progress) -> None:
        for event in self._new():
            if event.type == "run_finished":
                self._finished = event.turn
            if self._arguments.stream_json:
                await write_text(self, sys.stdout, to_json(event.to_dict()) + "\n", self._faults)
            if progress.speaks:
                await room_for(self, sys.stderr)
            with lossy(sys.stderr):
                progress.show(event)
            await write_text(self, sys.stderr, progress.text(event))

    def _new(self) -> Iterator[Event]:
        if self._follower is None:
            if not self._paths.transcript.exists():
                return iter(())
            self._follower = Follower(self._paths.transcript)
        return (event for event in self._follower.read() if event.turn >= self._begun.turn)
