"""Importing the sessions of an archive into a store: all or none, and never overwriting one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from csa.errors import NotFoundError, StateError, UsageError
from csa.ids import ENTROPY_BYTES, renew_session_id
from csa.model.state import SessionState, ToolState, parse_state
from csa.model.worktree import render_worktree
from csa.ownership import make_directory
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.store.archive import OUTPUT, RECORDS, Unpacked, unpack
from csa.store.artifacts import is_own
from csa.store.atomic import sync_directory, write_atomically
from csa.store.checking import find_broken_line
from csa.store.held import HeldSession, build_session, store_lock
from csa.store.sessions import Store
from csa.store.statefile import read_record
from csa.store.status import find_fault
from csa.store.stores import find_stores
from csa.store.tomlfile import edit_toml
from csa.structs import Struct, replace


class Imported(Struct):
    """An imported session. `old_id` is the one it had; `dropped_name` is a name that another session already had.

    `is_copy`: the tools' own conversations belong to another session here, so that its next turn begins new ones.
    """

    session_id: str
    old_id: str
    description: str
    dropped_name: str | None = None
    is_copy: bool = False


def import_archive(context: Context, stream: IO[bytes], *, new_ids: bool = False) -> list[Imported]:
    """Import the sessions of an archive into the project, under their own ids or new ones.

    Raises:
        ArchiveError: it is not a csa archive, or damaged; nothing was imported.
        StateError: a record in it is damaged; likewise.
        RefusedError: it contains too much; likewise.
        UsageError: a session with one of the ids exists; likewise.
        NotFoundError: it contains no session.
        OSError: it cannot be read or written; likewise.
    """
    with tempfile.TemporaryDirectory(prefix="csa-import-") as directory:
        unpacked = unpack(stream, Path(directory))
        states = {session_id: _read_state(unpacked, session_id) for session_id in sorted(unpacked.files)}
        if not states:
            raise NotFoundError("The archive contains no session.")
        for session_id, state in states.items():
            _check_records(unpacked, session_id, state)
        ids = {old: renew_session_id(old, os.urandom(ENTROPY_BYTES)) if new_ids else old for old in states}
        _refuse_known(context.store, ids)
        return _take_in(context, unpacked, states, ids)


def _read_state(unpacked: Unpacked, session_id: str) -> SessionState:
    path = unpacked.path(session_id, "state.toml")
    try:
        state = parse_state(read_record(path))
    except ValueError as error:
        raise _damaged(session_id, "state.toml", str(error)) from error
    except StateError as error:
        raise _damaged(session_id, "state.toml", error.problem, line=error.line) from error
    if state.session_id != session_id:
        raise _damaged(session_id, "state.toml", f"its id is {state.session_id}")
    return state


def _check_records(unpacked: Unpacked, session_id: str, state: SessionState) -> None:
    """Refuse what `csa validate` would call damaged; lines may be missing, as an export leaves out damaged ones."""
    paths = SessionPaths(unpacked.path(session_id, "state.toml").parent)
    if broken := find_broken_line(paths.transcript):
        line, problem = broken
        raise _damaged(session_id, "transcript.jsonl", problem, line=line)
    if fault := find_fault(paths, state):
        raise _damaged(session_id, "transcript.jsonl", fault.problem)
    if "result.toml" in unpacked.files[session_id]:
        try:
            read_record(paths.result)
        except StateError as error:
            raise _damaged(session_id, "result.toml", error.problem, line=error.line) from error


def _damaged(session_id: str, name: str, problem: str, *, line: int | None = None) -> StateError:
    hint = "repair the session where it comes from (csa repair), and export it again"
    return StateError(Path("sessions", session_id, name), f"{problem}; nothing was imported", line=line, hint=hint)


def _refuse_known(store: Store, ids: dict[str, str]) -> None:
    for session_id in ids.values():
        if store.find(session_id).root.exists():
            raise UsageError(
                f"Session {session_id} exists already; nothing was imported.", hint="--new-ids imports a copy"
            )


def _take_in(
    context: Context, unpacked: Unpacked, states: dict[str, SessionState], ids: dict[str, str]
) -> list[Imported]:
    """Build all sessions, then publish all; a failure withdraws those already published."""
    store = context.store
    copies = {old for old in ids if old != ids[old]} | _known_elsewhere(store, list(ids))
    with ExitStack() as stack:
        built: list[tuple[HeldSession, Imported]] = []
        for old, state in states.items():
            held = build_session(
                store,
                replace(state, session_id=ids[old], worktree=None),
                context.redactor,
                tool=state.last_tool or "none",
            )
            stack.callback(held.close)
            name = _free_name(store, state, [imported.old_id for _, imported in built], states)
            changes = _changes(store, state, ids, name=name, is_copy=old in copies)
            _fill(held, unpacked, old, ids, changes)
            held.append("session_updated", {"what": "imported", "from_id": old})
            held.require()
            dropped = state.name if state.name != name else None
            built.append((held, Imported(ids[old], old, state.description, dropped, is_copy=old in copies)))
        _publish(store, [held for held, _ in built])
        return [imported for _, imported in built]


def _publish(store: Store, sessions: list[HeldSession]) -> None:
    shown: list[HeldSession] = []
    with store_lock(store):
        try:
            for held in sessions:
                held.publish()
                shown.append(held)
        except BaseException:
            for held in shown:
                held.remove()
            raise


def _free_name(store: Store, state: SessionState, before: list[str], states: dict[str, SessionState]) -> str | None:
    """Return the session's name, unless one of the project, or one just imported, has it."""
    taken = {states[old].name for old in before}
    return None if state.name is None or state.name in taken or store.find_name(state.name) else state.name


def _known_elsewhere(store: Store, ids: list[str]) -> set[str]:
    """Return the sessions that another project of the same state root has."""
    others = [other for other in find_stores(store.root) if other.project != store.project]
    return {session_id for session_id in ids if any(other.find(session_id).root.exists() for other in others)}


def _changes(
    store: Store, state: SessionState, ids: dict[str, str], *, name: str | None, is_copy: bool
) -> dict[str, Any]:
    """Return the record adapted to this place: the project, paths below it, and whose conversations it has."""
    is_parent_here = state.parent_session_id in ids
    tree = state.worktree.path if state.worktree else state.project_path
    tools = {
        tool: _tool_changes(known, (tree, state.project_path), store.project) for tool, known in state.tools.items()
    }
    if is_copy:  # two sessions on one conversation would lose each other's turns
        # The summary keeps an otherwise empty table: it shows that the tool has been used.
        gone = {"provider_session_id": None, "totals": None}
        tools = {
            tool: {**known, **gone, "last_action_summary": state.tools[tool].last_action_summary}
            for tool, known in tools.items()
        }
    return {
        "name": name,
        "project_path": str(store.project),
        "phase": "active" if state.phase == "retired" else state.phase,
        "retired_at": None,  # set when it was deleted
        "retired_phase": None,
        "worktree": render_worktree(None),  # it was on the machine where the session comes from
        "genealogy": {"parent_project": None if is_parent_here else state.parent_project},
        **({"tools": tools} if tools else {}),
    }


def _tool_changes(known: ToolState, old: tuple[str, ...], new: Path) -> dict[str, str | None]:
    return {} if known.cwd is None else {"cwd": _moved(known.cwd, old, new)}


def _moved(path: str, old: tuple[str, ...], new: Path) -> str:
    """Return where a path of the old project, or of the session's worktree, is in the new one; any other stays."""
    place = Path(path)
    above = next((each for each in old if place.is_relative_to(each)), None)
    return str(new / place.relative_to(above)) if above else path


def _fill(held: HeldSession, unpacked: Unpacked, old: str, ids: dict[str, str], changes: dict[str, Any]) -> None:
    """Move a session's files into place, with the new ids in what csa itself wrote."""
    root = held.paths.root
    for name in unpacked.files[old]:
        source, target = unpacked.path(old, name), root / name
        if name in RECORDS or is_own(name.removeprefix(f"{OUTPUT}/")):
            _rename_ids(source, ids)
        for parent in reversed(target.relative_to(root).parents[:-1]):
            make_directory(root / parent)
        if name == "state.toml":
            write_atomically(target, edit_toml(source.read_bytes(), changes))
        else:
            shutil.move(source, target)
    sync_directory(root)


def _rename_ids(path: Path, ids: dict[str, str]) -> None:
    changed = [(old.encode(), new.encode()) for old, new in ids.items() if old != new]
    if not changed:
        return
    target = path.with_name(f"{path.name}.new")
    with path.open("rb") as reading, target.open("xb") as writing:
        for line in reading:
            for old, new in changed:
                line = line.replace(old, new)  # noqa: PLW2901  # each id in turn
            writing.write(line)
    target.chmod(0o600)
    target.replace(path)
