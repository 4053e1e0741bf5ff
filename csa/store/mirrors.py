"""Mirrors: what was seen of other hosts' sessions, for reading. Nothing is written here.

The mirror of a host is a state root of its own, `<state root>/.mirrors/<host>`: whatever reads a state root reads it.
Two things are different. Its locks say nothing: in each session's directory `home.json` has what its host has said of
who holds its own. And it may be old: `.mirror/heard` was touched when the host was heard of last, with everything that
came before. Only the host itself says that a turn was lost; without news, a session that was running is `away`.
"""

from __future__ import annotations

import json
import os
import re
import time
from functools import lru_cache

from csa.errors import MirroredError, NotFoundError, RefusedError, StateError
from csa.paths import MIRRORS, OWN, SessionPaths
from csa.store.atomic import read_short
from csa.store.liveness import HEARTBEAT_FRESH_S, Liveness, is_done
from csa.store.owner import Owner, parse_owner
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from csa.store.sessions import Store

HOST_FILE, HEARD_FILE, LOCK_FILE = f"{OWN}/host.json", f"{OWN}/heard", f"{OWN}/lock"
TOUCHED_FILE = f"{OWN}/touched"  # the ids of sessions that its intake has changed; a hint, cut off when it is long
TOLD_FILE = "home.json"  # of a session in a mirror
LOST = "transcript.jsonl.lost-"  # likewise, with a number: what was seen, and its host has no more
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


class Away(Struct):
    """A session that ran when its host was last heard of. `seq` is the last event that was seen, 0 without one."""

    host: str
    heard_s: float  # ago
    seq: int

    @property
    def in_words(self) -> str:
        """`running when last seen 4 min ago (event 212)`."""
        return f"running when last seen {_ago(self.heard_s)} (event {self.seq})"


class Mirror(Struct):
    """The mirror of a host, by the pathname of its state root."""

    pathname: str

    @property
    def host(self) -> str:
        return os.path.basename(self.pathname)

    def exists(self) -> bool:
        """Say whether anything was ever seen of its host; also True if that cannot be found out."""
        try:
            os.stat(f"{self.pathname}/{OWN}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # whoever reads it says why it cannot
            pass
        return True

    @property
    def touched_file(self) -> str:
        return f"{self.pathname}/{TOUCHED_FILE}"

    def heard_at(self) -> float | None:
        """Return when its host was heard of last, in Unix seconds; None if never."""
        try:
            return os.stat(f"{self.pathname}/{HEARD_FILE}").st_mtime
        except OSError:
            return None

    def heard_time(self) -> str | None:
        """Return the same as records have times."""
        from csa.model.clock import from_timestamp  # noqa: PLC0415  # only JSON needs it
        from csa.model.state import format_time  # noqa: PLC0415  # as above

        at = self.heard_at()
        return None if at is None else format_time(from_timestamp(at))

    def heard_s(self) -> float:
        """Return how long ago that was; infinite if never."""
        at = self.heard_at()
        return float("inf") if at is None else max(0.0, time.time() - at)

    @property
    def in_words(self) -> str:
        """How long ago its host was heard of: `4 min ago`."""
        return _ago(self.heard_s())

    def about(self) -> Mapping[str, Any]:
        """Return what its host has said of itself: see `greeting` of the outlet; empty if nothing can be read."""
        return _read_object(f"{self.pathname}/{HOST_FILE}")

    def stores(self) -> Iterator[Store]:
        """Yield the stores in it, in no order; those with only deleted sessions too."""
        from csa.store.stores import find_stores  # noqa: PLC0415  # few look into mirrors

        return find_stores(self.pathname, with_retired=True)


def is_host_name(name: str) -> bool:
    """Say whether a host may be called so: it is a directory's name, and the part before the colon in `n1:auth`."""
    return _NAME.fullmatch(name) is not None


def split_label(label: str) -> tuple[str | None, str]:
    """Return the host and the project of a `Store.label`; no host for this one's."""
    host, _, project = ("", "", label) if label.startswith("/") else label.partition(":")
    return host or None, project


def mirror_for(root: str, host: str) -> Mirror:
    """Return the mirror of a host, whether it exists or not."""
    return Mirror(f"{root}/{MIRRORS}/{host}")


def find_mirrors(root: str, on_fault: Callable[[StateError], None] | None = None) -> list[Mirror]:
    """Return the mirrors of a state root, by the hosts' names.

    StateError if they cannot be listed, or, with `on_fault`, a call of that: there may be some.
    """
    try:
        names = sorted(os.listdir(f"{root}/{MIRRORS}"))
    except (FileNotFoundError, NotADirectoryError):  # as for nearly everybody
        return []
    except OSError as error:
        fault = StateError.unreadable(f"{root}/{MIRRORS}", error)
        if on_fault is None:
            raise fault from error
        on_fault(fault)
        return []
    found = (mirror_for(root, name) for name in names if is_host_name(name))
    return [each for each in found if each.exists()]


def find_mirror(root: str, host: str) -> Mirror:
    """Return the mirror of a host; NotFoundError if there is none."""
    mirrors = {mirror.host: mirror for mirror in find_mirrors(root)}
    if host not in mirrors:
        known = f"there are mirrors of {', '.join(mirrors)}" if mirrors else f"csa sync {host}"
        raise NotFoundError(f"There is no mirror of a host '{host}'.", hint=known)
    return mirrors[host]


def stores_everywhere(root: Path) -> Iterator[Store]:
    """Yield the stores of a state root, and those of its mirrors, in no order; those with only deleted sessions too."""
    from csa.store.stores import find_stores  # noqa: PLC0415  # few look into mirrors

    yield from find_stores(root, with_retired=True)
    for mirror in find_mirrors(str(root)):
        yield from mirror.stores()


def mirror_with(pathname: str) -> Mirror | None:
    """Return the mirror in which a file or directory is; None if it is in none, as nearly always."""
    mark, at = f"/{MIRRORS}/", -1
    while (at := pathname.find(mark, at + 1)) >= 0:  # a project may be called so
        name = pathname[at + len(mark) :].partition("/")[0]
        if os.path.isdir(f"{pathname[:at]}{mark}{name}/{OWN}"):
            return Mirror(f"{pathname[:at]}{mark}{name}")
    return None


def refuse_mirrored(pathname: str, session_id: str) -> None:
    """Raise MirroredError for a session in a mirror: whoever acts on one does so on its host."""
    if f"/{MIRRORS}/" in pathname and (mirror := mirror_with(pathname)):
        raise MirroredError(mirror.host, session_id)


def refuse_unseen(host: str | None, session_id: str, what: str) -> None:
    """Raise RefusedError for what mirrors do not have, unless the session is this host's."""
    if host:
        way = f"ssh {host} csa ... -s {session_id}"
        raise RefusedError(f"{what} of session {session_id} stay on {host}.", hint=way)


def probe_mirrored(paths: SessionPaths, mirror: Mirror) -> Liveness:
    """Say whether a session runs on its host, as far as that was heard. StateError: its transcript cannot be read."""
    told = _read_object(f"{paths.pathname}/{TOLD_FILE}")
    state, owner = told.get("state"), _owner_of(told)
    if state == "not_alive":
        return Liveness("not_alive")
    heard_s = mirror.heard_s()
    if heard_s < HEARTBEAT_FRESH_S and state == "alive":  # first: a long transcript is not read at every look
        return Liveness("alive", owner)
    if _is_over(paths, owner):
        return Liveness("not_alive")
    if heard_s < HEARTBEAT_FRESH_S and state == "unknown":
        return Liveness("unknown", owner)
    return Liveness("unknown", owner, away=Away(mirror.host, heard_s, _last_seq(paths)))


def _is_over(paths: SessionPaths, owner: Owner | None) -> bool:
    """Say whether a turn of which its host has not said yet that it has ended is over according to the transcript."""
    if owner is not None:
        return is_done(paths, owner)
    from csa.store.transcript import last_turn_event  # noqa: PLC0415  # most that run have an owner

    last = last_turn_event(f"{paths.pathname}/transcript.jsonl")
    return last is None or last.type == "run_finished"


def _last_seq(paths: SessionPaths) -> int:
    from csa.store.transcript import read_events_backwards  # noqa: PLC0415  # as above

    last = next(read_events_backwards(f"{paths.pathname}/transcript.jsonl"), None)
    return last.seq if last else 0


def _owner_of(told: Mapping[str, Any]) -> Owner | None:
    owner = told.get("owner")
    return parse_owner(json.dumps(owner).encode()) if isinstance(owner, dict) else None


def _read_object(pathname: str) -> Mapping[str, Any]:
    try:
        return _parse_object(read_short(pathname))
    except (OSError, ValueError, RecursionError):
        return {}


@lru_cache(16)  # the same is said of nearly all sessions
def _parse_object(content: bytes) -> Mapping[str, Any]:
    found = json.loads(content)
    return found if isinstance(found, dict) else {}


def _ago(seconds: float) -> str:
    if seconds == float("inf"):
        return "at an unknown time"
    for unit, length in (("d", _DAY_S), ("h", _HOUR_S), ("min", _MINUTE_S)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
