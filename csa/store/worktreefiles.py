"""What a new worktree gets besides its commit: the ignored files that the checkout's `.worktreeinclude` names.

That has the syntax of `.gitignore`. A file is copied if it is named there *and* git ignores it, here and there: what
is not ignored in the worktree would be committed. git decides both.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping, Sequence

from csa.model.text import some_names
from csa.model.worktree import Worktree
from csa.ownership import give_tree
from csa.store.gitplumbing import Git, GitError, open_project
from csa.store.gitwork import open_worktree

INCLUDE = ".worktreeinclude"


def copy_included(tree: Worktree, environ: Mapping[str, str]) -> list[str]:
    """Copy what `.worktreeinclude` names from the checkout to a worktree; return warnings. OSError, GitError.

    Links are copied as links, modes are kept, and nothing outside of the worktree is written.
    """
    if not os.path.isfile(f"{tree.checkout}/{INCLUDE}"):
        return []
    named = _named(open_project(tree.checkout, environ))
    ignored = _ignored(open_worktree(tree, environ), named)
    warnings = []
    if visible := [path for path in named if path not in ignored]:
        warnings.append(f"not copied, as git does not ignore it in the worktree: {some_names(visible)}")
    if odd := [path for path in named if path in ignored and not _copy(tree, path)]:
        warnings.append(f"not copied, as it is neither a file nor a link, or leads elsewhere: {some_names(odd)}")
    give_tree(tree.path)
    return warnings


def _named(git: Git) -> list[str]:
    """Return the untracked paths that the file names and git ignores."""
    found = git.run("ls-files", "-z", "--others", "--ignored", f"--exclude-from={INCLUDE}")
    paths = [os.fsdecode(path) for path in found.split(b"\0") if path]
    ignored = _ignored(git, paths)
    return [path for path in paths if path in ignored]


def _ignored(git: Git, paths: Sequence[str]) -> set[str]:
    if not paths:
        return set()
    try:
        said = git.run("check-ignore", "-z", "--stdin", stdin=b"\0".join(map(os.fsencode, paths)))
    except GitError as error:
        if error.said:
            raise
        return set()  # it exits with 1 when none is
    return {os.fsdecode(path) for path in said.split(b"\0") if path}


def _copy(tree: Worktree, path: str) -> bool:
    """Copy a file or a link; say whether it is there."""
    source, target = os.path.join(tree.checkout, path), os.path.join(tree.path, path)
    mode = os.lstat(source).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) or not _is_in_place(target):
        return False
    if not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return True


def _is_in_place(target: str) -> bool:
    """Say whether the directory of a path is where its name says, and no link has taken its place."""
    above = os.path.dirname(target)
    return os.path.realpath(above) == above
