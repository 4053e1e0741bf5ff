"""Which project a directory belongs to, and its git branch and commit (read from .git, without running git)."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

_MARKERS = (".csa", ".git")
_HEX = frozenset("0123456789abcdef")
_COMMIT_LENGTHS = (40, 64)
_MAX_SYMBOLIC = 5


def find_project(start: Path | str) -> str:
    """Return the nearest ancestor of `start` that holds `.csa` or `.git`, else `start`; symlinks are followed."""
    start = place = os.path.realpath(start)
    while not any(os.path.exists(f"{place}/{name}") for name in _MARKERS):
        if place == "/":
            return start
        place = os.path.dirname(place)
    return place


def git_branch(project: Path) -> str | None:
    """Return the checked-out branch; None without a repository or with a detached head."""
    try:
        head = _read(_git_directory(project) / "HEAD").strip()
    except (OSError, UnicodeDecodeError):
        return None
    _, found, branch = head.partition("ref: refs/heads/")
    return branch if found else None


def git_head(start: Path) -> str | None:
    """Return the commit that is checked out in the work tree around `start`; None where there is none, or no commit.

    Refs that are not kept in files (reftable) are not read.
    """
    place = next((each for each in (start, *start.parents) if (each / ".git").exists()), None)
    if place is None:
        return None
    try:
        return _resolve_head(_git_directory(place))
    except (OSError, UnicodeDecodeError):
        return None


def is_commit(text: str) -> bool:
    """Say whether this is the full name of a commit."""
    return len(text) in _COMMIT_LENGTHS and _HEX.issuperset(text)


def _git_directory(project: Path) -> Path:
    directory = project / ".git"
    if directory.is_file():  # a worktree or submodule: `gitdir: <path>`
        directory = project / _read(directory).removeprefix("gitdir:").strip()
    return directory


def _resolve_head(directory: Path) -> str | None:
    """Follow HEAD: a worktree has one of its own, and branches in common with the others."""
    common = directory
    if (directory / "commondir").exists():
        common = directory / _read(directory / "commondir").strip()
    value = _read(directory / "HEAD").strip()
    for _ in range(_MAX_SYMBOLIC):
        if is_commit(value):
            return value
        name = value.removeprefix("ref:").strip()
        if name == value or ".." in name.split("/"):
            return None
        value = _read_ref(directory, common, name)
    return None


def _read_ref(directory: Path, common: Path, name: str) -> str:
    """Return what a ref says: a commit, another ref, or nothing for a branch without commits."""
    for place in (directory / name, common / name):
        if place.is_file():
            return _read(place).strip()
    try:
        lines = _read(common / "packed-refs", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.partition(" ")[0] for line in lines if line.partition(" ")[2] == name), "")


def _read(path: Path, *, errors: str = "strict") -> str:
    from csa.store.atomic import read_regular  # noqa: PLC0415  # most commands only ask for the project

    return read_regular(path).decode(errors=errors)
