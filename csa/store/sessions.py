"""The store of one project, for reading: its sessions, their records, and which one a selector means."""

from __future__ import annotations

import os
import stat

from csa.errors import AmbiguousError, NotFoundError, RetiredError, StateError, UsageError
from csa.ids import ID_LENGTH, is_session_id, may_be_id, session_ids_in
from csa.paths import (
    MIRRORS,
    RETIRED,
    SESSION_DIRECTORIES,
    SESSIONS,
    SessionPaths,
    make_path,
    plain_store_dir,
    store_dir,
)
from csa.store.atomic import read_short
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from csa.model.state import SessionState
    from csa.store.shown import SessionInfo, Siblings

MAX_MATCHES_SHOWN = 20
_ESCAPE = b"\\"


class Record(Struct):
    """A session directory: its state, or the fault that makes it unreadable.

    A fault of the lock or the journal only shows when they are read: see `examine`.
    """

    store: Store
    session_id: str
    paths: SessionPaths
    state: SessionState | None
    fault: StateError | None = None

    @property
    def name(self) -> str | None:
        return self.state.name if self.state else None

    @property
    def status(self) -> str:
        """`running`, `idle`, `unknown`, `damaged`, or the status of the last turn."""
        return self.examine().status

    def examine(self, beside: Siblings | None = None) -> SessionInfo:
        """Return the session as shown: with a fault if lock or journal cannot be read."""
        from csa.store.shown import examine  # noqa: PLC0415  # resolving an id needs no status

        return examine(self, beside)

    @property
    def is_gone(self) -> bool:
        """Whether its directory no longer exists."""
        try:
            os.stat(self.paths.pathname)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass
        return False

    @property
    def is_retired(self) -> bool:
        """Whether it was deleted: its place decides, whatever its record says."""
        return self.paths.pathname.split("/")[-2] == RETIRED


class Store(Struct, frozen=False):
    """The sessions of `project` (absolute, resolved) in the state root `root`. Need not exist yet."""

    root_pathname: str
    project_pathname: str
    _pathname: str

    def __init__(self, root: Path | str, project: Path | str) -> None:
        self.root_pathname = str(root)
        self.project_pathname = str(project)
        self._pathname = _place_of_store(self.root_pathname, self.project_pathname)

    @property
    def root(self) -> Path:
        return make_path(self.root_pathname)

    @property
    def project(self) -> Path:
        return make_path(self.project_pathname)

    @property
    def host(self) -> str | None:
        """The host whose sessions these are, if they are in a mirror; None for those of this one."""
        above, _, name = self.root_pathname.rpartition("/")
        return name if above.endswith(f"/{MIRRORS}") else None

    @property
    def home(self) -> Path:
        """The state root of this host: for a mirror, that which it is in."""
        return make_path(self.root_pathname.rpartition("/")[0].rpartition("/")[0]) if self.host else self.root

    @property
    def label(self) -> str:
        """What its project is called in messages: `n1:/srv/app` for another host's."""
        return f"{self.host}:{self.project_pathname}" if self.host else self.project_pathname

    @property
    def pathname(self) -> str:
        """The store's own directory."""
        return self._pathname

    @property
    def path(self) -> Path:
        """The same."""
        return make_path(self.pathname)

    @property
    def sessions_dir(self) -> str:
        return f"{self.pathname}/{SESSIONS}"

    @property
    def retired_dir(self) -> str:
        """The trash: deleted sessions, until they are purged."""
        return f"{self.pathname}/{RETIRED}"

    def key(self, session_id: str) -> tuple[str, str]:
        """Return a key that differs from a session with the same id elsewhere, as after an import."""
        return self.label, session_id

    def paths(self, session_id: str) -> SessionPaths:
        """Return where a session's files are, whether it exists or not."""
        return SessionPaths(f"{self.sessions_dir}/{session_id}")

    def find(self, session_id: str) -> SessionPaths:
        """Return where a session's files can be read: in the trash for a deleted one."""
        paths = self.paths(session_id)
        if is_directory(paths.pathname):
            return paths
        retired = self.retired_paths(session_id)
        return retired if is_directory(retired.pathname) else paths

    def retired_paths(self, session_id: str) -> SessionPaths:
        """Return where a session's files are once it is deleted."""
        return SessionPaths(f"{self.retired_dir}/{session_id}")

    def ids(self, prefix: str = "") -> Sequence[str]:
        """Return the ids of all sessions, oldest first: the directories, not links, named by a ULID.

        Raises:
            StateError: the directory of sessions cannot be read.
        """
        return self._ids_in(self.sessions_dir, prefix)

    def retired_ids(self, prefix: str = "") -> Sequence[str]:
        """Return the ids of the sessions in the trash, oldest first."""
        return self._ids_in(self.retired_dir, prefix)

    def _ids_in(self, directory: str, prefix: str = "") -> Sequence[str]:
        if self.host:
            from csa.store.idindex import ids_in  # noqa: PLC0415  # most sessions are this host's

            if (found := ids_in(self.root_pathname, directory, prefix)) is not None:
                return found
        return _ids_in(directory, prefix)

    def has(self, session_id: str) -> bool:
        """Say whether the session exists; StateError if the directory of sessions cannot be read."""
        try:
            return _has(self.sessions_dir, session_id)
        except OSError as error:
            raise StateError.unreadable(self.sessions_dir, error) from error

    def load(self, session_id: str) -> SessionState:
        """Return a session's state; NotFoundError or StateError."""
        paths = self.paths(session_id)
        if not self.has(session_id):
            raise NotFoundError(f"No session {session_id} in {self.project}.", hint="csa ls")
        return _load_session(paths)

    def record(self, session_id: str) -> Record:
        """Return a session, deleted or not, with its state or its fault."""
        record = _read_session(self, self.paths(session_id))
        if record.fault is None or (found := self.find(session_id)) == record.paths:
            return record
        return _read_session(self, found)

    def record_in(self, directory: str, session_id: str, content: bytes | None) -> Record:
        """Return the same for the session in `directory`; `content` is its record's text, if already read."""
        if content is None:
            return self.record(session_id)
        return _read_session(self, SessionPaths(f"{directory}/{session_id}"), content)

    def records(self) -> Iterator[Record]:
        """Yield every session, newest first; one that is deleted meanwhile is skipped."""
        for session_id in reversed(self.ids()):
            record = self.record(session_id)
            if record.fault is None or not record.is_gone:
                yield record

    def resolve(self, selector: str, *, retired: bool = False) -> str:
        """Return the id that a full ULID, an exact name, or a unique prefix (in any case) means.

        A name begins with a letter or is a UUID, which has dashes; a ULID begins with a digit and has none. A deleted
        session, which can only be read, matches if `retired` is set and no other session matches.

        Raises:
            UsageError: the selector is empty.
            NotFoundError: nothing matches.
            RetiredError: the match is a deleted session.
            AmbiguousError: several sessions match.
        """
        selector = selector.strip()
        if not selector:
            raise UsageError("The session name is empty.", hint="csa ls")
        matches = self._matches(selector, self.sessions_dir)
        collected = [] if matches else self._matches(selector, self.retired_dir)
        if collected and not retired:
            raise RetiredError(
                f"Session {collected[0]} is deleted; it can only be read.",
                hint=f"csa restore {collected[0]}",
            )
        matches = matches or collected
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise AmbiguousError(selector, self.describe(matches), len(matches))
        if not may_be_id(selector):
            raise NotFoundError(f"No session is named '{selector}' in {self.project}.", hint="csa ls")
        raise NotFoundError(f"No session matches '{selector}' in {self.project}.", hint="csa ls")

    def find_name(self, name: str, *, newest: int = 0) -> str | None:
        """Return the id of the session with exactly that name, among all or the newest N."""
        return next(iter(self._named(name, self.sessions_dir, self.ids()[-newest:])), None)

    def names(self, *, newest: int) -> list[str]:
        """Return the names of the newest N sessions, newest first."""
        records = map(self.record, reversed(self.ids()[-newest:]))
        return [record.state.name for record in records if record.state and record.state.name]

    def match(self, selector: str) -> list[str]:
        """Return the sessions that match an id, a prefix or a name, without the deleted ones."""
        return self._matches(selector, self.sessions_dir)

    def match_retired(self, selector: str) -> list[str]:
        """Return the deleted sessions that match an id, a prefix or a name; of several with a name, the newest."""
        return self._matches(selector, self.retired_dir)

    def last_used(self, parent: str | None, *, is_open: bool = False) -> str:
        """Return the session used last among the children of `parent`, or the roots if that is None.

        With `is_open`, closed ones are left out.
        """
        if found := self.by_use(parent, is_open=is_open):
            return found[0].session_id
        if closed := self.by_use(parent):
            hint = f'csa run --session {closed[0].session_id} --reopen "..."'
            raise NotFoundError(f"Every session that could be continued in {self.project} is closed.", hint=hint)
        whose = "no session yet" if parent is None else f"no child session of {parent}"
        raise NotFoundError(f"There is {whose} in {self.project}.", hint='csa run "..."')

    def by_use(self, parent: str | None, *, is_open: bool = False) -> list[SessionState]:
        """Return the children of `parent`, or the roots if that is None, those used last first."""
        states = [r.state for r in self.records() if r.state and r.state.parent_session_id == parent]
        states = [state for state in states if not (is_open and state.closed_at)]
        return sorted(states, key=lambda state: (state.last_accessed, state.session_id), reverse=True)

    def _matches(self, selector: str, directory: str) -> list[str]:
        if not may_be_id(selector):
            return self._named(selector, directory, self._ids_in(directory))
        prefix = selector.upper()
        if len(prefix) == ID_LENGTH and directory == self.sessions_dir and self.has(prefix):
            return [prefix]
        return list(self._ids_in(directory, prefix))

    def _named(self, name: str, directory: str, ids: Sequence[str]) -> list[str]:
        """Return the newest session with that name, if there is one; deleted ones may share a name."""
        for session_id in reversed(ids):
            content = read_state_text(f"{directory}/{session_id}")
            if may_hold(content, name.encode("utf-8", "replace")):
                state = self.record_in(directory, session_id, content).state
                if state and state.name == name:
                    return [session_id]
        return []

    def describe(self, matches: list[str]) -> list[str]:
        """Return a line about each session that a prefix matches, newest first, up to the limit."""
        from datetime import UTC, datetime  # noqa: PLC0415  # most selectors mean one session

        now = datetime.now(UTC)
        lines = [_describe_match(self.record(session_id), now) for session_id in reversed(matches[-MAX_MATCHES_SHOWN:])]
        more = len(matches) - len(lines)
        return [*lines, f"... and {more} more"] if more else lines


def _place_of_store(root: str, project: str) -> str:
    """Return where the store of a project is, or that of an older csa, in a place it shares with another."""
    wanted = store_dir(root, project)
    plain = plain_store_dir(root, project)
    is_in_use = wanted != plain and any(os.path.isdir(f"{plain}/{name}") for name in SESSION_DIRECTORIES)
    return plain if is_in_use else wanted


Target = tuple[Store, str]  # a session, by its store and its id


def is_directory(pathname: str | Path) -> bool:
    """Say whether it is one, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(pathname).st_mode)
    except OSError:
        return False


def _ids_in(directory: str, prefix: str = "") -> list[str]:
    try:
        if prefix:
            found = _names_in(directory, prefix)
            if len(found) <= MAX_MATCHES_SHOWN:
                return sorted(name for name in found if _has(directory, name))
        with os.scandir(directory) as entries:  # which distinguishes directories from files without a stat for each
            found = [e.name for e in entries if e.name.startswith(prefix) and e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError.unreadable(directory, error) from error
    return sorted(session_ids_in(found))


def _names_in(directory: str, prefix: str) -> list[str]:
    """Return the names in a directory that begin so; of thousands only these are looked at one by one."""
    names = "/".join(["", *os.listdir(directory)])
    return [prefix + rest.partition("/")[0] for rest in names.split(f"/{prefix}")[1:]]


def _has(directory: str, session_id: str) -> bool:
    """Say whether there is a session with that id in a directory. OSError if that cannot be found out."""
    try:
        return is_session_id(session_id) and stat.S_ISDIR(os.lstat(f"{directory}/{session_id}").st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_session(store: Store, paths: SessionPaths, content: bytes | None = None) -> Record:
    try:
        return Record(store, paths.session_id, paths, _load_session(paths, content))
    except StateError as fault:
        return Record(store, paths.session_id, paths, None, fault)


def _load_session(paths: SessionPaths, content: bytes | None = None) -> SessionState:
    from csa.store.statefile import load_state, parse_state_bytes  # noqa: PLC0415  # resolving an id reads no state

    pathname = f"{paths.pathname}/state.toml"
    return load_state(pathname) if content is None else parse_state_bytes(pathname, content)


def read_state_text(session: str, *, directory: int | None = None) -> bytes | None:
    """Return the text of the record in a session's directory, named relative to the descriptor `directory`.

    None if it cannot be read: then reading it as a record says what is wrong.
    """
    try:
        return read_short(f"{session}/state.toml", directory=directory)
    except OSError:
        return None


def may_hold(content: bytes | None, word: bytes) -> bool:
    """Say whether a record's text may contain a word: False is certain, and costs a tenth of parsing TOML."""
    return content is None or word in content or _ESCAPE in content


def _describe_match(record: Record, now: datetime) -> str:
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
