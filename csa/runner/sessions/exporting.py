"""Exporting sessions from a store: as a portable archive, or as conversations to read. Only reads.

What is stored is already redacted; it is redacted again with the secrets of the exporting environment, which may be
different.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from csa import __version__
from csa.errors import BusyError, StateError
from csa.model.conversation import Message, read_conversation
from csa.model.events import Event
from csa.model.genealogy import descend
from csa.model.redaction import Redactor, redact_long
from csa.model.state import format_time
from csa.paths import SessionPaths
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.listing import select_sessions
from csa.store.archive import MAX_FILE_BYTES, OUTPUT, RECORDS, ArchiveWriter, Spool, is_takeable
from csa.store.artifacts import OWN_FILES, open_below, walk_files
from csa.store.checking import KNOWN_NAMES
from csa.store.liveness import probe
from csa.store.shown import SessionInfo
from csa.store.stores import find_stores
from csa.store.taking import refuse_busy
from csa.store.transcript import parse_line, read_events
from csa.structs import Struct, replace

_TRANSCRIPT = "transcript.jsonl"
_BLOCK = 64 << 10  # decoding needs four times as much for a moment: with larger blocks that would fragment the heap
_TOO_DEEP = "its path is too long or too deep for an archive"
_TOO_LARGE = f"it is larger than {MAX_FILE_BYTES >> 30} GiB, too large for an archive"


class Skipped(Struct):
    """What was left out of an export, and why."""

    what: str
    why: str


class _Opened(Struct):
    """The open records of a session, and where its transcript ended then: what a turn writes later is not exported."""

    files: dict[str, IO[bytes]]
    end: int


def choose_sessions(
    session: Session, *, with_tree: bool = False, on_fault: Callable[[StateError], None] | None = None
) -> list[SessionInfo]:
    """Return the sessions to export, oldest first: one, or it and all below it in any project.

    If several projects have an id, the one of the session's own project is exported. `on_fault` gets the directories
    that cannot be listed, where part of a tree may be.
    """
    store, session_id = session.target
    stores = find_stores(store.root, on_fault=on_fault) if with_tree else []
    found = sorted(
        select_sessions(stores).infos, key=lambda info: info.store.project_pathname == store.project_pathname
    )
    infos = {info.session_id: info for info in found}
    infos[session_id] = session.record.examine()
    family = descend([session_id], ((info.session_id, info.parent) for info in infos.values()))
    return [infos[each] for each in sorted(family)]


def check_exportable(
    infos: list[SessionInfo], *, skip_corrupted: bool, skip_running: bool = False
) -> tuple[list[SessionInfo], list[Skipped]]:
    """Return the sessions that can be exported, and the damaged or running ones that are left out.

    Raises:
        BusyError: one runs, or may, and running ones are not to be skipped.
        StateError: one is damaged, and damaged ones are not to be skipped.
    """
    kept, skipped = [], []
    for info in infos:
        fault = info.record.fault or _find_link(info.record.paths)
        if fault is None:
            try:
                _refuse_running(info)
            except BusyError as error:
                if not skip_running:
                    raise
                skipped.append(Skipped(info.session_id, error.message))
            else:
                kept.append(info)
        elif skip_corrupted:
            skipped.append(Skipped(info.session_id, fault.message))
        else:
            raise StateError(fault.path, fault.problem, line=fault.line, hint="--skip-corrupted leaves it out")
    return kept, skipped


def _find_link(paths: SessionPaths) -> StateError | None:
    """Return a fault if a record that every import needs may be another file."""
    links = (path for path in (paths.state, paths.transcript) if path.is_symlink())
    return next((StateError(path, "is a link, and exports do not follow links") for path in links), None)


def write_archive(
    context: Context,
    infos: list[SessionInfo],
    stream: IO[bytes],
    *,
    skip_corrupted: bool = False,
    skip_running: bool = False,
    spool: Spool | None = None,
) -> list[Skipped]:
    """Write an archive of sessions that `check_exportable` has accepted; return what was left out.

    `spool` keeps what has no size yet: of an archive that is encrypted, not in a plain file. With `skip_running`, a
    session that has started running meanwhile is left out, or is exported as it was before.

    Raises:
        BusyError: one has started running meanwhile; the archive is incomplete then.
        StateError: a line of a transcript is damaged, and damaged ones are not to be skipped.
    """
    skipped: list[Skipped] = []
    manifest = {
        "csa": __version__,
        "sessions": [{"id": i.session_id, "project": str(i.store.project), "phase": i.phase} for i in infos],
    }
    with ArchiveWriter(stream, manifest, now=time.time(), spool=spool) as archive:
        for info in infos:
            content = _content(context, info)
            root = content.root
            skipped += _unknown_entries(root)
            with ExitStack() as stack:
                opened = _open_records(root, stack)
                names = list(_archived_names(root))
                try:
                    _refuse_running(info)  # what is open now, up to its present end, is from before any later turn
                except BusyError as error:
                    if not skip_running:
                        raise
                    skipped.append(Skipped(info.session_id, error.message))
                    continue
                for name in names:
                    into = skipped if skip_corrupted else None
                    if why := _add(
                        archive, info.session_id, root, name, opened, redactor=context.redactor, skipped=into
                    ):
                        skipped.append(Skipped(str(root / name), why))
            if not skip_running:
                _refuse_running(info)
            if root == info.record.paths.root != content.root:
                words = f"Session {info.session_id} was encrypted meanwhile, and is not whole in the archive."
                raise BusyError(words, hint="export it again")
    return skipped


def _open_records(root: Path, stack: ExitStack) -> _Opened:
    files = {
        name: stack.enter_context(file)
        for name in RECORDS
        if os.path.lexists(root / name) and (file := open_below(root, name))
    }
    transcript = files.get(_TRANSCRIPT)
    return _Opened(files, os.fstat(transcript.fileno()).st_size if transcript else 0)


def _add(
    archive: ArchiveWriter,
    session_id: str,
    root: Path,
    name: str,
    opened: _Opened,
    *,
    redactor: Redactor,
    skipped: list[Skipped] | None,
) -> str | None:
    """Add a file to an archive, or say why it is left out."""
    if not is_takeable(name):
        return _TOO_DEEP
    file = opened.files.get(name) or open_below(root, name)
    if file is None:
        return "it is not a regular file"
    with file:
        known = os.fstat(file.fileno())
        if known.st_size > MAX_FILE_BYTES:  # not even read: no import would accept it
            return _TOO_LARGE
        blocks = _redacted(file, root, name, redactor, skipped, end=opened.end)
        return None if archive.add(session_id, name, blocks, mtime=known.st_mtime) else _TOO_LARGE


def _content(context: Context, info: SessionInfo) -> SessionPaths:
    """Return the files of a session; of one that is encrypted in memory, as long as this is kept."""
    return Session(context.in_store(info.store), info.session_id).content


def read_messages(context: Context, info: SessionInfo) -> list[Message]:
    """Return a session's conversation, redacted again."""
    redactor, content = context.redactor, _content(context, info)
    events: Iterable[Event] = (
        replace(event, data=redactor.redact_data(event.data)) for event in read_events(content.transcript)
    )
    return list(read_conversation(events))


def session_to_json(context: Context, info: SessionInfo) -> dict[str, object]:
    """Return what is known about a session besides its messages."""
    state = info.record.state
    shown: dict[str, object] = context.redactor.redact_data(info.to_json())
    now = format_time(datetime.now(UTC))
    return {**shown, "project": str(info.store.project), "owner": state.owner if state else None, "exported_at": now}


def _refuse_running(info: SessionInfo) -> None:
    liveness = probe(info.record.paths)
    if liveness.fault is not None:
        raise liveness.fault
    if liveness.state == "alive" and liveness.stranger is None:
        raise BusyError(
            f"Session {info.session_id} is running; export it when its turn has ended.",
            hint=f"csa is-alive {info.session_id}, or --skip-running to leave out running sessions",
        )
    refuse_busy(info.record.paths)


def _archived_names(root: Path) -> Iterator[str]:
    """Yield the names of the regular files that belong in an archive: records first, then the output."""
    yield from (name for name in RECORDS if os.path.lexists(root / name))
    output = root / OUTPUT
    if output.is_symlink():
        yield OUTPUT
    else:
        yield from (f"{OUTPUT}/{name}" for name in walk_files(output))


def _unknown_entries(root: Path) -> list[Skipped]:
    """Return what is in a session's directory but not part of a csa session: other programs leave more."""
    names = sorted(set(os.listdir(root)) - KNOWN_NAMES)
    return [Skipped(str(root / name), "it does not belong to a session's archive") for name in names]


def _redacted(
    file: IO[bytes], root: Path, name: str, redactor: Redactor, skipped: list[Skipped] | None, *, end: int
) -> Iterator[bytes]:
    if name == _TRANSCRIPT:
        yield from _redacted_lines(file, root / name, redactor, skipped, end=end)
        return
    is_own_log = os.path.basename(name) in OWN_FILES
    # Records must stay TOML, and agents' files must stay intact: there only certain secrets are redacted.
    for text in redact_long(_read_pieces(file), redactor.redact if is_own_log else redactor.redact_answer):
        yield text.encode("utf-8", "surrogateescape")


def _read_pieces(file: IO[bytes]) -> Iterator[str]:
    """Yield a file's content piecewise; bytes that are not UTF-8 survive."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    while block := file.read(_BLOCK):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _redacted_lines(
    file: IO[bytes], path: Path, redactor: Redactor, skipped: list[Skipped] | None, *, end: int
) -> Iterator[bytes]:
    """Yield the lines of a transcript up to `end`; lines without an event are damaged, except a partial last one."""
    for number, line in enumerate(file, 1):
        end -= len(line)
        if not line.endswith(b"\n") or end < 0:
            return
        event = parse_line(line)
        if event is None:
            if skipped is None:
                raise StateError(path, "is not an event", line=number, hint="--skip-corrupted leaves the line out")
            skipped.append(Skipped(f"{path}, line {number}", "it is not an event"))
        elif redactor.may_hold_secret(line.decode("utf-8", "replace")):
            clean = json.dumps(redactor.redact_data(json.loads(line)), ensure_ascii=False, separators=(",", ":"))
            yield clean.encode("utf-8", "backslashreplace") + b"\n"
        else:
            yield line
