"""A line on stderr at least once a minute, since agents' tools kill commands that are silent for too long.

Only if csa was called inside a session and stderr is not a terminal. A separate thread prints it, whatever the command
waits for; it bypasses Python's buffers, so that it cannot block, or be blocked, at the end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from csa.cli.output import cut, has_room, one_line, printable

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.caller import Caller
    from csa.store.sessions import Store, Target
    from csa.store.shown import SessionInfo

INTERVAL_S = 50.0  # between two lines: csa promises a minute, and the machine may be busy
_WIDTH, _SUBJECT_WIDTH = 160, 40


class Signs:
    """What is printed while a command is silent; `about` changes it. Without `start` nothing is printed."""

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._words: Callable[[], str] = lambda: "waiting"
        self._over = threading.Event()
        self._began = time.monotonic()

    def about(self, words: Callable[[], str]) -> None:
        """From now on print what `words`, called in another thread, returns."""
        self._words, self._began = words, time.monotonic()

    def start(self) -> None:
        """Start printing; the thread ends with the process, or with `stop`."""
        threading.Thread(target=self._speak, daemon=True).start()

    def stop(self) -> None:
        """Stop printing."""
        self._over.set()

    def _speak(self) -> None:
        while not self._over.wait(self._interval_s):
            with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                _write_line(f"csa: {self._line()}")

    def _line(self) -> str:
        try:
            return self._words()
        except Exception:  # noqa: BLE001  # whatever cannot be read right now, a line is due
            return f"waiting for {time.monotonic() - self._began:.0f} s"


def _write_line(line: str) -> None:
    content = f"{cut(printable(one_line(line)), _WIDTH)}\n".encode("utf-8", "replace")
    if has_room(sys.stderr):
        os.write(sys.stderr.fileno(), content)


@contextmanager
def signs_of_life(caller: Caller | None, *, quiet: bool = False) -> Iterator[Signs]:
    """Print lines while a long command runs, if needed and allowed."""
    signs = Signs(interval_s=INTERVAL_S)
    if not quiet and caller is not None and sys.stderr is not None and not sys.stderr.isatty():
        signs.start()
    try:
        yield signs
    finally:
        signs.stop()


def about_sessions(targets: Sequence[Target]) -> Callable[[], str]:
    """Return a text about what sessions are doing: the first running one, and how many others are."""
    from csa.cli.views import naming  # noqa: F401, PLC0415  # loaded while a tool starts, and not when csa may be another
    from csa.model.wording import describe  # noqa: PLC0415  # as above
    from csa.store.observer import Observer  # noqa: PLC0415  # as above

    def words() -> str:
        infos = [Observer(store, describe).look(session_id) for store, session_id in targets]
        seen = [info for info in infos if info and info.is_running]
        if not seen:
            others = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            return f"waiting for {_name(*targets[0])}{others}"
        return doing(seen[0], now=time.time()) + (f" (and {len(seen) - 1} more)" if len(seen) > 1 else "")

    return words


def doing(info: SessionInfo, *, now: float) -> str:
    """Describe a session's activity, and how long its turn has been running."""
    from csa.cli.views.naming import called, doing_of  # noqa: PLC0415  # as above
    from csa.model.wording import elapsed  # noqa: PLC0415  # loaded by about_sessions

    time_s = elapsed(max(0.0, now - info.started_at)) if info.started_at else ""
    who = " ".join(filter(None, (called(info, _WIDTH), info.tool, time_s)))
    return f"{who}: {doing_of(info, _WIDTH, room=_SUBJECT_WIDTH)}"


def _name(store: Store, session_id: str) -> str:
    from csa.cli.views.naming import called  # noqa: PLC0415  # as above
    from csa.store.shown import SessionInfo  # noqa: PLC0415  # as above

    return called(SessionInfo(record=store.record(session_id), status=""), _WIDTH)
