"""Repairing a session's record: only what the journal proves, under the lock, and only on request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.errors import BusyError, NotFoundError, SealedError, StateError
from csa.ids import is_session_id
from csa.model.clock import from_timestamp
from csa.model.events import Event
from csa.model.limits import COUNTS, Spent
from csa.model.recordkeys import RecordFault
from csa.model.result import summarise, text_of
from csa.model.state import SCHEMA, SessionState, parse_state, parse_time, render_state
from csa.model.worktree import Worktree
from csa.paths import RETIRED, SessionPaths
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.acting import record_act
from csa.runner.turns.drafting import DESCRIPTION_LENGTH
from csa.runner.turns.origins import merged_sources
from csa.runner.turns.stealing import note_theft
from csa.store.atomic import Draft, open_regular, read_regular, sync_directory, sync_file, write_atomically
from csa.store.backups import Backup
from csa.store.checking import Problem, check_session, differing_keys, expected_result
from csa.store.gitwork import worktree_path
from csa.store.plaintoml import load_plain
from csa.store.recovery import caught_up, end_in_result
from csa.store.results import lacks_final, told_answer
from csa.store.retiring import hold
from csa.store.statefile import load_state, save_state
from csa.store.strangers import PUT_ASIDE, find_put_aside
from csa.store.taking import refuse_busy
from csa.store.tomlfile import render_toml
from csa.store.transcript import end_of_last_line, last_turn_event, read_events, read_events_backwards
from csa.store.turns import CompactionRecord, read_history, read_turns
from csa.store.worktrees import rediscover
from csa.store.writer import SessionWriter
from csa.structs import Struct, field, fields, replace

_END_TAKEN = "transcript.jsonl: the end of turn"
_ROOT = ""
_MOST_KEPT = 64 << 20  # bytes of a truncated line
# What the transcript does not have, but a line of a damaged record may: by the header above it.
_SALVAGED: Mapping[str, tuple[str, ...]] = {
    _ROOT: ("description", "created_at", "name", "owner", "expires_at", "branch", "pinned", "shared"),
    "genealogy": (
        *("parent_session_id", "parent_project", "parent_host", "root_session_id", "depth", "max_depth"),
        *("fork_of", "merged_from", "above"),
    ),
    "limits": COUNTS,
    "budget": ("tokens", "usd", "time_s"),
    "worktree": fields(Worktree),
}
_OF_WORKTREES = ("path", "git_dir", "branch", "base", "checkout")  # without which there is no record of one
_SALVAGED_OF_TOOLS = ("account", "cwd", "provider_session_id")


class Repair(Struct, frozen=False):
    """What was done, or in a dry run would be, and what is still wrong."""

    session_id: str
    done: list[str] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    backup: str | None = None  # where the changed files are as they were before, in the session's directory
    kept: list[str] = field(default_factory=list)  # their names


def repair_session(session: Session, *, dry_run: bool = False, steal: bool = False) -> Repair:
    """Repair what can be repaired safely: a partial last line, a bad state.toml or result.toml, a missing final.md.

    What a full disk has kept out of one of these comes from the others. A dry run also reports what would remain wrong.

    With `steal`, a session that another machine ran, and whose state is unknown here, is free from then on.

    Raises:
        BusyError: the session is running, or may be.
        NotFoundError: it is gone.
        StateError: its lock cannot be read, or a file cannot be rewritten.
    """
    context, session_id, paths = session.context, session.session_id, session.files
    repair = Repair(session_id)
    refuse_busy(paths, steal=steal)
    if (state := session.record.state) and state.sealed_at is not None:
        raise SealedError(f"Session {session_id} is encrypted.", hint=f"csa unseal {session_id}")
    try:
        if dry_run:
            _mend(context, SessionWriter(paths, context.redactor), repair, dry_run=True)
        else:
            with hold(paths, steal=steal) as loser, SessionWriter(paths, context.redactor) as writer:
                if loser:
                    repair.done.append(f"locks/session.lock: taken from {loser.host} ({loser.tool}, {loser.work})")
                    note_theft(context, context.store, writer, loser, command="session repair --steal")
                _mend(context, writer, repair, dry_run=False)
            repair.losses += writer.losses
    except FileNotFoundError as error:
        raise NotFoundError(f"Session {session_id} has just been deleted.", hint="csa ls") from error
    except BlockingIOError as error:
        raise BusyError(f"Session {session_id} is running; it was not touched.") from error
    except OSError as error:
        where = Path(os.fsdecode(error.filename2 or error.filename or paths.root))
        raise StateError(where, f"cannot be repaired ({error.strerror or error})") from error
    if not dry_run and repair.done:
        loss = record_act(context, "session repair", session_id, what="repaired", done=repair.done)
        repair.losses += [loss] if loss else []
    found = [problem for problem in check_session(context.store, paths) if problem.severity == "error"]
    repair.left = [problem for problem in found if not (dry_run and _would_be_mended(problem, repair))]
    return repair


def _would_be_mended(problem: Problem, repair: Repair) -> bool:
    """Say whether a problem is with a file that a real run would rebuild or update."""
    name = problem.path.name
    if name == "transcript.jsonl":  # a faulty line stays as it is
        return problem.line is None and any(done.startswith(_END_TAKEN) for done in repair.done)
    return any(done.startswith(f"{name}:") for done in repair.done)


def _mend(context: Context, writer: SessionWriter, repair: Repair, *, dry_run: bool) -> None:
    paths = writer.paths
    backup = Backup(paths, dry_run=dry_run)
    try:
        _mend_files(context, writer, repair, backup, dry_run=dry_run)
    finally:
        repair.kept = backup.names
        repair.backup = backup.place if backup.names else None


def _mend_files(context: Context, writer: SessionWriter, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    paths = writer.paths
    fault = _fault(paths)
    if (fault is not None and _is_of_another(fault)) or not _is_readable(paths.transcript):
        return
    _drop_partial_line(paths.transcript, repair, backup, dry_run=dry_run)
    _recover_end(writer, repair, dry_run=dry_run)
    if (before := find_put_aside(paths)) is not None:
        _restore_state(paths, before, repair, backup, dry_run=dry_run)
    elif fault is None:
        _catch_up(paths, repair, backup, dry_run=dry_run)
    else:
        _rebuild_state(context, paths, repair, backup, dry_run=dry_run)
    _rebuild_result(paths, repair, backup, dry_run=dry_run)
    _rebuild_answers(paths, repair, backup, dry_run=dry_run)
    if repair.done and not dry_run:
        with writer.losing("the transcript"):
            writer.journal.turn = _turn(paths)
            writer.append("session_updated", {"what": "repaired", "done": repair.done})
            writer.journal.sync()


def _fault(paths: SessionPaths) -> StateError | None:
    try:
        load_state(paths.state)
    except StateError as fault:
        return fault
    return None


def _is_of_another(fault: StateError) -> bool:
    """Say whether a record is sound, but from a newer csa, or from another session whose directory was copied."""
    return fault.hint is not None or "which is not its directory's name" in fault.problem


def _is_readable(transcript: Path) -> bool:
    """Refuse a transcript that cannot be read: it proves nothing."""
    try:
        next(read_events_backwards(transcript), None)
    except StateError:
        return False
    return True


def _drop_partial_line(transcript: Path, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    try:
        fd = open_regular(transcript, os.O_RDONLY if dry_run else os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        end = end_of_last_line(fd, size)
        if end == size:
            return
        repair.done.append(f"transcript.jsonl: dropped the last {size - end} bytes, a truncated line")
        backup.keep(transcript, os.pread(fd, min(size - end, _MOST_KEPT), end))  # the rest stays in it
        if not dry_run:
            os.ftruncate(fd, end)
            sync_file(fd)
    finally:
        os.close(fd)


def _recover_end(writer: SessionWriter, repair: Repair, *, dry_run: bool) -> None:
    """Append the end of the last turn if only result.toml has it."""
    last = last_turn_event(writer.paths.transcript)
    kept = end_in_result(writer.paths, last) if last and last.type == "run_started" else None
    if last is None or kept is None:
        return
    repair.done.append(f"{_END_TAKEN} {last.turn} is taken from result.toml")
    if not dry_run:
        writer.journal.turn = last.turn
        writer.append("run_finished", kept)
        writer.require()


def _catch_up(paths: SessionPaths, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    """Update state.toml from the last turn's end: its conversation, usage and summary."""
    state = load_state(paths.state)
    after = caught_up(paths, state)
    if after != state:
        repair.done.append(f"state.toml: the outcome of turn {state.turns} is taken from the transcript")
        backup.keep(paths.state)
        if not dry_run:
            save_state(paths.state, after)


def _restore_state(paths: SessionPaths, before: SessionState, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    """Restore the record that another program has moved aside, with what it has done in the session since then."""
    backup.keep(paths.state)
    backup.keep(paths.root / PUT_ASIDE)
    repair.done.append(f"state.toml: restored from {PUT_ASIDE}, where another program had moved it")
    if dry_run:
        return
    try:
        since = load_state(paths.state)
    except StateError:
        since = None
    put_aside = paths.root / PUT_ASIDE
    if since is not None and (since.tools or since.turns):
        state = replace(
            before,
            tools={**before.tools, **since.tools},
            turns=before.turns + since.turns,
            last_accessed=max(before.last_accessed, since.last_accessed),
        )
        save_state(put_aside, state)
    os.rename(put_aside, paths.state)
    sync_directory(paths.root)


def _rebuild_state(context: Context, paths: SessionPaths, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    """Rebuild a state.toml that cannot be read."""
    state = rebuilt_state(paths, context.store.project)
    if state is None:
        return
    if state.worktree is None:
        path = worktree_path(context.store, state.session_id)
        state = replace(state, worktree=rediscover(path, context.environ))
    if paths.root.parent.name == RETIRED:
        state = replace(state, phase="retired", retired_at=datetime.now(UTC), retired_phase=state.phase)
    draft = None if dry_run else Draft(paths.state, render_toml(render_state(state)))
    backup.keep(paths.state)
    repair.done.append(f"state.toml: rebuilt from the transcript, with {state.turns} turn{'s' * (state.turns != 1)}")
    if state.parent_session_id is None:
        repair.done[-1] += "; no parent is known, so it is a root"
    if draft:
        draft.commit()


def _rebuild_result(paths: SessionPaths, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    try:
        expected = expected_result(paths)
    except StateError:
        return
    if expected is None:
        return
    try:
        wrong = differing_keys(paths, expected)
    except StateError:
        wrong = ["it could not be read"]
    if not wrong:
        return
    repair.done.append(f"result.toml: rebuilt from the transcript ({', '.join(wrong)})")
    backup.keep(paths.result)
    if not dry_run:
        write_atomically(paths.result, expected)
        sync_directory(paths.root)


def _rebuild_answers(paths: SessionPaths, repair: Repair, backup: Backup, *, dry_run: bool) -> None:
    """Write every final.md that could not be written and whose text is in the transcript."""
    for turn in read_turns(paths.transcript):
        final = paths.turn_output(turn.number) / "final.md"
        if not (turn.finished and final.parent.is_dir() and lacks_final(paths, turn.finished)):
            continue
        if text := told_answer(paths, turn.number):
            repair.done.append(f"{final.relative_to(paths.root)}: rebuilt from the transcript")
            backup.keep(final)
            if not dry_run:
                write_atomically(final, text.encode("utf-8", "surrogateescape"))


def _turn(paths: SessionPaths) -> int:
    try:
        return load_state(paths.state).turns
    except StateError:
        return 0


def rebuilt_state(paths: SessionPaths, project: Path) -> SessionState | None:
    """Return the record that follows from a transcript, with what is readable of a damaged one; None without a turn."""
    known = _from_transcript(paths, project)
    if known is None:
        return None
    salvaged = _salvage(paths.state)
    record = {**known, **salvaged.pop(_ROOT, {})}
    tree = salvaged.pop("worktree", {})
    record |= {"worktree": tree} if tree.keys() >= set(_OF_WORKTREES) else {}
    for table in ("genealogy", "limits", "budget"):
        record[table] = {**record.get(table, {}), **salvaged.pop(table, {})}
    for name, values in salvaged.items():
        if name in record["tools"]:
            record["tools"][name] = {**values, **record["tools"][name]}
    try:
        return parse_state(record)
    except RecordFault:  # what was salvaged is damaged as well
        return parse_state(known)


def _from_transcript(paths: SessionPaths, project: Path) -> dict[str, Any] | None:
    events = read_events(paths.transcript)
    first = next((event for event in events if event.type == "run_started"), None)
    if first is None:
        return None
    written = from_timestamp(paths.transcript.stat().st_mtime)  # if the events have no time
    description = summarise(str(first.data.get("prompt", "")))[:DESCRIPTION_LENGTH]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "meta_session_id": paths.root.name,
        "description": description,
        "project_path": str(project),
        "created_at": parse_time(first.ts) or written,
        "tools": {},
    }
    spent, tool, last = Spent(), "", first
    for event in read_events(paths.transcript):
        last = event
        if event.type == "run_started":
            tool = str(event.data.get("tool", ""))
            record |= {"turns": event.turn, "permission": text_of(event.data.get("permission")), "phase": "active"}
            record["tools"].setdefault(tool, {})
        if tool:
            record["tools"][tool] |= _of_tool(event)
        if sources := merged_sources(event):
            record["genealogy"] = {"merged_from": [source for source in sources if is_session_id(source)]}
        if event.type == "compaction" and event.data.get("status") == "succeeded":
            record |= {"phase": "available", "context_status": {"is_compacted": True, "last_compacted_at": event.ts}}
    for done in read_history(paths.transcript):
        if isinstance(done, CompactionRecord):
            spent += Spent(done.usage)
        elif done.finished:  # the next turn adds what has no end
            spent += Spent(done.usage, done.number_of("duration_s") or 0.0)
    record["last_accessed"] = parse_time(last.ts) or written
    sums = {**spent.usage.to_dict(), "duration_s": spent.time_s}
    record["usage"] = {key: value for key, value in sums.items() if value is not None}
    return record


def _of_tool(event: Event) -> dict[str, Any]:
    """Return what an event says about the tool's conversation."""
    data = event.data
    if event.type == "run_started":
        return {"cwd": text_of(data.get("cwd")), "updated_at": event.ts}
    if event.type == "session_bound":
        return {"provider_session_id": text_of(data.get("provider_session_id")), "updated_at": event.ts}
    if event.type == "run_finished":
        codes = [code for key in ("tool_exit_code", "exit_code") if type(code := data.get(key)) is int]
        return {
            "last_action_summary": text_of(data.get("summary")) or "",
            "last_exit_code": codes[0] if codes else None,
            "updated_at": event.ts,
        }
    return {}


def _salvage(path: Path) -> dict[str, dict[str, Any]]:
    """Return the wanted lines of a damaged record that can be parsed one by one, by table."""
    found: dict[str, dict[str, Any]] = {}
    try:
        text = read_regular(path).decode(errors="replace")
    except OSError:
        return found
    table, wanted = _ROOT, _SALVAGED[_ROOT]
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            table = line[1:-1].removeprefix("tools.")
            wanted = _SALVAGED_OF_TOOLS if line.startswith("[tools.") else _SALVAGED.get(table, ())
            continue
        for key, value in (load_plain(line) or {}).items():
            if key in wanted and "\ufffd" not in str(value):
                found.setdefault(table, {})[key] = value
    return found
