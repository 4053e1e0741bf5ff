"""Where a session's worktree and its repository are, and what git knows there: commits, and refs that keep work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from csa.errors import CsaError, ToolUnavailableError, UsageError
from csa.model.worktree import REFS, Worktree
from csa.paths import WORKTREES
from csa.store.capture import submodules
from csa.store.gitplumbing import Git, GitError, open_project, version_of
from csa.store.sessions import Store, is_directory
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import TypeGuard

OLDEST_GIT = (2, 31)  # that worktrees work with
MERGE_TREE_GIT = (2, 38)  # the first one that merges without a work tree
UNDERWAY = {  # what git keeps of an operation that is not finished
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}


class WorktreeError(CsaError):
    """A worktree could not be made, or the work in it not be kept; `hint` says what to do."""

    code = "worktree"


class Checkout(Struct):
    """Where somebody stands: the top of a work tree, its commit, and its branch unless the head is detached."""

    top: str
    head: str
    branch: str | None


def read_checkout(directory: Path | str, environ: Mapping[str, str]) -> Checkout:
    """Return the checkout around a directory.

    Raises:
        UsageError: it is not in a work tree of git, or that has no commit yet.
        ToolUnavailableError: git is not installed, or too old.
    """
    git = open_project(str(directory), environ)
    if (version := version_of(git)) < OLDEST_GIT:
        found, oldest = (".".join(map(str, each)) for each in (version, OLDEST_GIT))
        raise ToolUnavailableError(
            f"Worktrees need git {oldest} or newer; this is {found}.", hint="install a newer git"
        )
    try:
        top = git.path("rev-parse", "--show-toplevel")
    except GitError as error:
        raise UsageError(
            f"{directory} is not in a git work tree, which a worktree needs: {error.said}.",
            hint="git init makes one; without --worktree, in a plan with worktree = false, agents work right there",
        ) from error
    try:
        head = git.line("rev-parse", "--verify", "HEAD^{commit}")
    except GitError as error:
        raise UsageError(f"The repository in {top} has no commit yet.", hint="git commit makes one") from error
    return Checkout(top, head, branch_of(git))


def require_commit(top: str, commit: str, environ: Mapping[str, str]) -> None:
    """Raise WorktreeError unless a repository has a commit, named by its id."""
    if not is_object_id(commit) or find_commit(open_project(top, environ, commits=False), commit) is None:
        raise WorktreeError(f"The repository in {top} has no commit {commit}.")


def is_object_id(text: object) -> TypeGuard[str]:
    """Say whether this is the full id of an object."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", text, re.ASCII) is not None


def list_dirty(top: str, environ: Mapping[str, str]) -> list[str]:
    """Return the paths in a work tree that differ from its commit, untracked ones among them; GitError."""
    return dirty_paths(open_project(top, environ))


def dirty_paths(git: Git) -> list[str]:
    """Return the same, in a work tree that is known. Of a submodule only the commit counts (see `capture`)."""
    quiet = replace(git, environ={**git.environ, "GIT_OPTIONAL_LOCKS": "0"})
    said = quiet.run(
        "status", "--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--ignore-submodules=dirty"
    )
    return [os.fsdecode(entry[3:]) for entry in said.split(b"\0") if entry]


def worktree_path(store: Store, session_id: str) -> str:
    """Return where a session's worktree lies."""
    return f"{os.path.realpath(store.pathname)}/{WORKTREES}/{session_id}"


def is_usable(tree: Worktree) -> bool:
    """Say whether a worktree is there, as csa has made it."""
    return is_directory(tree.path) and is_directory(tree.git_dir)


def has_branch(top: str, branch: str, environ: Mapping[str, str]) -> bool:
    """Say whether a repository has a branch."""
    return find_commit(open_project(top, environ), f"refs/heads/{branch}") is not None


def open_worktree(tree: Worktree, environ: Mapping[str, str], *, commits: bool = True) -> Git:
    """Return git in a worktree as csa has made it, whatever an agent has made of its `.git` file.

    A sandboxed agent may write that, and could name a repository whose configuration runs programs outside.
    """
    git = open_project(tree.path, environ, commits=commits)
    return replace(git, is_apart=True, place=(*git.place, "--git-dir", tree.git_dir, "--work-tree", tree.path))


def target_of(git: Git, tree: Worktree) -> str | None:
    """Return where the branch is now that the work is to land in; None if that is gone."""
    if tree.target:
        return find_commit(git, f"refs/heads/{tree.target}")
    return find_commit(replace(git, place=("-C", tree.checkout)), "HEAD") if os.path.isdir(tree.checkout) else None


def list_submodules(tree: Worktree, environ: Mapping[str, str]) -> list[str]:
    """Return the paths of the submodules that the worktree's commit names, which git leaves empty."""
    return sorted(submodules(open_worktree(tree, environ)))


def open_repository(tree: Worktree, environ: Mapping[str, str], *, commits: bool = False) -> Git:
    """Return git in the repository that a worktree belongs to, also when the directory of neither is there any more.

    Raises:
        WorktreeError: it is gone, was moved, or its disk is not mounted.
    """
    common = common_directory(tree, environ)
    if common is None:
        raise WorktreeError(
            f"The repository of the worktree {tree.path} is not in {tree.checkout} any more: "
            "it was moved or deleted, or its disk is not mounted.",
            hint="mount it, or csa adopt OLD in the place where the project is now",
        )
    git = open_project(common, environ, commits=commits)
    return replace(git, is_apart=True, place=(*git.place, "--git-dir", common))


def common_directory(tree: Worktree, environ: Mapping[str, str]) -> str | None:
    """Return git's directory of the repository that a worktree belongs to; None if that is gone, or elsewhere."""
    place = repository_of(tree)
    if place is None or place != tree.checkout:
        return place
    with suppress(GitError):
        git = open_project(place, environ, commits=False)
        return git.line("rev-parse", "--path-format=absolute", "--git-common-dir")
    return None


def repository_of(tree: Worktree) -> str | None:
    """Return a directory of the repository that a worktree belongs to; None if that is gone, or elsewhere."""
    common = os.path.dirname(os.path.dirname(tree.git_dir))  # of `<repository>/worktrees/<name>`
    if common and os.path.isfile(f"{common}/HEAD"):
        return common
    return tree.checkout if os.path.isdir(tree.checkout) else None


def list_refs(tree: Worktree, environ: Mapping[str, str], *, session_id: str) -> dict[str, str]:
    """Return the refs that keep a session's work, each with its commit; GitError, and WorktreeError for no repository.

    They are `refs/csa/<session>/<turn>` for the work at the end of a turn, with `-<time>` if that was done over again,
    and with `-unfinished` or `-refused` for what could not be committed on the branch.
    """
    return refs_of(open_repository(tree, environ), session_id)


def refs_of(git: Git, session_id: str) -> dict[str, str]:
    """Return the same, in a repository that is known."""
    said = git.run("for-each-ref", "--format=%(refname) %(objectname)", f"{REFS}{session_id}/")
    return dict(line.split(" ", 1) for line in said.decode().splitlines())


def find_tip(git: Git, tree: Worktree, *, session_id: str) -> str | None:
    """Return the last commit of a session's work: where its worktree is, else what was kept last, else its branch."""
    return (
        find_commit(git, f"worktrees/{os.path.basename(tree.git_dir)}/HEAD")
        or kept_last(refs_of(git, session_id))
        or next((found for name in (f"refs/heads/{tree.branch}", tree.base) if (found := find_commit(git, name))), None)
    )


def kept_last(refs: Mapping[str, str]) -> str | None:
    """Return the commit of the last turn's ref, without those of what could not be committed on the branch."""
    numbers = {name: order for name in refs if (order := order_of(name))}
    return refs[max(numbers, key=lambda name: numbers[name])] if numbers else None


def kept_beyond(git: Git, tree: Worktree, *, session_id: str) -> str | None:
    """Return the last commit that was kept of work which has not landed; None if all of it has."""
    kept = kept_last(refs_of(git, session_id))
    if kept is None or tree.landed is None:
        return kept
    return kept if kept != tree.landed and is_ancestor(git, tree.landed, kept) else None  # else it landed rebased


def order_of(ref: str) -> tuple[int, int] | None:
    """Return the turn of a ref `<turn>`, `<turn>-<time>` or `<turn>-at-<time>`, and the time; None for another form."""
    name, _, aside = ref.rpartition("/")[2].partition("-at-")
    turn, _, again = name.partition("-")
    again = aside or again
    return (int(turn), int(again or 0)) if turn.isdecimal() and (not again or again.isdecimal()) else None


def is_checked_out(git: Git, branch: str, *, besides: str | None = None) -> bool:
    """Say whether a work tree of a repository has a branch checked out, besides the one at a path; GitError."""
    said = git.run("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape")
    others = [block.splitlines() for block in said.split("\n\n") if block]
    return any(f"branch refs/heads/{branch}" in lines and lines[0] != f"worktree {besides}" for lines in others)


def is_ancestor(git: Git, commit: str, other: str) -> bool:
    """Say whether a commit is contained in another."""
    try:
        git.run("merge-base", "--is-ancestor", commit, other)
    except GitError:
        return False
    return True


def has_same_tree(git: Git, commit: str, other: str) -> bool:
    """Say whether two commits have the same content."""
    return git.line("rev-parse", f"{commit}^{{tree}}") == git.line("rev-parse", f"{other}^{{tree}}")


def files_in_conflict(git: Git, one: str, other: str) -> list[str]:
    """Return the files in which two commits would conflict; no ref or file is changed. GitError, also before 2.38."""
    try:
        git.run("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", one, other)
    except GitError as error:
        if not error.output:
            raise
        return list(dict.fromkeys(os.fsdecode(path) for path in error.output.split(b"\0")[1:] if path))
    return []


def literal(path: str) -> str:
    """Return a pathspec that means a path of a repository, whatever characters it has."""
    return f":(top,literal){path}"


def find_commit(git: Git, name: str) -> str | None:
    """Return the commit that a ref points to; None if there is no such ref."""
    with suppress(GitError):
        return git.line("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    return None


def branch_of(git: Git, head: str = "HEAD") -> str | None:
    """Return the branch that is checked out, also where a tag has its name; None if the head is detached."""
    with suppress(GitError):
        return git.line("symbolic-ref", "--quiet", head).removeprefix("refs/heads/")
    return None


def commit_of(tree: Worktree, environ: Mapping[str, str]) -> str | None:
    """Return the tip of a worktree's branch; None if there is none, or no repository."""
    with suppress(WorktreeError):
        return find_commit(open_repository(tree, environ), f"refs/heads/{tree.branch}")
    return None
