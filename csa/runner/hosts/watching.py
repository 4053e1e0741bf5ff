"""Keeping the mirror of a host up to date for as long as a turn there is watched."""

from __future__ import annotations

import threading
import time

from csa.errors import CsaError
from csa.model.config import Engine
from csa.runner.hosts.syncing import Sync

_TRIES = 3  # to bring it up to date at the end


class Watching:
    """Does so in a thread. `root` is the state root here.

    Attributes:
        engine: the host; None before `begin`.
        failure: why it could not be brought up to date at the end.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.engine: Engine | None = None
        self.failure: CsaError | None = None
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
