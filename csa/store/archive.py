"""Archives of sessions: a gzipped tar with a manifest, and below `sessions/<ULID>/` the files of each.

Written from streams that are redacted on their way; read without trust: only the names that csa writes, only regular
files, and only up to a size limit.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from csa.errors import ArchiveError, RefusedError
from csa.ids import is_session_id
from csa.store.artifacts import is_own
from csa.structs import Struct, field

FORMAT = 1
MANIFEST = "csa-export.json"
END = "csa-export.end"  # the last member; without it an archive is truncated
RECORDS = ("state.toml", "transcript.jsonl", "result.toml")
OUTPUT = "output"
_SESSIONS = "sessions"
MAX_FILE_BYTES = 4 << 30
_MAX_TOTAL_BYTES = 64 << 30
_MAX_DEPTH = 128
_MAX_PATH_BYTES = 2048
_MAX_ALL_PATHS_BYTES = 256 << 20
_MAX_HEADER_BYTES = 64 << 10
_MAX_LINE_BYTES = 64 << 20  # for files that are read by lines, or as a whole
SPOOL_BYTES = 4 << 20  # that are kept in memory
_BLOCK = 1 << 20
Spool = Callable[[Iterable[bytes]], AbstractContextManager[tuple[int, IO[bytes]]]]


class ArchiveWriter:
    """Writes an archive to a binary stream."""

    def __init__(self, stream: IO[bytes], manifest: dict[str, Any], *, now: float, spool: Spool | None = None) -> None:
        self._now, self._spool = now, spool or spooled
        self._files = 0
        self._sink = _Sink(stream)
        self._tar = tarfile.open(fileobj=self._sink, mode="w|gz", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # see `close`
        content = json.dumps({"format": FORMAT, **manifest}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._add(MANIFEST, io.BytesIO(content), len(content), now)

    def add(self, session_id: str, name: str, blocks: Iterable[bytes], *, mtime: float) -> bool:
        """Add a file of a session; say whether it was not too large."""
        with self._spool(blocks) as (size, spool):  # its size must be known first
            if size > MAX_FILE_BYTES:
                return False
            self._add(f"{_SESSIONS}/{session_id}/{name}", spool, size, mtime)
        self._files += 1
        return True

    def close(self) -> None:
        """Write the archive's end, which says how many files it contains."""
        content = json.dumps({"files": self._files}).encode()
        self._add(END, io.BytesIO(content), len(content), self._now)
        self._tar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # an archive that failed must not look complete
            self._sink.stream = None
            self._tar.close()

    def _add(self, name: str, content: Any, size: int, mtime: float) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, int(mtime)
        self._tar.addfile(member, content)


@contextmanager
def spooled(blocks: Iterable[bytes]) -> Iterator[tuple[int, IO[bytes]]]:
    """Yield the size of some blocks, and then these; what is long is in a file meanwhile."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        size = sum(map(spool.write, blocks))
        spool.seek(0)
        yield size, spool


class _Sink(io.RawIOBase):
    """The output of an archive; after a failure it writes nothing more: tarfile closes what it has begun."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream: IO[bytes] | None = stream

    def write(self, content: Any, /) -> int:
        return self.stream.write(content) if self.stream else len(content)


class _Plain(gzip.GzipFile):
    """The tar in an archive; only `left` bytes can be read before the next member, or the end, is reached.

    tarfile keeps headers of any size in memory, and recurses for each header about the next one. Its own
    gzip reader does not check what it reads.
    """

    left = _MAX_HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self.left -= len(block)
        if self.left < 0:
            raise _damaged(f"it has an end marker or header of more than {_MAX_HEADER_BYTES >> 10} KiB")
        return block


class Unpacked(Struct, frozen=False):
    """An archive's content in a directory: for each session the names of its files, in `<directory>/<ULID>/`."""

    directory: Path
    manifest: dict[str, Any] | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    count: int = 0
    size_bytes: int = 0
    paths_bytes: int = 0
    is_whole: bool = False

    def path(self, session_id: str, name: str) -> Path:
        return self.directory / session_id / name


def unpack(stream: IO[bytes], directory: Path) -> Unpacked:
    """Unpack a csa archive into an empty directory.

    Raises:
        ArchiveError: it is not a csa archive, is truncated, or contains what none does: links, other names.
        RefusedError: it contains too much.
    """
    found = Unpacked(directory)
    try:
        with _Plain(fileobj=stream) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                while member := tar.next():
                    plain.left = _MAX_HEADER_BYTES + member.size
                    _take_member(found, tar, member)
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            while plain.read(_BLOCK):  # to its checksum
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(f"it cannot be read to its end ({error})") from error
    if not found.is_whole:
        raise _damaged("it is incomplete")
    return found


def _take_member(found: Unpacked, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise _damaged(f"'{member.name}' is not a regular file")
    found.size_bytes += member.size
    found.paths_bytes += len(member.name)
    if found.size_bytes > _MAX_TOTAL_BYTES or found.paths_bytes > _MAX_ALL_PATHS_BYTES:
        raise RefusedError("The archive contains more than csa imports.")
    if found.is_whole:
        raise _damaged("it has data after its end")
    if found.manifest is None:
        found.manifest = _read_manifest(member, content)
    elif member.name == END:
        found.is_whole = _read_json(member, content).get("files") == found.count
    else:
        _take_file(found, member, content)


def _read_manifest(member: tarfile.TarInfo, content: IO[bytes]) -> dict[str, Any]:
    if member.name != MANIFEST:
        raise _damaged(f"it does not begin with {MANIFEST}")
    manifest = _read_json(member, content)
    if not isinstance(manifest.get("format"), int):
        raise _damaged(f"its {MANIFEST} names no format")
    if manifest["format"] > FORMAT:
        raise ArchiveError(f"The archive has format {manifest['format']}, from a newer csa.", hint="upgrade csa")
    return manifest


def _read_json(member: tarfile.TarInfo, content: IO[bytes]) -> dict[str, Any]:
    if member.size > _MAX_LINE_BYTES:
        raise _damaged(f"its {member.name} is too large")
    try:
        found = json.loads(content.read())
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its {member.name} is not JSON") from error
    if not isinstance(found, dict):
        raise _damaged(f"its {member.name} is not an object")
    return found


def _take_file(found: Unpacked, member: tarfile.TarInfo, content: IO[bytes]) -> None:
    session_id, name = _session_and_name(member.name)
    target = found.path(session_id, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with target.open("xb") as file:
            is_text = name in RECORDS or is_own(name.removeprefix(f"{OUTPUT}/"))
            for block in _checked_lines(content, member) if is_text else _blocks(content):
                file.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _damaged(f"it contains '{member.name}' twice, or another file in its place") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _damaged(f"it contains '{member.name[:60]}...', whose name is too long") from error
        raise
    target.chmod(0o600)
    found.files.setdefault(session_id, []).append(name)
    found.count += 1


def _blocks(content: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: content.read(_BLOCK), b"")


def _checked_lines(content: IO[bytes], member: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield the same as `_blocks`, for files that will be read by lines."""
    length = 0
    for block in _blocks(content):
        end = block.rfind(b"\n") + 1
        length = len(block) - end if end else length + len(block)
        if length > _MAX_LINE_BYTES:
            raise _damaged(f"a line of '{member.name}' is longer than {_MAX_LINE_BYTES >> 20} MiB")
        yield block


def _session_and_name(path: str) -> tuple[str, str]:
    """Return the session and the name in its directory that a member's path means."""
    parts = PurePosixPath(path).parts
    is_known = (
        len(parts) > 2  # noqa: PLR2004  # sessions, the id, and a name
        and "/".join(parts) == path
        and parts[0] == _SESSIONS
        and is_session_id(parts[1])
        and (parts[2:] in {(name,) for name in RECORDS} or (parts[2] == OUTPUT and len(parts) > 3))  # noqa: PLR2004
        and ".." not in parts
        and "\0" not in path
    )
    if not is_known:
        raise _damaged(f"'{path}' is not a session's file")
    name = "/".join(parts[2:])
    if not is_takeable(name):
        raise _damaged("it contains a file whose path is too long or too deep")
    return parts[1], name


def is_takeable(name: str) -> bool:
    """Say whether an archive accepts a file with that path: others no import could handle, or remove again."""
    return name.count("/") <= _MAX_DEPTH and len(os.fsencode(name)) <= _MAX_PATH_BYTES


def _damaged(problem: str) -> ArchiveError:
    return ArchiveError(f"This is not an archive that csa imports: {problem}.", hint="create one with csa export")
