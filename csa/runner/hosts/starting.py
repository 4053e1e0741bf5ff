"""Starting turns on other hosts that go on by themselves, for whoever is no command; and watching them from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from csa.errors import BusyError, ConfigError, CsaError, NotFoundError, StateError
from csa.model.config import Engine
from csa.model.limits import Budget
from csa.model.placement import RESERVED, SENT, Placement
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.detach import AppearedError
from csa.runner.hosts.escrow import ON_ITS_WAY_S, Escrow, give_back, has_arrived, mirrored_of
from csa.runner.hosts.fencing import is_fenced
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.placing import for_elsewhere
from csa.runner.hosts.schedulers import is_scheduler
from csa.runner.hosts.sending import Where, begin_there, find_where, reserve_for, tether_to, where_appeared
from csa.runner.hosts.sharing import allowance_for, part_of_budgets
from csa.runner.hosts.syncing import Sync
from csa.runner.hosts.tether import Begun
from csa.runner.hosts.watching import Keeping, has_ended
from csa.runner.request import RunRequest
from csa.runner.turns.patience import try_until_free
from csa.store.genealogy import find_record
from csa.store.placements import find_placement, is_held, list_placements
from csa.store.statefile import load_state

Tell = Callable[[str], None]
PARTS = 2  # of what the budgets above have: one goes along where nobody says how much, and one stays


def start_there(
    context: Context,
    request: RunRequest,
    host: str | None,
    *,
    wait_s: float | None = None,
    allowance: Budget | None = None,
    parts: int | None = None,
    goes_on: bool = True,
    tell: Tell = lambda _: None,
) -> tuple[Begun, Engine]:
    """Start a turn on another host; return it, and how its host is reached, when it has begun and can be seen here.

    Args:
        context: where, and by whom, it is asked for.
        request: what is to be run; its `directory` is of this host.
        host: the host, or a scheduler; None if the session's name has it, as in `gpu:auth`.
        wait_s: how long to wait for a busy session or a full limit there; in a scheduler's queue at most as long, or
            for `queue_s`.
        allowance: of the budgets above it here: see `reserve`. None is what an agent asks for as its budget.
        parts: as for `start_placed`; None leaves the allowance as it is.
        goes_on: continue the session that has the name there already, though it was not seen here.
        tell: gets what may interest who asked.

    It may be called in any thread. Raises as `find_where`, `reserve_for` and `Tether.begin`, and:
        UsageError: the request makes no sense elsewhere.
        AppearedError: there is a session with its id, or without `goes_on` its name.
        WithdrawnError: it has waited in the queue for too long, and will never begin.
    """
    request = for_elsewhere(context, request)

    def begin(where: Where) -> tuple[Begun, Engine]:
        asked = allowance or budget_of(context, request)
        if parts and where.is_new:
            asked = part_of_budgets(context, asked, parts)
        return _begin(context, where, asked, wait_s=wait_s, tell=tell)

    where = find_where(context, request, host, None)
    try:
        begun, engine = begin(where)
    except AppearedError as appeared:
        if not goes_on:
            raise
        begun, engine = begin(where_appeared(context, where, appeared))
    with suppress(CsaError):  # whoever looks for it brings it up to date
        Sync(context.store.root_pathname, engine).once()
    return begun, engine


def budget_of(context: Context, request: RunRequest) -> Budget:
    """Return what an agent asks for as the budget of a session, which goes along; nothing if it is no agent's."""
    if context.caller is None:
        return Budget()
    return allowance_for(request)


def _begin(
    context: Context, where: Where, allowance: Budget, *, wait_s: float | None, tell: Tell
) -> tuple[Begun, Engine]:
    def warn(lines: Sequence[str]) -> None:
        for words in lines:
            tell(words)

    def reserve_now() -> Escrow:
        return reserve_for(context, where, allowance)

    warn(where.code.warnings if where.code else ())
    queue_s = wait_s or where.engine.queue_s
    with try_until_free(reserve_now, limit_s=wait_s, tell=tell) if wait_s else reserve_now() as escrow:
        tether = tether_to(context, where, escrow, is_detached=True, queue_s=queue_s, noted=(), tell=tell)
        try:
            begun = begin_there(context, where, escrow, tether, wait_s=wait_s, noted=None, warn=warn)
            return begun, tether.engine_now()
        finally:
            tether.close()


def start_watched(
    context: Context,
    request: RunRequest,
    host: str | None,
    keeping: Keeping,
    *,
    wait_s: float | None = None,
    parts: int | None = None,
    goes_on: bool = True,
) -> Begun:
    """Start a turn on another host that goes on by itself; have its record, and then its commits, here.

    Raises as `start_there`.
    """
    begun, engine = start_there(context, request, host, wait_s=wait_s, parts=parts, goes_on=goes_on)

    store, session_id = begun.target(context.store.root_pathname)
    keeping.keep(
        engine,
        store.key(session_id),
        partial(has_ended, store, session_id, begun.turn),
        partial(_fetch, context, engine, session_id, begun.host),
    )
    return begun


def take_up(
    context: Context,
    keeping: Keeping,
    context_in: Callable[[str], Context],
    is_wanted: Callable[[Placement], bool] = lambda _: True,
) -> None:
    """Watch what was placed on other hosts by processes that are gone, until it has ended; have its commits here.

    What they have not sent is given back. `context_in` opens a directory in which commits are to be. StateError: a
    record of what is placed cannot be read.
    """
    root = context.store.root
    for placement in filter(is_wanted, list_placements(root)):
        if (placement.is_settled and not placement.awaits_code) or is_held(root, placement.id):
            continue
        if placement.state == RESERVED:
            with suppress(BusyError):
                give_back(root, placement)
            continue
        engine = context.config.engine(placement.host)
        with suppress(ConfigError):  # of an engine that is set up wrong, as csa hosts says
            if not is_scheduler(engine):  # there it is in a queue, in which nobody waits for it any more
                _watch(placement, engine, context, keeping, context_in)


def _watch(
    placement: Placement, engine: Engine, context: Context, keeping: Keeping, context_in: Callable[[str], Context]
) -> None:
    root, session_id, host = context.store.root, placement.session_id, placement.host

    def fetch() -> None:
        with suppress(CsaError):  # its directory may be gone, or the session that has placed it
            there = context_in(placement.directory or placement.project)
            _fetch(there.on_behalf_of(_caller_of(root, placement)), engine, session_id, host)

    key = (f"{host}:{placement.there or ''}", session_id)
    keeping.keep(engine, key, _Out(root, engine, placement).is_over, fetch)


def _caller_of(root: Path, placement: Placement) -> Caller | None:
    """Return who has placed it, and would have fetched its commits: an agent may not into any repository."""
    if placement.parent is None:
        return None
    if (paths := find_record(root, placement.project, placement.parent)) is None:
        raise NotFoundError(f"There is no session {placement.parent} any more, which has placed {placement.id}.")
    return Caller(load_state(paths.state), paths, root)


class _Out:
    """A placement that nobody holds; its order may have been cut off, and then nobody knows of it but we."""

    def __init__(self, root: Path, engine: Engine, placement: Placement) -> None:
        self._root, self._engine, self._id = root, engine, placement.id
        self._asks_at = time.monotonic() + ON_ITS_WAY_S

    def is_over(self) -> bool:
        """Say whether what a mirror's beat settles was: then the turn, and all below it there, have ended."""
        try:
            placement = find_placement(self._root, self._id)
        except NotFoundError:
            return True
        except StateError:
            return False
        if placement.state == SENT and time.monotonic() > self._asks_at:
            self._call_off(placement)
        return placement.is_settled

    def _call_off(self, placement: Placement) -> None:
        """Give back what an order holds that has not arrived, and that its host then refuses for all time."""
        self._asks_at = time.monotonic() + ON_ITS_WAY_S
        with suppress(CsaError, OSError):
            accounts = mirrored_of(self._root, placement).accounts()
            if not has_arrived(placement, accounts) and is_fenced(self._engine, placement.id):
                give_back(self._root, placement)


def _fetch(context: Context, engine: Engine, session_id: str, host: str) -> None:
    with suppress(CsaError, OSError):  # it has changed no code, or csa fetch brings it later
        fetch_work(context, engine, session_id, host)
