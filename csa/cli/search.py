"""Find messages and tool calls in the transcripts of all sessions: those that contain every word, newest first.

Case is ignored; words in quotes are searched as a phrase. Each line has the session (its name, or its id), the turn,
its age, and the text around the match. Exits 1 if nothing was found, as grep does. What cannot be read is named on
stderr. With an index (csa index build) the answers are the same, sooner.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from itertools import islice

from csa.cli.output import Style, count_of, cut, display_width, one_line, print_json, tell, terminal_width, warn
from csa.cli.selecting import add_hosts, open_client, refuse_unknown_tools, selected_stores
from csa.cli.session_list import read_since, split_names
from csa.errors import CsaError, SealedError, UsageError
from csa.model.state import parse_time
from csa.runner.sessions.searching import Hit, Query, search
from csa.store.sessions import format_age

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_SHOWN_ON_TERMINAL = 50
_CONTEXT = 160  # characters, in a pipe
_ID = 10  # characters, on a terminal
_NAME_WIDTH = 12
_LEAD = 3  # a hit is within the first third of its line


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="WORDS", help="what to search for: all of them must occur")
    parser.add_argument("-t", "--tool", metavar="T,..", help="only in turns of these tools")
    parser.add_argument("--since", metavar="WHEN", help="only messages since: 12h, 2d, 3w ago, or a local date")
    parser.add_argument("--limit", type=int, metavar="N", help="show at most the N newest (on a terminal: 50)")
    parser.add_argument("--all-projects", action="store_true", help="search the sessions of all projects")
    add_hosts(parser)
    parser.add_argument("--deleted", action="store_true", help="also search deleted sessions, until they are purged")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    words = tuple(dict.fromkeys(word.lower() for word in arguments.words if word.strip()))
    if not words:
        raise UsageError("Nothing to search for.", hint="csa search WORDS")
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError("--limit takes a number, 1 or more.")
    tools = split_names(arguments.tool)
    query = Query(
        words=words,
        tools=tools,
        since=read_since(arguments.since, datetime.now(UTC)),
        with_deleted=arguments.deleted,
    )
    client = open_client()
    stores = selected_stores(client, arguments)
    faults: list[CsaError] = []
    limit = arguments.limit or (_SHOWN_ON_TERMINAL if sys.stdout.isatty() and not arguments.json else None)
    unknown: list[str] = []
    hits = search(stores, query, keys=client.context.keys, on_fault=faults.append, on_unknown=unknown.append)
    count = _print_hits(islice(hits, limit), words, as_json=arguments.json)
    _warn_of(faults)
    if count == limit and arguments.limit is None and next(hits, None):
        tell("csa", f"... and more (--limit {2 * count} shows as many again)")
    if unknown:  # and there is an index
        from csa.runner.sessions.indexing import keep_up  # noqa: PLC0415  # most searches have nothing to add

        sys.stdout.flush()
        keep_up(client.store.root, stores, unknown)
    if not count:
        refuse_unknown_tools(client, stores, tools)
    return 0 if count else 1


def _warn_of(faults: list[CsaError]) -> None:
    """Name what could not be read; encrypted sessions once."""
    sealed = [fault for fault in faults if isinstance(fault, SealedError)]
    warn(f"left out: {one_line(fault.message)}" for fault in faults if fault not in sealed)
    if sealed:
        tell("warning", f"left out: {count_of(len(sealed), 'encrypted session')}: {one_line(sealed[0].message)}")
        tell("hint", sealed[0].hint or "csa unseal S")


def _print_hits(hits: Iterable[Hit], words: tuple[str, ...], *, as_json: bool) -> int:
    """Print each hit as it comes; return how many there were."""
    if as_json:
        found = [hit.to_json() for hit in hits]
        print_json(found)
        return len(found)
    count, printer = 0, _Printer(words)
    for count, hit in enumerate(hits, 1):  # noqa: B007  # the last one counts
        print(printer.line(hit), flush=True)
    return count


class _Printer:
    """Renders hits for the terminal, or a pipe."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._style = Style(sys.stdout)
        self._width = terminal_width(sys.stdout)
        self._now = datetime.now(UTC)
        self._words = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))), re.IGNORECASE)

    def line(self, hit: Hit) -> str:
        at = parse_time(hit.at)
        name = one_line(hit.name or "")
        session = hit.session_id if self._width is None else name or hit.session_id[:_ID]
        age = format_age(self._now, at) if at else "-"
        head = f"{session:<{_NAME_WIDTH}} {hit.turn:>3} {age:>4}  "
        room = _CONTEXT if self._width is None else max(0, self._width - len(head))
        named = f"[{name}] " if name and self._width is None else ""
        text = self._around(one_line(hit.text), room)
        return f"{self._style(session, 'bold')}{head[len(session) :]}{named}{self._marked(text)}"

    def _around(self, text: str, room: int) -> str:
        """Return the part of a text that fits, around the first matching word."""
        found = self._words.search(text)
        if found is None or display_width(text) <= room:
            return cut(text, room)
        start = max(0, min(found.start() - room // _LEAD, len(text) - room))
        return cut(f"…{text[start + 1 :]}" if start else text, room)

    def _marked(self, text: str) -> str:
        return self._words.sub(lambda found: self._style(found[0], "bold", "yellow"), text)
