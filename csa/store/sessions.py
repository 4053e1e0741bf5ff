"""The store of one project, for reading: which sessions there are, what they say, and which one a selector means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from csa.errors import AmbiguousError, NotFoundError, StateError, UsageError
from csa.ids import ID_LENGTH, is_session_id
from csa.paths import SessionPaths, store_dir

if TYPE_CHECKING:
    from csa.model.state import SessionState

MAX_MATCHES_SHOWN = 20
NEW_PREFIX = ".new-"


@dataclass(frozen=True, slots=True)
class Record:
    """A session directory: its state, or the fault that keeps it from being read."""

    session_id: str
    paths: SessionPaths
    state: SessionState | None
    fault: StateError | None = None

    @property
    def status(self) -> str:
        """`running`, `idle`, `unknown`, `damaged`, or the status of the last turn."""
        from csa.store.status import session_status  # noqa: PLC0415  # resolving an id needs no status

        return session_status(self.paths, self.state) if self.state else "damaged"


@dataclass(frozen=True, slots=True)
class Store:
    """The sessions of `project` (absolute, resolved) below `root`, the state root. Need not exist yet."""

    root: Path
    project: Path

    @property
    def path(self) -> Path:
        """The store's own directory."""
        return store_dir(self.root, self.project)

    @property
    def sessions_dir(self) -> Path:
        return self.path / "sessions"

    def paths(self, session_id: str) -> SessionPaths:
        """Return where a session's files are, whether it exists or not."""
        return SessionPaths(self.sessions_dir / session_id)

    def ids(self) -> list[str]:
        """Return the ids of all sessions, oldest first. What is not named by a ULID is no session."""
        try:
            return sorted(name for name in os.listdir(self.sessions_dir) if is_session_id(name))
        except FileNotFoundError:
            return []

    def has(self, session_id: str) -> bool:
        return is_session_id(session_id) and self.paths(session_id).root.is_dir()

    def load(self, session_id: str) -> SessionState:
        """Return a session's state; NotFoundError or StateError."""
        paths = self.paths(session_id)
        if not self.has(session_id):
            raise NotFoundError(f"No session {session_id} in {self.project}.", hint="csa session list")
        return _load(paths)

    def record(self, session_id: str) -> Record:
        """Return a session with its state or its fault."""
        paths = self.paths(session_id)
        try:
            return Record(session_id, paths, _load(paths))
        except StateError as fault:
            return Record(session_id, paths, None, fault)

    def records(self) -> Iterator[Record]:
        """Yield every session, newest first; one that is removed meanwhile is passed over."""
        for session_id in reversed(self.ids()):
            record = self.record(session_id)
            if record.fault is None or record.paths.root.exists():
                yield record

    def resolve(self, selector: str) -> str:
        """Return the id that a full ULID, an exact name, or a unique prefix (in any case) means.

        A name begins with a letter and a ULID with a digit, so that they cannot be mistaken for each other.

        Raises:
            UsageError: the selector is empty.
            NotFoundError: nothing matches.
            AmbiguousError: several sessions match.
        """
        selector = selector.strip()
        if not selector:
            raise UsageError("An empty session selector matches nothing.", hint="csa session list")
        if not selector[0].isdigit():
            return self._resolve_name(selector)
        prefix = selector.upper()
        if len(prefix) == ID_LENGTH and self.has(prefix):
            return prefix
        matches = [session_id for session_id in self.ids() if session_id.startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise AmbiguousError(selector, self._describe(matches), len(matches))
        raise NotFoundError(f"No session matches '{selector}' in {self.project}.", hint="csa session list")

    def find_name(self, name: str) -> str | None:
        """Return the id of the session with exactly that name."""
        return next((r.session_id for r in self.records() if r.state and r.state.name == name), None)

    def last_used(self, parent: str | None) -> str:
        """Return the session used last among the children of `parent`, or among the roots where that is None."""
        states = [r.state for r in self.records() if r.state and r.state.parent_session_id == parent]
        if not states:
            whose = "no session yet" if parent is None else f"no child session of {parent}"
            raise NotFoundError(f"There is {whose} in {self.project}.", hint='csa run "..."')
        return max(states, key=lambda state: (state.last_accessed, state.session_id)).session_id

    def _resolve_name(self, name: str) -> str:
        found = self.find_name(name)
        if found is None:
            raise NotFoundError(f"No session is named '{name}' in {self.project}.", hint="csa session list")
        return found

    def _describe(self, matches: list[str]) -> list[str]:
        now = datetime.now(UTC)
        lines = [_describe(self.record(session_id), now) for session_id in reversed(matches[-MAX_MATCHES_SHOWN:])]
        more = len(matches) - len(lines)
        return [*lines, f"... and {more} more"] if more else lines


def _load(paths: SessionPaths) -> SessionState:
    from csa.store.statefile import load_state  # noqa: PLC0415  # resolving an id reads no state

    return load_state(paths.state)


def _describe(record: Record, now: datetime) -> str:
    if record.state is None:
        return f"{record.session_id}  damaged"
    state = record.state
    tools = ",".join(state.tools) or "-"
    return f"{state.session_id}  {format_age(now, state.last_accessed):>4}  {tools}  {state.description}"


def format_age(now: datetime, then: datetime) -> str:
    """Render how long ago in one unit: `12s`, `5m`, `3h`, `8d`."""
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
