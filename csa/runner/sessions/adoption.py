"""Taking over the sessions of a project whose directory has moved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, StateError, UsageError
from csa.model.state import SessionState, ToolState
from csa.ownership import make_directory
from csa.paths import CHECKPOINTS, CURRENT, CURRENT_OF_TERMINALS, SessionPaths
from csa.runner.context import Context
from csa.runner.sessions.acting import record_act, record_update
from csa.runner.sessions.worktrees import move_worktree
from csa.store.atomic import append_private, move_directory, read_regular
from csa.store.audit import audit_file
from csa.store.held import open_session, store_lock
from csa.store.liveness import probe
from csa.store.owner import CHANGE
from csa.store.project import find_project
from csa.store.retiring import hold, move_with, remove_empty_directories, remove_tree
from csa.store.sessions import Store
from csa.store.statefile import draft_state, load_state
from csa.store.taking import refuse_busy
from csa.structs import Struct, field, replace


class Adoption(Struct, frozen=False):
    """Which sessions were taken over, which were not and why, and which lost their name."""

    old: Path
    moved: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def adopt_project(context: Context, old: str, *, force: bool = False, dry_run: bool = False) -> Adoption:
    """Move the sessions of the project that was at `old` into this one's store, deleted ones too.

    Running sessions stay where they are, and so do those this store already has. An interrupted adoption can be rerun.

    Raises:
        UsageError: it is this very project.
        RefusedError: the directory is still there, and `force` is not set.
        NotFoundError: the store has no sessions of it.
    """
    store = context.store
    source = Store(store.root, Path(os.path.realpath(os.path.join(context.directory, old))))
    if source.project == store.project:
        raise UsageError(f"{source.project} is this project.")
    if source.project.is_dir() and not force and not _is_worktree_of(store, source):
        raise RefusedError(
            f"{source.project} still exists, so its sessions stay there.",
            hint="--force adopts them anyway",
        )
    adoption = Adoption(source.project)
    places = list(_places(source, store))
    if not places:
        raise NotFoundError(f"There are no sessions of {source.project} in {store.root}.")
    for here, there in places:
        _adopt(context, source, here, there, adoption=adoption, dry_run=dry_run)
    if not dry_run:
        _move_audit(source, store, adoption)
        _move_rest(source, store, adoption)
        remove_empty_directories(source)
    return adoption


def _is_worktree_of(store: Store, source: Store) -> bool:
    """Say whether the old project is a worktree of this one, which an older csa treated as a project."""
    return find_project(source.project) == store.project_pathname


def _places(source: Store, store: Store) -> Iterator[tuple[SessionPaths, SessionPaths]]:
    for session_id in source.ids():
        yield source.paths(session_id), store.paths(session_id)
    for session_id in source.retired_ids():
        yield source.retired_paths(session_id), store.retired_paths(session_id)


def _adopt(
    context: Context, source: Store, here: SessionPaths, there: SessionPaths, *, adoption: Adoption, dry_run: bool
) -> None:
    session_id = here.root.name
    try:
        _refuse(context.store, here, there)
        if not dry_run:
            with hold(here):
                _move(context, source, here, there, adoption)
    except FileNotFoundError:
        return
    except (OSError, BusyError, StateError) as error:  # the others go on
        adoption.left.append((session_id, _why(error)))
        return
    adoption.moved.append(session_id)
    if dry_run:
        return
    if loss := record_act(context, "session adopt", session_id, what="adopted", old_project=str(source.project)):
        adoption.warnings.append(loss)
    if str(there.root.parent) == context.store.sessions_dir:
        _note(context, source, session_id, adoption)


def _why(error: OSError | CsaError) -> str:
    if isinstance(error, BlockingIOError):
        return "it is running"
    hint = error.hint if isinstance(error, BusyError) else None
    return f"{error} Hint: {hint}" if hint else str(error)


def _refuse(store: Store, here: SessionPaths, there: SessionPaths) -> None:
    if probe(here).state == "alive":
        raise BlockingIOError
    refuse_busy(here)
    load_state(here.state)  # a damaged record cannot be updated
    session_id = here.root.name
    if there.root.exists() or store.paths(session_id).root.exists() or store.retired_paths(session_id).root.exists():
        raise BusyError("this project has a session with that id")


def _move(context: Context, source: Store, here: SessionPaths, there: SessionPaths, adoption: Adoption) -> None:
    """Move a session and update its record; if either fails, a repeated run finds it as it was."""
    store = context.store
    before = load_state(here.state)
    state = moved_state(before, source.project, store.project)
    if _is_worktree_of(store, source):  # tools find conversations by the directory where they began
        state = replace(state, tools=before.tools)
    state = _with_worktree(context, source, before, state, adoption)
    with store_lock(store):
        for directory in (store.sessions_dir, store.retired_dir):
            make_directory(directory)
        if state.name and str(there.root.parent) == store.sessions_dir and store.find_name(state.name):
            state = replace(state, name=None)
        move_with(here.root, there.root, draft_state(here.state, state))
    if before.name and not state.name:
        adoption.renamed.append((state.session_id, before.name))


def _with_worktree(
    context: Context, source: Store, before: SessionState, state: SessionState, adoption: Adoption
) -> SessionState:
    """Move what a session has of worktrees, once its work is kept; return its record with where they are now."""
    if before.worktree is None:
        return state
    old, new = source.project, context.store.project
    tree = before.worktree
    checkout, git_dir = _moved(tree.checkout, old, new) or "", _moved(tree.git_dir, old, new) or ""
    moved = replace(before, worktree=replace(tree, checkout=checkout, git_dir=git_dir))
    tree, problem = move_worktree(context, source, moved)
    if problem:
        adoption.warnings.append(f"the worktree of {before.session_id}: {problem}")
    was, now = Path(before.worktree.path), Path(tree.path)
    inside = {name: tool for name, tool in before.tools.items() if tool.cwd and Path(tool.cwd).is_relative_to(was)}
    tools = {name: _moved_tool(tool, was, now) for name, tool in inside.items()}
    return replace(state, worktree=tree, tools={**state.tools, **tools})


def moved_state(state: SessionState, old: Path, new: Path) -> SessionState:
    """Return the record of a session whose project is now at `new`: its paths and those of its tools follow."""
    parent_project = state.parent_project if state.parent_host else _moved(state.parent_project, old, new)
    return replace(
        state,
        project_path=_moved(state.project_path, old, new) or state.project_path,
        parent_project=None if parent_project == str(new) and not state.parent_host else parent_project,
        tools={name: _moved_tool(tool, old, new) for name, tool in state.tools.items()},
    )


def _moved_tool(tool: ToolState, old: Path, new: Path) -> ToolState:
    return replace(tool, cwd=_moved(tool.cwd, old, new))


def _moved(path: str | None, old: Path, new: Path) -> str | None:
    """Return where a path is now: below the new directory if it was below the old one."""
    if path is None or not Path(path).is_relative_to(old):
        return path
    return str(new / Path(path).relative_to(old))


def _note(context: Context, source: Store, session_id: str, adoption: Adoption) -> None:
    try:
        with open_session(context.store, session_id, context.redactor, errand=CHANGE) as held:
            record_update(context, held, "adopted", {"before": str(source.project)})
    except (CsaError, OSError) as error:
        adoption.warnings.append(f"the transcript of {session_id} does not record it: {error}")


def _move_audit(source: Store, store: Store, adoption: Adoption) -> None:
    """Append the audit lines of the moved sessions to those here."""
    old = audit_file(source)
    if adoption.left or not old.exists():
        return
    try:
        append_private(audit_file(store), read_regular(old))
        old.unlink()
    except OSError as error:
        adoption.warnings.append(f"{old} stays where it is: {error.strerror or error}")


def _move_rest(source: Store, store: Store, adoption: Adoption) -> None:
    """Move what a store has besides its sessions, if this one does not have it."""
    if adoption.left:
        return
    for name in ("usage_stats.toml", CURRENT, CURRENT_OF_TERMINALS, CHECKPOINTS):
        here, there = source.path / name, store.path / name
        if here.exists() and not there.exists():
            try:
                move_directory(here, there, aside=f".{name}.tmp") if here.is_dir() else os.rename(here, there)
            except OSError as error:
                adoption.warnings.append(f"{here} stays where it is: {error.strerror or error}")
        elif name == CHECKPOINTS and here.is_dir():
            adoption.warnings.append(f"checkpoints of the adopted sessions stay in {here}")
        else:
            remove_tree(here)  # this project's own figures and choices take precedence
