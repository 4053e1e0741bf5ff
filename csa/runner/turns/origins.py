"""The sessions that another began with: one that was forked, or those that were merged, and what they began with.

The session's transcript says which they are, and how far they were at that moment. They are only read, and only
where a tool that has no conversation in the session gets a summary: turns that they have had since do not count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from csa.errors import CsaError
from csa.ids import is_session_id
from csa.model.events import Event
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.runner.session import find_session
from csa.runner.turns.handoff import History, Origin
from csa.store.atomic import open_regular
from csa.store.transcript import read_events

_Source = tuple[str, int, int]  # a session's id, its turns then, and the first that was not pruned
_OPENING_EVENTS = 50  # which include the fork or the merge
_MOST_ORIGINS = 1000  # of one session, theirs included


def find_histories(context: Context, state: SessionState, paths: SessionPaths) -> list[History]:
    """Return the histories that a session began with, as far as they can still be read; each session is in one."""
    if state.fork_of is None and not state.merged_from:
        return []
    known: dict[str, int] = {paths.session_id: state.turns}
    return [history for source in _sources(paths) if (history := _follow(context, source, known))]


def history_of(context: Context, state: SessionState, origin: Origin) -> History:
    """Return the history of a session that a new one is to begin with: its own turns, and what it began with."""
    older = [] if origin.since else find_histories(context, state, origin.paths)
    return [origin, *(each for history in older for each in history)]


def begins_merged(state: SessionState) -> bool:
    """Say whether a merged session still has no conversation: then its tool is told, whatever is configured."""
    return bool(state.merged_from) and not any(known.provider_session_id for known in state.tools.values())


def missing_sources(context: Context, paths: SessionPaths) -> list[str]:
    """Return the ids of the sessions that one began with and that cannot be read any more."""
    return [source[0] for source in _sources(paths) if _find(context, source) is None]


def _follow(context: Context, source: _Source, known: dict[str, int]) -> list[Origin]:
    """Return a session and those that it began with, but of what is `known` only the turns that were not."""
    found: list[Origin] = []
    waiting = [source]
    while waiting and len(known) < _MOST_ORIGINS:
        origin = _find(context, waiting.pop())
        if origin is None:
            continue
        name, turns = origin.paths.session_id, known.get(origin.paths.session_id)
        known[name] = max(origin.turns, turns or 0)
        since = origin.since if turns is None else max(origin.since, turns + 1)
        found.append(Origin(origin.paths, origin.turns, since))
        if not origin.since and turns is None:  # else its own beginning was pruned, or is known
            waiting += _sources(origin.paths)
    return found


def _find(context: Context, source: _Source) -> Origin | None:
    session_id, turns, since = source
    if not is_session_id(session_id):  # a record from elsewhere must not say @last
        return None
    try:
        paths = find_session(context, session_id, retired=True).content
        os.close(open_regular(paths.transcript))
    except (CsaError, OSError):
        return None
    return Origin(paths, turns, since)


def _sources(paths: SessionPaths) -> list[_Source]:
    """Return the sessions that one began with: their ids, their turns then, and the first that was not pruned."""
    for event in islice(read_events(paths.transcript), _OPENING_EVENTS):
        if event.type == "fork":
            return _valid([event.data])
        if found := _merged(event):
            return found
    return []


def merged_sources(event: Event) -> list[str]:
    """Return the ids of the sessions that an event says were merged; empty for any other event."""
    return [source[0] for source in _merged(event)]


def _merged(event: Event) -> list[_Source]:
    sources = event.data.get("sources") if event.type == "session_updated" else None
    return _valid(sources if isinstance(sources, list) and event.data.get("what") == "merged" else [])


def _valid(sources: list[Any]) -> list[_Source]:
    """Return what is valid of recorded sources; another program, or another version, may have written them."""
    found = []
    for source in sources:
        if isinstance(source, Mapping) and type(source.get("turns")) is int:
            since = source.get("since")
            found.append((str(source.get("from")), source["turns"], since if type(since) is int else 0))
    return found
