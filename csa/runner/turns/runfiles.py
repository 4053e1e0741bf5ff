"""The files a tool gets for one turn.

They are in the session's `runtime/` while the turn runs: settings may contain what the transcript may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from csa.ownership import give_tree, make_directory
from csa.paths import SessionPaths
from csa.store.artifacts import PROMPT_FILES
from csa.store.atomic import make_private_directory, write_private

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment


def run_directory(paths: SessionPaths) -> Path:
    """Return the directory of a turn's files."""
    return paths.root / "runtime"


def write_run_files(
    paths: SessionPaths,
    files: Mapping[str, str],
    links: Mapping[str, str] | None = None,
    attachments: Sequence[Attachment] = (),
) -> None:
    """Write them, 0600 in directories of 0700, replacing what an earlier turn left. Raises OSError.

    `links` are those of an `Invocation`, `attachments` those of its request.
    """
    remove_run_files(paths)
    if not (files or links or attachments):
        return
    directory = run_directory(paths)
    make_directory(directory)
    if attachments:
        from csa.runner.attaching import write_copies  # noqa: PLC0415  # few turns have some

        write_copies(attachments, directory / PROMPT_FILES)
    for name, content in files.items():
        write_private(_with_parents(directory, name), content.encode("utf-8", "surrogateescape"))
    for name, target in sorted((links or {}).items(), key=lambda link: link[0].endswith("/*")):
        _link(_with_parents(directory, name), target)
    give_tree(directory)  # links, too


def _with_parents(directory: Path, name: str) -> Path:
    path = directory / name
    for parent in reversed(path.relative_to(directory).parents[:-1]):
        make_directory(directory / parent)
    return path


def _link(path: Path, target: str) -> None:
    if path.name == "*":
        with suppress(FileNotFoundError):
            for entry in os.listdir(target):
                if not os.path.lexists(path.with_name(entry)):
                    path.with_name(entry).symlink_to(Path(target, entry))
        return
    if target.endswith("/"):
        make_private_directory(Path(target))
    path.symlink_to(target)


def remove_run_files(paths: SessionPaths) -> None:
    """Remove whatever exists there."""
    directory = run_directory(paths)
    if not os.path.lexists(directory):
        return
    import shutil  # noqa: PLC0415  # most tools need no files

    with suppress(OSError):
        if directory.is_symlink():
            directory.unlink()
        else:
            shutil.rmtree(directory)


def is_roots_alone(directory: Path) -> bool:
    """Say whether only root can change `directory`, or any above it, as far as they exist."""
    resolved = Path(os.path.realpath(directory))
    for path in (resolved, *resolved.parents):
        try:
            found = path.lstat()
        except OSError:
            continue
        if found.st_uid != 0 or found.st_mode & 0o022:
            return False
    return os.geteuid() == 0
