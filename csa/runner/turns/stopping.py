"""That csa has begun to end a turn, and why. The first reason stands."""

from __future__ import annotations

import anyio

from csa.runner.turns.verdict import Stop


class Stopping:
    """Shared by all that may end a turn and by all that must know of it."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.requested = anyio.Event()
        self.announced = anyio.Event()  # the tool said that the turn has ended; another one when it takes that back
        self.was_announced = False  # ... before csa began to end it

    def announce(self, *, is_finished: bool) -> None:
        """Note whether the tool says at this moment that the turn has ended."""
        if is_finished:
            self.announced.set()
        elif self.announced.is_set():
            self.announced = anyio.Event()

    def request(self, stop: Stop) -> None:
        """End the turn for this reason, unless it is being ended already; one of a lost lock replaces others."""
        if self.stop is None or stop.reason == "fenced":
            self.stop = stop
            self.was_announced = self.announced.is_set()
            self.requested.set()
