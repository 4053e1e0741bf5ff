"""Keeping the search index up to date with the transcripts there are. `searching.py` uses it; nothing else does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import StateError
from csa.model.events import Event
from csa.paths import SEALED_FILE
from csa.runner.sessions.searching import Query, Scan
from csa.store.atomic import stamp_of
from csa.store.searchindex import SearchIndexError, Writer, index_name, writing
from csa.store.sessions import Store
from csa.store.transcript import read_events
from csa.structs import Struct

_LARGEST = 64 << 20  # bytes of a transcript; a larger one is always read
_SAVED_EACH_S = 2.0  # so that little is lost when it is interrupted
_BRIEFLY_S, _AT_NIGHT_S = 0.2, 5.0


class Change(Struct, frozen=False):
    """What was changed in the index. `left` were not added, for lack of time or because they cannot be read."""

    added: int = 0
    removed: int = 0
    left: int = 0


def update_index(root: Path, stores: Iterable[Store], *, anew: bool = False) -> Change:
    """Bring the index of a state root up to date with all its `stores`, or make it; raises as `writing`."""
    change = Change()
    with writing(root, anew=anew, creates=True) as writer:
        there = set[str]()
        saved = time.monotonic()
        for name, path in _transcripts(stores):
            there.add(name)
            _index(writer, name, path, change)
            if time.monotonic() - saved > _SAVED_EACH_S:
                writer.save()
                saved = time.monotonic()
        gone = writer.stamps.keys() - there
        change.removed = len(gone)
        writer.remove(gone)
    return change


def keep_up(root: Path, stores: Iterable[Store], names: Iterable[str]) -> None:
    """Add some sessions to the index, if there is one that nobody else writes, as far as that is done in an instant."""
    wanted = set(names)
    if not wanted:
        return
    deadline = time.monotonic() + _BRIEFLY_S
    with suppress(OSError, SearchIndexError), writing(root) as writer:
        found = {name: path for name, path in _transcripts(stores) if name in wanted}
        writer.remove(wanted - found.keys())
        for name, path in found.items():
            _index(writer, name, path, Change())
            if time.monotonic() > deadline:
                break


def tidy_up(root: Path, stores: Iterable[Store]) -> None:
    """Do for some projects what `update_index` does, in seconds; nothing if there is no index, or it is in use.

    What was removed leaves the file for good, as far as there is time.
    """
    deadline = time.monotonic() + _AT_NIGHT_S
    with suppress(OSError, SearchIndexError), writing(root) as writer:
        for store in stores:
            there = set[str]()
            for name, path in _transcripts([store]):
                there.add(name)
                if time.monotonic() < deadline:
                    _index(writer, name, path, Change())
            below = index_name(store, "")
            writer.remove({n for n in writer.stamps if n.startswith(below) and "/" not in n[len(below) :]} - there)
        writer.merge(deadline)


def count_stale(stamps: Mapping[str, str], stores: Iterable[Store]) -> int:
    """Return how many sessions have changed since an index has got these stamps, or are not in it."""
    count = 0
    for name, path in _transcripts(stores):
        with suppress(OSError):
            count += stamps.get(name) != stamp_of(os.stat(path))
    return count


def _transcripts(stores: Iterable[Store]) -> Iterator[tuple[str, str]]:
    """Yield the names in the index, and the transcripts, of all sessions, deleted or not, that are not encrypted."""
    for store in stores:
        for directory, ids in ((store.sessions_dir, store.ids()), (store.retired_dir, store.retired_ids())):
            for session_id in reversed(ids):
                if not _is_encrypted(path := f"{directory}/{session_id}/transcript.jsonl"):
                    yield index_name(store, session_id), path


def _is_encrypted(transcript: str) -> bool:
    """Say whether a session is encrypted, or just about to be: who does that takes it out of the index then."""
    return os.path.exists(f"{os.path.dirname(transcript)}/{SEALED_FILE}")


def _index(writer: Writer, name: str, path: str, change: Change) -> None:
    try:
        known = os.stat(path)
        stamp = stamp_of(known)
        if writer.stamps.get(name) == stamp:
            return
        text = _text_of(path) if known.st_size <= _LARGEST else None
        is_same = stamp_of(os.stat(path)) == stamp and not _is_encrypted(path)  # else it has changed meanwhile
    except FileNotFoundError:  # nothing was said yet, or it is gone
        return
    except (OSError, StateError):
        text, is_same = None, False
    if text is None or not is_same:
        change.left += 1
        writer.remove([name])
        return
    writer.put(name, stamp, text)
    change.added += 1


def _text_of(path: str) -> str:
    """Return all that a search may find in a transcript, in lower case as it compares it: message by message."""
    return "\n".join(found["text"] for found in _Everything().hits(read_events(Path(path))))


class _Everything(Scan):
    """A search that finds everything, whatever was found of a call before."""

    most_calls = 1 << 62
    is_once = False

    def __init__(self) -> None:
        super().__init__(Query(words=()))

    def _judge(self, _event: Event, _role: str, text: str) -> Iterator[dict[str, Any]]:
        yield {"text": text.lower()}
