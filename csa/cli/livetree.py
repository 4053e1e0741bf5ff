"""The live view of `csa run`: the running session and the sessions its agents have started, redrawn in place.

Each has its tool, what it is doing, for how long, its tokens and its cost. It reads the store as any other command
would, and writes nothing there.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import anyio
from anyio import to_thread

from csa.cli.describe import describe
from csa.cli.live import REFRESH_S, REST, arrange, lay_out
from csa.cli.output import is_in_background, lossy, shorten
from csa.cli.progress import PlainLines, Silence, Subject, closing_line, headline_of_fallback, room_on, say
from csa.cli.screen import Screen
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.model.events import Event
from csa.model.genealogy import walk
from csa.model.usage import Usage, counted
from csa.paths import home
from csa.runner.client import Csa
from csa.runner.sessions.observing import LiveSessions
from csa.store.observer import Observer
from csa.store.shown import SessionInfo
from csa.store.stores import find_stores
from csa.store.turns import usage_told
from csa.structs import replace

MAX_ROWS_SHOWN = 30


class LiveTree(Silence):
    """The session and those its agents have started, redrawn in place; a closing line stays.

    In the background, as the job of a shell, nothing is drawn over that: there are lines.
    """

    speaks = True

    def __init__(self, client: Csa) -> None:
        store, environ = client.store, client.context.environ
        self._sessions = LiveSessions(lambda: find_stores(store.root), describe)
        self._place = partial(shorten, user_home=home(environ))
        self._screen = Screen(sys.stderr)
        self._lines = PlainLines()
        self._closing = ""
        self._subject: Subject
        self._own: SessionInfo
        self._before = Usage()
        self._others: list[SessionInfo] = []
        self._resumed: set[str] = set()
        self._since = ""

    def begin(self, subject: Subject) -> None:
        """Say which session this is, and begin to draw."""
        self._lines.begin(subject)
        self._subject = subject
        self._before = subject.usage
        self._since = subject.session_id
        if not subject.is_new:
            self._since = max(self._since, new_session_id(time.time_ns() // 1_000_000, bytes(ENTROPY_BYTES)))
        self._own = SessionInfo(
            record=subject.record,
            status="running",
            tool=subject.tool,
            started_at=subject.started_at,
            _usage=subject.usage + counted(None),
        )
        self._screen.start()
        self._draw()

    def show(self, event: Event) -> None:
        """Take note of what happened, and say it where nothing is drawn."""
        is_drawn = self._is_ours_to_draw()
        if not is_drawn:
            self._lines.show(event)
        if event.type == "run_started" and event.data.get("tool") != self._own.tool:
            self._fall_back(event, is_drawn=is_drawn)
        elif event.type == "run_finished":
            self._closing = closing_line(event) if is_drawn else ""
            self._before += counted(usage_told(event))
            self._own = replace(self._own, _usage=self._before)
        elif event.type == "usage":
            self._own = replace(self._own, _usage=self._before + counted(Usage.from_dict(event.data)))
            return
        line = describe(event)
        if line and is_drawn and event.type in {"retry", "warning", "error"}:
            self._screen.print(line, "yellow")
        if line:
            self._own = replace(self._own, doing=line)

    def _fall_back(self, event: Event, *, is_drawn: bool) -> None:
        """Leave what became of the last tool on the screen, and go on with the next."""
        for line in (self._closing, headline_of_fallback(event)) if is_drawn else ():
            self._screen.print(line, "yellow")
        self._own = replace(self._own, tool=str(event.data.get("tool")))

    def _is_ours_to_draw(self) -> bool:
        """Say whether the terminal is ours, and take away what is drawn where it no longer is."""
        if not is_in_background(sys.stderr):
            return True
        self._screen.leave()
        return False

    async def keep_fresh(self) -> None:
        """Draw again and again, with the sessions that the agents have started, in whichever project."""
        while True:
            began = time.monotonic()
            self._others = await to_thread.run_sync(self._sessions.all, self._is_ours, abandon_on_cancel=True)
            await room_on(sys.stderr)
            with lossy(sys.stderr):
                self._draw()
            await anyio.sleep(max(REFRESH_S, REST * (time.monotonic() - began)))

    def end(self) -> None:
        """Leave only the closing line."""
        self._screen.stop()
        if self._closing:
            say(self._closing)

    def _is_ours(self, observer: Observer, session_id: str) -> bool:
        """Say whether a session may be one that an agent of this turn has begun, or goes on with."""
        if session_id <= self._subject.session_id:
            return False
        if session_id <= self._since and session_id not in self._resumed and observer.is_running(session_id):
            self._resumed.add(session_id)
        return session_id > self._since or session_id in self._resumed

    def _draw(self) -> None:
        if not self._is_ours_to_draw():
            return
        width, height = self._screen.size
        nodes = walk(arrange([self._own, *self._others]))
        tree = [node for node in nodes if node.session_id == self._subject.session_id]
        height = min(MAX_ROWS_SHOWN, height - 1)
        self._screen.draw(lay_out(tree, width=width, height=height, now=time.time(), place=self._place))
