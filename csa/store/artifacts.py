"""What agents have left in a session's output/: files, links, and how to read them without being led outside.

An agent may change the files at any time: what was checked is checked again when it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from csa.errors import NotFoundError, RefusedError
from csa.model.clock import from_timestamp
from csa.model.state import format_time
from csa.paths import SessionPaths
from csa.structs import Struct

SCHEMA_FILE = "schema.json"  # that a turn's answer had to conform to
OWN_FILES = frozenset({"prompt.md", SCHEMA_FILE, "final.md", "stdout.log", "stderr.log", "supervisor.log"})
PROMPT_FILES = "prompt-files"  # the directory of what came with a turn's prompt
_BLOCK = 1 << 20
_NO_PLAIN_FILE = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}  # a link, a link in its path, a socket
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
LOGS = {"raw": "stdout.log", "system": "supervisor.log"}  # of a turn, by what they are asked for as


class Artifact(Struct):
    """An agent's file; `name` is its path in output/, or in turn-0003/ for files in such a directory."""

    path: Path
    name: str
    turn: int | None
    size_bytes: int
    modified_at: datetime
    leads_out: bool  # a symbolic link to something outside output/

    def to_json(self, *, copied_to: str | None = None) -> dict[str, object]:
        """Return the object that `session artifacts --json` prints of it."""
        return {
            "path": str(self.path),
            "name": self.name,
            "turn": self.turn,
            "size_bytes": self.size_bytes,
            "modified_at": format_time(self.modified_at),
            "leads_out": self.leads_out,
            "copied_to": copied_to,
        }


def find_log(paths: SessionPaths, kind: str, *, turn: int | None = None) -> Path:
    """Return a log of a turn, one of LOGS; by default of the last one that has begun. NotFoundError without one."""
    if turn is None:
        turn = max((int(path.name[5:]) for path in paths.output.glob("turn-*") if path.name[5:].isdigit()), default=0)
    if not turn or not paths.turn_output(turn).is_dir():
        raise NotFoundError(f"Session {paths.root.name} has {f'no turn {turn}' if turn else 'not run yet'}.")
    path = paths.turn_output(turn) / LOGS[kind]
    if path.is_file():
        return path
    raise NotFoundError(f"Turn {turn} of session {paths.root.name} has no {LOGS[kind]}.")


def find_artifacts(paths: SessionPaths, *, turn: int | None = None) -> list[Artifact]:
    """Return what agents have left, by name, without csa's own files and anything that is not a file.

    If output/ itself is a link, that is the only result, and it points outside.
    """
    root = Path(os.path.realpath(paths.root), paths.output.name)
    if root.is_symlink():
        known = root.lstat()
        return [Artifact(root, ".", turn, known.st_size, from_timestamp(known.st_mtime), leads_out=True)]
    found = (_artifact(root, name) for name in walk_files(root) if not is_own(name))
    return sorted(
        (item for item in found if item and turn in {None, item.turn}), key=lambda item: (item.turn or 0, item.name)
    )


def list_artifacts(paths: SessionPaths, turn: int) -> tuple[str, ...]:
    """Return the files of a turn, and those of no turn, as absolute paths, without links that point outside."""
    found = (item for item in find_artifacts(paths) if item.turn in {None, turn} and not item.leads_out)
    return tuple(map(str, sorted(paths.output / item.name for item in found)))


def copy_artifacts(artifacts: Sequence[Artifact], to: Path) -> list[Path]:
    """Copy artifacts into a directory, creating it if necessary; return the copies.

    Nothing is overwritten, and nothing is copied if anything is in the way.

    Raises:
        RefusedError: a file with that name exists, or a link points outside output/.
        OSError: it cannot be read or written.
    """
    for artifact in artifacts:
        if artifact.leads_out:
            raise RefusedError(
                f"{artifact.path} is a link that points outside the session's output.",
                hint="nothing was copied; remove the link, or copy its target by hand",
            )
        if os.path.lexists(to / artifact.name):
            raise RefusedError(
                f"{to / artifact.name} exists, and is not overwritten.", hint="nothing was copied; use a new directory"
            )
    return [_copy(artifact, to / artifact.name) for artifact in artifacts]


def walk_files(root: Path) -> Iterator[str]:
    """Yield everything below a directory that is not a directory, including links to directories, as relative paths.

    What cannot be listed is skipped; the stack does not grow with the depth, as that of os.walk may.
    """
    waiting = [""]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(f"{root}/{place}") as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        yield from (place + name for name, is_directory in found if not is_directory)
        waiting += [f"{place}{name}/" for name, is_directory in reversed(found) if is_directory]


def is_own(name: str) -> bool:
    """Say whether csa writes files with this name in output/."""
    directory, _, file = name.rpartition("/")
    turn, _, inner = directory.partition("/")
    is_known = inner == PROMPT_FILES or (file in OWN_FILES and not inner)
    return is_known and turn.startswith(("turn-", "compaction-"))


def open_artifact(paths: SessionPaths, name: str) -> IO[bytes]:
    """Open a file of an agent's by its name; NotFoundError if there is none: csa's own files, and links, are none."""
    parts = name.split("/")
    found = None
    if not is_own(name) and all(parts) and not {".", ".."} & set(parts) and "\0" not in name:
        with suppress(OSError):
            found = open_below(Path(os.path.realpath(paths.root), paths.output.name), name)
    if found is None:
        raise NotFoundError(f"There is no artifact {name}.", hint=f"csa artifacts {paths.session_id}")
    return found


def open_below(root: Path, name: str) -> IO[bytes] | None:
    """Open a regular file below a directory; None if it is not one, or if it or anything from `root` on is a link.

    Raises:
        OSError: it cannot be opened.
    """
    *directories, file = name.split("/")
    try:
        directory = os.open(root, _OPEN | os.O_DIRECTORY)
        try:
            for part in directories:
                inner = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            fd = os.open(file, _OPEN | os.O_NONBLOCK, dir_fd=directory)  # a pipe would wait for a writer
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno in _NO_PLAIN_FILE:
            return None
        error.filename = str(root / name)
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return open(fd, "rb")
    os.close(fd)
    return None


def _artifact(root: Path, name: str) -> Artifact | None:
    path = root / name
    try:
        known = path.lstat()
    except OSError:
        return None  # removed meanwhile
    is_link = stat.S_ISLNK(known.st_mode)
    leads_out = is_link and not _leads_to_file_below(path, root)
    if not (is_link or stat.S_ISREG(known.st_mode)):
        return None
    if is_link and not leads_out:
        known = path.stat()
    place, slash, _ = name.partition("/")
    digits = place.removeprefix("turn-")
    turn = int(digits) if place != digits and digits.isdigit() and (slash or is_link) else None
    modified = from_timestamp(known.st_mtime)
    return Artifact(path, name, turn, known.st_size, modified, leads_out)


def _leads_to_file_below(path: Path, root: Path) -> bool:
    target = Path(os.path.realpath(path))
    return target.is_relative_to(root) and target.is_file()


def _copy(artifact: Artifact, target: Path) -> Path:
    root = artifact.path.parents[artifact.name.count("/")]
    source = Path(os.path.realpath(artifact.path))
    reading = open_below(root, str(source.relative_to(root))) if source.is_relative_to(root) else None
    if reading is None:
        raise RefusedError(f"{artifact.path} is no longer a file in the session's output.")
    with reading:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as writing:
            while block := reading.read(_BLOCK):
                writing.write(block)
    return target
