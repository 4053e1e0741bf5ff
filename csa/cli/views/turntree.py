"""The session of a running turn and those that its agents have started, with what each is doing: without a terminal.

It reads the store like any other command, and writes nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from csa.cli.output import shorten
from csa.cli.views.live import Line, arrange, lay_out, lay_out_end
from csa.cli.views.progress import Subject
from csa.errors import CsaError
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.model.events import Event
from csa.model.genealogy import walk
from csa.model.usage import Usage, counted
from csa.model.wording import describe
from csa.paths import home
from csa.runner.client import Csa
from csa.runner.sessions.genealogy import Forest
from csa.runner.sessions.observing import LiveSessions
from csa.store.observer import Observer
from csa.store.sessions import Record
from csa.store.shown import SessionInfo
from csa.store.stores import find_stores
from csa.store.turns import usage_told
from csa.structs import replace


class Watched:
    """A session as the events of its turns show it; `info` is what is known so far."""

    def __init__(self, record: Record, *, tool: str, started_at: float, before: Usage) -> None:
        self._before = before  # what it had used before the turn
        usage = before + counted(None)
        self.info = SessionInfo(record=record, status="running", tool=tool, started_at=started_at, _usage=usage)

    def note(self, event: Event) -> None:
        """Note an event."""
        if event.type == "run_started":
            self.info = replace(self.info, tool=str(event.data.get("tool")))
        elif event.type == "run_finished":
            self._before += counted(usage_told(event))
            self.info = replace(self.info, _usage=self._before, status=str(event.data.get("status")))
        elif event.type == "usage":
            self.info = replace(self.info, _usage=self._before + counted(Usage.from_dict(event.data)))
            return
        if line := describe(event):
            self.info = replace(self.info, doing=line)


class TurnTree:
    """What is known of the turn's own session from its events, and of the others from their records."""

    def __init__(self, client: Csa, subject: Subject) -> None:
        self._sessions: Callable[[], LiveSessions] = partial(
            LiveSessions, partial(find_stores, client.store.root), describe
        )
        self._looking = self._sessions()
        self._place = partial(shorten, user_home=home(client.context.environ))
        self._subject = subject
        self._used = Usage()
        self.others: list[SessionInfo] = []
        self._resumed: set[str] = set()
        self._since = subject.session_id
        if not subject.is_new:
            self._since = max(self._since, new_session_id(time.time_ns() // 1_000_000, bytes(ENTROPY_BYTES)))
        self._watched = Watched(subject.record, tool=subject.tool, started_at=subject.started_at, before=subject.usage)

    def note(self, event: Event) -> None:
        """Note an event of the turn."""
        self._watched.note(event)
        if event.type == "run_finished":
            self._used += counted(usage_told(event))

    def look(self) -> None:
        """Find the other sessions; may be called in a thread."""
        self.others = self._looking.all(self._is_ours)

    def lines(self, width: int, height: int) -> list[Line]:
        """Lay it out as it is now."""
        return lay_out(self._tree(), width=width, height=height, now=time.time(), place=self._place)

    def finish(self) -> None:
        """Find out how everything has ended; otherwise the last state stays."""
        with suppress(CsaError, OSError):
            self.others = self._sessions().all(self._is_ours)
        time_s = time.time() - self._subject.started_at
        self._watched.info = replace(self._watched.info, doing="", duration_s=time_s, _usage=self._used)

    def last_lines(self, width: int) -> tuple[list[Line], str]:
        """Return what stays of the tree once it has ended, and its totals."""
        now = time.time()
        time_s = self._watched.info.duration_s or 0.0
        return lay_out_end(self._tree(), width=width, now=now, place=self._place, time_s=time_s)

    def _tree(self) -> Forest:
        """Return the session with what is below it."""
        nodes = walk(arrange([self._watched.info, *self.others]))
        return [node for node in nodes if node.session_id == self._subject.session_id]

    def _is_ours(self, observer: Observer, session_id: str) -> bool:
        """Say whether a session may be one that an agent of this turn has started or continued."""
        if session_id <= self._subject.session_id:
            return False
        if session_id <= self._since and session_id not in self._resumed and observer.is_running(session_id):
            self._resumed.add(session_id)
        return session_id > self._since or session_id in self._resumed
