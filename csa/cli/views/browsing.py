"""The sessions on the whole screen, for `top` and `--watch`: one is selected, and keys show, attach to or kill it.

Free of I/O but for what `find` and the keys' acts do; `csa.cli.views.fullscreen` draws it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from csa.cli.output import Style, cut, one_line, tell
from csa.cli.views.fullscreen import BACK, Step, show
from csa.cli.views.live import Line, Places, choose, draw, heading, more_of, total
from csa.cli.views.naming import called, subject_of, with_names
from csa.cli.views.reading import KEYS, Reader, conversation, log
from csa.errors import CsaError
from csa.model.genealogy import Node, prune, walk
from csa.runner.client import Csa
from csa.runner.sessions.auditing import note_read
from csa.runner.sessions.genealogy import Forest, items
from csa.store.shown import SessionInfo

_FAR = 1 << 30
_SAID_S = 8.0  # how long a message stays
_HINTS = (
    "Enter show  a attach  l log  k kill  / filter  ? keys  q quit",
    "Enter show  k kill  ? keys  q quit",
    "? keys",
)
_MOVES = {"up": -1, "c-p": -1, "down": 1, "j": 1, "c-n": 1, "g": -_FAR, "G": _FAR, "home": -_FAR, "end": _FAR}


def browse(
    client: Callable[[], Csa], find: Callable[[], Forest], *, title: str, empty: str, place: Places = str
) -> int:
    """Show the sessions that `find` finds, again and again, until one quits; return the exit code.

    Acting on one needs the `client`.
    """
    browser = Browser(client, find, title=title, empty=empty, place=place)
    try:
        return show(browser)
    finally:
        browser.end_kills()


class Browser:
    """A forest of sessions. Until the selection is moved what does not fit is left out as in any live view."""

    def __init__(
        self, client: Callable[[], Csa], find: Callable[[], Forest], *, title: str, empty: str, place: Places = str
    ) -> None:
        self._client = client
        self._find = find
        self._title = title
        self._empty = empty
        self._place = place
        self._forest: Forest = []
        self._rows: list[Node[SessionInfo]] = []  # as drawn
        self._at = 0  # the selected row
        self._selected = ""
        self._is_moved = False
        self._first = 0
        self._page = 1
        self._filter = ""
        self._is_typing = False
        self._doomed: SessionInfo | None = None  # who is asked about
        self._said = ("", "", 0.0)
        self._kills: list[threading.Thread] = []
        self._acts: dict[str, Callable[[], Step | None]] = {
            "enter": lambda: self._read("session show", conversation),
            "l": lambda: self._read("session logs", log),
            "a": self._attach,
            "k": self._ask_to_kill,
            "/": self._begin_filter,
            "?": lambda: Step(to=Reader("Keys", KEYS)),
            "escape": self._step_back,
            "pageup": lambda: self._move(-self._page),
            "pagedown": lambda: self._move(self._page),
        }

    def look(self) -> None:
        """Find the sessions."""
        self._forest = self._find()

    def lines(self, width: int, height: int) -> Sequence[Line | str]:
        """Return the heading, the rows, their total, what the filter hides, and a line of words or keys."""
        every = self._forest
        forest = _matching(every, self._filter)
        shown = items(*forest)
        bottom = [*self._filter_line(items(*every), shown, width), self._last_line(width)]
        room = max(1, height - 2 - len(bottom))
        body = self._body(forest, width, room) or [[(cut(self._empty if not every else "No match", width), "dim")]]
        blank: list[Line] = [[] for _ in range(room - len(body))]
        return [heading(self._title, width), *body, total(shown, width), *blank, *bottom][-height:]

    def _body(self, forest: Forest, width: int, room: int) -> list[Line]:
        """Draw what there is room for, with the selected session marked."""
        drawn, rest = (forest, []) if self._is_moved else choose(forest, room)
        self._rows = list(walk(drawn))
        self._follow_selection()
        self._page = max(1, room - (len(self._rows) > room))
        last = max(0, len(self._rows) - self._page)
        top = 0 if self._at <= next(self._selectable(), 0) else self._at  # with the headings above the first
        self._first = min(last, max(min(self._first, top), self._at - self._page + 1))
        body = draw(drawn, width, time.time(), self._place, first=self._first, count=self._page)
        if self._selected and 0 <= self._at - self._first < len(body):
            body[self._at - self._first] = _marked(body[self._at - self._first])
        if rest:
            body.append(more_of(rest, width))
        elif len(self._rows) > room > 1:
            words = f"rows {self._first + 1} to {self._first + len(body)} of {len(self._rows)}"
            body.append([(cut(words, width), "dim")])
        return body

    def _follow_selection(self) -> None:
        """Keep the session selected that was, wherever it is now; when it is gone, what took its place."""
        keys = [node.session_id for node in self._rows]
        if self._selected in keys:
            self._at = keys.index(self._selected)
        else:
            near = sorted(self._selectable(), key=lambda at: abs(at - self._at))
            self._at = near[0] if near else 0
            self._selected = keys[self._at] if near else ""

    def _selectable(self) -> Iterator[int]:
        return (at for at, node in enumerate(self._rows) if node.item)

    def _filter_line(self, every: list[SessionInfo], shown: list[SessionInfo], width: int) -> list[Line]:
        if not (self._filter or self._is_typing):
            return []
        hidden = len(every) - len(shown)
        running = sum(info.is_running for info in every) - sum(info.is_running for info in shown)
        words = f"  {hidden} hidden" + (f", {running} of them running" if running else "")
        cursor = [(" ", "reverse")] if self._is_typing else []
        typed = cut(f"/{self._filter}", max(2, width - len(words) - len(cursor)))
        return [[(typed, "bold"), *cursor, (cut(words if hidden else "", width - len(typed) - 1), "yellow")]]

    def _last_line(self, width: int) -> Line:
        if self._doomed:
            turn = f"{self._doomed.tool}, turn {self._doomed.turn}"
            return [(cut(f"Kill {called(self._doomed, width)} ({one_line(turn)})? y/N", width), "yellow")]
        text, style, until = self._said
        if text and time.monotonic() < until:
            return [(cut(one_line(text), width), style)]
        if self._is_typing:
            return [(cut("Enter keeps the filter  Esc clears it", width), "dim")]
        return [(next((hint for hint in _HINTS if len(hint) <= width), ""), "dim")]

    def _say(self, text: str, style: str = "yellow", *, for_s: float = _SAID_S) -> None:
        self._said = (text, style, time.monotonic() + for_s)

    def _say_error(self, error: CsaError) -> None:
        self._say(with_names(error.message, sys.stdout), "red")

    def press(self, key: str, text: str) -> Step | None:
        """Obey a key."""
        if self._doomed:
            self._answer(key)
        elif key in {"up", "down"} or (key in _MOVES and not self._is_typing):
            self._move(_MOVES[key])
        elif self._is_typing:
            self._type(key, text)
        elif key == "q":
            return BACK
        elif key in self._acts:
            return self._acts[key]()
        return None

    def _move(self, by: int) -> None:
        """Select the session that many rows away, or the last one there is."""
        if not self._is_moved:
            self._is_moved, self._rows = True, list(walk(_matching(self._forest, self._filter)))
            self._follow_selection()
        there = list(self._selectable())
        if there:
            at = there.index(self._at) if self._at in there else 0
            self._at = there[min(max(0, at + by), len(there) - 1)]
            self._selected = self._rows[self._at].session_id

    def _type(self, key: str, text: str) -> None:
        if key in {"enter", "escape"}:
            self._is_typing = False
        if key == "escape":
            self._filter = ""
        elif key == "backspace":
            self._filter = self._filter[:-1]
        elif key == "c-u":
            self._filter = ""
        elif text:
            self._filter += one_line(text) if key == "paste" else text

    def _begin_filter(self) -> None:
        self._is_typing = True

    def _step_back(self) -> None:
        """Show all sessions again; when nothing is hidden, what runs in the first place."""
        if self._filter:
            self._filter = ""
        else:
            self._is_moved, self._first = False, 0

    def _current(self) -> SessionInfo | None:
        found = next((node.item for node in self._rows if node.session_id == self._selected), None)
        if found is None:
            self._say("No session is selected.")
        return found

    def _read(self, command: str, view: Callable[[SessionInfo, str], Reader]) -> Step | None:
        """Go on to the view, and note that the session is read, where that is asked for."""
        info = self._current()
        if info is None:
            return None
        try:
            loss = note_read(self._client().context.in_project(info.project), info.session_id, command)
        except CsaError as error:
            self._say_error(error)
            return None
        if loss:
            self._say(loss)
        return Step(to=view(info, _name(info)))

    def _attach(self) -> Step | None:
        info = self._current()
        return Step(outside=lambda: self._follow(info.session_id)) if info else None

    def _follow(self, session_id: str) -> int | None:
        """Attach to a session as the command does, and wait to be sent back."""
        from csa.cli.commands import dispatch  # noqa: PLC0415  # has imported us

        try:
            code = dispatch(["session", "attach", session_id, "--color", Style.when])
            if code in {129, 143}:  # a signal that was meant for us
                return code
            input("csa: Enter goes back ")
        except CsaError as error:
            self._say_error(error)
        except (EOFError, KeyboardInterrupt):
            print()
        return None

    def _ask_to_kill(self) -> None:
        from csa.runner.caller import refuse_own_lineage  # noqa: PLC0415  # only who kills needs it

        info = self._current()
        try:
            if info and not info.is_running:
                self._say(f"{_name(info)} is not running.")
            elif info:
                refuse_own_lineage(self._client().caller, info.session_id, verb="kill")
                self._doomed = info
        except CsaError as error:
            self._say_error(error)

    def _answer(self, key: str) -> None:
        doomed, self._doomed = self._doomed, None
        if doomed and key in {"y", "Y"}:
            self._say(f"ending {_name(doomed)} ...", for_s=_FAR)
            self._kills.append(threading.Thread(target=self._kill, args=(doomed,), daemon=True))
            self._kills[-1].start()
        else:
            self._say("Nothing was killed.", "dim")

    def end_kills(self) -> None:
        """Wait for the kills that were confirmed and have not ended; say on stderr how the last one ends."""
        left = [thread for thread in self._kills if thread.is_alive()]
        if left:
            tell("csa", self._said[0])
        for thread in left:
            thread.join()
        if left:
            tell("csa", self._said[0])

    def _kill(self, info: SessionInfo) -> None:
        from csa.runner.hosts.ending import kill_everywhere  # noqa: PLC0415  # only who kills needs it
        from csa.runner.session import Session  # noqa: PLC0415  # as above

        losses: list[str] = []
        try:
            session = Session(self._client().context.in_store(info.store), info.session_id)
            (ended,) = kill_everywhere([session], on_loss=losses.append)
        except Exception as error:  # noqa: BLE001  # in a thread nobody else would say so
            self._say(f"{_name(info)}: {error}", "red")
            return
        if ended.error:
            self._say_error(ended.error)
        else:
            status = "not running" if ended.outcome == "not_running" else ended.status
            self._say("; ".join(losses) or f"{_name(info)}: {status}")


def _name(info: SessionInfo) -> str:
    return called(info, sys.maxsize)


def _matching(forest: Forest, typed: str) -> Forest:
    """Return the sessions that have every word that was typed, below their headings."""
    words = typed.casefold().split()
    if not words:
        return forest
    found = {node.session_id for node in walk(forest) if node.item and _has(node.item, words)}
    kept = {node.session_id for node in walk(forest) if not node.item and found & {n.session_id for n in walk([node])}}
    return prune(forest, found | kept)


def _has(info: SessionInfo, words: list[str]) -> bool:
    known = (info.session_id, info.name or "", subject_of(info, 0), info.status, info.tool, info.project)
    return all(word in "\n".join(known).casefold() for word in words)


def _marked(line: Line) -> Line:
    return [("".join(text for text, _ in line), "reverse")]
