"""What other hosts have given to this one: `<state root>/.orders/<id>.json` for each order, by the id it came with.

The file is made, and written under its lock, before anything begins: so an order is carried out at most once, however
often it comes. Who asks about one that has not come makes the file too, as refused, and it cannot come any more.
Whoever attends to the turn keeps the lock. Each line adds to what is known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.paths import ORDERS
from csa.store.atomic import append_private, make_private_directory, read_regular, sync_file
from csa.store.locks import Lock, acquire_lock, is_locked

_KEPT_S = 30 * 86400.0


class Order:
    """What is known of one order; the file exists from the first `take` on."""

    def __init__(self, root: Path, order_id: str) -> None:
        self.order_id = order_id
        self._path = root / ORDERS / f"{order_id}.json"
        self._lock: Lock | None = None

    def take(self, **said: Any) -> bool:
        """Take it, and note what is said; False if it was taken before. Durable when this returns."""
        make_private_directory(self._path.parent)
        try:
            lock = acquire_lock(self._path)
        except BlockingIOError:
            return False
        if os.fstat(lock.fd).st_size:
            lock.close()
            return False
        self._lock = lock
        self.note(at=time.time(), **said)
        _sweep(self._path.parent)
        return True

    def note(self, **said: Any) -> None:
        """Add to what is known; durable when this returns."""
        append_private(self._path, json.dumps(said, separators=(",", ":")).encode() + b"\n")
        if self._lock:
            sync_file(self._lock.fd)

    def known(self) -> Mapping[str, Any]:
        """Return what is known; empty if nothing is, or as long as nobody has finished writing it.

        `damaged`: there was more, which cannot be read.
        """
        found: dict[str, Any] = {}
        with suppress(OSError):
            for line in read_regular(self._path).split(b"\n")[:-1]:
                try:
                    found |= json.loads(line)
                except (ValueError, TypeError):
                    found["damaged"] = True
        return found

    def is_lost(self) -> bool:
        """Say whether others do not find any more what we attend to: a state root may be purged, or damaged."""
        return self._lock is not None and (not self._lock.is_named(self._path) or "damaged" in self.known())

    def touch(self) -> None:
        """Show whoever attends to it that the other host is still there."""
        os.utime(self._path)

    def touched_at(self) -> int:
        """Return when that was last, or when anything was noted, in nanoseconds; 0 without a file."""
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return 0

    def is_attended(self) -> bool:
        """Say whether a process attends to it."""
        return is_locked(self._path)

    def close(self) -> None:
        """Attend to it no more."""
        if self._lock:
            self._lock.close()


def _sweep(directory: Path) -> None:
    """Delete what came long ago, and has ended."""
    oldest = time.time() - _KEPT_S
    with os.scandir(directory) as entries:
        old = [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_mtime < oldest]
    for pathname in old:
        if not is_locked(Path(pathname)):
            Path(pathname).unlink(missing_ok=True)
