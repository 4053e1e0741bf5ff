"""A recorded tree as it was at any time, from events alone: for `csa replay --tree` on a terminal."""

from __future__ import annotations

from functools import partial

from csa.cli.output import shorten
from csa.cli.views.live import Line, arrange, lay_out, lay_out_end
from csa.cli.views.turntree import Watched
from csa.model.events import Event
from csa.model.usage import Usage, number_of
from csa.paths import home
from csa.runner.client import Csa
from csa.runner.sessions.genealogy import Forest
from csa.store.recording import RecordedSession
from csa.store.sessions import Record, Store
from csa.store.shown import seconds_of
from csa.structs import replace


class ReplayedTree:
    """What the sessions of a tree have been doing, as of the events so far."""

    def __init__(self, client: Csa) -> None:
        self._store, self._place = client.store, partial(shorten, user_home=home(client.context.environ))
        self._watched: dict[str, Watched] = {}
        self._began = self._now = 0.0

    def note(self, session: RecordedSession, event: Event) -> None:
        """Note an event; a session is there from its first turn on."""
        self._now = seconds_of(event.ts) or self._now
        watched = self._watched.get(session.session_id)
        if event.type == "run_started":
            self._began = self._began or self._now
            before = (watched.info.usage if watched else None) or Usage()
            record = Record(self._store_of(session), session.session_id, session.paths, session.state)
            tool = str(event.data.get("tool"))
            watched = Watched(record, tool=tool, started_at=self._now, before=before)
            self._watched[session.session_id] = watched
        if watched is None:
            return
        watched.note(event)
        if event.type == "run_finished":
            watched.info = replace(watched.info, duration_s=number_of(event.data.get("duration_s")) or 0.0)

    def lines(self, width: int, height: int, now: float) -> list[Line]:
        """Lay it out as it was at that time."""
        return lay_out(self._forest(), width=width, height=height, now=now, place=self._place)

    def last_lines(self, width: int) -> tuple[list[Line], str]:
        """Return what stays of the tree, and its totals."""
        if not self._watched:
            return [], "nothing has happened"
        time_s = self._now - self._began
        return lay_out_end(self._forest(), width=width, now=self._now, place=self._place, time_s=time_s)

    def _store_of(self, session: RecordedSession) -> Store:
        return Store(self._store.root, session.state.project_path)

    def _forest(self) -> Forest:
        return arrange(watched.info for watched in self._watched.values())
