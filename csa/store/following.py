"""Reading a transcript as it grows: what exists, and then each event as it comes. Nothing is written.

A line is read once it is complete: the partial last one that a crash leaves, and the next turn drops, is never seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Self

from csa.errors import StateError
from csa.model.events import Event
from csa.paths import SessionPaths
from csa.store.atomic import open_regular
from csa.store.lines import Lines
from csa.store.liveness import probe
from csa.store.transcript import end_of_last_line, parse_line, read_events_backwards

_BLOCK = 1 << 20


class Follower:
    """Reads from where it stopped: first what was asked for, then what is added.

    That is the last `tail` events (None: all), or those with numbers above `after`. The file is kept open, so that
    the end of a session that is deleted with its turn is seen too. StateError if it cannot be read.
    """

    def __init__(self, transcript: Path, *, tail: int | None = None, after: int | None = None) -> None:
        self._path = transcript
        self._fd = -1
        self._at = 0
        self._seen = -1 if after is None else after  # another implementation counts from 0
        self._first: list[Event] = []
        if after is not None:
            with Lines(transcript) as lines:
                self._at = lines.after(after, lines.end())
        if self._open() and tail is not None:
            try:
                self._at = end_of_last_line(self._fd, os.fstat(self._fd).st_size)
            except OSError as error:
                raise StateError.unreadable(transcript, error) from error
            self._first = list(islice(read_events_backwards(transcript), tail or 1))[::-1]
            self._seen = self._first[-1].seq if self._first else -1
            self._first = self._first if tail else []

    def read(self) -> Iterator[Event]:
        """Yield what has come since the last call."""
        yield from self._first
        self._first = []
        while lines := self._lines():
            for line in lines:
                if (event := parse_line(line)) and event.seq > self._seen:
                    self._seen = event.seq
                    yield event

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> bool:
        if self._fd < 0:
            try:
                self._fd = open_regular(self._path)
            except FileNotFoundError:  # there is none before the first event
                return False
            except OSError as error:
                raise StateError.unreadable(self._path, error) from error
        return self._fd >= 0

    def _lines(self) -> list[bytes]:
        """Return the next complete lines; none if there is only part of one."""
        if not self._open():
            return []
        size = _BLOCK
        while True:
            try:
                content = os.pread(self._fd, size, self._at)
            except OSError as error:
                raise StateError.unreadable(self._path, error) from error
            end = content.rfind(b"\n") + 1
            if end or len(content) < size:
                break
            size *= 2  # a line longer than a block
        self._at += end
        return content[:end].splitlines()


def follow(paths: SessionPaths, *, tail: int | None = None, after: int | None = None) -> Iterator[Iterator[Event]]:
    """Yield what has come at each look, until nothing is running there; the caller pauses in between.

    At least once: for a session that is not running, what exists.
    """
    with Follower(paths.transcript, tail=tail, after=after) as follower:
        runs = True
        while runs:
            runs = probe(paths).state == "alive"  # checked first, or the last events could be missed
            yield follower.read()
