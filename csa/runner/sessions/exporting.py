"""Taking sessions out of a store: as a portable archive, or as conversations to read. Reads only.

What is stored is redacted already; it is redacted again with the secrets of the environment that exports, which may be
others.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from csa import __version__
from csa.errors import BusyError, StateError
from csa.model.conversation import Message, read_conversation
from csa.model.events import Event
from csa.model.redaction import Redactor, redact_long
from csa.model.state import format_time
from csa.runner.sessions.listing import SessionInfo, select_sessions
from csa.runner.setting import Setting, resolve_selector
from csa.store.archive import MAX_FILE_BYTES, RECORDS, ArchiveWriter
from csa.store.atomic import open_regular
from csa.store.liveness import probe
from csa.store.results import OWN_FILES
from csa.store.stores import find_stores
from csa.store.transcript import parse_line, read_events
from csa.structs import Struct, replace

_BLOCK = 64 << 10  # decoding takes four times as much for a moment: of larger ones that would leave holes in the heap
_TOO_LARGE = f"it is larger than {MAX_FILE_BYTES >> 30} GiB, more than an archive takes"


class Skipped(Struct):
    """What was left out of an export, and why."""

    what: str
    why: str


def choose_sessions(
    setting: Setting,
    selector: str | None,
    *,
    with_tree: bool = False,
    on_fault: Callable[[StateError], None] | None = None,
) -> list[SessionInfo]:
    """Return the sessions to export, oldest first: one, it and all below it in any project, or all of the project.

    `on_fault` is told of directories that cannot be listed, where some of a tree may be.
    """
    if selector is None:
        return select_sessions([setting.store]).infos[::-1]
    session_id = resolve_selector(setting, selector, retired=True)
    stores = find_stores(setting.store.root, on_fault=on_fault) if with_tree else []
    infos = {info.session_id: info for info in reversed(select_sessions(stores).infos)}
    wanted = _family(session_id, infos.values())
    if session_id not in infos:
        record, status = setting.store.record(session_id).examine()
        infos[session_id] = SessionInfo(record, setting.store, status, [], dict)
    return [infos[found] for found in sorted(wanted)]


def _family(root: str, infos: Iterable[SessionInfo]) -> set[str]:
    children: dict[str, list[str]] = {}
    for info in infos:
        if info.record.state and info.record.state.parent_session_id:
            children.setdefault(info.record.state.parent_session_id, []).append(info.session_id)
    family, waiting = {root}, [root]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - family
        family |= new
        waiting += new
    return family


def check_exportable(infos: list[SessionInfo], *, skip_corrupted: bool) -> tuple[list[SessionInfo], list[Skipped]]:
    """Return the sessions that can be exported, and the damaged ones that are left out.

    Raises:
        BusyError: one runs, or may.
        StateError: one is damaged, and damaged ones are not to be skipped.
    """
    kept, skipped = [], []
    for info in infos:
        if info.record.fault is None:
            _refuse_running(info)
            kept.append(info)
        elif skip_corrupted:
            skipped.append(Skipped(info.session_id, info.record.fault.message))
        else:
            fault = info.record.fault
            raise StateError(fault.path, fault.problem, line=fault.line, hint="--skip-corrupted leaves it out")
    return kept, skipped


def write_archive(
    setting: Setting, infos: list[SessionInfo], stream: IO[bytes], *, skip_corrupted: bool = False
) -> list[Skipped]:
    """Write an archive of sessions that `check_exportable` has let pass; return what was left out.

    Raises:
        BusyError: one has begun to run meanwhile; the archive is not whole then.
        StateError: a line of a transcript is damaged, and damaged ones are not to be skipped.
    """
    skipped: list[Skipped] = []
    manifest = {
        "csa": __version__,
        "sessions": [{"id": i.session_id, "project": str(i.store.project), "phase": i.phase} for i in infos],
    }
    with ArchiveWriter(stream, manifest, now=time.time()) as archive:
        for info in infos:
            for name, path in _files(info.record.paths.root, skipped):
                blocks = _redacted(path, name, setting.redactor, skipped if skip_corrupted else None)
                if not archive.add(info.session_id, name, blocks, mtime=path.stat().st_mtime):
                    skipped.append(Skipped(str(path), _TOO_LARGE))
            _refuse_running(info)
    return skipped


def read_messages(setting: Setting, info: SessionInfo) -> list[Message]:
    """Return a session's conversation, redacted again."""
    redactor = setting.redactor
    events: Iterable[Event] = (
        replace(event, data=redactor.redact_data(event.data)) for event in read_events(info.record.paths.transcript)
    )
    return list(read_conversation(events))


def session_to_json(setting: Setting, info: SessionInfo) -> dict[str, object]:
    """Return what is said of a session besides its messages."""
    state = info.record.state
    shown: dict[str, object] = setting.redactor.redact_data(info.to_json())
    now = format_time(datetime.now(UTC))
    return {**shown, "project": str(info.store.project), "owner": state.owner if state else None, "exported_at": now}


def _refuse_running(info: SessionInfo) -> None:
    liveness = probe(info.record.paths)
    if liveness.fault is not None:
        raise liveness.fault
    if liveness.state != "not_alive":
        raise BusyError(
            f"Session {info.session_id} is running; it can be exported when its turn has ended.",
            hint=f"csa session is-alive -s {info.session_id}",
        )


def _files(root: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of what belongs into an archive: records first, then plain files below output/."""
    yield from ((name, root / name) for name in RECORDS if (root / name).is_file())
    for directory, below, files in os.walk(root / "output"):
        below.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                skipped.append(Skipped(str(path), "it is no plain file"))
            elif path.stat().st_size > MAX_FILE_BYTES:  # not even read: no import would take it
                skipped.append(Skipped(str(path), _TOO_LARGE))
            else:
                yield str(path.relative_to(root)), path


def _redacted(path: Path, name: str, redactor: Redactor, skipped: list[Skipped] | None) -> Iterator[bytes]:
    if name == "transcript.jsonl":
        yield from _redacted_lines(path, redactor, skipped)
        return
    is_own = path.name in OWN_FILES and not name.startswith(RECORDS)
    # Records must stay TOML, and what an agent made must stay what it is: there only what is certainly a secret goes.
    for text in redact_long(_read(path), redactor.redact if is_own else redactor.redact_answer):
        yield text.encode("utf-8", "surrogateescape")


def _read(path: Path) -> Iterator[str]:
    """Yield a file's content piecewise; what is no UTF-8 survives."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with open(open_regular(path), "rb") as file:
        while block := file.read(_BLOCK):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _redacted_lines(path: Path, redactor: Redactor, skipped: list[Skipped] | None) -> Iterator[bytes]:
    """Yield the lines of a transcript; those that hold no event are damaged, but for a partial last one."""
    with open(open_regular(path), "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            event = parse_line(line)
            if event is None:
                if skipped is None:
                    raise StateError(path, "is no event", line=number, hint="--skip-corrupted leaves the line out")
                skipped.append(Skipped(f"{path}, line {number}", "it is no event"))
            elif redactor.may_hold_secret(line.decode("utf-8", "replace")):
                clean = json.dumps(redactor.redact_data(json.loads(line)), ensure_ascii=False, separators=(",", ":"))
                yield clean.encode("utf-8", "backslashreplace") + b"\n"
            else:
                yield line
