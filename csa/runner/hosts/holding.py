"""Turns on other hosts that are seen to their end from here, by nobody in particular."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from csa.errors import CsaError
from csa.runner.context import Context
from csa.runner.hosts.code import bring_back
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.placing import Begun
from csa.runner.hosts.starting import Open, begin_there, start_there
from csa.runner.hosts.watching import Keeping, Watching, has_ended
from csa.runner.request import RunRequest

_LOOK_S = 0.05
_SEEN_WITHIN_S = 5.0


class HeldTurn:
    """The turn, attended in a thread; its mirror is kept up to date meanwhile, and its commits are brought back.

    Attributes:
        begun: the turn.
    """

    def __init__(self, context: Context, turn: Open) -> None:
        self.begun = turn.begun
        self._context, self._open = context, turn
        self._watching = Watching(context.store.root_pathname)
        self._watching.begin(turn.tether.engine_now())
        turn.tether.attend()
        self._thread = threading.Thread(target=self._attend, daemon=True)
        self._thread.start()

    def await_record(self) -> None:
        """Wait until the session is in the mirror, where everything finds it; but not for long."""
        store, session_id = self.begun.target(self._context.store.root_pathname)
        transcript, deadline = store.paths(session_id).transcript, time.monotonic() + _SEEN_WITHIN_S
        while not transcript.exists() and self.goes_on and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def await_settled(self) -> None:
        """Wait until its end is booked, if it was seen to have ended; but not for long."""
        if has_ended(*self.begun.target(self._context.store.root_pathname), self.begun.turn):
            self._thread.join(_SEEN_WITHIN_S)

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """Have it end as cancelled, as soon as its host hears of that; else its leash ends it."""
        if self.goes_on:
            self._open.tether.cancel("SIGTERM")

    def _attend(self) -> None:
        tether, escrow = self._open.tether, self._open.escrow
        try:
            while tether.ended is None and tether.failure is None:
                time.sleep(_LOOK_S)
            if tether.ended:
                with suppress(OSError):  # csa sync settles it
                    escrow.ended(tether.ended)
            self._watching.catch_up(tether.engine_now())
            if self._open.awaits_code:
                with suppress(CsaError, OSError):  # csa fetch brings it
                    bring_back(self._context, tether.engine_now(), self.begun.session_id)
                    escrow.fetched()
        finally:
            self._watching.end()
            self._open.close()


def hold_there(context: Context, request: RunRequest, host: str | None, **options: Any) -> HeldTurn:
    """Start a turn on another host, and return when it has begun; options and errors are those of `begin_there`."""
    held = HeldTurn(context, begin_there(context, request, host, is_detached=False, **options))
    held.await_record()
    return held


def start_watched(
    context: Context, request: RunRequest, host: str | None, keeping: Keeping, *, wait_s: float | None = None
) -> Begun:
    """Start a turn on another host that goes on by itself; have its record, and then its commits, here.

    Raises as `begin_there`.
    """
    begun, engine = start_there(context, request, host, wait_s=wait_s)

    def fetch() -> None:
        with suppress(CsaError, OSError):  # it has changed no code, or csa fetch brings it later
            fetch_work(context, engine, begun.session_id, begun.host)

    keeping.keep(engine, begun.target(context.store.root_pathname), begun.turn, fetch)
    return begun
