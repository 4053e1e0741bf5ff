"""Reading a transcript as it grows: what exists, and then each event as it comes. Nothing is written.

A line is read once it is complete: the partial last one that a crash leaves, and the next turn drops, is never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Self

from csa.model.events import Event
from csa.paths import SessionPaths
from csa.store.lines import Lines
from csa.store.liveness import probe
from csa.store.transcript import parse_line, read_events_backwards


class Follower:
    """Reads from where it stopped: first what was asked for, then what is added.

    That is the last `tail` events (None: all), or those with numbers above `after`. The file is kept open, so that
    the end of a session that is deleted with its turn is seen too. When another one takes its place (the session is
    encrypted or opened), its rest is read, and then what is new in that. StateError if it cannot be read.
    """

    def __init__(self, transcript: Path, *, tail: int | None = None, after: int | None = None) -> None:
        self._file = Lines(transcript)
        self._at = 0
        self._seen = -1 if after is None else after  # another implementation counts from 0
        self._first: list[Event] = []
        end = 0 if after is None and tail is None else self._file.end()
        if after is not None:
            self._at = self._file.after(after, end)
        if end and tail is not None:
            self._at = end
            self._first = list(islice(read_events_backwards(transcript), tail or 1))[::-1]
            self._seen = self._first[-1].seq if self._first else -1
            self._first = self._first if tail else []

    def read(self) -> Iterator[Event]:
        """Yield what has come since the last call."""
        yield from self._first
        self._first = []
        is_replaced = self._file.is_replaced()  # asked first, or its last lines could be missed
        yield from self._rest()
        if is_replaced:
            self._file.close()
            self._at = self._file.after(self._seen, self._file.end())
            yield from self._rest()

    def _rest(self) -> Iterator[Event]:
        while block := self._file.block(self._at, self._file.size()):
            self._at += len(block)
            for line in block.splitlines():
                if (event := parse_line(line)) and event.seq > self._seen:
                    self._seen = event.seq
                    yield event

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def follow(paths: SessionPaths, *, tail: int | None = None, after: int | None = None) -> Iterator[Iterator[Event]]:
    """Yield what has come at each look, until nothing is running there; the caller pauses in between.

    At least once: for a session that is not running, what exists.
    """
    with Follower(paths.transcript, tail=tail, after=after) as follower:
        runs = True
        while runs:
            runs = probe(paths).state == "alive"  # checked first, or the last events could be missed
            yield follower.read()
