"""What of a session's work has not landed: the proof that a worktree may go. Only reads; agents' programs never run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping

from csa.model.worktree import Worktree
from csa.store.capture import changed_inside
from csa.store.comingback import has_fetched
from csa.store.gitplumbing import Git, GitError
from csa.store.gitwork import (
    WorktreeError,
    dirty_paths,
    find_tip,
    is_ancestor,
    open_repository,
    open_worktree,
    order_of,
    refs_of,
    target_of,
)
from csa.store.keeping import Kept, find_obstacle
from csa.store.sessions import is_directory
from csa.store.travelling import is_received
from csa.structs import Struct, replace

_NAMED = 3


class Work(Struct):
    """A session's work: its last commit (None: unknown), and what of it has not landed, in words."""

    tip: str | None
    unlanded: tuple[str, ...] = ()


def examine_work(tree: Worktree, environ: Mapping[str, str], *, session_id: str, kept: Kept | None = None) -> Work:
    """Return what is known of a session's work. It has landed if the branch that it was made from has all of it.

    So it has if the host that its code came from has fetched all of it. What cannot be known has not landed. Work that
    was given up (`dropped`) counts as landed. `kept`: what is in the worktree was kept just now.
    """
    try:
        git = open_repository(tree, environ)
        tip = kept.tip if kept else find_tip(git, tree, session_id=session_id)
        left = kept.problems if kept and not kept.is_whole else () if kept else _not_committed(tree, environ)
        return Work(tip, (*left, *_unlanded(git, tree, tip=tip, session_id=session_id)))
    except (WorktreeError, GitError) as error:
        return Work(None, (error.message.rstrip("."),))


def _unlanded(git: Git, tree: Worktree, *, tip: str | None, session_id: str) -> Iterator[str]:
    if tip is None:
        if tree.git_dir:
            yield f"the repository in {tree.checkout} has none of its commits"
        return
    refs = refs_of(git, session_id)
    if tip == tree.dropped and tree.dropped_at:
        return
    if is_received(tree.checkout) and has_fetched(git, session_id, tip):
        return
    turn = max((order[0] for ref in refs if (order := order_of(ref))), default=0)
    yield from (f"{ref} is not on its branch" for ref in refs if _turn_apart(ref) >= turn)
    if tip not in {tree.landed, tree.base} and not _has(git, tree, tip):
        count = git.line("rev-list", "--count", tip, f"^{tree.base}")
        target = tree.target or "the commit there"
        yield f"{count} commit{'s' * (count != '1')} of {tree.branch} not in {target} of {tree.checkout}"


def _turn_apart(ref: str) -> int:
    """Return the turn of a ref for what could not be committed on the branch; -1 for any other."""
    turn, _, what = ref.rpartition("/")[2].partition("-")
    return int(turn) if turn.isdecimal() and what and not order_of(ref) else -1


def _not_committed(tree: Worktree, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is only in the directory itself."""
    if not is_directory(tree.path) or not os.listdir(tree.path):
        return
    if not is_directory(tree.git_dir):
        yield f"what is in {tree.path}, of which git knows nothing any more"
        return
    git = open_worktree(tree, environ, commits=False)
    if obstacle := find_obstacle(git, tree):
        yield obstacle
    yield from (f"changes inside the submodule {path} not committed" for path in changed_inside(git))
    if paths := dirty_paths(git):
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        yield f"{', '.join(paths[:_NAMED])}{more} not committed"


def _has(git: Git, tree: Worktree, tip: str) -> bool:
    """Say whether the branch where the work is to land has it: its commits, or all that they would change."""
    target = target_of(git, tree)
    return target is not None and (is_ancestor(git, tip, target) or _changes_nothing(git, tip, target))


def _changes_nothing(git: Git, tip: str, target: str) -> bool:
    """Say whether merging a commit would change nothing, as after it was squashed or picked. Nothing is written."""
    objects = git.line("rev-parse", "--path-format=absolute", "--git-path", "objects")
    with tempfile.TemporaryDirectory(prefix="csa-merge-") as scratch:
        if git.user:
            os.chown(scratch, *git.user)
        aside = {"GIT_OBJECT_DIRECTORY": scratch, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}
        try:
            merged = replace(git, environ={**git.environ, **aside}).line("merge-tree", "--write-tree", target, tip)
        except GitError:  # a conflict, or a git before 2.38
            return False
    return merged == git.line("rev-parse", f"{target}^{{tree}}")
