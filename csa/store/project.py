"""Which project a directory belongs to, and its git branch (read from .git, without running git)."""

from __future__ import annotations

from pathlib import Path

_MARKERS = (".csa", ".git")


def find_project(start: Path) -> Path:
    """Return the nearest ancestor of `start` that holds `.csa` or `.git`, else `start`; symlinks are followed."""
    start = start.resolve()
    return next(
        (place for place in (start, *start.parents) if any((place / name).exists() for name in _MARKERS)), start
    )


def git_branch(project: Path) -> str | None:
    """Return the checked-out branch; None without a repository or with a detached head."""
    directory = project / ".git"
    try:
        if directory.is_file():  # a worktree or submodule: `gitdir: <path>`
            directory = project / directory.read_text().removeprefix("gitdir:").strip()
        head = (directory / "HEAD").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    _, found, branch = head.partition("ref: refs/heads/")
    return branch if found else None
