"""Asking a host what has become of an order, so that one that has not come, or not begun, can never begin there."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from csa.errors import BusyError, CsaError, StateError
from csa.model.config import Config, Engine
from csa.model.placement import RESERVED, SENT, Placement
from csa.runner.hosts.answers import error_in, nonsense
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.escrow import give_back, move, move_unheld
from csa.runner.hosts.frames import SUPERVISE, ProtocolError, read_line, write_line
from csa.runner.hosts.jobs import find_job, name_of, take_back
from csa.runner.hosts.schedulers import RUNNING, is_scheduler
from csa.store.mirrors import find_mirrors, is_host_name
from csa.store.placements import list_placements
from csa.store.sessions import is_directory

_SAYS_WITHIN_S = 30.0
_AT_ONCE = 8


def find_order(root: Path, config: Config, placement: Placement) -> tuple[Placement, Engine | None]:
    """Ask a scheduler for an order; return where it is, and how that is reached: None if it has never begun, nor will.

    It is for a placement that we hold. Of any other host both are known.

    Raises:
        HostError: the scheduler does not say.
        BusyError: it has forgotten the job, and no mirror has the session.
    """
    engine = config.engine(placement.host)
    if not is_scheduler(engine):
        return placement, engine
    found = take_back(engine, name_of(placement.id))
    if found is None:
        return placement, None
    host = found.host if is_host_name(found.host) else _seen_on(root, placement.session_id)
    if not host:
        words = f"{engine.name} knows nothing of the job of session {placement.session_id} any more."
        hint = f"csa sync those of its nodes where it may be; if on none: csa hosts --release {placement.id} --force"
        raise BusyError(words, hint=hint)
    job = find_job(engine, name_of(placement.id)) if found.state == RUNNING else None
    return move(root, placement, host), job.engine_at(host, config) if job else config.engine(host)


def _seen_on(root: Path, session_id: str) -> str:
    """Return the host whose mirror has a session; empty if none has."""
    mirrors = find_mirrors(str(root))
    places = ((mirror.host, store.find(session_id).pathname) for mirror in mirrors for store in mirror.stores())
    return next((host for host, place in places if is_directory(place)), "")


def is_fenced(engine: Engine, order_id: str, *, cancel: bool = False, limit_s: float = _SAYS_WITHIN_S) -> bool:
    """Say whether an order has not begun on a host, and from now on never will; False: it has.

    With `cancel` one that has come is cancelled, whether its turn has begun or not.

    Raises:
        HostError: the host does not say.
        BusyError: it has the order, and prepares its turn, or waits.
    """
    with closing(Link(engine, SUPERVISE, "--hold", order_id)) as link, link.ended_after(limit_s) as is_late:
        link.greeting()
        if cancel:
            with suppress(OSError):  # it has ended, and says why
                write_line(link.stdin, {"cancel": "SIGTERM"})
                link.stdin.flush()
        try:
            said = read_line(link.stdout)
        except ProtocolError as broken:
            raise nonsense(engine.name, "an answer") from broken
        if said is None and is_late():
            words = f"{engine.name} has the order for a turn, which has not begun there yet."
            raise BusyError(words, hint=f"csa kill --tree ends it; or wait: csa sync {engine.name}")
        if said is None:
            raise link.failure()
    error = error_in(engine.name, said)
    if isinstance(error, HostError) or (error and error.code == ProtocolError.code):
        raise error
    return error is not None  # it was never there, or has failed before it had begun


def call_off(root: Path, engine: Engine, session_ids: Collection[str]) -> dict[str, CsaError]:
    """Cancel what is on its way to a host for sessions, and give back what it holds if it has not begun there.

    All at once, within one time. Return why that is not certain, by session.
    """
    try:
        placed = [each for each in list_placements(root) if each.host == engine.name and each.state in {RESERVED, SENT}]
    except StateError as error:
        unknown = HostError(f"What is on its way to {engine.name} is not known: {error.message}", hint=error.hint)
        return dict.fromkeys(session_ids, unknown)
    meant = [each for each in placed if each.session_id in session_ids]
    deadline = time.monotonic() + _SAYS_WITHIN_S
    doubts: dict[str, CsaError] = {}

    def end(placement: Placement) -> None:
        try:
            if (left_s := deadline - time.monotonic()) <= 0:
                raise HostError(f"{engine.name} has not said in time what is on its way to it.", hint="try again")
            _call_off(root, engine, placement, left_s)
        except CsaError as error:
            doubts[placement.session_id] = HostError(error.message, hint=error.hint)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(end, meant):
            pass
    return doubts


def _call_off(root: Path, engine: Engine, placement: Placement, limit_s: float) -> None:
    if is_scheduler(engine):
        begun = take_back(engine, name_of(placement.id), limit_s=limit_s, is_ended=True)
    elif is_fenced(engine, placement.id, cancel=True, limit_s=limit_s):
        begun = None
    else:
        return
    with suppress(BusyError, StateError, OSError):  # whoever has placed it is told so too; or it stays held
        if begun is None:
            give_back(root, placement)
        elif is_host_name(begun.host):
            move_unheld(root, placement, begun.host)
