"""Git worktrees of sessions: making one, keeping what was done in it, taking it away. All under the session's lock.

Whatever an agent leaves at the end of a turn is committed by csa, which needs neither the agent's index nor its hooks,
and the tip is kept by a ref (`refs/csa/<session>/<turn>`), so that nothing is lost, whatever becomes of the branch.
A worktree that is taken away is moved aside as it is, with its ignored files, and deleted later.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from csa.errors import CsaError, ToolUnavailableError, UsageError
from csa.model.worktree import BRANCHES, REFS, SESSION_TRAILER, TURN_TRAILER, Worktree
from csa.ownership import give_to_owner, give_tree, make_directory
from csa.paths import WORKTREES
from csa.store.atomic import read_regular
from csa.store.capture import (
    add_all,
    add_what_can,
    changed_inside,
    index_aside,
    leave_out_repositories,
    look_at_all,
    submodules,
)
from csa.store.gitplumbing import ABSENT, Git, GitError, open_project, version_of
from csa.store.gonetrees import move_aside, repository_beside
from csa.store.sessions import Store, is_directory
from csa.structs import Struct, replace

OLDEST_GIT = (2, 31)  # that worktrees work with
_UNDERWAY = ("rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG")


class WorktreeError(CsaError):
    """A worktree could not be made, or the work in it not be kept; `hint` says what to do."""

    code = "worktree"


class HookError(WorktreeError):
    """The project's hook refuses the commit; `said` is what it has printed, and `hint` where the work is kept."""

    def __init__(self, said: str, ref: str) -> None:
        super().__init__(f"The pre-commit hook refuses the commit: {said}", hint=f"what was left is kept as {ref}")
        self.said = said


class Checkout(Struct):
    """Where somebody stands: the top of a work tree, its commit, and its branch unless the head is detached."""

    top: str
    head: str
    branch: str | None


class Kept(Struct):
    """The work in a worktree by now: its tip, and the commit that csa made of what was left, if anything was."""

    tip: str
    commit: str | None
    problems: tuple[str, ...] = ()  # why some of it is not on the branch; nothing is lost
    is_whole: bool = True  # whether the tip has everything; otherwise the problems say what it has not
    is_unfinished: bool = False  # no commit can hold it: it is kept by a ref, and the branch is as it was


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
        top = git.line("rev-parse", "--show-toplevel")
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


def list_dirty(top: str, environ: Mapping[str, str]) -> list[str]:
    """Return the paths in a work tree that differ from its commit, untracked ones among them; GitError."""
    git = open_project(top, {**environ, "GIT_OPTIONAL_LOCKS": "0"})
    said = git.run(
        "status", "--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--ignore-submodules=dirty"
    )
    return [os.fsdecode(entry[3:]) for entry in said.split(b"\0") if entry]


def snapshot(top: str, environ: Mapping[str, str], *, message: str) -> str:
    """Return a commit of a work tree as it is, without touching its index, branch or stash; GitError."""
    return _snapshot(open_project(top, environ), message)


def peek(tree: Worktree, environ: Mapping[str, str]) -> str:
    """Return the tip of the work in a worktree, with what is not committed, but not on its branch; GitError."""
    git = open_worktree(tree, environ)
    taken = _snapshot(git, "what is left", is_own=True)
    return git.line("rev-parse", "HEAD") if _is_same(git, taken, "HEAD") else taken


def _is_same(git: Git, commit: str, other: str) -> bool:
    return git.line("rev-parse", f"{commit}^{{tree}}") == git.line("rev-parse", f"{other}^{{tree}}")


def _snapshot(git: Git, message: str, *, is_own: bool = False) -> str:
    """`is_own`: it is csa's worktree, in which an agent may have told git what not to look at."""
    with index_aside(git) as aside:
        if is_own:
            look_at_all(aside)
        add_all(aside)
        leave_out_repositories(aside, "HEAD")
        return aside.line("commit-tree", aside.line("write-tree"), "-p", "HEAD", stdin=message.encode())


def worktree_path(store: Store, session_id: str) -> str:
    """Return where a session's worktree lies."""
    return f"{os.path.realpath(store.pathname)}/{WORKTREES}/{session_id}"


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
        head, here = find_commit(git, f"worktrees/{os.path.basename(own)}/HEAD"), find_commit(git, "HEAD")
        base = git.line("merge-base", str(head), str(here))
        branch = read_regular(f"{own}/HEAD").decode().removeprefix("ref: refs/heads/").strip()
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
        git.run("update-ref", "-m", "csa: a new worktree", name, start, ABSENT)
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
    tip, kept = find_commit(git, name), _kept_last(refs_of(git, session_id))
    has_landed = tree.landed is not None and tree.landed == (tip or tree.dropped or tree.landed)
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


def target_of(git: Git, tree: Worktree) -> str | None:
    """Return where the branch is now that the work is to land in; None if that is gone."""
    if tree.target:
        return find_commit(git, f"refs/heads/{tree.target}")
    return find_commit(replace(git, place=("-C", tree.checkout)), "HEAD") if os.path.isdir(tree.checkout) else None


def unmake_worktree(tree: Worktree, environ: Mapping[str, str]) -> None:
    """Remove a worktree in which nothing was done, and its branch; what cannot be removed is left for a clean-up."""
    shutil.rmtree(tree.path, ignore_errors=True)
    with suppress(CsaError):
        git = open_repository(tree, environ)
        git.run("worktree", "remove", "--force", "--force", tree.path)
        git.run("update-ref", "-d", f"refs/heads/{tree.branch}", tree.base)


def list_submodules(tree: Worktree, environ: Mapping[str, str]) -> list[str]:
    """Return the paths of the submodules that the worktree's commit names, which git leaves empty."""
    return sorted(submodules(open_worktree(tree, environ)))


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


def keep_work(
    tree: Worktree, environ: Mapping[str, str], *, session_id: str, turn: int, subject: str, run_hooks: bool = False
) -> Kept:
    """Commit what is left in a worktree on its branch, and keep the tip by a ref. Nothing runs there any more.

    A state that no commit can hold (a rebase in progress, a merge with conflicts, another branch without ours) is kept
    as a commit of its own, by a ref; the worktree stays as it is then.

    Args:
        tree: the worktree.
        environ: the environment of git.
        session_id: whose work it is, for the trailers of the commit and the refs.
        turn: the turn that has ended.
        subject: the first line of the message.
        run_hooks: run the project's pre-commit hook before.

    Raises:
        GitError: git refuses; nothing has changed.
        HookError: the hook refuses; what is left is kept by a ref.
    """
    message = f"{subject}\n\n{SESSION_TRAILER}: {session_id}\n{TURN_TRAILER}: {turn}\n".encode()
    ref = f"{REFS}{session_id}/{turn}"
    if not is_usable(tree):
        return _keep_rest(tree, environ, session_id=session_id, ref=ref, message=message)
    reclaim(tree, environ, session_id=session_id)
    give_tree(tree.path)  # what an agent that root ran has left
    git = open_worktree(tree, environ)
    head = find_commit(git, "HEAD") or find_tip(git, tree, session_id=session_id) or tree.base
    content, problems = _read(git, tree, head)
    obstacle = find_obstacle(git, tree)
    try:
        commit = None if obstacle else _commit(git, tree, head, content, message, hook_ref=ref if run_hooks else None)
    except GitError as error:  # its name is a directory of other branches now, say, or somebody moves it
        obstacle = f"the branch {tree.branch} cannot be moved ({error.said})"
    if obstacle:
        kept = _keep_apart(git, f"{ref}-unfinished", content, head, message)
        problems = (*problems, f"{obstacle}: what is left is kept as {kept}")
        return Kept(head, None, problems, is_whole=False, is_unfinished=True)
    if commit or not _is_index_at(git, "HEAD"):  # after a commit that was not the agent's, or a crash behind it
        _reset_index(git, tree)
    _point(git, session_id, ref, commit or head)
    return Kept(commit or head, commit, problems, is_whole=not problems)


def _commit(git: Git, tree: Worktree, head: str, content: str, message: bytes, *, hook_ref: str | None) -> str | None:
    """Have the branch of a worktree at the head, and with a commit of what is not in that, if anything is."""
    _back_to_branch(git, tree, head)
    if content == git.line("rev-parse", "HEAD^{tree}") and not _merging(git):
        return None
    if hook_ref:
        _run_hook(git, hook_ref, content, head, message)
    parents = [word for parent in (head, *_merging(git)) for word in ("-p", parent)]
    commit = git.line("commit-tree", content, *parents, stdin=message)
    _move(git, tree, "-m", "csa: what a turn has left", f"refs/heads/{tree.branch}", commit, head)
    return commit


def _read(git: Git, tree: Worktree, head: str) -> tuple[str, tuple[str, ...]]:
    """Return what `_content` does; an index that git cannot read is made anew."""
    try:
        with index_aside(git) as aside:
            return _content(aside, head)
    except GitError:
        if _has_index(git):
            raise
    _unlock(tree)
    os.unlink(f"{tree.git_dir}/index")
    git.run("read-tree", head)
    with index_aside(git) as aside:
        return _content(aside, head)


def _has_index(git: Git) -> bool:
    """Say whether git can read the index of a worktree."""
    try:
        git.run("ls-files", "--unmerged")
    except GitError:
        return False
    return True


def _content(aside: Git, head: str) -> tuple[str, tuple[str, ...]]:
    """Return the tree of all that lies in a work tree, and what is not in it."""
    look_at_all(aside)
    problems = add_what_can(aside)
    foreign = leave_out_repositories(aside, head)
    problems += [f"{path} is a repository of its own: it is not committed" for path in foreign]
    problems += [f"{path} is a submodule with changes inside that are not committed" for path in changed_inside(aside)]
    return aside.line("write-tree"), tuple(problems)


def _keep_apart(git: Git, ref: str, content: str, head: str, message: bytes) -> str:
    """Keep what is not to be on the branch by a ref, and return that: one that has the same already, if any."""
    said = git.run("for-each-ref", "--format=%(refname) %(tree) %(parent)", ref, f"{ref}-*")
    for line in said.decode().splitlines():
        if (found := line.split(" "))[1:] == [content, head]:
            return found[0]
    if said:
        ref = f"{ref}-{_now_ms()}"
    git.run("update-ref", ref, git.line("commit-tree", content, "-p", head, stdin=message), ABSENT)
    return ref


def _keep_rest(tree: Worktree, environ: Mapping[str, str], *, session_id: str, ref: str, message: bytes) -> Kept:
    """Keep the work of a worktree whose directory is gone, or of which git knows nothing any more."""
    git = open_repository(tree, environ, commits=True)
    tip = find_tip(git, tree, session_id=session_id)
    if tip is None:
        raise WorktreeError(f"The repository of the worktree {tree.path} has none of its commits any more.")
    if not is_directory(tree.path):
        _point(git, session_id, ref, tip)
        return Kept(tip, None, (f"the worktree {tree.path} is gone",))
    with index_aside(replace(git, place=(*git.place, "--work-tree", tree.path)), start=tip) as aside:
        content, problems = _content(aside, tip)
    commit = None
    if content != git.line("rev-parse", f"{tip}^{{tree}}"):
        commit = git.line("commit-tree", content, "-p", tip, stdin=message)
        if not is_checked_out(git, tree.branch):
            with suppress(GitError):  # somebody has moved it
                git.run("update-ref", f"refs/heads/{tree.branch}", commit, tip)
    _point(git, session_id, ref, commit or tip)
    problems = (*problems, f"git knows nothing of the worktree {tree.path} any more")
    return Kept(commit or tip, commit, problems, is_whole=len(problems) == 1)


def borrow(tree: Worktree) -> None:
    """Note that csa works in a worktree whose work is kept: whatever becomes of us, `reclaim` gives it back."""
    with open(_lease(tree), "wb"):
        pass
    give_to_owner(_lease(tree))


def give_back(git: Git, tree: Worktree) -> None:
    """Have a worktree as its branch has it, without what csa, or a command of the user's, has left; ignored files stay.

    GitError: git refuses; then the next one who has the session's lock does it.
    """
    for name in _UNDERWAY[:2]:
        shutil.rmtree(f"{tree.git_dir}/{name}", ignore_errors=True)
    _unlock(tree)
    git.run("symbolic-ref", "HEAD", f"refs/heads/{tree.branch}")
    git.run("reset", "--quiet", "--hard")
    git.run("clean", "--quiet", "-d", "--force")
    with suppress(FileNotFoundError):
        os.unlink(_lease(tree))


def go_forward(git: Git, tree: Worktree, commit: str, before: str) -> None:
    """Have the branch of a borrowed worktree at a commit, and its files as they are there now, for good.

    Whenever csa is killed, either nothing of it has happened, or `reclaim` does the rest.
    """
    aside = f"{_lease(tree)}.new"
    with open(aside, "w", encoding="ascii") as file:
        file.write(f"{commit} {before}\n")
    give_to_owner(aside)
    os.rename(aside, _lease(tree))
    _go_forward(git, tree, commit, before)


def _go_forward(git: Git, tree: Worktree, commit: str, before: str) -> None:
    name = f"refs/heads/{tree.branch}"
    if find_commit(git, name) != commit:
        git.run("update-ref", "-m", "csa: onto the target", name, commit, before)
    git.run("symbolic-ref", "HEAD", name)
    with suppress(FileNotFoundError):
        os.unlink(_lease(tree))


def reclaim(tree: Worktree, environ: Mapping[str, str], *, session_id: str) -> None:
    """Have a worktree back that was not given back: csa was killed. For whoever takes the session's lock; GitError.

    What is there now is kept by a ref, as somebody may have worked there since.
    """
    try:
        with open(_lease(tree), encoding="ascii") as file:
            further = file.read().split()
    except FileNotFoundError:
        return
    git = open_worktree(tree, environ)
    if further:
        _go_forward(git, tree, *further)
    else:
        keep_as_it_is(git, session_id)
        give_back(git, tree)


def keep_as_it_is(git: Git, session_id: str) -> None:
    """Keep what is in a worktree, whatever that is, by a ref."""
    _point(git, session_id, f"{REFS}{session_id}/interrupted", _snapshot(git, "interrupted", is_own=True))


def _lease(tree: Worktree) -> str:
    return f"{tree.git_dir}/csa-borrowed"


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


def _forget(git: Git, tree: Worktree, aside: Path | None, tip: str | None) -> None:
    """Remove what git knows of a worktree; the repositories of its submodules, which lie there, go with it."""
    if aside and is_directory(f"{tree.git_dir}/modules"):
        shutil.move(tree.git_dir, f"{aside}.git")
    with suppress(GitError):  # it knows of none
        git.run("worktree", "remove", "--force", "--force", tree.path)
    if tip is not None and not is_checked_out(git, tree.branch):
        with suppress(GitError):  # it was moved, and is somebody's, or gone
            git.run("update-ref", "-d", f"refs/heads/{tree.branch}", tip)


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
        or _kept_last(refs_of(git, session_id))
        or next((found for name in (f"refs/heads/{tree.branch}", tree.base) if (found := find_commit(git, name))), None)
    )


def _kept_last(refs: Mapping[str, str]) -> str | None:
    """Return the commit of the last turn's ref, without those of what could not be committed on the branch."""
    numbers = {name: order for name in refs if (order := order_of(name))}
    return refs[max(numbers, key=lambda name: numbers[name])] if numbers else None


def order_of(ref: str) -> tuple[int, int] | None:
    """Return the turn of a ref `<turn>` or `<turn>-<time>`, and the time; None for one of another form."""
    turn, _, again = ref.rpartition("/")[2].partition("-")
    return (int(turn), int(again or 0)) if turn.isdecimal() and (not again or again.isdecimal()) else None


def is_checked_out(git: Git, branch: str, *, besides: str | None = None) -> bool:
    """Say whether a work tree of a repository has a branch checked out, besides the one at a path; GitError."""
    said = git.run("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape")
    others = [block.splitlines() for block in said.split("\n\n") if block]
    return any(f"branch refs/heads/{branch}" in lines and lines[0] != f"worktree {besides}" for lines in others)


def find_obstacle(git: Git, tree: Worktree) -> str | None:
    """Say what keeps csa from committing on the branch of a worktree; None if nothing does. Only reads."""
    if find_commit(git, "HEAD") is None:
        return "the agent has left a branch without a commit checked out"
    for name in _UNDERWAY:
        if os.path.exists(f"{tree.git_dir}/{name}"):
            return f"the agent has left a {name.partition('-')[0].partition('_')[0].lower()} unfinished"
    if git.run("ls-files", "--unmerged"):
        return "the agent has left a merge with conflicts"
    current = find_commit(git, f"refs/heads/{tree.branch}")
    if current is not None and not is_ancestor(git, current, "HEAD"):
        return f"the agent has left another branch than {tree.branch} checked out, without the commits of that"
    if is_checked_out(git, tree.branch, besides=os.path.realpath(tree.path)):
        return f"{tree.branch} is checked out in another work tree as well"
    return None


def _back_to_branch(git: Git, tree: Worktree, head: str) -> None:
    """Have the branch checked out and at the head, wherever the agent has committed."""
    name = f"refs/heads/{tree.branch}"
    current = find_commit(git, name)
    if current != head:
        _move(git, tree, "-m", "csa: where the agent has committed", name, head, current or ABSENT)
    with suppress(GitError):  # it is detached
        if git.line("symbolic-ref", "HEAD") == name:
            return
    git.run("symbolic-ref", "-m", "csa: back to the branch of the session", "HEAD", name)


def _move(git: Git, tree: Worktree, *words: str) -> None:
    """Move the branch of a worktree, for which git locks its head as well."""
    try:
        git.run("update-ref", *words)
    except GitError:
        if not os.path.exists(f"{tree.git_dir}/HEAD.lock"):
            raise
        _unlock(tree)
        git.run("update-ref", *words)


def _merging(git: Git) -> Sequence[str]:
    """Return the other parents of a merge that was not committed."""
    found = find_commit(git, "MERGE_HEAD")
    return [found] if found else []


def _run_hook(git: Git, ref: str, content: str, head: str, message: bytes) -> None:
    """Run the pre-commit hook of the project; WorktreeError with what it says if it refuses."""
    hooked = replace(git, place=(*git.place, "-c", f"core.hooksPath={_hooks(git)}"))
    try:
        hooked.run("hook", "run", "--ignore-missing", "pre-commit")
    except GitError as error:
        raise HookError(error.said, _keep_apart(git, f"{ref}-refused", content, head, message)) from error


def _hooks(git: Git) -> str:
    """Return the project's own directory of hooks: csa turns them off for every command of its own."""
    plain = replace(git, settings=())
    return plain.line("rev-parse", "--path-format=absolute", "--git-path", "hooks")


def _unlock(tree: Worktree) -> None:
    """Remove the locks of a git that was killed in a worktree: nothing runs there any more."""
    for name in ("index.lock", "HEAD.lock"):
        with suppress(OSError):
            os.unlink(f"{tree.git_dir}/{name}")


def _is_index_at(git: Git, commit: str) -> bool:
    try:
        git.run("diff-index", "--cached", "--quiet", "--ignore-submodules=dirty", commit)
    except GitError:
        return False
    return True


def _reset_index(git: Git, tree: Worktree) -> None:
    """Have the index agree with the head, if git can."""
    with suppress(GitError):
        try:
            git.run("reset", "--quiet")
        except GitError:
            _unlock(tree)
            git.run("reset", "--quiet")


def _point(git: Git, session_id: str, ref: str, commit: str) -> None:
    """Keep a commit by a ref. What that had before stays kept by it, if the commit does not follow that."""
    refs, form = refs_of(git, session_id), re.compile(rf"{re.escape(ref)}(?:-(\d+))?")
    times = {name: int(found[1] or 0) for name in refs if (found := form.fullmatch(name))}
    last = max(times, key=lambda name: times[name], default=None)
    if last is None:
        git.run("update-ref", ref, commit, ABSENT)
    elif refs[last] != commit:
        follows = is_ancestor(git, refs[last], commit)
        git.run("update-ref", last if follows else f"{ref}-{_now_ms()}", commit, refs[last] if follows else ABSENT)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def is_ancestor(git: Git, commit: str, other: str) -> bool:
    """Say whether a commit is contained in another."""
    try:
        git.run("merge-base", "--is-ancestor", commit, other)
    except GitError:
        return False
    return True


def find_commit(git: Git, name: str) -> str | None:
    """Return the commit that a ref points to; None if there is no such ref."""
    with suppress(GitError):
        return git.line("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    return None


def branch_of(git: Git) -> str | None:
    """Return the branch that is checked out, also where a tag has its name; None if the head is detached."""
    with suppress(GitError):
        return git.line("symbolic-ref", "--quiet", "HEAD").removeprefix("refs/heads/")
    return None


def commit_of(tree: Worktree, environ: Mapping[str, str]) -> str | None:
    """Return the tip of a worktree's branch; None if there is none, or no repository."""
    with suppress(WorktreeError):
        return find_commit(open_repository(tree, environ), f"refs/heads/{tree.branch}")
    return None
