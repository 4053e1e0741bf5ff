"""The live view of `csa run`: the running session and the sessions its agents have started, redrawn in place.

Each has its tool, its activity, its time, its tokens and its cost.
"""

from __future__ import annotations

import sys
import time

import anyio
from anyio import to_thread

from csa.cli.output import KINDS, Style, is_in_background, lossy, tell, terminal_width
from csa.cli.views.live import REFRESH_S, REST
from csa.cli.views.progress import Outcomes, PlainLines, Silence, Subject, room_on
from csa.cli.views.screen import Screen
from csa.cli.views.turntree import TurnTree
from csa.model.events import Event
from csa.runner.client import Csa

MAX_ROWS_SHOWN = 30


class LiveTree(Silence):
    """The session and those its agents have started, redrawn in place; at the end their outcomes stay.

    As a shell's background job it prints lines instead of drawing.
    """

    speaks = True

    def __init__(self, client: Csa) -> None:
        self._client = client
        self._screen = Screen(sys.stderr)
        self._outcomes = Outcomes()
        self._lines = PlainLines(self._outcomes)
        self._tree: TurnTree

    def begin(self, subject: Subject) -> None:
        """Announce the session, and begin to draw."""
        self._lines.begin(subject)
        self._tree = TurnTree(self._client, subject)
        self._screen.start()
        self._draw()

    def show(self, event: Event) -> None:
        """Note an event, and print it if nothing is drawn."""
        if not self._is_ours_to_draw():
            self._lines.show(event)
        else:
            for kind, words in self._outcomes.take(event):
                self._screen.print([(f"{kind}:", KINDS[kind]), (f" {words}", "")])
        self._tree.note(event)

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
            await to_thread.run_sync(self._tree.look, abandon_on_cancel=True)
            await room_on(sys.stderr)
            with lossy(sys.stderr):
                self._draw()
            await anyio.sleep(max(REFRESH_S, REST * (time.monotonic() - began)))

    def end(self) -> None:
        """Leave the important part of the tree, and its totals; for a single session the closing line."""
        is_drawn = self._is_ours_to_draw()
        self._screen.stop()
        self._tree.finish()
        if not is_drawn or not self._tree.others:
            self._lines.end()
            return
        style, width = Style(sys.stderr), terminal_width(sys.stderr) or self._screen.size[0]
        lines, total = self._tree.last_lines(width)
        for line in lines:
            print("".join(style(text, look) for text, look in line).rstrip(), file=sys.stderr)
        tell("csa", total)

    def _draw(self) -> None:
        if not self._is_ours_to_draw():
            return
        width, height = self._screen.size
        self._screen.draw(self._tree.lines(width, min(MAX_ROWS_SHOWN, height - 1)))
