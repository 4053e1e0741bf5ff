"""Git worktrees of sessions: making one, making it again, taking it away. All under the session's lock.

A worktree that is taken away is moved aside as it is, with its ignored files, and deleted later.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from csa.errors import CsaError, UsageError
from csa.model.worktree import BRANCHES, Worktree
from csa.ownership import give_tree, make_directory
from csa.store.atomic import read_regular
from csa.store.gitplumbing import ABSENT, Git, GitError, open_project
from csa.store.gitwork import (
    WorktreeError,
    branch_of,
    find_commit,
    is_ancestor,
    is_checked_out,
    is_usable,
    kept_beyond,
    kept_last,
    open_repository,
    refs_of,
    target_of,
    worktree_path,
)
from csa.store.gonetrees import move_aside, repository_beside
from csa.store.sessions import Store, is_directory
from csa.structs import replace


def relocate(
    tree: Worktree, store: Store, session_id: str, environ: Mapping[str, str], *, repair: bool = True
) -> Worktree:
    """Return the record of a worktree as it has to be where the store is now, which may have been moved.

    With `repair` git is told as well.
    """
    place = worktree_path(store, session_id)
    if place == tree.path:
        return tree
    moved = replace(tree, path=place)
    if repair:
        with suppress(GitError, WorktreeError):  # then it is a directory of which git knows nothing
            repair_worktree(moved, environ)
    return moved


def repair_worktree(tree: Worktree, environ: Mapping[str, str]) -> None:
    """Tell git where a worktree is that was moved, or where its repository is; GitError, WorktreeError."""
    if not is_usable(tree):
        return
    git = open_repository(tree, environ)  # opened before the files change
    with open(f"{tree.path}/.git", "w") as link:
        link.write(f"gitdir: {tree.git_dir}\n")
    git.run("worktree", "repair", tree.path)


def rediscover(path: str, environ: Mapping[str, str]) -> Worktree | None:
    """Return the record of a worktree whose own was lost, as far as git knows; it begins where it left the target."""
    common = repository_beside(Path(path))
    if common is None:
        return None
    git = open_project(common, environ, commits=False)
    git = replace(git, place=(*git.place, "--git-dir", common))
    try:
        said = git.run("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape").splitlines()
        own = read_regular(f"{path}/.git").decode().removeprefix("gitdir:").strip()
        its_head = f"worktrees/{os.path.basename(own)}/HEAD"
        head, here = find_commit(git, its_head), find_commit(git, "HEAD")
        base = git.line("merge-base", str(head), str(here))
        branch = branch_of(git, its_head) or str(head)
        target = git.line("rev-parse", "--abbrev-ref", "HEAD")
    except (GitError, OSError, ValueError):
        return None
    top = said[0].removeprefix("worktree ")
    target_name = None if target == "HEAD" else target
    return Worktree(path=path, git_dir=own, branch=branch, base=base, checkout=top, target=target_name)


def check_branch(top: str, branch: str, environ: Mapping[str, str]) -> None:
    """Raise UsageError for what is no name of a branch, WorktreeError if there is that branch."""
    git, name = open_project(top, environ), branch.removeprefix(BRANCHES)
    try:
        git.run("check-ref-format", f"refs/heads/{branch}")
    except GitError:
        is_valid = False
    else:
        is_valid = not name.startswith("-")
    if not is_valid:
        raise UsageError(f"'{name}' cannot name a branch.", hint="--worktree=NAME: letters, digits, dashes, slashes")
    if find_commit(git, f"refs/heads/{branch}") is not None:
        raise _taken(branch)


def _taken(branch: str) -> WorktreeError:
    return WorktreeError(
        f"There is a branch {branch} already.", hint="choose another: --worktree=NAME, of a plan --name NAME"
    )


def link_of(top: str) -> str | None:
    """Return git's directory of a worktree as the `.git` file in it has it."""
    try:
        return os.path.realpath(os.path.join(top, read_regular(f"{top}/.git").decode().removeprefix("gitdir:").strip()))
    except (OSError, ValueError):
        return None


def add_worktree(tree: Worktree, environ: Mapping[str, str]) -> Worktree:
    """Make a worktree with a new branch at its base, and return its record; on failure nothing of it is left.

    Raises:
        WorktreeError: there is such a branch, or git refuses; it says why.
    """
    return _add_with_branch(open_project(tree.checkout, environ), tree, tree.base)


def _add_with_branch(git: Git, tree: Worktree, start: str) -> Worktree:
    """Make the branch first, which only one of several can, so that nobody takes back what is another's."""
    name = f"refs/heads/{tree.branch}"
    try:
        git.run("update-ref", "-m", _made_for(tree), name, start, ABSENT)
    except GitError as error:
        if find_commit(git, name):
            raise _taken(tree.branch) from error
        raise WorktreeError(f"The branch {tree.branch} cannot be made: {error.said}.") from error
    try:
        return _add(git, tree)
    except BaseException:
        with suppress(GitError):
            git.run("update-ref", "-d", name, start)
        raise


def restore_worktree(tree: Worktree, environ: Mapping[str, str], *, start: str) -> Worktree:
    """Make a worktree that was taken away again, and return its record. WorktreeError as `add_worktree`.

    It has the session's branch; if that is gone, one with its name begins at `start`. A branch that lacks only what was
    kept since gets it; one that somebody has changed stays as it is.
    """
    git = open_repository(tree, environ)
    if found := find_commit(git, f"refs/heads/{tree.branch}"):
        if found != start and is_ancestor(git, found, start) and not is_checked_out(git, tree.branch):
            git.run("update-ref", "-m", "csa: what was kept", f"refs/heads/{tree.branch}", start, found)
        return _add(git, tree)
    return _add_with_branch(git, tree, start)


def revive_worktree(tree: Worktree, environ: Mapping[str, str], *, session_id: str) -> tuple[Worktree, str]:
    """Make a worktree that is gone again, and return its record and from what it was made.

    It goes on from the branch. Where all of that was landed, it begins anew from where the target is now; where the
    branch is gone, from the last tip that was kept.

    Raises:
        WorktreeError: git refuses; or neither the branch nor a tip is there any more.
    """
    git = open_repository(tree, environ, commits=True)
    tree = replace(tree, dropped_at=None)
    name = f"refs/heads/{tree.branch}"
    tip, kept = find_commit(git, name), kept_last(refs_of(git, session_id))
    last = tip or tree.dropped or kept_beyond(git, tree, session_id=session_id) or tree.landed
    has_landed = tree.landed is not None and tree.landed == last
    if has_landed and (target := target_of(git, tree)):
        if tip and not is_checked_out(git, tree.branch):
            git.run("update-ref", "-m", "csa: what was landed is in the target", name, target, tip)
        return replace(restore_worktree(tree, environ, start=target), base=target), f"from {tree.target or 'HEAD'}"
    start = kept if tip is None or (kept and is_ancestor(git, tip, kept)) else tip
    if start is None:
        raise WorktreeError(
            f"The worktree {tree.path} is gone, and so is its branch {tree.branch}.",
            hint=f'git branch {tree.branch} COMMIT, or csa run --fork-from {session_id} "..."',
        )
    return restore_worktree(tree, environ, start=start), f"from {tree.branch}" if tip else f"from its tip {start[:7]}"


def unmake_worktree(tree: Worktree, environ: Mapping[str, str]) -> None:
    """Remove a worktree in which nothing was done, and its branch; what cannot be removed is left for a clean-up."""
    shutil.rmtree(tree.path, ignore_errors=True)
    with suppress(CsaError):
        git = open_repository(tree, environ)
        git.run("worktree", "remove", "--force", "--force", tree.path)
        git.run("update-ref", "-d", f"refs/heads/{tree.branch}", tree.base)


def forget_worktree(git: Git, tree: Worktree) -> None:
    """Have git forget a worktree that was removed without it, so that its place is free; there must be no directory."""
    if os.path.islink(tree.path):  # git would follow it
        return
    with suppress(GitError):  # it knows of none
        git.run("worktree", "remove", "--force", "--force", tree.path)


def _add(git: Git, tree: Worktree) -> Worktree:
    make_directory(os.path.dirname(tree.path))
    if os.path.lexists(tree.path) and not (is_directory(tree.path) and not os.listdir(tree.path)):
        move_aside(tree.path, os.path.basename(tree.path))
    forget_worktree(git, tree)
    try:
        git.run("worktree", "add", "--quiet", tree.path, tree.branch)
    except GitError as error:
        with suppress(GitError, OSError):
            shutil.rmtree(tree.path, ignore_errors=True)
            git.run("worktree", "remove", "--force", "--force", tree.path)
        raise WorktreeError(f"The worktree {tree.path} cannot be made: {error.said}.") from error
    give_tree(tree.path)
    made = open_project(tree.path, git.environ)
    return replace(tree, git_dir=made.line("rev-parse", "--absolute-git-dir"))


def take_away(tree: Worktree, environ: Mapping[str, str], *, session_id: str, tip: str | None) -> Path | None:
    """Move a worktree aside, and remove its branch if that is still at `tip` (None: leave the branch).

    Returns where it is now; None if it was gone. What proves that nothing is lost is the caller's task.

    Raises:
        GitError, OSError: it cannot be done; then it is still there.
    """
    aside = move_aside(tree.path, session_id) if os.path.lexists(tree.path) else None
    with suppress(WorktreeError):
        _forget(open_repository(tree, environ), tree, aside, tip)
    return aside


def take_away_unbegun(tree: Worktree, store: Store, session_id: str, environ: Mapping[str, str]) -> None:
    """Take away what a start has left of a worktree in which nothing has run, as `take_away` does.

    Its branch goes only if it was made for the worktree: one of that name may be somebody else's.
    """
    tree = relocate(tree, store, session_id, environ)
    said = ""
    with suppress(GitError, WorktreeError):
        said = open_repository(tree, environ).line("reflog", "-1", "--format=%gs", f"refs/heads/{tree.branch}", "--")
    is_its = link_of(tree.path) is not None or said == _made_for(tree)
    take_away(tree, environ, session_id=session_id, tip=tree.base if is_its else None)


def _made_for(tree: Worktree) -> str:
    """Return what the reflog of a branch says that was made for a worktree."""
    return f"csa: a new worktree, {os.path.basename(tree.path)}"


def _forget(git: Git, tree: Worktree, aside: Path | None, tip: str | None) -> None:
    """Remove what git knows of a worktree; the repositories of its submodules, which lie there, go with it."""
    if aside and is_directory(f"{tree.git_dir}/modules"):
        shutil.move(tree.git_dir, f"{aside}.git")
    with suppress(GitError):  # it knows of none
        git.run("worktree", "remove", "--force", "--force", tree.path)
    if tip is not None and not is_checked_out(git, tree.branch):
        with suppress(GitError):  # it was moved, and is somebody's, or gone
            git.run("update-ref", "-d", f"refs/heads/{tree.branch}", tip)
