"""Turns on other hosts, for MCP: the mirrors of those that were begun, or are waited for, are kept up to date."""

from __future__ import annotations

from csa.runner.context import Context
from csa.runner.hosts.holding import HeldTurn, hold_there, start_watched
from csa.runner.hosts.placing import Begun
from csa.runner.hosts.watching import Keeping
from csa.runner.request import RunRequest
from csa.runner.session import Session


class Elsewhere:
    """What goes on there; turns that are not detached end with this process, or at the end of their leash."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._held: list[HeldTurn] = []

    def start(self, context: Context, request: RunRequest, on: str, *, is_detached: bool) -> Begun:
        """Start a turn on a host, or on one that a scheduler finds; raises as `begin_there`."""
        for held in self._held:
            if request.session and request.session.endswith(held.begun.session_id):
                held.await_settled()  # it has been seen to end, a moment ago
        if is_detached:
            return start_watched(context, request, on, self._keeping)
        held = hold_there(context, request, on)
        self._held = [*(each for each in self._held if each.goes_on), held]
        return held.begun

    def watch(self, context: Context, session: Session) -> None:
        """Keep the mirror of a session's host up to date until it has ended; nothing is to be done for one of here."""
        if (host := session.store.host) and session.liveness().state != "not_alive":
            self._keeping.keep(context.config.engine(host), session.target, 0)

    def end(self) -> None:
        """Have the turns end that belong to this process."""
        for held in self._held:
            held.end()
