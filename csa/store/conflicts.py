"""A session's work beside what has happened in its target meanwhile, with conflict markers, for its agent to resolve.

The worktree is put on the target's commit, and the work is merged into it, not committed. What it was before is kept by
a ref, from which this can be done again: a commit with the work's base and its tip as parents.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from csa.model.worktree import REFS, Worktree
from csa.store.gitplumbing import ABSENT, Git, GitError
from csa.store.gitwork import refs_of
from csa.store.keeping import borrow, give_back, go_forward, keep_as_it_is
from csa.store.landing import plain_git
from csa.structs import Struct, replace

_HOW = {
    "123": "both have changed it",
    "12": "it is deleted in your work, and changed in the target",
    "13": "it is changed in your work, and deleted in the target",
    "23": "both have added it",
}


class Conflict(Struct):
    """A file in conflict, and how."""

    path: str
    how: str


class Before(Struct):
    """The work as it was before a repair."""

    base: str
    tip: str


def read_before(git: Git, session_id: str, turn: int) -> Before | None:
    """Return the work as it was before a repair in this turn that was interrupted; None if there was none."""
    with suppress(GitError):
        base, tip = git.line("rev-parse", f"{_ref(session_id, turn)}^@").split()
        return Before(base, tip)
    return None


def keep_before(git: Git, before: Before, session_id: str, turn: int) -> None:
    """Keep the work as it is before a repair."""
    words = ("commit-tree", f"{before.tip}^{{tree}}", "-p", before.base, "-p", before.tip)
    git.run("update-ref", _ref(session_id, turn), git.line(*words, stdin=b"before a repair\n"), ABSENT)


def _ref(session_id: str, turn: int) -> str:
    return f"{REFS}{session_id}/before-repair-{turn}"


def with_markers(git: Git, session_id: str, *, tip: str, onto: str, files: Sequence[str]) -> list[str]:
    """Return those of the files that have conflict markers which neither the target nor the work had before a repair.

    Where none was laid out, there are none.
    """
    before = _last_before(git, session_id)
    return [path for path in files if before and _count_markers(git, tip, path) > _known(git, before, onto, path)]


def _known(git: Git, before: Before, onto: str, path: str) -> int:
    """Return how many markers belong to a file: as many as one side has, or what both have added."""
    theirs, ours, common = (_count_markers(git, commit, path) for commit in (onto, before.tip, before.base))
    return max(theirs, ours, theirs + ours - common)


def _count_markers(git: Git, commit: str, path: str) -> int:
    with suppress(GitError):  # it is not there
        content = git.run("cat-file", "blob", f"{commit}:{path}")
        return len(re.findall(rb"^(?:<{7,}|>{7,}) ", content, re.MULTILINE))  # the attribute conflict-marker-size
    return 0


def _last_before(git: Git, session_id: str) -> Before | None:
    turns = [int(found[1]) for name in refs_of(git, session_id) if (found := re.search(r"/before-repair-(\d+)$", name))]
    return read_before(git, session_id, max(turns)) if turns else None


def go_back(git: Git, tree: Worktree, before: Before, session_id: str) -> None:
    """Have the branch and the worktree as they were before a repair; what is there now is kept by a ref."""
    keep_as_it_is(git, session_id)
    borrow(tree)
    git.run("update-ref", "-m", "csa: before a repair", f"refs/heads/{tree.branch}", before.tip)
    give_back(git, tree)


def lay_beside(git: Git, tree: Worktree, before: Before, *, onto: str) -> list[Conflict]:
    """Merge the work into a commit of the target, in its worktree, which is clean; return the conflicts.

    The branch is at that commit then, and nothing is committed. Without a conflict everything is as it was.
    """
    work = git.line("commit-tree", f"{before.tip}^{{tree}}", "-p", before.base, stdin=b"the work of this session\n")
    borrow(tree)
    try:
        conflicts = _merge(git, onto, work)
        if not conflicts:
            give_back(git, tree)
            return []
        _unstage(git, conflicts)
    except BaseException:
        give_back(git, tree)
        raise
    go_forward(git, tree, onto, before.tip)
    return conflicts


def _unstage(git: Git, conflicts: Sequence[Conflict]) -> None:
    """Have the files in conflict as they are in the target, in the index: what is resolved need not be added.

    The rest stays staged, as `git add --all` would not find what is ignored, or the commit of a submodule.
    """
    plain = replace(git, place=(*git.place, "--literal-pathspecs"))
    paths = b"\0".join(os.fsencode(each.path) for each in conflicts)
    plain.run("reset", "--quiet", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=paths)


def _merge(git: Git, onto: str, work: str) -> list[Conflict]:
    git.run("checkout", "--quiet", "--detach", "--no-overwrite-ignore", onto)
    try:
        plain_git(git, "merge.conflictStyle=diff3").run("cherry-pick", "--no-commit", work)
    except GitError:
        found = _conflicts(git)
        if not found:
            raise
        return found
    return []


def _conflicts(git: Git) -> list[Conflict]:
    stages: dict[str, str] = {}
    for entry in git.run("ls-files", "--unmerged", "-z").split(b"\0"):
        facts, _, path = entry.partition(b"\t")
        if path:
            name = os.fsdecode(path)
            stages[name] = stages.get(name, "") + facts.decode().split()[2]
    return [Conflict(path, _how(found)) for path, found in stages.items()]


def _how(stages: str, known: Mapping[str, str] = _HOW) -> str:
    return known.get(stages, "it was renamed")
