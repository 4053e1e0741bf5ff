"""Keeping the mirror of a host up to date over the connection of an order, on the host that has the order.

After the order the other side says what its intake has, as it does to an outlet. Once the turn has begun, frames follow
that, as an outlet sends them: all that there is, then what changes. The last ones are of the turn's end, so that it has
been seen when it is told. Nobody else says anything meanwhile, and nobody waits for what stands still.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from csa.errors import CsaError
from csa.runner.context import Context
from csa.runner.hosts.frames import Having, require_protocol, write_line
from csa.runner.hosts.outlet import Key, Outlet, greeting, take_having


class Feed:
    """What goes to the other side's intake through stdout, from a thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._having: dict[Key, Having] | None = None
        self._is_known = self._is_unwanted = False
        self._key: Key | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def hear(self, said: Mapping[str, Any]) -> None:
        """Take a line of what the other side has; any other line is nothing to us. ProtocolError if it is nonsense."""
        if said.get("csa") == "intake":
            require_protocol(dict(said))
            self._having = {}
        elif self._having is not None and "p" in said:
            take_having(self._having, said)
        elif self._having is not None and said.get("end"):
            self._is_known = True
            self._begin()
        elif said.get("feed") is False:
            self._is_unwanted = True
            self._over.set()

    @property
    def is_coming(self) -> bool:
        """Whether the other side says just now what it has."""
        return self._having is not None and not (self._is_known or self._is_unwanted)

    def speak(self, key: Key) -> None:
        """Begin as soon as it is known what the other side has: the turn of this session has begun, as was said."""
        self._key = key
        self._begin()

    def finish(self) -> None:
        """Have the turn's end sent, and then nothing more."""
        self._over.set()

    def is_over(self, limit_s: float) -> bool:
        """Wait until all is sent, or nobody reads any more; False if that takes longer, or what it has is coming."""
        if self._thread is None:
            return not self.is_coming
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _begin(self) -> None:
        if self._is_known and self._key and self._thread is None:
            self._thread = threading.Thread(target=self._send, daemon=True)  # a pipe that is full ends nothing
            self._thread.start()

    def _send(self) -> None:
        assert self._key
        with suppress(OSError, CsaError), open(1, "wb", closefd=False) as stream:  # nobody reads; or as an outlet says
            write_line(stream, greeting(self._context))
            outlet = Outlet(self._context.store.root, stream, self._having or {})
            outlet.send_all(self._over.is_set)
            outlet.follow(self._over.wait)
            if not self._is_unwanted:
                outlet.send(self._key)
