"""What of the work of several worktrees is in another one's branch, in few calls of git. Only reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from csa.model.worktree import BRANCHES, Worktree
from csa.store.gitplumbing import GitError, find_git, open_work_tree
from csa.store.gitwork import literal
from csa.store.reception import Reception, read_reception
from csa.structs import Struct

_HEADS = "refs/heads/"
_MOST = 2000  # commits that are looked through for who has changed a file


class Integration(Struct):
    """The branches of csa in a repository, by name, each with its tip."""

    checkout: str
    environ: Mapping[str, str]
    tips: Mapping[str, str]

    def missing(self, commits: Iterable[str], branch: str) -> set[str]:
        """Return which of some commits a branch does not contain; all of them if there is no such branch."""
        wanted = {*commits}
        if not wanted or branch not in self.tips:
            return wanted
        words = ("rev-list", "--ignore-missing", *sorted(wanted), f"^{self.tips[branch]}")
        with suppress(GitError):
            found = {*open_work_tree(self.checkout, self.environ).line(*words).split()}
            return {commit for commit in wanted if commit in found}
        return wanted

    def reception(self, session_id: str) -> Reception | None:
        """Return what has become here of the work of a session on another host."""
        return read_reception(open_work_tree(self.checkout, self.environ), session_id)

    def commits_of(self, onto: str, files: Sequence[str]) -> list[str]:
        """Return the commits up to one that have changed some files, newest first."""
        git = open_work_tree(self.checkout, self.environ)
        with suppress(GitError):
            words = ("log", f"--max-count={_MOST}", "--format=%H", onto, "--")
            return git.line(*words, *map(literal, files)).split()
        return []


def read_integration(tree: Worktree, environ: Mapping[str, str]) -> Integration:
    """Look at the branches in the repository of a worktree; there are none if that is gone."""
    tips: dict[str, str] = {}
    find_git(environ)
    with suppress(GitError):
        git = open_work_tree(tree.checkout, environ)
        said = git.run("for-each-ref", "--format=%(refname) %(objectname)", f"{_HEADS}{BRANCHES}").decode()
        tips = {name.removeprefix(_HEADS): commit for name, commit in (line.split(" ") for line in said.splitlines())}
    return Integration(tree.checkout, environ, tips)
