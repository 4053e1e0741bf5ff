"""Searching what was said and done in sessions: by reading their transcripts, the one written last first.

A hit is a message, or a tool call with its output, in which every word occurs, in any case. Most lines are ruled out by
their bytes; the others are parsed one by one, so that no more than a message is in memory.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from csa.errors import CsaError, SealedError, StateError
from csa.model.events import Event
from csa.model.state import SessionState, format_time, parse_time
from csa.paths import SEALED_FILE, SessionPaths
from csa.store.atomic import stamp_of
from csa.store.searchindex import index_name, index_root, open_sieve
from csa.store.sessions import Store
from csa.store.transcript import HEAD_BYTES, parse_line, read_lines
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    from csa.runner.atrest import Keys

_PLAIN = re.compile(r"[a-z0-9_ .,:;=+*/@()-]+")  # what JSON spells in one way
_CHUNK = b'"chunk":true'
_ALWAYS = (b'"run_started"', b'"tool_call"', _CHUNK)  # begin what later lines go on with
_LONGEST = 1 << 20  # characters of a message that came in pieces; of a longer one the end is looked through
_MOST_CALLS = 1000  # whose titles are kept
_MOST_HITS = 1000  # of a session, the last ones
_ROLES = {"user_message": "user", "agent_message": "assistant", "agent_thought": "thought"}
_BETWEEN = frozenset({"usage", "plan", "session_bound"})  # may come between the pieces of a message


class Query(Struct, kw_only=True):
    """What is looked for: all of `words`, in lower case; where tools are named, in their turns alone."""

    words: tuple[str, ...]
    tools: frozenset[str] = frozenset()
    since: datetime | None = None
    with_deleted: bool = False

    def hints(self) -> list[bytes]:
        """Return for each word what must be in the bytes of a line that has it, where anything must."""
        found = [max(_PLAIN.findall(word), key=len, default="") for word in self.words]
        return [hint.encode() for hint in found if hint]

    @property
    def needs_parsing(self) -> bool:
        """Whether bytes alone rule nothing out: a word has no hint."""
        return len(self.hints()) < len(self.words)

    def fits(self, text: str) -> bool:
        lowered = text.lower()
        return all(word in lowered for word in self.words)


class Hit(Struct, kw_only=True):
    """A message, or a tool call, that fits."""

    store: Store
    session_id: str
    state: SessionState | None
    turn: int
    tool: str
    role: str  # user, assistant, thought, or tool
    at: str
    text: str

    @property
    def name(self) -> str | None:
        return self.state.name if self.state else None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa search --json` prints."""
        at = parse_time(self.at)
        return {
            "session_id": self.session_id,
            "name": self.name,
            "project": self.store.project_pathname,
            "mirror": self.store.host,
            "turn": self.turn,
            "tool": self.tool or None,
            "role": self.role,
            "at": format_time(at) if at else self.at,
            "text": self.text,
        }


def search(
    stores: Iterable[Store],
    query: Query,
    *,
    keys: Keys | None = None,
    on_fault: Callable[[CsaError], None] = lambda _: None,
    on_unknown: Callable[[str], None] = lambda _: None,
) -> Iterator[Hit]:
    """Yield what fits, of the session written last first, and of each its last hit first.

    `keys` open what is encrypted.

    `on_fault` is told of each transcript that cannot be read, `on_unknown` of each session that the search index, where
    there is one, does not have as it is now.
    """
    stores = list(stores)
    sieve = open_sieve(index_root(stores[0]), query.words, on_unknown) if stores else None
    found = sorted(_transcripts(stores, query), key=lambda each: each[:2], reverse=True)
    for _, session_id, store, directory, stamp in found:
        path = f"{directory}/{session_id}/transcript.jsonl"
        sealed = None
        try:
            if os.path.exists(f"{directory}/{session_id}/{SEALED_FILE}"):  # of which no index is to have anything
                if sieve:
                    sieve.leaves(index_name(store, session_id))
                sealed = _opened(store, f"{directory}/{session_id}", keys)
                path = f"{sealed.pathname}/transcript.jsonl"
            elif sieve and stamp and not sieve.may_fit(index_name(store, session_id), stamp):
                continue
            if not _may_fit(path, query):
                continue
            hits = deque(Scan(query).hits(_events(path, query)), maxlen=_MOST_HITS)
        except (StateError, SealedError) as fault:
            on_fault(fault)
            continue
        state = store.record(session_id).state if hits else None
        for found in reversed(hits):
            yield Hit(store=store, session_id=session_id, state=state, **found)


def _transcripts(stores: Iterable[Store], query: Query) -> Iterator[tuple[float, str, Store, str, str | None]]:
    """Yield the transcripts that were written since the moment that counts, each with when that was, and its stamp."""
    since = query.since.timestamp() if query.since else 0.0
    for store in stores:
        places = [(store.sessions_dir, store.ids())]
        places += [(store.retired_dir, store.retired_ids())] if query.with_deleted else []
        for directory, ids in places:
            for session_id in ids:
                try:
                    known = os.stat(f"{directory}/{session_id}/transcript.jsonl")
                    written, stamp = known.st_mtime, stamp_of(known)
                except FileNotFoundError:  # nothing was said yet
                    continue
                except OSError:
                    written, stamp = float("inf"), None  # reading it says why
                if written >= since:
                    yield written, session_id, store, directory, stamp


def _opened(store: Store, pathname: str, keys: Keys | None) -> SessionPaths:
    from csa.runner.atrest import opened  # noqa: PLC0415  # few sessions are encrypted

    if keys is None:
        raise SealedError(f"Session {pathname.rpartition('/')[2]} is encrypted.")
    if store.host:
        raise SealedError(f"It is on {store.host}.", hint=f"ssh {store.host} csa search")
    return opened(SessionPaths(pathname), keys)


def _may_fit(path: str, query: Query) -> bool:
    """Say whether all words may be in a transcript: a look at its bytes, block by block."""
    missing = set(query.hints())
    kept = max(map(len, (*missing, _CHUNK)))
    before = b""
    for block in _blocks(path):
        lowered = before + block.lower()
        missing = {hint for hint in missing if hint not in lowered}
        if not missing or _CHUNK in lowered:  # a word may be in two pieces of a message
            return True
        before = lowered[-kept:]
    return not missing


def _blocks(path: str) -> Iterator[bytes]:
    from csa.store.atomic import open_regular  # noqa: PLC0415  # as `read_lines` has it

    try:
        with open(open_regular(path), "rb") as file:
            while block := file.read(1 << 20):
                yield block
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError.unreadable(path, error) from error


def _events(path: str, query: Query) -> Iterator[Event]:
    """Yield the events that have a word, begin what a later one goes on with, or end what came in pieces."""
    hints, needs_parsing = query.hints(), query.needs_parsing
    is_open = False
    for line in read_lines(path):
        is_needed = is_open or needs_parsing or _CHUNK in line or _has_any(line[:HEAD_BYTES], _ALWAYS)
        if not (is_needed or _has_any(line.lower(), hints)):
            continue
        if line.endswith(b"\n") and (event := parse_line(line)):
            is_open = bool(event.data.get("chunk")) or (is_open and event.type in _BETWEEN)
            yield event


def _has_any(content: bytes, marks: Iterable[bytes]) -> bool:
    return any(mark in content for mark in marks)


class Scan:
    """The hits of one transcript."""

    most_calls = _MOST_CALLS
    is_once = True  # a call is a hit once

    def __init__(self, query: Query) -> None:
        self._query = query
        self._tool = ""
        self._prompt = ""
        self._calls: dict[str, str] = {}  # the titles of those that have begun
        self._found = set[str]()  # the calls that were hits
        self._open: Event | None = None  # the first piece of a message
        self._pieces: list[str] = []
        self._size = 0

    def hits(self, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
        """Yield what a `Hit` says, in the order of the transcript."""
        for event in events:
            if event.type in _BETWEEN:
                continue
            is_next = self._open and (event.type, event.turn) == (self._open.type, self._open.turn)
            if not (is_next and event.data.get("chunk")):
                yield from self._close()
            if event.data.get("chunk"):
                self._add_piece(event)
            elif take := _TAKE.get(event.type):
                yield from take(self, event)
        yield from self._close()

    def _add_piece(self, event: Event) -> None:
        self._open = self._open or event
        self._pieces.append(text := _text(event.data.get("text")))
        self._size += len(text)
        if self._size > _LONGEST:
            self._pieces = ["".join(self._pieces)[-_LONGEST // 2 :]]
            self._size = len(self._pieces[0])

    def _close(self) -> Iterator[dict[str, Any]]:
        """Look through the message that has come in pieces."""
        event, text = self._open, "".join(self._pieces)
        self._open, self._pieces, self._size = None, [], 0
        if event:
            yield from self._judge(event, _ROLES.get(event.type, "assistant"), text)

    def begin(self, event: Event) -> Iterator[dict[str, Any]]:
        self._tool, self._prompt = _text(event.data.get("tool")), _text(event.data.get("prompt"))
        self._calls.clear()
        self._found.clear()
        yield from self._judge(event, "user", self._prompt)

    def say(self, event: Event) -> Iterator[dict[str, Any]]:
        text = _text(event.data.get("text"))
        if event.type != "user_message" or text != self._prompt:  # some tools repeat what they were given
            yield from self._judge(event, _ROLES[event.type], text)

    def call(self, event: Event) -> Iterator[dict[str, Any]]:
        """Look through a call as far as it is known: its end alone may have the output, and its beginning the title."""
        call, title = _text(event.data.get("id")), _text(event.data.get("title"))
        title = title or self._calls.get(call, "")
        if len(self._calls) < self.most_calls:
            self._calls[call] = title
        if self.is_once and call and call in self._found:
            return
        found = list(self._judge(event, "tool", f"{title}\n{_text(event.data.get('content'))}"))
        self._found.update([call] if found else [])
        yield from found

    def _judge(self, event: Event, role: str, text: str) -> Iterator[dict[str, Any]]:
        query = self._query
        is_asked = not query.tools or self._tool in query.tools
        if is_asked and query.fits(text) and (query.since is None or _is_since(event, query.since)):
            yield {"turn": event.turn, "tool": self._tool, "role": role, "at": event.ts, "text": text.strip("\n")}


_TAKE: Mapping[str, Callable[[Scan, Event], Iterator[dict[str, Any]]]] = {
    "run_started": Scan.begin,
    "user_message": Scan.say,
    "agent_message": Scan.say,
    "agent_thought": Scan.say,
    "tool_call": Scan.call,
    "tool_call_update": Scan.call,
}


def _is_since(event: Event, since: datetime) -> bool:
    moment = parse_time(event.ts)
    return moment is None or moment >= since


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
