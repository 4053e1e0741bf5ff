"""Keeping the mirror of a host up to date over the connection of an order, on this side: see `feeding.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from typing import IO, Any, cast

from csa.errors import CsaError
from csa.runner.hosts.frames import GREETING, frame_of
from csa.runner.hosts.intake import Intake
from csa.runner.hosts.outlet import having_lines
from csa.store.mirrors import Mirror

_SILENT_S = 5.0  # an outlet beats every second


class Fed:
    """A mirror whose lock we hold, for what an order's connection brings. It may be used in any thread.

    When nothing can come any more, `then` is called, and another connection can be made.
    """

    def __init__(self, mirror: Mirror, then: Callable[[], None]) -> None:
        """Take the mirror; BusyError if another process brings it up to date."""
        self._lock = threading.Lock()
        self._intake: Intake | None = Intake(mirror)
        self._then = then
        self._heard_at = float("inf")

    def having(self) -> Iterator[dict[str, Any]]:
        """Yield what is to be said of what the mirror has; the end is missing if it was closed meanwhile."""
        lines = having_lines(self._intake.having()) if self._intake else iter(())
        while True:
            try:
                with self._lock:  # what is said drops parts of lines, which are another process's once it is closed
                    said = next(lines, None) if self._intake else None
            except (CsaError, OSError):  # a transcript cannot be read, say: as the next connection finds
                self.give_up()
                return
            if said is None:
                return
            yield said

    def take(self, said: Mapping[str, Any], stream: IO[bytes]) -> bool:
        """Take a line, and what follows it, if it belongs to the mirror; say whether it did.

        Raises OSError, ValueError or ProtocolError if it cannot be read, and so nothing else on this connection can.
        """
        is_greeting = said.get("csa") == GREETING
        if not is_greeting and "k" not in said:
            return False
        slowly = cast("IO[bytes]", _Slow(cast("BufferedReader", stream), self.await_news))
        frame = None if is_greeting else frame_of(said, slowly)
        try:
            with self._lock:
                if self._intake is None:
                    return True
                self._heard_at = time.monotonic()
                if is_greeting:
                    self._intake.greet(said)
                elif frame:
                    self._intake.take_one(frame)
        except (CsaError, OSError):  # the disk is full, say: as the next connection finds
            self.give_up()
        return True

    def await_news(self) -> None:
        """Expect something from now on."""
        self._heard_at = time.monotonic()

    @property
    def is_closed(self) -> bool:
        return self._intake is None

    @property
    def is_silent(self) -> bool:
        return time.monotonic() - self._heard_at > _SILENT_S

    def give_up(self) -> None:
        """Expect nothing any more, and have another connection made; harmless when repeated."""
        if self.close():
            self._then()

    def close(self) -> bool:
        """Leave the mirror to others; say whether that was not done before."""
        with self._lock:
            intake, self._intake = self._intake, None
        if intake is not None:
            with suppress(OSError), intake:  # what is not on the disk after a power cut is sent again
                pass
        return intake is not None


class _Slow:
    """Bytes that may come slowly: each part is news, as a frame may take longer than a connection may be silent."""

    def __init__(self, stream: BufferedReader, heard: Callable[[], None]) -> None:
        self._stream, self._heard = stream, heard

    def read(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length and (part := self._stream.read1(length - len(found))):
            self._heard()
            found += part
        return bytes(found)
