"""Keeping mirrors up to date for as long as turns on their hosts are watched.

What is new comes over the connection of an order, if the csa there can do that; and else, and when that connection is
lost or silent, over one of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from csa.errors import BusyError, CsaError
from csa.model.config import Engine
from csa.runner.hosts.fed import Fed
from csa.runner.hosts.syncing import Sync
from csa.store.liveness import probe
from csa.store.mirrors import mirror_for
from csa.store.sessions import Store
from csa.store.transcript import last_turn_event

SEEN_WITHIN_S = 5.0  # of a turn's end, over the connection that keeps the mirror up to date
LOOK_AT_END_S = 0.5  # between two looks whether the mirror has it: perhaps the connection stands still
_TRIES = 3  # to bring it up to date at the end
_LOOK_S = 0.5
_Key = tuple[str, str]  # see `Store.key`
_Wanted = tuple[Callable[[], bool], Callable[[], None]]


class Watching:
    """Keeps the mirror of one host up to date, in a thread. `root` is the state root here.

    Attributes:
        engine: the host; None before `begin` or `feed_from`.
        failure: why it could not be brought up to date at the end.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.engine: Engine | None = None
        self.failure: CsaError | None = None
        self._sync: Sync | None = None
        self._fed: Fed | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_over = False

    def begin(self, engine: Engine) -> None:
        """Begin with this host, over a connection of its own; harmless when repeated."""
        self.engine = engine
        with self._lock:
            if self._sync or self._is_over:
                return
            self._sync = Sync(self._root, engine)
            self._thread = threading.Thread(target=self._sync.watch, daemon=True)
            self._thread.start()

    def feed_from(self, engine: Engine) -> Fed | None:
        """Begin with this host, and return where what another connection brings goes; None if this has one of its own.

        It has, if another process brings the mirror up to date: that may end.
        """
        self.engine = engine
        if self._sync is None:
            with suppress(BusyError, OSError):  # a connection of its own says what is wrong with the mirror
                self._fed = Fed(mirror_for(self._root, engine.name), lambda: self.begin(engine))
                return self._fed
        self.begin(engine)
        return None

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
        with self._lock:
            self._is_over = True
        if self._fed:
            self._fed.close()
        if self._sync and self._thread:
            self._sync.end()
            self._thread.join()


class Keeping:
    """Keeps the mirrors of hosts up to date while turns there go on; one connection for each host."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._wanted: dict[str, dict[_Key, _Wanted]] = {}  # by host

    def keep(
        self, engine: Engine, key: _Key, is_over: Callable[[], bool], then: Callable[[], None] = lambda: None
    ) -> None:
        """Do so until `is_over` says so of a session; call `then`, in a thread, after that."""
        with self._lock:
            is_first = engine.name not in self._wanted
            self._wanted.setdefault(engine.name, {})[key] = (is_over, then)
        if is_first:
            threading.Thread(target=self._run, args=(engine,), daemon=True).start()

    def _run(self, engine: Engine) -> None:
        watching = Watching(self._root)
        watching.begin(engine)
        try:
            while self._look(engine.name):
                time.sleep(_LOOK_S)
        except BaseException:  # a fault of csa's: what comes later is not kept waiting by it
            with self._lock:
                self._wanted.pop(engine.name, None)
            raise
        finally:
            watching.end()

    def _look(self, host: str) -> bool:
        """Call what was asked for of turns that have ended; say whether others go on."""
        known = self._wanted[host]
        with self._lock:
            looked_at = list(known.items())
        for key, wanted in looked_at:
            is_over, then = wanted
            if is_over():
                then()
                with self._lock:
                    if known.get(key) is wanted:  # and not a later turn
                        del known[key]
        with self._lock:
            if not known:
                del self._wanted[host]
            return bool(known)


def has_ended(store: Store, session_id: str, turn: int) -> bool:
    """Say whether a turn on another host was seen to have ended."""
    paths = store.find(session_id)
    try:
        last = last_turn_event(paths.transcript)
    except CsaError:  # it cannot be read now
        return False
    return last is not None and last.turn >= turn and probe(paths).state == "not_alive"
