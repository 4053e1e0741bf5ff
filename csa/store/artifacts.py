"""What agents have left below a session's output/: files, links, and how they are copied out without harm."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from csa.errors import RefusedError
from csa.model.clock import from_timestamp
from csa.paths import SessionPaths
from csa.store.results import OWN_FILES
from csa.structs import Struct

_BLOCK = 1 << 20


class Artifact(Struct):
    """A file of an agent; `name` is its path below output/, in the place of turn-0003/ for what is in one."""

    path: Path
    name: str
    turn: int | None
    size_bytes: int
    modified_at: datetime
    leads_out: bool  # a symbolic link to what is not below output/


def find_artifacts(paths: SessionPaths, *, turn: int | None = None) -> list[Artifact]:
    """Return what agents have left, by name; csa's own files, and what is no file, are not among them."""
    root = Path(os.path.realpath(paths.output))
    found = (_artifact(path, root) for path in _files(root) if not _is_own(path, root))
    return sorted(
        (item for item in found if item and turn in {None, item.turn}), key=lambda item: (item.turn or 0, item.name)
    )


def copy_artifacts(artifacts: Sequence[Artifact], to: Path) -> list[Path]:
    """Copy artifacts into a directory, which is made where it is missing; return the copies.

    Nothing is overwritten, and nothing is copied when anything is in the way.

    Raises:
        RefusedError: a file of that name is there, or a link leads out of output/.
        OSError: it cannot be read or written.
    """
    for artifact in artifacts:
        if artifact.leads_out:
            raise RefusedError(
                f"{artifact.path} is a link that leads out of the session's output.",
                hint="nothing was copied; remove the link, or copy what it leads to by hand",
            )
        if os.path.lexists(to / artifact.name):
            raise RefusedError(
                f"{to / artifact.name} exists, and is not overwritten.", hint="nothing was copied; give a new directory"
            )
    return [_copy(artifact, to / artifact.name) for artifact in artifacts]


def _files(root: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(root):
        links = [name for name in below if os.path.islink(os.path.join(directory, name))]
        yield from (Path(directory, name) for name in (*files, *links))


def _is_own(path: Path, root: Path) -> bool:
    return (
        path.name in OWN_FILES and path.parent.parent == root and path.parent.name.startswith(("turn-", "compaction-"))
    )


def _artifact(path: Path, root: Path) -> Artifact | None:
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
    name = path.relative_to(root)
    digits = name.parts[0].removeprefix("turn-")
    turn = int(digits) if name.parts[0] != digits and digits.isdigit() and len(name.parts) > 1 else None
    modified = from_timestamp(known.st_mtime)
    return Artifact(path, str(name), turn, known.st_size, modified, leads_out)


def _leads_to_file_below(path: Path, root: Path) -> bool:
    target = Path(os.path.realpath(path))
    return target.is_relative_to(root) and target.is_file()


def _copy(artifact: Artifact, target: Path) -> Path:
    """Copy one file; what it is is looked at again once it is open, as the agent may still run."""
    source = os.open(os.path.realpath(artifact.path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise RefusedError(f"{artifact.path} is no longer a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(source, "rb", closefd=False) as reading, target.open("xb") as writing:
            while block := reading.read(_BLOCK):
                writing.write(block)
    finally:
        os.close(source)
    return target
