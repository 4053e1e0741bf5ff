"""How far the work in worktrees has come, and which of it would conflict: looked at without writing to the repository.

New objects and indexes are in a directory aside, which is deleted afterwards. No program of the configuration runs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from csa.model.worktree import Worktree
from csa.store.capture import add_what_can
from csa.store.gitplumbing import Git, GitError, open_project, version_of, without_filters
from csa.store.gitwork import MERGE_TREE_GIT, files_in_conflict, find_commit, open_worktree
from csa.structs import Struct, replace

_QUIET = ("-c", "core.bigFileThreshold=32m", "-c", "core.safecrlf=false", "--no-optional-locks")


class Extent(Struct):
    """How much lies between two commits."""

    files: int
    added: int
    removed: int


class Glance(Struct, frozen=False):
    """A repository that is looked at. Its commits may be of objects that nobody else can see."""

    git: Git
    can_merge: bool
    _scratch: str
    _variables: Mapping[str, str]

    def tip(self, tree: Worktree) -> str | None:
        """Return the tip of the work in a worktree, with what is not committed yet; None if there is none."""
        with suppress(GitError, OSError):
            git = self._aside(open_worktree(tree, self.git.environ), name=os.path.basename(tree.path))
            add_what_can(git)
            content, head = git.line("write-tree"), git.line("rev-parse", "HEAD")
            if content == git.line("rev-parse", "HEAD^{tree}"):
                return head
            return git.line("commit-tree", content, "-p", head, stdin=b"so far")
        return find_commit(self.git, f"refs/heads/{tree.branch}")  # the worktree is gone

    def measure(self, base: str, tip: str) -> Extent:
        """Return how much lies between two commits; GitError."""
        words = ("diff-tree", "-r", "-z", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv", base, tip)
        rows = [entry.split(b"\t", 2) for entry in self.git.run(*words).split(b"\0") if entry]
        numbers = [(int(row[0]), int(row[1])) for row in rows if row[0].isdigit()]  # not of binary files
        return Extent(len(rows), sum(added for added, _ in numbers), sum(removed for _, removed in numbers))

    def conflicts(self, one: str, other: str) -> list[str]:
        """Return the files in which two commits would conflict; GitError."""
        return files_in_conflict(self.git, one, other)

    def _aside(self, git: Git, *, name: str) -> Git:
        """Return git in a worktree with a copy of its index."""
        index = f"{self._scratch}/{name}"
        with suppress(FileNotFoundError):
            shutil.copy2(git.line("rev-parse", "--path-format=absolute", "--git-path", "index"), index)
        _give(index, git)
        variables = {**self._variables, "GIT_INDEX_FILE": index}
        return replace(git, environ={**git.environ, **variables}, place=(*git.place, *_QUIET))


@contextmanager
def glance_at(checkout: str, environ: Mapping[str, str]) -> Iterator[Glance]:
    """Look at the repository of a checkout.

    Raises:
        GitError: it is gone, or git does not read it.
        ToolUnavailableError: git is not installed.
    """
    git = open_project(checkout, environ)
    objects = git.line("rev-parse", "--path-format=absolute", "--git-path", "objects")
    with tempfile.TemporaryDirectory(prefix="csa-glance-") as scratch:
        os.mkdir(f"{scratch}/objects")
        for place in (scratch, f"{scratch}/objects"):
            _give(place, git)
        variables = {
            "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
            "GIT_NO_LAZY_FETCH": "1",
            **without_filters(git),
        }
        known = replace(git, environ={**git.environ, **variables}, place=(*git.place, *_QUIET))
        yield Glance(known, version_of(git) >= MERGE_TREE_GIT, scratch, variables)


def _give(place: str, git: Git) -> None:
    if git.user and os.path.exists(place):
        os.chown(place, *git.user)
