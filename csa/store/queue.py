"""Prompts that wait for a session, in `<session>/queue/`: one file each, taken in order under the session's lock.

`ULID.json` waits. Whoever begins its turn renames it to `ULID.taken`, and removes it when the turn's `run_started`,
which has the id, is durable. So it runs at most once: one whose id is in the transcript is only removed. `order` has
the ids that were moved; all others follow in the order of their ids, which grow. `held` says why nothing is taken.
"""

from __future__ import annotations

import json
import os
import time

from csa.errors import NotFoundError, RefusedError, UsageError
from csa.ids import ENTROPY_BYTES, ID_LENGTH, is_session_id, milliseconds_of, new_session_id
from csa.ownership import make_directory
from csa.store.atomic import read_regular, sync_directory, write_atomically
from csa.store.locks import Lock, acquire_lock, is_locked
from csa.store.transcript import last_turn_event, started_of_entry
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    from csa.paths import SessionPaths

MAX_QUEUED = 100
WAITS, TAKEN = ".json", ".taken"
ORDER = "order"
_GOES_ON_AFTER = {"succeeded", "lost"}  # after a lost turn nobody is there to take the next, until somebody looks


class Entry(Struct, kw_only=True):
    """A prompt that waits. `order` is one for a detached supervisor, without an environment.

    An entry that cannot be read has a `fault`, and nothing else.
    """

    entry_id: str
    order: dict[str, Any]
    at: str = ""  # RFC 3339
    by: str | None = None  # the session whose agent has queued it
    fault: str | None = None

    @property
    def prompt(self) -> str:
        """What is to be sent, as it was typed."""
        return str(self.order["request"]["prompt"]) if self.order else ""

    @property
    def shown(self) -> str:
        """The prompt without the secrets that come with it, whose values only who queued it knew."""
        return str(self.order.get("shown", self.prompt))


class GoneError(NotFoundError):
    """The prompt does not wait any more: it was removed, or its turn has begun."""

    def __init__(self, paths: SessionPaths, entry_id: str) -> None:
        super().__init__(f"Prompt {entry_id} does not wait any more.", hint=f"csa status {paths.session_id}")


class HeldError(RefusedError):
    """The queue is held."""

    def __init__(self, paths: SessionPaths, why: str) -> None:
        super().__init__(f"The queue is held: {why}.", hint=f"csa queue {paths.session_id} --resume")


def enqueue(paths: SessionPaths, order: dict[str, Any], *, at: str, by: str | None) -> tuple[Entry, int]:
    """Add an order at the end, durably; return the entry and its position, from 1.

    Raises:
        RefusedError: the queue is full.
        OSError: it cannot be written.
        BusyError: another process keeps the queue's lock.
    """
    with _lock(paths):
        known = _ids(paths)
        if len(known) >= MAX_QUEUED:
            raise RefusedError(
                f"The queue of session {paths.session_id} is full: {MAX_QUEUED} prompts wait.",
                hint=f"csa queue {paths.session_id} lists them; --remove or --clear make room",
            )
        if not known:
            lift_hold(paths)  # of what does not wait any more
        now_ms = max([time.time_ns() // 1_000_000, *(milliseconds_of(known_id) + 1 for known_id in known)])
        entry_id = new_session_id(now_ms, os.urandom(ENTROPY_BYTES))
        record = {"v": 1, "at": at, "by": by, "order": order}
        write_atomically(paths.queue / f"{entry_id}{WAITS}", json.dumps(record).encode())
    return Entry(entry_id=entry_id, order=order, at=at, by=by), len(known) + 1


def count_queued(paths: SessionPaths) -> int:
    """Return how many prompts wait."""
    return len(_names(paths))


def entries(paths: SessionPaths) -> list[Entry]:
    """Return the prompts that wait, the next first; those that cannot be read have a fault."""
    return [entry for entry_id in _ids(paths) if (entry := _read(paths, entry_id)) is not None]


def remove(paths: SessionPaths, entry_id: str) -> None:
    """Take a prompt out of the queue; GoneError if it does not wait there any more."""
    with _lock(paths):
        is_taken = not (paths.queue / f"{entry_id}{WAITS}").exists()
        if is_taken and is_locked(paths.session_lock):  # otherwise whoever has taken it has died
            raise GoneError(paths, entry_id)
        try:
            (paths.queue / f"{entry_id}{TAKEN if is_taken else WAITS}").unlink()
        except FileNotFoundError:
            raise GoneError(paths, entry_id) from None
        sync_directory(paths.queue)


def move(paths: SessionPaths, entry_id: str, position: int) -> None:
    """Put a prompt at a position, from 1; GoneError if it does not wait there any more."""
    with _lock(paths):
        known = _ids(paths)
        if entry_id not in known:
            raise GoneError(paths, entry_id)
        if not 1 <= position <= len(known):
            raise UsageError(f"There is no position {position} among {len(known)}.")
        known.remove(entry_id)
        known.insert(position - 1, entry_id)
        write_atomically(paths.queue / ORDER, json.dumps(known).encode())


def next_entry(paths: SessionPaths) -> Entry | None:
    """Return the next prompt that can be read."""
    read = (_read(paths, entry_id) for entry_id in _ids(paths))
    return next((entry for entry in read if entry and entry.fault is None), None)


def claim(paths: SessionPaths, entry_id: str) -> None:
    """Take a prompt for the turn that begins now, under the session's lock.

    Raises:
        GoneError: it was removed, or has begun before.
        HeldError: the queue was held meanwhile.
    """
    if why := _read_hold(paths):
        raise HeldError(paths, why)
    waiting, taken = (paths.queue / f"{entry_id}{suffix}" for suffix in (WAITS, TAKEN))
    with _lock(paths):
        try:
            os.rename(waiting, taken)
        except FileNotFoundError:
            if not taken.exists():
                raise GoneError(paths, entry_id) from None
    if started_of_entry(paths.transcript, entry_id):
        drop(paths, entry_id)
        raise GoneError(paths, entry_id)


def unclaim(paths: SessionPaths, entry_id: str) -> None:
    """Give a prompt back whose turn could not begin."""
    directory = paths.queue
    os.rename(directory / f"{entry_id}{TAKEN}", directory / f"{entry_id}{WAITS}")


def drop(paths: SessionPaths, entry_id: str) -> None:
    """Remove a prompt whose turn has durably begun; OSError if that fails, which `claim` survives."""
    (paths.queue / f"{entry_id}{TAKEN}").unlink(missing_ok=True)
    sync_directory(paths.queue)


def hold(paths: SessionPaths, why: str) -> None:
    """Have nothing more taken until a turn begins in another way; nothing happens if nothing waits."""
    if count_queued(paths):
        write_atomically(paths.queue / "held", why.encode())


def lift_hold(paths: SessionPaths) -> None:
    """Forget why nothing was taken; OSError if that fails."""
    (paths.queue / "held").unlink(missing_ok=True)


def why_held(paths: SessionPaths) -> str | None:
    """Say why nothing is taken from the queue of a session that is not running; None if the next prompt may begin.

    StateError if the transcript cannot be read.
    """
    if why := _read_hold(paths):
        return why
    last = last_turn_event(paths.transcript)
    status = str(last.data.get("status", "failed")) if last and last.type == "run_finished" else "lost"
    return None if status in _GOES_ON_AFTER else f"turn {last.turn if last else 0} {_WORDS.get(status, status)}"


def _read_hold(paths: SessionPaths) -> str:
    try:
        return read_regular(paths.queue / "held").decode(errors="replace").strip() or "held"
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"why cannot be read: {error.strerror or error}"


_WORDS = {"cancelled": "was cancelled", "timed_out": "timed out", "killed": "was killed"}


def _session(value: Any) -> str | None:
    """Return who queued a prompt; the file may say anything."""
    return value if isinstance(value, str) and is_session_id(value) else None


def _lock(paths: SessionPaths) -> Lock:
    make_directory(paths.queue)
    return acquire_lock(paths.queue / "lock", wait=True)


def _names(paths: SessionPaths) -> list[str]:
    try:
        names = os.listdir(f"{paths.pathname}/queue")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:  # another user's; what waits there is not for us
        return []
    return [name for name in names if name[ID_LENGTH:] in {WAITS, TAKEN} and is_session_id(name[:ID_LENGTH])]


def _ids(paths: SessionPaths) -> list[str]:
    """Return the ids in order; one that was taken and has not begun is the first."""
    found = {name[:ID_LENGTH]: name[ID_LENGTH:] for name in _names(paths)}
    places = _places(paths) or {}
    return sorted(found, key=lambda entry_id: (found[entry_id] == WAITS, places.get(entry_id, len(places)), entry_id))


def _places(paths: SessionPaths) -> dict[str, int] | None:
    """Return the places of the prompts that were moved; None if their file is damaged."""
    try:
        moved = json.loads(read_regular(paths.queue / ORDER))
        return {entry_id: at for at, entry_id in enumerate(moved)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def has_order(paths: SessionPaths) -> bool:
    """Say whether the order of the prompts can be read; without one they follow as they came."""
    return _places(paths) is not None


def _read(paths: SessionPaths, entry_id: str) -> Entry | None:
    """Read one; None if it is gone."""
    for suffix in (WAITS, TAKEN):
        try:
            record = json.loads(read_regular(paths.queue / f"{entry_id}{suffix}"))
            order = dict(record["order"])
            str(order["request"]["prompt"])
            return Entry(entry_id=entry_id, order=order, at=str(record["at"]), by=_session(record.get("by")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            return Entry(entry_id=entry_id, order={}, fault=str(error) or type(error).__name__)
    return None
