"""Asking a host what has become of an order, so that one that has not come, or not begun, can never begin there."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

from csa.errors import BusyError, StateError
from csa.model.config import Engine
from csa.model.placement import RESERVED, SENT
from csa.runner.hosts.answers import error_in, nonsense
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.escrow import give_back
from csa.runner.hosts.frames import SUPERVISE, ProtocolError, read_line, write_line
from csa.runner.hosts.jobs import cancel_order, name_of
from csa.runner.hosts.schedulers import is_scheduler
from csa.store.placements import list_placements

_SAYS_WITHIN_S = 30.0


def is_fenced(engine: Engine, order_id: str, *, cancel: bool = False) -> bool:
    """Say whether an order has not begun on a host, and from now on never will; False: it has.

    With `cancel` one that has come is cancelled, whether its turn has begun or not.

    Raises:
        HostError: the host does not say.
        BusyError: it has the order, and prepares its turn, or waits.
    """
    with closing(Link(engine, SUPERVISE, "--hold", order_id)) as link, link.ended_after(_SAYS_WITHIN_S) as is_late:
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


def call_off(root: Path, engine: Engine, session_id: str) -> None:
    """Cancel what is on its way to a host for a session, and give back what it holds if it has not begun there.

    HostError if that is not certain.
    """
    try:
        placed = list_placements(root)
    except StateError as error:
        raise HostError(
            f"What is on its way to {engine.name} is not known: {error.message}", hint=error.hint
        ) from error
    for each in placed:
        if (each.session_id, each.host) != (session_id, engine.name) or each.state not in {RESERVED, SENT}:
            continue
        try:
            is_off = (
                cancel_order(engine, name_of(each.id))
                if is_scheduler(engine)
                else is_fenced(engine, each.id, cancel=True)
            )
        except BusyError as error:
            raise HostError(error.message, hint=error.hint) from error
        if is_off:
            with suppress(BusyError, StateError, OSError):  # whoever has placed it is told so too; or it stays held
                give_back(root, each)
