"""The live view of `csa run`: the running session and the sessions its agents have started, redrawn in place.

Each has its tool, its activity, its time, its tokens and its cost. It reads the store like any other command,
and writes nothing there.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import partial

import anyio
from anyio import to_thread

from csa.cli.output import KINDS, Style, is_in_background, lossy, shorten, tell, terminal_width
from csa.cli.views.describe import describe
from csa.cli.views.live import REFRESH_S, REST, arrange, lay_out, lay_out_end
from csa.cli.views.progress import Outcomes, PlainLines, Silence, Subject, room_on
from csa.cli.views.screen import Screen
from csa.errors import CsaError
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.model.events import Event
from csa.model.genealogy import walk
from csa.model.usage import Usage, counted
from csa.paths import home
from csa.runner.client import Csa
from csa.runner.sessions.genealogy import Forest
from csa.runner.sessions.observing import LiveSessions
from csa.store.observer import Observer
from csa.store.shown import SessionInfo
from csa.store.stores import find_stores
from csa.store.turns import usage_told
from csa.structs import replace

MAX_ROWS_SHOWN = 30


class LiveTree(Silence):
    """The session and those its agents have started, redrawn in place; at the end their outcomes stay.

    As a shell's background job it prints lines instead of drawing.
    """

    speaks = True

    def __init__(self, client: Csa) -> None:
        store, environ = client.store, client.context.environ
        self._find = partial(find_stores, store.root)
        self._sessions = LiveSessions(self._find, describe)
        self._place = partial(shorten, user_home=home(environ))
        self._screen = Screen(sys.stderr)
        self._outcomes = Outcomes()
        self._lines = PlainLines(self._outcomes)
        self._subject: Subject
        self._own: SessionInfo
        self._before = Usage()
        self._used = Usage()
        self._others: list[SessionInfo] = []
        self._resumed: set[str] = set()
        self._since = ""

    def begin(self, subject: Subject) -> None:
        """Announce the session, and begin to draw."""
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
        """Note an event, and print it if nothing is drawn."""
        if not self._is_ours_to_draw():
            self._lines.show(event)
        else:
            for kind, words in self._outcomes.take(event):
                self._screen.print([(f"{kind}:", KINDS[kind]), (f" {words}", "")])
        if event.type == "run_started":
            self._own = replace(self._own, tool=str(event.data.get("tool")))
        elif event.type == "run_finished":
            used = counted(usage_told(event))
            self._used, self._before = self._used + used, self._before + used
            self._own = replace(self._own, _usage=self._before, status=str(event.data.get("status")))
        elif event.type == "usage":
            self._own = replace(self._own, _usage=self._before + counted(Usage.from_dict(event.data)))
            return
        if line := describe(event):
            self._own = replace(self._own, doing=line)

    def _is_ours_to_draw(self) -> bool:
        """Say whether the terminal is ours; if it no longer is, remove the drawing."""
        if not is_in_background(sys.stderr):
            return True
        self._screen.leave()
        return False

    async def keep_fresh(self) -> None:
        """Redraw repeatedly, with the sessions that the agents have started, in any project."""
        while True:
            began = time.monotonic()
            self._others = await to_thread.run_sync(self._sessions.all, self._is_ours, abandon_on_cancel=True)
            await room_on(sys.stderr)
            with lossy(sys.stderr):
                self._draw()
            await anyio.sleep(max(REFRESH_S, REST * (time.monotonic() - began)))

    def end(self) -> None:
        """Leave the important part of the tree, and its totals; for a single session the closing line."""
        is_drawn = self._is_ours_to_draw()
        self._screen.stop()
        with suppress(CsaError, OSError):  # otherwise the last state stays
            self._others = LiveSessions(self._find, describe).all(self._is_ours)
        now = time.time()
        time_s = now - self._subject.started_at
        self._own = replace(self._own, doing="", duration_s=time_s, _usage=self._used)
        if not is_drawn or not self._others:
            self._lines.end()
            return
        style, width = Style(sys.stderr), terminal_width(sys.stderr) or self._screen.size[0]
        lines, total = lay_out_end(self._tree(), width=width, now=now, place=self._place, time_s=time_s)
        for line in lines:
            print("".join(style(text, look) for text, look in line).rstrip(), file=sys.stderr)
        tell("csa", total)

    def _tree(self) -> Forest:
        """Return the session with what is below it."""
        nodes = walk(arrange([self._own, *self._others]))
        return [node for node in nodes if node.session_id == self._subject.session_id]

    def _is_ours(self, observer: Observer, session_id: str) -> bool:
        """Say whether a session may be one that an agent of this turn has started or continued."""
        if session_id <= self._subject.session_id:
            return False
        if session_id <= self._since and session_id not in self._resumed and observer.is_running(session_id):
            self._resumed.add(session_id)
        return session_id > self._since or session_id in self._resumed

    def _draw(self) -> None:
        if not self._is_ours_to_draw():
            return
        width, height = self._screen.size
        height = min(MAX_ROWS_SHOWN, height - 1)
        self._screen.draw(lay_out(self._tree(), width=width, height=height, now=time.time(), place=self._place))
