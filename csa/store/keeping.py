"""Keeping what was done in a worktree, under the session's lock.

Whatever an agent leaves at the end of a turn is committed by csa, which needs neither the agent's index nor its hooks,
and the tip is kept by a ref (`refs/csa/<session>/<turn>`), so that nothing is lost, whatever becomes of the branch. A
landing borrows the worktree, and gives it back.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from csa.model.worktree import REFS, SESSION_TRAILER, TURN_TRAILER, Worktree
from csa.ownership import give_to_owner, give_tree
from csa.store.capture import (
    add_all,
    add_what_can,
    changed_inside,
    index_aside,
    leave_out_repositories,
    look_at_all,
)
from csa.store.gitplumbing import ABSENT, Git, GitError, open_project, version_of
from csa.store.gitwork import (
    UNDERWAY,
    WorktreeError,
    find_commit,
    find_tip,
    has_same_tree,
    is_ancestor,
    is_checked_out,
    is_usable,
    open_repository,
    open_worktree,
    refs_of,
)
from csa.store.sessions import is_directory
from csa.structs import Struct, replace

HOOK_GIT = (2, 36)  # the first one with `git hook run`


class HookError(WorktreeError):
    """The project's hook refuses the commit; `said` is what it has printed, and `hint` where the work is kept."""

    def __init__(self, said: str, ref: str) -> None:
        super().__init__(f"The pre-commit hook refuses the commit: {said}", hint=f"what was left is kept as {ref}")
        self.said = said


class Kept(Struct):
    """The work in a worktree by now: its tip, and the commit that csa made of what was left, if anything was."""

    tip: str
    commit: str | None
    problems: tuple[str, ...] = ()  # why some of it is not on the branch; nothing is lost
    is_whole: bool = True  # whether the tip has everything; otherwise the problems say what it has not
    is_unfinished: bool = False  # no commit can hold it: it is kept by a ref, and the branch is as it was


def snapshot(top: str, environ: Mapping[str, str], *, message: str) -> str:
    """Return a commit of a work tree as it is, without touching its index, branch or stash; GitError."""
    return _snapshot(open_project(top, environ), message)


def peek(tree: Worktree, environ: Mapping[str, str]) -> str:
    """Return the tip of the work in a worktree, with what is not committed, but not on its branch; GitError."""
    git = open_worktree(tree, environ)
    taken = _snapshot(git, "what is left", is_own=True)
    return git.line("rev-parse", "HEAD") if has_same_tree(git, taken, "HEAD") else taken


def _snapshot(git: Git, message: str, *, is_own: bool = False) -> str:
    """`is_own`: it is csa's worktree, in which an agent may have told git what not to look at."""
    with index_aside(git) as aside:
        if is_own:
            look_at_all(aside)
        add_all(aside)
        leave_out_repositories(aside, "HEAD")
        return aside.line("commit-tree", aside.line("write-tree"), "-p", "HEAD", stdin=message.encode())


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
    for name in (name for name, what in UNDERWAY.items() if what == "rebase"):
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


def find_obstacle(git: Git, tree: Worktree) -> str | None:
    """Say what keeps csa from committing on the branch of a worktree; None if nothing does. Only reads."""
    if find_commit(git, "HEAD") is None:
        return "the agent has left a branch without a commit checked out"
    for name, what in UNDERWAY.items():
        if what != "merge" and os.path.exists(f"{tree.git_dir}/{name}"):  # one that is resolved is committed
            return f"the agent has left a {what} unfinished"
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
        said = error.said
        if version_of(git) < HOOK_GIT:
            said = "it cannot be run, as that needs git 2.36 (worktree_hooks = false commits without it)"
        raise HookError(said, _keep_apart(git, f"{ref}-refused", content, head, message)) from error


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
