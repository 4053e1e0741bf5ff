"""What a selector means: a session, in whichever project it is. Every command finds its sessions here, once.

The project csa is called in comes first. A full id, or a prefix of at least `LONG_PREFIX` characters, that matches
nothing there is looked up in all projects of the state root, by directory names only, and in the mirrors of other
hosts. Names, shorter prefixes, `@last` and `@current` are looked up in the project; `@self`, `@parent` and `@root` come
from the caller's records. `n1:auth` is a session in the mirror of the host n1, which can only be read.
"""

from __future__ import annotations

from functools import cached_property

from csa.errors import (
    AmbiguousError,
    MirroredError,
    NotFoundError,
    RefusedError,
    RetiredError,
    SealedError,
    StateError,
    UsageError,
)
from csa.ids import may_be_id
from csa.runner.content import Content
from csa.store.sessions import MAX_MATCHES_SHOWN, Record, Store, Target, format_age
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from csa.model.result import RunResult
    from csa.model.state import SessionState
    from csa.paths import SessionPaths
    from csa.runner.caller import Caller
    from csa.runner.context import Context
    from csa.store.liveness import Liveness

LONG_PREFIX = 10
_NEWEST_LOOKED_AT = 5000  # records of another project to search for a name that is not here
_NEWEST_READ = 500  # names here that a misspelled one is compared with
_PLACES_NAMED = 3
_NEWEST_NAMED = 3


class Session:
    """A session that was found, with the context to work with it in. Its files are read on demand."""

    def __init__(self, context: Context, session_id: str) -> None:
        self.context = context  # of the session's own project
        self.session_id = session_id

    @property
    def store(self) -> Store:
        """The store of its project."""
        return self.context.store

    @property
    def project(self) -> Path:
        """The directory of its project."""
        return self.context.store.project

    @property
    def target(self) -> Target:
        """What identifies it: its store and its id."""
        return self.context.store, self.session_id

    @property
    def paths(self) -> SessionPaths:
        """Its files in their place, for commands that act."""
        return self.store.paths(self.session_id)

    @cached_property
    def files(self) -> SessionPaths:
        """Its files for reading; those of a deleted session are in the trash."""
        return self.store.find(self.session_id)

    @cached_property
    def content(self) -> Content:
        """Its files for reading what was said, where they are at each use: of an encrypted session in memory.

        SealedError if there is no key that opens it.
        """
        if (host := self.store.host) and (state := self.record.state) and state.sealed_at is not None:
            words = f"What was said in session {self.session_id} is encrypted, and on {host}."
            raise SealedError(words, hint=f"ssh {host} csa show {self.session_id}")
        content = Content(self.files, lambda: self.context.keys)
        content.now()  # so that what is wrong with the key is said here
        return content

    @property
    def record(self) -> Record:
        """Its record as it is now."""
        return self.store.record(self.session_id)

    def load(self) -> SessionState:
        """Return its state as it is now; NotFoundError or StateError."""
        return self.store.load(self.session_id)

    def liveness(self) -> Liveness:
        """Say whether it runs, and who runs it."""
        from csa.store.liveness import probe  # noqa: PLC0415  # naming a session needs none of it

        found, other = probe(self.files), follow_resumed(self)
        return found if found.state != "not_alive" or other is self else other.liveness()

    def _redact_answer(self, text: str) -> str:
        return self.context.redactor.redact_answer(text)

    def result(self, *, turn: int | None = None) -> RunResult:
        """Return how the last finished turn, or the given one, ended; NotFoundError when there is none.

        StateError when its record is damaged.
        """
        from csa.store.results import load_result  # noqa: PLC0415  # as above

        try:
            found = load_result(self.content, self.session_id, turn=turn, redact=self._redact_answer)
            if self.content.is_in_memory:
                found = replace(found, artifacts=tuple(map(self.content.in_place, found.artifacts)))
            return replace(found, name=self.record.name, project=self.store.project_pathname)
        except NotFoundError:
            fault = self.record.examine().record.fault
            if fault is not None:
                raise fault from None
            if (other := follow_resumed(self)) is not self:
                return other.result(turn=turn)
            raise


def find_session(context: Context, selector: str, *, retired: bool = False, mirrored: bool = False) -> Session:
    """Return the session that a selector means; with `retired` it may be one that can only be read.

    That is a deleted one, or one in the mirror of another host; with `mirrored` only the latter.

    Raises:
        UsageError: the selector is empty, or an unknown @word.
        NotFoundError: nothing matches.
        RetiredError: the match is a deleted session, and `retired` is not set.
        MirroredError: the match is another host's, and `retired` is not set.
        AmbiguousError: several sessions match, or one id is in several other projects.
    """
    if selector.startswith("@"):
        return _find_relative(context, selector, retired=retired)
    if ":" in selector:  # in no name and no id
        return _find_on_host(context, selector, retired=retired or mirrored)
    try:
        return Session(context, context.store.resolve(selector, retired=retired))
    except RetiredError:
        raise
    except NotFoundError as error:
        typed = selector.strip()
        if not may_be_id(typed):
            raise _name_elsewhere(context.store, typed, error) from None
        if len(typed) < LONG_PREFIX:
            raise
    found = _Elsewhere(context, typed)
    if not retired and not found.live and len(found.collected) == 1:
        store, session_id = found.collected[0]
        raise RetiredError(
            f"Session {session_id} of {store.project} is deleted; it can only be read.",
            hint=f"csa restore {session_id}",
        )
    matches = found.live or found.collected or found.mirrored()
    return _readable(found.choose(matches), retired=retired or mirrored)


def _find_on_host(context: Context, selector: str, *, retired: bool) -> Session:
    """Return the session that `HOST:SELECTOR` means."""
    from csa.store.mirrors import find_mirror  # noqa: PLC0415  # most sessions are this host's

    host, _, typed = selector.strip().partition(":")
    stores = find_mirror(context.store.root_pathname, host).stores()
    found = find_anywhere(context, typed, stores, retired=True, where=f"in the mirror of {host}")
    return _readable(found, retired=retired)


def _readable(session: Session, *, retired: bool) -> Session:
    """Return a session; MirroredError if it is another host's, and whoever asks does more than read."""
    if (host := session.store.host) and not retired:
        raise MirroredError(host, session.session_id)
    return session


def follow_resumed(session: Session, *, retired: bool = True) -> Session:
    """Return the session that another implementation has resumed under this id, else the same session.

    RetiredError if it is deleted, and `retired` is not set.
    """
    from csa.store.strangers import resumed_session  # noqa: PLC0415  # most selectors do not care

    seen = {session.session_id}
    while (target := resumed_session(session.files.pathname)) and target not in seen:
        seen.add(target)
        try:
            session = find_session(session.context, target, retired=retired)
        except RetiredError:
            raise
        except (NotFoundError, AmbiguousError):
            break
    return session


def find_retired(context: Context, selector: str) -> Session:
    """Return the deleted session that a full id, a unique prefix or a name means; of several with a name, the newest.

    Raises as `find_session`.
    """
    typed, store = selector.strip(), context.store
    if not typed:
        raise UsageError("The session name is empty.")
    matches = store.match_retired(typed)
    if len(matches) > 1:
        raise AmbiguousError(typed, store.describe(matches), len(matches))
    if matches:
        return Session(context, matches[0])
    if may_be_id(typed) and len(typed) >= LONG_PREFIX and not store.has(typed.upper()):
        elsewhere = _Elsewhere(context, typed, what="deleted session")
        return elsewhere.choose(elsewhere.collected)
    hint = "csa ls" if store.has(typed.upper()) else None
    raise NotFoundError(f"No deleted session matches '{typed}' in {store.project}.", hint=hint)


def find_anywhere(
    context: Context, selector: str, stores: Iterable[Store], *, retired: bool = False, where: str = "in any project"
) -> Session:
    """Return the session that an id, a prefix or a name means among those of some projects, none of which comes first.

    Raises as `find_session`.
    """
    typed = selector.strip()
    if not typed:
        raise UsageError("The session name is empty.", hint="csa ls")
    live: list[Target] = []
    deleted: list[Target] = []
    for store in stores:
        live += [(store, session_id) for session_id in store.match(typed)]
        deleted += [(store, session_id) for session_id in store.match_retired(typed)] if not live else []
    matches = live or deleted
    if not matches:
        raise NotFoundError(f"No session matches '{typed}' {where}.", hint="csa ls --all-projects")
    if len(matches) > 1:
        lines = [f"{store.describe([each])[0]}  in {store.label}" for store, each in matches[:MAX_MATCHES_SHOWN]]
        raise AmbiguousError(typed, lines, len(matches))
    store, session_id = matches[0]
    if not live and not retired:
        raise RetiredError(f"Session {session_id} is deleted; it can only be read.", hint=f"csa restore {session_id}")
    return Session(context.in_store(store), session_id)


class _Elsewhere:
    """The matches of a prefix in other projects, and the directories there that cannot be listed."""

    def __init__(self, context: Context, typed: str, *, what: str = "session") -> None:
        from csa.store.stores import find_stores  # noqa: PLC0415  # most sessions are here

        self._context = context
        self._typed = typed
        self._what = what
        self._faults: list[StateError] = []
        self.live: list[Target] = []
        self.collected: list[Target] = []
        here, prefix = context.store, typed.upper()
        for store in find_stores(here.root, with_retired=True, on_fault=self._faults.append):
            if store.project_pathname != here.project_pathname:
                self._look(store, prefix)

    def _look(self, store: Store, prefix: str) -> None:
        try:
            self.live += [(store, session_id) for session_id in store.ids(prefix)]
            self.collected += [(store, session_id) for session_id in store.retired_ids(prefix)]
        except StateError as fault:
            self._faults.append(fault)

    def mirrored(self) -> list[Target]:
        """Return the matches in the mirrors of other hosts."""
        from csa.store.mirrors import find_mirrors  # noqa: PLC0415  # as above

        prefix = self._typed.upper()
        mirrors = find_mirrors(self._context.store.root_pathname, self._faults.append)
        stores = [store for mirror in mirrors for store in mirror.stores()]
        return [(s, each) for s in stores for each in dict.fromkeys([*s.ids(prefix), *s.retired_ids(prefix)])]

    def choose(self, matches: list[Target]) -> Session:
        """Return the one session among matches."""
        if not matches:
            what = (
                f"No {self._what} matches '{self._typed}' in {self._context.store.project}, nor in any other project."
            )
            hint = self._faults[0].message if self._faults else "csa ls --all-projects"
            raise NotFoundError(what, hint=hint)
        matches.sort(key=lambda match: (match[1], match[0].project_pathname))
        if len(matches) > 1:
            shown = matches[:MAX_MATCHES_SHOWN]
            lines = [f"{store.describe([session_id])[0]}  in {store.label}" for store, session_id in shown]
            lines += [f"... and {len(matches) - len(shown)} more"] if len(matches) > len(shown) else []
            same = len({session_id for _, session_id in matches}) == 1
            there = next((store.project for store, _ in matches if not store.host and store.project.is_dir()), None)
            how = f"choose one with --cd, as in --cd {there}" if same and there else None
            raise AmbiguousError(self._typed, lines, len(matches), hint=how)
        store, session_id = matches[0]
        return Session(self._context.in_store(store), session_id)


def _name_elsewhere(here: Store, name: str, error: NotFoundError) -> NotFoundError:
    """Say which other projects have a session with that name, or which name here is close to it."""
    from csa.store.stores import find_stores  # noqa: PLC0415  # as above

    found: list[Target] = []
    for store in find_stores(here.root):
        if store.project_pathname != here.project_pathname:
            try:
                known = store.find_name(name, newest=_NEWEST_LOOKED_AT)
            except StateError:  # it was listed a moment ago
                continue
            found += [(store, known)] if known else []
    if not found:
        close = _nearly(name, here)
        return NotFoundError(error.message, hint=f"did you mean '{close}'?" if close else error.hint)
    found.sort(key=lambda match: match[1], reverse=True)
    places = " or ".join(f"{session_id} in {store.project}" for store, session_id in found[:_PLACES_NAMED])
    more = f" or {len(found) - _PLACES_NAMED} more" if len(found) > _PLACES_NAMED else ""
    return NotFoundError(error.message, hint=f"names belong to a project; did you mean {places}{more}?")


def _nearly(name: str, store: Store) -> str | None:
    from csa.nearest import nearest  # noqa: PLC0415  # only a typo pays for it

    return next(iter(nearest(name, store.names(newest=_NEWEST_READ))), None)


def _find_relative(context: Context, selector: str, *, retired: bool) -> Session:
    if selector == "@current":
        return _current(context, retired=retired)
    if selector == "@last":
        return find_last(context)
    caller = context.caller
    if selector not in {"@self", "@parent", "@root"}:
        raise UsageError(f"Unknown selector '{selector}'.", hint="use @current, @last, @self, @parent or @root")
    session_id = _relative_id(caller, selector)
    assert caller is not None  # or there would be none
    project = caller.project_of(session_id)
    try:
        return find_session(context.in_project(project) if project else context, session_id, retired=retired)
    except NotFoundError:
        if (host := caller.host_above) is None:
            raise
        raise NotFoundError(
            f"{selector} is session {session_id}, which is on {host}: it has placed this one here.",
            hint="what there is of it here: csa info @self",
        ) from None


def find_last(context: Context, *, is_open: bool = False) -> Session:
    """Return the session used last among those the caller would create; with `is_open`, one that is not closed."""
    caller = context.caller
    return Session(context, context.store.last_used(caller.session_id if caller else None, is_open=is_open))


def refuse_idle(session: Session) -> Session:
    """Return a session that is to go on without being named, unless it was idle for longer than `session_timeout`.

    RefusedError says so; the one who names it goes on with it all the same.
    """
    from datetime import UTC, datetime  # noqa: PLC0415  # few commands continue anything

    limit, state = session.context.config.session_timeout, session.record.state
    if limit is None or state is None:
        return session
    now = datetime.now(UTC)
    if now - state.last_accessed <= limit or session.liveness().state != "not_alive":
        return session
    raise RefusedError(
        f"Session {session.session_id} was idle for {format_age(now, state.last_accessed)}, "
        f"and session_timeout is {session.context.config.values['session_timeout'][0]}.",
        hint=f'csa run --session {session.session_id} "..." continues it, csa run "..." starts a new one',
    )


def refuse_closed(state: SessionState) -> None:
    """Raise RefusedError for a session that its user has closed."""
    if state.closed_at is not None:
        raise RefusedError(
            f"Session {state.session_id} is closed, so nothing runs in it.",
            hint=f'csa run --session {state.session_id} --reopen "..." continues it',
        )


def _relative_id(caller: Caller | None, selector: str) -> str:
    if caller is None:
        raise NotFoundError(f"{selector} can only be used inside a session.")
    found = {
        "@self": caller.session_id,
        "@parent": caller.state.parent_session_id,
        "@root": caller.state.root_session_id or caller.session_id,
    }[selector]
    if found is None:
        raise NotFoundError(f"Session {caller.session_id} is a root; it has no parent.")
    return found


def _current(context: Context, *, retired: bool) -> Session:
    from csa.runner.current import VARIABLE, find_pointer  # noqa: PLC0415  # few selectors need it

    pointer = find_pointer(context)
    chosen = pointer.read(context.store)
    if chosen is None:
        raise _none_current(context, "No active session")
    try:
        return find_session(context, chosen, retired=retired)
    except RetiredError:
        way = f"unset {VARIABLE}" if pointer.session_id else "csa switch S makes another one current"
        hint = f"csa restore {chosen} brings it back; {way}"
        raise RetiredError(f"The current session {chosen} is deleted.", hint=hint) from None
    except NotFoundError:
        if pointer.session_id:
            raise NotFoundError(f"{VARIABLE} is {chosen}, which does not exist.", hint=f"unset {VARIABLE}") from None
        raise _none_current(context, f"The current session {chosen} no longer exists") from None


def _none_current(context: Context, problem: str) -> NotFoundError:
    """Say that there is none to go on with, and which ones could be chosen."""
    newest = [state.session_id for state in context.store.by_use(None, is_open=True)[:_NEWEST_NAMED]]
    if not newest:
        return NotFoundError(f"{problem} in {context.store.project}.", hint='csa run "..." starts one')
    lines = [f"{problem} in {context.store.project}; those used last are", *context.store.describe(newest[::-1])]
    hint = f'csa switch {newest[0]} makes it the current one; csa run "..." starts another'
    return NotFoundError("\n  ".join(lines), hint=hint)
