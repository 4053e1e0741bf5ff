"""Sessions whose text is encrypted at rest: sealing one, opening it again, and reading it meanwhile.

All that has text is in one file, `sealed.age`; beside it stay the record, without texts, and a skeleton of the
transcript (`csa.model.skeleton`), which whatever needs no text reads as usual. The record says which counts: while
it has `sealed_at`, the file does, and what else is there in plain is not yet deleted, or not yet complete; without it,
what is there in plain does, and the file is a leftover. It is replaced when what counts next is whole and durable, so
that a crash at any instant loses nothing. Whoever seals or unseals holds the session's lock.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from csa.errors import ArchiveError, SealedError, StateError
from csa.model.events import Event
from csa.model.skeleton import HIDDEN, READ, is_bare, skeleton
from csa.model.state import SessionState
from csa.ownership import give_tree, open_private
from csa.paths import SEALED_FILE, SessionPaths
from csa.store.atomic import open_regular, sync_directory, sync_file
from csa.store.journal import encode_event
from csa.store.lines import head_of
from csa.store.sealing import WrongKeyError, opened_with, seal
from csa.store.statefile import draft_state, load_state
from csa.store.transcript import parse_line, read_events, read_events_backwards, read_lines
from csa.structs import replace

OPENING = ".opening"  # the directory in which the files of a session that is unsealed are put together
_PLAIN = frozenset({"state.toml", "locks", "queue", "heartbeat", "cancel", ".reserve", SEALED_FILE, OPENING})
_TEXTS = "texts.json"
_TRANSCRIPT = "transcript.jsonl"
_BLOCK = 1 << 20
Stamps = dict[str, tuple[int, int, int]]  # of files, by their names
_LEFT_BY_KILL = re.compile(r"\.(state\.toml\.\d+|transcript\.jsonl)\.tmp")  # csa's own, which are worth nothing
_LATER = ".later"  # ends the name of what was written while the session was sealed, where the file had been before


def seal_session(
    paths: SessionPaths,
    recipients: Sequence[str],
    *,
    forget: Callable[[], object] = lambda: None,
    heed: Callable[[], None] = lambda: None,
) -> SessionState:
    """Encrypt a session that is held and has finished; what is sealed already loses what a crash has left of it.

    `forget` has the session leave what has its text elsewhere, before it counts as sealed. `heed` is called again and
    again before that; what it raises leaves everything as it was.

    Raises:
        StateError: its record or its transcript cannot be read; nothing was changed.
        OSError: as on a full disk; then either nothing was changed, or a part is still there in plain.
        Others as `csa.store.sealing.seal`.
    """
    state = load_state(paths.state)
    if state.sealed_at is None:
        last = next(read_events_backwards(paths.transcript), None)
        sealed = _hidden(state, datetime.now(UTC), last.seq if last else 0)
        temporary = paths.root / f".{SEALED_FILE}.tmp"
        packed: Stamps = {}
        temporary.unlink(missing_ok=True)
        try:
            with open(open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                began = os.fstat(file.fileno()).st_mtime_ns  # what is newer may not be encrypted as it is
                seal(recipients, file, lambda stream: _pack(paths, _texts_of(state), _Heeding(stream, heed), packed))
                file.flush()
                os.utime(file.fileno(), ns=(began, began))
                sync_file(file.fileno())
            draft = draft_state(paths.state, sealed)
            try:
                os.replace(temporary, paths.root / SEALED_FILE)
                sync_directory(paths.root)
                forget()
                draft.commit()
            finally:
                if draft.is_pending:  # nothing counts as sealed, and a disk that is full gets its room back
                    (paths.root / SEALED_FILE).unlink(missing_ok=True)
                draft.discard()
        finally:
            temporary.unlink(missing_ok=True)
        _bare(paths, sealed, packed)
        return sealed
    _bare(paths, state)
    return state


def is_bared(paths: SessionPaths) -> bool:
    """Say whether nothing is left in plain of what a sealed session has encrypted."""
    is_clean = not (os.path.lexists(paths.root / OPENING) or _left_by_kill(paths))
    return is_clean and _is_skeleton(paths) and not any(_left(paths))


def unseal_session(paths: SessionPaths, state: SessionState, keys: Sequence[Any]) -> SessionState:
    """Put the files of a sealed session that is held back in their places, and return its record.

    Raises:
        SealedError: none of the keys opens it; nothing was changed.
        StateError: what is encrypted is damaged or missing; nothing was changed.
        OSError: as on a full disk; it is still sealed then.
    """
    opening = paths.root / OPENING
    shutil.rmtree(opening, ignore_errors=True)
    try:
        opening.mkdir(0o700)
        texts = _unpack(paths, keys, opening)
        _complete(paths, state, opening / _TRANSCRIPT)
        sealed_at = os.stat(paths.root / SEALED_FILE).st_mtime_ns
        _move_below(opening, paths.root, sealed_at)
        opened = _shown(state, texts)
        draft_state(paths.state, opened).commit()
        (paths.root / SEALED_FILE).unlink()
    finally:
        shutil.rmtree(opening, ignore_errors=True)
    give_tree(paths.root)
    return opened


def read_sealed(paths: SessionPaths, state: SessionState, keys: Sequence[Any], into: Path) -> SessionPaths:
    """Put what a sealed session has into an empty directory, as if it were not sealed; return that.

    Raises as `unseal_session`.
    """
    root = into / paths.session_id
    root.mkdir(0o700)
    texts = _unpack(paths, keys, root)
    _complete(paths, state, root / _TRANSCRIPT)
    found = SessionPaths(root)
    shutil.copyfile(paths.state, found.state)
    draft_state(found.state, _shown(state, texts)).commit()
    return found


def _hidden(state: SessionState, at: datetime, seq: int) -> SessionState:
    tools = {name: replace(tool, last_action_summary=HIDDEN) for name, tool in state.tools.items()}
    tree = state.worktree
    if tree and tree.refused and tree.refused.message:
        tree = replace(tree, refused=replace(tree.refused, message=HIDDEN))
    description = HIDDEN if state.description else ""
    return replace(state, description=description, tools=tools, worktree=tree, sealed_at=at, sealed_seq=seq)


def _texts_of(state: SessionState) -> dict[str, Any]:
    refused = state.worktree and state.worktree.refused
    summaries = {name: tool.last_action_summary for name, tool in state.tools.items()}
    return {"description": state.description, "summaries": summaries, "refused": refused and refused.message}


def _shown(state: SessionState, texts: Mapping[str, Any]) -> SessionState:
    """Return the record with its texts, but for those that were changed since."""
    summaries = texts.get("summaries") or {}
    tools = {
        name: replace(tool, last_action_summary=summaries.get(name)) if tool.last_action_summary == HIDDEN else tool
        for name, tool in state.tools.items()
    }
    tree = state.worktree
    if tree and tree.refused and tree.refused.message == HIDDEN:
        tree = replace(tree, refused=replace(tree.refused, message=str(texts.get("refused") or "")))
    description = str(texts.get("description") or "") if state.description == HIDDEN else state.description
    return replace(state, description=description, tools=tools, worktree=tree, sealed_at=None, sealed_seq=None)


def _pack(paths: SessionPaths, texts: Mapping[str, Any], stream: io.RawIOBase, packed: Stamps) -> None:
    """Write all that has text, the transcript first; note in `packed` what it was."""
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        content = json.dumps(texts).encode()
        member = tarfile.TarInfo(_TEXTS)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        for name, found in _entries(paths.pathname):
            _add(tar, f"{paths.pathname}/{name}", name, found)
            packed[name] = _stamp(found)


class _Heeding(io.RawIOBase):
    """A stream that calls something with each block."""

    def __init__(self, stream: IO[bytes], heed: Callable[[], None]) -> None:
        self._stream, self._heed = stream, heed

    def write(self, block: Any) -> int:
        self._heed()
        return self._stream.write(block)


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _add(tar: tarfile.TarFile, pathname: str, name: str, found: os.stat_result) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(found.st_mode), found.st_mtime_ns / 1e9
    if stat.S_ISDIR(found.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(found.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(pathname)
        tar.addfile(member)
    else:
        if not os.access(pathname, os.R_OK):
            _open_up(pathname, 0o600)
        with open(open_regular(pathname, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)


def _entries(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what has text in a session's directory, a directory before what is in it; pipes and sockets have none."""
    names = filter(_may_have_text, os.listdir(root))
    waiting = sorted(names, key=lambda name: (name != _TRANSCRIPT, name), reverse=True)  # the next one is the last
    while waiting:
        name = waiting.pop()
        found = os.lstat(f"{root}/{name}")
        if stat.S_ISDIR(found.st_mode):
            yield name, found
            _make_usable(f"{root}/{name}")
            waiting += [f"{name}/{each}" for each in sorted(os.listdir(f"{root}/{name}"), reverse=True)]
        elif stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            yield name, found


def _may_have_text(name: str) -> bool:
    return not (name in _PLAIN or name.startswith(f".{SEALED_FILE}") or _LEFT_BY_KILL.fullmatch(name))


def _bare(paths: SessionPaths, state: SessionState, packed: Stamps | None = None) -> None:
    """Delete what is encrypted by now; what was written since stays. OSError if something cannot be deleted."""
    shutil.rmtree(paths.root / OPENING, ignore_errors=True)
    for name in _left_by_kill(paths):
        os.unlink(f"{paths.pathname}/{name}")
    if not _is_skeleton(paths):
        up_to = state.sealed_seq or 0
        temporary = paths.root / f".{_TRANSCRIPT}.tmp"
        with open(open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.writelines(map(_line, skeleton(_events(paths.transcript, up_to), up_to=up_to)))
            file.flush()
            sync_file(file.fileno())
        os.replace(temporary, paths.transcript)
    for name in _left(paths, packed):
        os.unlink(f"{paths.pathname}/{name}")
    for name, found in list(_entries(paths.pathname))[::-1]:
        if stat.S_ISDIR(found.st_mode):
            with suppress(OSError):  # what is newer is in it
                os.rmdir(f"{paths.pathname}/{name}")
    sync_directory(paths.root)


def _is_skeleton(paths: SessionPaths) -> bool:
    first = next(read_events(paths.transcript), None)
    return first is None or is_bare(first)


def _left_by_kill(paths: SessionPaths) -> list[str]:
    return [name for name in os.listdir(paths.pathname) if _LEFT_BY_KILL.fullmatch(name)]


def _left(paths: SessionPaths, packed: Stamps | None = None) -> list[str]:
    """Return the files that are encrypted: those that were `packed`, and after a crash those that are not newer."""
    sealed_at = os.stat(paths.root / SEALED_FILE).st_mtime_ns
    return [
        name
        for name, found in _entries(paths.pathname)
        if name != _TRANSCRIPT
        and not stat.S_ISDIR(found.st_mode)
        and (found.st_mtime_ns <= sealed_at if packed is None else packed.get(name) == _stamp(found))
    ]


def _make_usable(directory: Path | str) -> None:
    """Take back the rights to a directory that an agent has taken away, as go does for its modules."""
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        _open_up(directory, 0o700)


def _open_up(pathname: Path | str, mode: int) -> None:
    fd = os.open(pathname, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)  # which is no other file, whatever takes its place meanwhile
    finally:
        os.close(fd)


def _line(event: Event) -> bytes:
    return encode_event(event).encode("utf-8", "backslashreplace")


def _events(transcript: Path, up_to: int) -> Iterator[Event]:
    """Yield the events; of those whose data no skeleton has, only what they are."""
    for line in read_lines(transcript):
        head = head_of(line) if line.endswith(b"\n") else None
        if head is None:
            continue
        if head[1] not in READ and head[0] < up_to:
            yield Event(head[0], "", head[1], 0, {})
        elif event := parse_line(line):
            yield event


def _unpack(paths: SessionPaths, keys: Sequence[Any], into: Path) -> dict[str, Any]:
    """Put what is encrypted into a directory; return the texts of the record."""
    sealed = paths.root / SEALED_FILE
    texts: dict[str, Any] | None = None  # the first member; an agent's file may have its name
    links: list[tuple[Path, str]] = []
    try:
        with (
            open(open_regular(sealed), "rb") as file,
            opened_with(keys, file) as plain,
            gzip.GzipFile(fileobj=plain) as zipped,
        ):
            with tarfile.open(fileobj=zipped, mode="r|") as tar:
                for member in tar:
                    if texts is None:
                        texts = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]  # it is a file
                    else:
                        _take(tar, member, into, links)
            while zipped.read(_BLOCK):  # to the end, which is authenticated
                pass
            while plain.read(_BLOCK):
                pass
    except WrongKeyError:
        words = f"None of your keys opens session {paths.session_id}."
        raise SealedError(words, hint="the secret key of one it was encrypted for: [store] identity") from None
    except FileNotFoundError as error:
        raise StateError(sealed, "is missing", hint="restore it from a backup") from error
    except (ArchiveError, tarfile.TarError, EOFError, zlib.error, ValueError, gzip.BadGzipFile) as error:
        raise StateError(sealed, f"is damaged ({error})", hint="restore it from a backup") from error
    for target, leads_to in links:  # last, so that nothing is written through one
        target.symlink_to(leads_to)
    return texts or {}


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path, links: list[tuple[Path, str]]) -> None:
    parts = member.name.split("/")
    if parts[0] in _PLAIN or {"", ".", ".."} & set(parts):  # anybody can encrypt something for a public key
        raise ValueError(f"it has a file {member.name!r}")
    target = into / member.name
    if member.isdir():
        target.mkdir(0o700, parents=True, exist_ok=True)
    elif member.issym():
        links.append((target, member.linkname))
    elif member.isreg() and (content := tar.extractfile(member)):
        with open(open_private(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(member.mode) | stat.S_IRUSR | stat.S_IWUSR)
            sync_file(file.fileno())
        os.utime(target, (member.mtime, member.mtime))


def _complete(paths: SessionPaths, state: SessionState, transcript: Path) -> None:
    """Add to a transcript that was encrypted what was noted since."""
    up_to = state.sealed_seq or 0
    if not transcript.exists():
        transcript.touch(0o600)
    since = [event for event in read_events(paths.transcript) if event.seq > up_to]
    if since:
        with transcript.open("ab") as file:
            file.writelines(map(_line, since))
            file.flush()
            sync_file(file.fileno())


def _move_below(source: Path, target: Path, sealed_at: int) -> None:
    """Move what is in a directory into another, the transcript last; what is newer there gets another name."""
    for name in sorted(os.listdir(source), key=lambda name: (name == _TRANSCRIPT, name)):
        wanted, there = source / name, target / name
        found = os.lstat(there) if os.path.lexists(there) else None
        is_directory = stat.S_ISDIR(os.lstat(wanted).st_mode)
        is_same_kind = found is None or stat.S_ISDIR(found.st_mode) == is_directory
        if found and is_directory and is_same_kind:
            _make_usable(there)
            _move_below(wanted, there, sealed_at)
            continue
        if found and name != _TRANSCRIPT and (not is_same_kind or found.st_mtime_ns > sealed_at):
            os.replace(there, target / _name_for_later(name, source, target))
        os.replace(wanted, there)
    sync_directory(target)


def _name_for_later(name: str, *directories: Path) -> str:
    """Return a name that is in none of the directories."""
    names = chain([f"{name}{_LATER}"], (f"{name}{_LATER}-{number}" for number in count(2)))
    return next(each for each in names if not any(os.path.lexists(place / each) for place in directories))
