"""Whether csa is ending a turn, and why. The first reason counts."""

from __future__ import annotations

import anyio

from csa.runner.turns.verdict import Stop


class Stopping:
    """Shared by everything that may end a turn and everything that must know about it."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.requested = anyio.Event()
        self.announced = anyio.Event()  # set once the tool reported the turn's end; replaced if it takes that back
        self.was_announced = False  # ... before csa began to end it

    def announce(self, *, is_finished: bool) -> None:
        """Note whether the tool currently reports that the turn has ended."""
        if is_finished:
            self.announced.set()
        elif self.announced.is_set():
            self.announced = anyio.Event()

    def request(self, stop: Stop) -> None:
        """End the turn for this reason, unless it is already being ended; a lost lock replaces other reasons."""
        if self.stop is None or stop.reason == "fenced":
            self.stop = stop
            self.was_announced = self.announced.is_set()
            self.requested.set()
