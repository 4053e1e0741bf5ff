"""Deleting sessions one by one, and restoring them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, StateError
from csa.model.genealogy import descend
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.runner.caller import refuse_own_lineage
from csa.runner.context import Context
from csa.runner.session import Session, find_session
from csa.runner.sessions.acting import record_act, record_update
from csa.runner.sessions.ending import end_sessions, end_trees, who_asks
from csa.runner.sessions.provider_copies import remove_provider_copies
from csa.runner.sessions.worktrees import give_up, why_kept
from csa.runner.turns.stealing import note_theft
from csa.store.family import family_of
from csa.store.held import open_session
from csa.store.liveness import probe
from csa.store.owner import CHANGE
from csa.store.placements import refuse_unsettled
from csa.store.retiring import bring_back, hold, purge, remove_empty_directories, retire
from csa.store.searchindex import forget, index_name
from csa.store.sessions import Store
from csa.store.shown import Siblings
from csa.store.statefile import load_state
from csa.store.stores import find_stores
from csa.store.writer import SessionWriter
from csa.structs import Struct, replace


class Removed(Struct):
    """The result of deleting a session. `freed_bytes` is set only if it was purged."""

    session_id: str
    is_purged: bool
    freed_bytes: int = 0
    provider_copies: tuple[str, ...] = ()  # the tools' copies that were deleted
    warnings: tuple[str, ...] = ()


class Restored(Struct):
    """A restored session. `lost_name`: its name, which another session has by now."""

    state: SessionState
    lost_name: str | None = None
    losses: tuple[str, ...] = ()

    def to_json(self, store: Store) -> dict[str, object]:
        """Return the object that `session restore --json` prints."""
        known = {"session_id": self.state.session_id, "project": store.project_pathname}
        return {**known, "phase": self.state.phase, "name": self.state.name}


def deletion_to_json(
    session: Session, removed: Removed | None = None, *, error: dict[str, object] | None = None
) -> dict[str, object]:
    """Return the object that `session delete --json` prints of a session that was deleted, or could not be."""
    done = removed and ("purged" if removed.is_purged else "removed")
    return {
        "session_id": session.session_id,
        "name": session.record.name,
        "project": session.store.project_pathname,
        "done": done,
        "provider_copies": list(removed.provider_copies) if removed else [],
        "error": error,
    }


def find_to_delete(context: Context, selectors: Sequence[str]) -> list[Session]:
    """Return the sessions to delete, each once, after refusing everything that can be refused.

    Raises:
        RefusedError: one of them is the calling session or an ancestor of it.
        NotFoundError, AmbiguousError: of a selector.
    """
    found = {session.paths.pathname: session for session in (find_session(context, each) for each in selectors)}
    for session in found.values():
        refuse_own_lineage(context.caller, session.session_id, verb="delete")
    return list(found.values())


def with_descendants(sessions: Sequence[Session], *, force: bool = False) -> list[Session]:
    """Return sessions and all that descends from them here, descendants first; with `force` nothing of that runs on.

    Raises:
        BusyError: one of them runs, or would not end.
        RefusedError: one of them is pinned, or its work has not landed, and `force` is not set.
        StateError: there may be descendants in a directory that cannot be listed.
    """
    context, targets = sessions[0].context, [session.target for session in sessions]
    if force:
        for ended in end_trees(targets, words=who_asks("session delete --tree --force", context.environ)):
            if ended.error is not None:
                raise ended.error
    family = family_of(targets, on_fault=_refuse).look()
    below = [Session(context.in_store(store), session_id) for store, session_id in family if not store.host]
    found = {session.paths.pathname: session for session in (*sessions, *below)}
    whole = sorted(found.values(), key=lambda session: session.session_id, reverse=True)
    if not force:
        for session in whole:
            _refuse_to_delete(session)
        for store, session_id in family:
            if store.host and probe(store.paths(session_id)).state != "not_alive":
                words = f"Session {session_id} may be running on {store.host}; nothing was deleted."
                raise BusyError(words, hint=f"csa kill --tree {sessions[0].session_id}")
    return whole


def _refuse(fault: StateError) -> None:
    raise fault


def _refuse_to_delete(session: Session) -> None:
    """Raise what deleting one of a tree would raise, before any of the tree is deleted."""
    session_id, state = session.session_id, session.record.state
    if probe(session.paths).state == "alive":
        raise BusyError(
            f"Session {session_id} is running; nothing was deleted.",
            hint="csa rm --tree --force kills what is running first",
        )
    if state and state.pinned:
        raise RefusedError(
            f"Session {session_id} is pinned; nothing was deleted.", hint=f"csa session pin --off {session_id}"
        )
    refuse_unsettled(session.store.root_pathname, session_id)
    if why := why_kept(session.context, session.store, session_id, state):
        raise RefusedError(
            f"Session {session_id} is kept, and nothing was deleted: {why}.",
            hint=f"csa land {session_id}; csa rm --tree --force gives it up, and it is kept for undo_days",
        )


def delete_session(
    session: Session, *, force: bool = False, purge_now: bool = False, provider: bool = False
) -> Removed:
    """Move a session to the trash, or with `purge_now` delete it for good.

    With `force`, a running session is ended first, and one that may be running elsewhere is deleted too.

    Raises:
        BusyError: it is running and did not end, or may be running elsewhere.
        RefusedError: it is pinned, or its work has not landed, and `force` is not set.
        NotFoundError: it is gone.
        OSError: it cannot be moved or deleted.
    """
    context, session_id, paths = session.context, session.session_id, session.paths
    is_unsure = _is_unsure(paths)
    if force and not is_unsure:
        _end(session)
    way = f"csa rm --force {session_id}"
    losses: list[str] = []
    try:
        with hold(paths, steal=force and is_unsure, way=way) as loser:
            if loser:
                with SessionWriter(paths, context.redactor) as writer:
                    note_theft(context, context.store, writer, loser, command="session delete --force")
                losses += writer.losses
            removed = _delete_held(context, paths, force=force, purge_now=purge_now, provider=provider)
    except FileNotFoundError as error:
        raise NotFoundError(f"Session {session_id} has just been deleted.", hint="csa ls") from error
    except BlockingIOError as error:
        raise BusyError(
            f"Session {session_id} is running; it was not deleted.",
            hint=f"{way} kills it first",
        ) from error
    if purge_now:
        remove_empty_directories(context.store)
    return replace(removed, warnings=(*removed.warnings, *losses))


def living_children(store: Store, session_id: str) -> list[str]:
    """Return the children of a session that are running, newest first."""
    children = Siblings(store, store.ids()).children(session_id)
    return [child.session_id for child in children if probe(child.paths).state == "alive"][::-1]


def deleted_below(session: Session) -> list[Session]:
    """Return the deleted descendants of a deleted session, parents before children, as far as none between is there."""
    kin: list[tuple[tuple[str, str], tuple[str, str] | None]] = []
    for store in find_stores(session.store.root, with_retired=True):
        for session_id in store.retired_ids():
            state = store.record(session_id).state
            if state and (parent := state.parent_session_id):
                kin.append((store.key(session_id), (state.parent_project or store.project_pathname, parent)))
    _, *below = descend([session.store.key(session.session_id)], kin)
    return [Session(session.context.in_project(project), session_id) for project, session_id in below]


def restore_session(session: Session) -> Restored:
    """Restore a session that `find_retired` has found; BusyError or StateError if that is impossible."""
    context, store = session.context, session.store
    paths = store.retired_paths(session.session_id)
    name_before = load_state(paths.state).name
    try:
        with hold(paths):
            paths, state = bring_back(store, paths, datetime.now(UTC))
    except (FileNotFoundError, BlockingIOError) as error:
        raise BusyError(f"Another command is working on session {paths.root.name}.") from error
    loss = record_act(context, "session restore", state.session_id, what="restored")
    losses = [loss] if loss else []
    try:
        with open_session(store, state.session_id, context.redactor, errand=CHANGE) as held:
            record_update(context, held, "restored", {})
    except (CsaError, OSError) as error:
        losses.append(f"its transcript does not record it: {error}")
    return Restored(state, name_before if name_before != state.name else None, tuple(losses))


def _delete_held(context: Context, paths: SessionPaths, *, force: bool, purge_now: bool, provider: bool) -> Removed:
    session_id, now = paths.root.name, datetime.now(UTC)
    try:
        state = load_state(paths.state)
    except StateError:
        state = None
    if state and state.pinned and not force:
        raise RefusedError(f"Session {session_id} is pinned.", hint=f"csa pin --off {session_id}")
    given_up = give_up(context, context.store, paths, state, force=force, purge=purge_now)
    freed = 0
    if purge_now:
        freed = purge(paths)
        forget(context.store.root, [index_name(context.store, session_id)])
    else:
        retire(context.store, paths, now)
    copies, warnings = remove_provider_copies(context, state) if provider and state else ((), ())
    done = "purged" if purge_now else "retired"
    loss = record_act(context, "session delete", session_id, what=done, provider_copies=list(copies))
    return Removed(session_id, purge_now, freed, copies, (*given_up, *warnings, *([loss] if loss else [])))


def _end(session: Session) -> None:
    """End a session's turn, if one is running; BusyError if it does not end."""
    words = who_asks("session delete --force", session.context.environ)
    for ended in end_sessions([session.target], words=words):
        if ended.error is not None:
            raise ended.error


def _is_unsure(paths: SessionPaths) -> bool:
    """Say whether it is unknown here if a session is running: another machine ran it, and is silent now."""
    found = probe(paths)
    return found.state == "unknown" and found.fault is None
