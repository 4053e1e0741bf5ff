"""Which project a directory belongs to, and its git branch and commit (read from .git, mostly without running git).

A linked git worktree belongs to the project of its main worktree, so that its sessions outlive it. For a bare
repository it is its directory, or the one above whose `.git` names it. A submodule is a project of its own, and so is a
worktree whose repository does not exist.
"""

from __future__ import annotations

import os

from csa.paths import make_path

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from csa.store.gitplumbing import Git

_HEX = frozenset("0123456789abcdef")
_COMMIT_LENGTHS = (40, 64)
_MAX_SYMBOLIC = 5
_BRANCH = "ref: refs/heads/"
_UNREAD = f"{_BRANCH}.invalid"  # what HEAD says where refs are not kept in files (reftable): git itself is asked


def find_project(start: Path | str) -> str:
    """Return the project of a directory, symlinks followed: its work tree, or the main worktree of that.

    A directory with `.csa` inside a linked worktree belongs to its counterpart in the main one, if that has `.csa`.
    """
    place = find_work_tree(start)
    top = git_top(place)
    if top is None or os.path.isdir(f"{top}/.git"):  # nearly always
        return place
    main = _main_worktree(top)
    if main is None or place == top:
        return main or place
    counterpart = main + place[len(top) :]
    return counterpart if os.path.exists(f"{counterpart}/.csa") else place


def find_work_tree(start: Path | str) -> str:
    """Return the nearest ancestor of `start` with `.csa` or a work tree's top, else `start`; symlinks are followed."""
    start = place = os.path.realpath(start)
    while not (os.path.exists(f"{place}/.csa") or is_git_top(place)):
        if place == "/":
            return start
        place = os.path.dirname(place)
    return place


def is_git_top(place: str) -> bool:
    """Say whether a directory is a work tree's top. An empty `.git`, as codex's sandbox leaves, does not count.

    One that may not be read belongs to another user, and counts as a repository: the result must not depend on the
    reader.
    """
    git = f"{place}/.git"
    if os.path.lexists(f"{git}/HEAD") or os.path.isfile(git):
        return True
    return os.path.isdir(git) and not os.access(git, os.X_OK)


def git_top(place: str) -> str | None:
    """Return the nearest ancestor that is a work tree's top."""
    while not is_git_top(place):
        if place == "/":
            return None
        place = os.path.dirname(place)
    return place


def _main_worktree(top: str) -> str | None:
    """Return the main worktree of a linked one; None if it is not one, or its repository cannot be found.

    Only a linked worktree's git directory has `commondir`.
    """
    try:
        own = _git_directory(make_path(top))
        common = os.path.realpath(own / _read_git_file(own / "commondir").strip())
        if not os.path.isfile(f"{common}/HEAD"):  # the repository is gone
            return None
        above = os.path.dirname(common)
        if _is_git_directory_of(above, common):
            return above
        return _configured_worktree(common) or common
    except (OSError, ValueError):  # the content is not a path
        return None


def _is_git_directory_of(place: str, directory: str) -> bool:
    """Say whether the `.git` of a directory is, or names, that directory."""
    try:
        return os.path.realpath(_git_directory(make_path(place))) == directory
    except (OSError, ValueError):
        return False


def _configured_worktree(common: str) -> str | None:
    """Return `core.worktree`, by which a submodule's repository names its checkout."""
    section = ""
    for line in _read_git_file(make_path(common) / "config", errors="replace").splitlines():
        words = line.strip()
        if words.startswith("["):
            section = words.partition("]")[0].lstrip("[").strip().lower()
        name, found, value = words.partition("=")
        if section == "core" and found and name.strip().lower() == "worktree":
            place = os.path.realpath(os.path.join(common, value.strip().strip('"')))
            return place if os.path.isdir(place) else None
    return None


def git_branch(start: Path) -> str | None:
    """Return the branch checked out in the work tree around `start`; None if the head is detached, or there is none."""
    top = git_top(str(start))
    try:
        head = _read_git_file(_git_directory(make_path(top)) / "HEAD").strip() if top else ""
    except (OSError, ValueError):
        return None
    if top and head == _UNREAD:
        from csa.store.gitwork import branch_of  # noqa: PLC0415  # as `_read_git_file`

        return _asked(top, branch_of)
    _, found, branch = head.partition(_BRANCH)
    return branch if found else None


def git_head(start: Path) -> str | None:
    """Return the commit checked out in the work tree around `start`; None if there is no work tree, or no commit."""
    top = git_top(str(start))
    try:
        directory = _git_directory(make_path(top)) if top else None
        if top and directory and _read_git_file(directory / "HEAD").strip() == _UNREAD:
            from csa.store.gitwork import find_commit  # noqa: PLC0415  # as `_read_git_file`

            return _asked(top, lambda git: find_commit(git, "HEAD"))
        return _resolve_head(directory) if directory else None
    except (OSError, ValueError):
        return None


def _asked(top: str, question: Callable[[Git], str | None]) -> str | None:
    """Return what git says of a work tree; None if there is no git."""
    from csa.errors import ToolUnavailableError  # noqa: PLC0415  # as above
    from csa.store.gitplumbing import open_work_tree  # noqa: PLC0415  # as above

    try:
        return question(open_work_tree(top, os.environ))
    except ToolUnavailableError:
        return None


def is_commit(text: str) -> bool:
    """Say whether this is the full name of a commit."""
    return len(text) in _COMMIT_LENGTHS and _HEX.issuperset(text)


def _git_directory(project: Path) -> Path:
    directory = project / ".git"
    if directory.is_file():  # a worktree or submodule: `gitdir: <path>`
        directory = project / _read_git_file(directory).removeprefix("gitdir:").strip()
    return directory


def _resolve_head(directory: Path) -> str | None:
    """Follow HEAD: a worktree has its own, and shares branches with the others."""
    common = directory
    if (directory / "commondir").exists():
        common = directory / _read_git_file(directory / "commondir").strip()
    value = _read_git_file(directory / "HEAD").strip()
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
            return _read_git_file(place).strip()
    try:
        lines = _read_git_file(common / "packed-refs", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.partition(" ")[0] for line in lines if line.partition(" ")[2] == name), "")


def _read_git_file(path: Path, *, errors: str = "strict") -> str:
    from csa.store.atomic import read_regular  # noqa: PLC0415  # most commands only ask for the project

    return read_regular(path).decode(errors=errors)
