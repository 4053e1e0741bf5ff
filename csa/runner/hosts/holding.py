"""Attending to an order whose connection broke: `csa supervise --hold ID`, on the host that has it, or may yet get it.

An order that has not come by then can never come any more. Who holds one beats for its turn, and may cancel it: also
before it has begun, by a note that whoever prepares it heeds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from csa.errors import CsaError, NotFoundError
from csa.ids import is_session_id
from csa.runner.context import Context
from csa.runner.detach import error_from_json, error_to_json
from csa.runner.hosts.frames import ProtocolError
from csa.runner.hosts.supervising import (
    NOT_PLACED,
    Incoming,
    can_read,
    ending_of,
    outlive_connection,
    say,
)
from csa.store.liveness import probe
from csa.store.orders import Order
from csa.store.sessions import Store

_LOOK_S = 1.0
_LOOK_AT_HELD_S = 0.1


def hold(context: Context, order_id: str, *, within_s: float = 0) -> int:
    """Beat for an order whose connection broke, and say how its turn ends. One that never came cannot come any more.

    That is so after `within_s`: a job that has just begun may yet take it.
    """
    outlive_connection()
    incoming = Incoming(0)
    order = Order(context.store.root, order_id)
    try:
        if not is_session_id(order_id):
            raise ProtocolError(f"An order is called {order_id!r}.")
        _await_order(order, incoming, within_s)
        if within_s and incoming.is_over:
            return CsaError.exit_code
        if order.take(refused=True) or order.known().get("refused"):
            raise _not_placed(order_id)
        begun = _await_begun(order, incoming)
        if begun is None:
            return CsaError.exit_code
        say(**begun)
        return _hold(order, begun, incoming, Store(context.store.root, begun["project"]))
    except CsaError as error:
        say(error=error_to_json(error))
        return error.exit_code
    finally:
        order.close()


def _await_order(order: Order, incoming: Incoming, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not order.known() and not incoming.is_over and time.monotonic() < deadline:
        if can_read(incoming.fd, _LOOK_AT_HELD_S):
            incoming.fill()


def _not_placed(order_id: str) -> CsaError:
    error = NotFoundError(f"Order {order_id} has not come to {os.uname().nodename}, and will not be taken any more.")
    error.code = NOT_PLACED
    return error


def _await_begun(order: Order, incoming: Incoming) -> dict[str, Any] | None:
    """Wait for what the supervisor answers; None if we are not heard any more, unless it is cancelled.

    Or if nobody can know: then nothing is said, which is no word that it has not begun.
    """
    while not incoming.is_over or "cancel" in order.known():
        is_attended = order.is_attended()  # first, or the last line could be missed
        known = order.known()
        if "begun" in known:
            return dict(known["begun"])
        if "error" in known:
            raise error_from_json(known["error"])
        if not is_attended and "damaged" in known:
            sys.stderr.write(f"What is known of order {order.order_id} on {os.uname().nodename} is damaged.\n")
            return None
        if not is_attended:
            error = CsaError(f"csa supervise has ended on {os.uname().nodename} before the turn had begun.")
            error.code = NOT_PLACED
            raise error
        order.touch()
        _listen(incoming)
        while (said := incoming.line()) is not None:
            if said.get("cancel"):
                order.note(cancel=True)  # whoever prepares its turn heeds it
    return None


def _listen(incoming: Incoming) -> None:
    """Hear what is said within a moment."""
    if incoming.is_over:
        time.sleep(_LOOK_AT_HELD_S)
    elif can_read(incoming.fd, _LOOK_AT_HELD_S):
        incoming.fill()


def _hold(order: Order, begun: Mapping[str, Any], incoming: Incoming, store: Store) -> int:
    session_id, turn = str(begun["session_id"]), int(begun["turn"])
    while True:
        is_attended = order.is_attended()
        if "ended" in (known := order.known()):
            ended = {name: known[name] for name in ("ended", "turn", "lost", "spent", "running") if name in known}
            break
        if not is_attended and not _runs(store, session_id, turn):
            ended = ending_of(store, session_id)
            break
        if known.get("cancel"):  # before it had begun
            _end(store, session_id)
        if incoming.is_over:
            return CsaError.exit_code
        _listen(incoming)
        _obey_held(order, incoming, store, session_id)
    say(**ended)
    while known.get("job") and is_attended and not incoming.is_over:  # the job, and we with it, ends when we do
        order.touch()
        if can_read(incoming.fd, _LOOK_S):
            incoming.fill()
        is_attended = order.is_attended()
    return int(ended["ended"])


def _runs(store: Store, session_id: str, turn: int) -> bool:
    liveness = probe(store.paths(session_id))
    return liveness.state == "alive" and (liveness.owner is None or liveness.owner.turn >= turn)


def _obey_held(order: Order, incoming: Incoming, store: Store, session_id: str) -> None:
    while (said := incoming.line()) is not None:
        order.touch()
        if said.get("cancel"):
            _end(store, session_id)


def _end(store: Store, session_id: str) -> None:
    from csa.runner.sessions.ending import end_sessions  # noqa: PLC0415  # a turn waits until this is loaded

    for _ in end_sessions([(store, session_id)], words="the host that placed it"):
        pass
