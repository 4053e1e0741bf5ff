"""Bringing the work of a session into a checkout, with git alone: rebased where it was made, then a fast-forward.

The work is what lies between the commit that it begins after and its tip. It is put on the target's head one commit
at a time; where that conflicts, or the agent has merged something, all of it as one commit, which may still fit.
The checkout moves last, by a fast-forward, or stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from csa.errors import BusyError, CsaError, RefusedError
from csa.model.text import some_names
from csa.model.worktree import SESSION_TRAILER, Worktree
from csa.store.gitplumbing import Git, GitError, open_project, version_of
from csa.store.gitwork import MERGE_TREE_GIT, UNDERWAY, Checkout, branch_of, files_in_conflict, is_ancestor, literal
from csa.structs import Struct, replace

# What the user may have configured for rebases of their own.
_PLAIN = (
    "advice.mergeConflict=false",
    "rebase.autoSquash=false",
    "rebase.autoStash=false",
    "rebase.backend=merge",
    "rebase.forkPoint=false",
    "rebase.missingCommitsCheck=ignore",
    "rebase.rebaseMerges=false",
    "rebase.updateRefs=false",
    "rerere.enabled=false",
)
_PATIENCE_S, _LOOK_S = 30.0, 0.02
_MISSING = "000000"  # the mode of a path that is not there
_GONE = " D"  # the state of a path that is missing in the work tree alone; it is written again
_LINK, _SYMLINK = "160000", "120000"
_OVERWRITTEN = "would be overwritten"  # what git says before it writes anything


class ConflictError(CsaError):
    """The work does not fit onto a commit; `files` are those in conflict."""

    code = "conflict"

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__(f"There are conflicts in {some_names(files)}.")
        self.files = tuple(files)


class MovedError(CsaError):
    """The checkout has another head than before; nothing was changed."""

    code = "moved"


class Commit(Struct):
    """A commit, and the session that it was landed for, if any."""

    commit: str
    subject: str
    session_id: str | None


class _Change(Struct):
    """A path that differs between two commits, or in the index: its mode and its content in both."""

    path: str
    before: str
    old: str
    mode: str
    blob: str


def read_target(
    into: str, tree: Worktree, environ: Mapping[str, str], *, held: Sequence[int] = ()
) -> tuple[Git, Checkout]:
    """Return the checkout that is to get the work of a worktree, with git in it.

    Raises:
        RefusedError: it is none, or another repository's, or the worktree itself, or busy with a merge of its own.
    """
    way = "cd to the checkout that is to get the work"
    asked = ("--show-toplevel", "--git-dir", "--git-common-dir", "--show-superproject-working-tree")
    try:
        said = open_project(into, environ).run("rev-parse", "--path-format=absolute", *asked)
    except GitError as error:
        raise RefusedError(f"{into} is not in a work tree of git: {error.said}.", hint=way) from error
    top, own, common, above = os.fsdecode(said).split("\n")[:4]
    if os.path.realpath(common) != os.path.realpath(os.path.dirname(os.path.dirname(tree.git_dir))):
        what = f"a submodule of {above}" if above else "another repository"
        raise RefusedError(f"{top} is {what}; the work belongs to that of {tree.checkout}.", hint=way)
    if os.path.realpath(own) == os.path.realpath(tree.git_dir):
        raise RefusedError(f"{top} is the session's own worktree.", hint=way)
    for name, what in UNDERWAY.items():
        if os.path.exists(f"{own}/{name}"):
            raise RefusedError(f"{top} is in the middle of a {what}.", hint="finish it first: git status")
    git = replace(open_project(top, environ), held=tuple(held))
    if files := _unmerged(git):
        raise RefusedError(f"{top} has conflicts in {some_names(files)}.", hint="resolve them, and git add: git status")
    return git, read_head(git, top)


def read_head(git: Git, top: str) -> Checkout:
    """Return where a checkout is now; RefusedError if it has no commit yet."""
    try:
        head = git.line("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except GitError as error:
        raise RefusedError(f"The branch of {top} has no commit yet.", hint="git commit makes one") from error
    return Checkout(top, head, branch_of(git))


def find_base(git: Git, tree: Worktree, *, tip: str, onto: str) -> str | None:
    """Return the commit after which a session's work begins; None if it has nothing in common with the target.

    The recorded one stays where it is not the target's, as a snapshot of somebody's changes. Otherwise the agent, or
    an earlier landing, may have brought the work onto a later one.
    """
    if is_ancestor(git, tree.base, tip) and not is_ancestor(git, tree.base, onto):
        return tree.base
    with suppress(GitError):
        return git.line("merge-base", onto, tip)
    return None


def list_commits(git: Git, base: str, tip: str) -> list[str]:
    """Return the commits after one up to another, oldest first, without merges."""
    return git.line("rev-list", "--reverse", "--topo-order", "--no-merges", tip, f"^{base}").split()


def list_files(git: Git, base: str, tip: str) -> list[str]:
    """Return the paths that differ between two commits."""
    return [change.path for change in _changes(git, base, tip)]


def bring_onto(git: Git, *, onto: str, base: str, tip: str, squash: str | None, message: str) -> tuple[str, bool]:
    """Put the work onto a commit, in a worktree whose head is detached there then.

    Returns the new tip, and whether the work is one commit now that was not one.

    Args:
        git: in the worktree, which is clean.
        onto: the commit.
        base: the commit that the work begins after.
        tip: its last one.
        squash: the message of the one commit to make of it; None to keep its commits.
        message: that of the one commit where its commits do not fit.

    Raises:
        ConflictError: it does not fit; the worktree has the conflict then.
        GitError: git refuses.
    """
    if squash is None and base == onto:
        return _rebase(git, onto, base, tip), False
    if squash is not None or git.line("rev-list", "--merges", "--max-count=1", tip, f"^{base}"):
        return _rebase(git, onto, base, _as_one(git, base, tip, message if squash is None else squash)), True
    try:
        return _rebase(git, onto, base, tip), False
    except ConflictError:
        if len(list_commits(git, base, tip)) <= 1:
            raise
    git.run("rebase", "--abort")
    return _rebase(git, onto, base, _as_one(git, base, tip, message)), True


def _as_one(git: Git, base: str, tip: str, message: str) -> str:
    return git.line("commit-tree", f"{tip}^{{tree}}", "-p", base, stdin=message.encode())


def _rebase(git: Git, onto: str, base: str, tip: str) -> str:
    if base == onto:  # git rebase before 2.36 moves the branch there instead of detaching its head
        git.run("checkout", "--quiet", "--detach", tip)
        return tip
    try:
        plain_git(git).run("rebase", "--quiet", "--merge", "--empty=drop", "--onto", onto, base, tip)
    except GitError:
        files = _unmerged(git)
        if not files:
            raise
        raise ConflictError(files) from None
    return git.line("rev-parse", "HEAD")


def plain_git(git: Git, *settings: str) -> Git:
    """Return git for rebasing and merging, whatever the user has configured for that."""
    return replace(git, place=(*git.place, *(word for setting in (*_PLAIN, *settings) for word in ("-c", setting))))


def _unmerged(git: Git) -> list[str]:
    said = git.run("ls-files", "--unmerged", "-z").split(b"\0")
    return list(dict.fromkeys(os.fsdecode(entry.partition(b"\t")[2]) for entry in said if entry))


def find_conflicts(git: Git, *, onto: str, base: str, tip: str) -> list[str]:
    """Return the files in which the work, as a whole, would conflict with a commit; no ref or file is changed."""
    work = _as_one(git, base, tip, "work")
    if version_of(git) < MERGE_TREE_GIT:
        return _try_elsewhere(git, onto, base, work)
    # merge-tree finds the common ancestor itself: give it one, which has the target's tree.
    ours = git.line("commit-tree", f"{onto}^{{tree}}", "-p", base, stdin=b"target")
    return files_in_conflict(git, ours, work)


def _try_elsewhere(git: Git, onto: str, base: str, work: str) -> list[str]:
    """Rebase in a worktree of its own, which is removed again."""
    with scratch(git, onto) as aside:
        try:
            _rebase(aside, onto, base, work)
        except ConflictError as error:
            return list(error.files)
    return []


@contextmanager
def scratch(git: Git, commit: str) -> Iterator[Git]:
    """Yield git in a worktree of its own with a commit, which is removed again."""
    with tempfile.TemporaryDirectory(prefix="csa-land-") as place:
        if git.user:
            os.chown(place, *git.user)
        there = f"{place}/tree"
        git.run("worktree", "add", "--quiet", "--detach", there, commit)
        try:
            yield open_project(there, git.environ)
        finally:
            git.run("worktree", "remove", "--force", "--force", there)


def who_changed(git: Git, *, base: str, onto: str, files: Sequence[str]) -> list[Commit]:
    """Return the commits of the target that changed files since a commit, newest first."""
    trailer = f"%(trailers:key={SESSION_TRAILER},valueonly,separator=%x2C)"
    words = ("log", "-z", f"--format=%H%x01%s%x01{trailer}", f"{base}..{onto}", "--", *map(literal, files))
    found = [entry.split("\1") for entry in git.run(*words).decode("utf-8", "replace").split("\0") if entry]
    return [Commit(commit, subject, who.partition(",")[0].strip() or None) for commit, subject, who in found]


def find_in_way(git: Git, target: Checkout, new: str) -> list[str]:
    """Return the paths of a checkout that a fast-forward would change, and that somebody has changed there.

    A path that has its new content already is not in the way: it was copied, or a fast-forward was interrupted.
    """
    return _blocked(git, target, _in_way(git, target, new))


def _blocked(git: Git, target: Checkout, found: Sequence[_Change]) -> list[str]:
    """Return the paths that have not the content they are to have, or of which another one is staged."""
    staged = {each.path: (each.mode, each.blob) for each in _staged(git)} if found else {}
    return [
        each.path
        for each in found
        if not _is_there(git, target.top, each)
        or staged.get(each.path, (each.mode, each.blob)) != (each.mode, each.blob)
    ]


def _in_way(git: Git, target: Checkout, new: str) -> list[_Change]:
    changes = _changes(git, target.head, new)
    said = git.run("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all")
    dirty = {os.fsdecode(entry[3:]): entry[:2].decode() for entry in said.split(b"\0") if entry}
    tracked = {each.path for each in changes if each.before != _MISSING} | set(dirty)
    changed = {path for path, state in dirty.items() if state != _GONE} | {each.path for each in _staged(git)}
    free = {each.path for each in changes if each.path not in tracked or dirty.get(each.path) == _GONE} - changed
    return [
        each
        for each in changes
        if each.path in changed or (each.path in free and _is_taken(git, target.top, each, tracked))
    ]


def _staged(git: Git) -> list[_Change]:
    """Return what is staged; a path that is only to be added has nothing there."""
    words = ("--cached", "-z", "--no-renames", "--ignore-submodules=none", "--ita-invisible-in-index", "HEAD")
    return _parse_changes(git.run("diff-index", *words))


def _is_taken(git: Git, top: str, change: _Change, tracked: set[str]) -> bool:
    """Say whether something is in the place of a new path, or above it, that git knows nothing of."""
    place = f"{top}/{change.path}"
    if os.path.isdir(place) and not os.path.islink(place):
        return bool(git.run("ls-files", "--others", "-z", "--", literal(change.path)))
    above = [path for path in _above(change.path) if path not in tracked]
    return os.path.lexists(place) or any(_is_file(f"{top}/{path}") for path in above)


def _above(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path


def _is_file(place: str) -> bool:
    return os.path.islink(place) or os.path.isfile(place)


def _changes(git: Git, old: str, new: str) -> list[_Change]:
    return _parse_changes(git.run("diff-tree", "-r", "-z", "--no-renames", "--no-relative", old, new))


def _parse_changes(said: bytes) -> list[_Change]:
    parts = said.split(b"\0")
    return [_change_of(facts, path) for facts, path in zip(parts[::2], parts[1::2], strict=False)]


def _change_of(facts: bytes, path: bytes) -> _Change:
    before, mode, old, blob, _ = facts.decode().removeprefix(":").split(" ")
    return _Change(os.fsdecode(path), before, old, mode, blob)


def _is_there(git: Git, top: str, change: _Change) -> bool:
    """Say whether a path of the work tree has its new content."""
    place = f"{top}/{change.path}"
    if change.mode == _MISSING:
        return not os.path.lexists(place)
    if change.mode == _SYMLINK:
        return os.path.islink(place) and _blob_of(git, os.fsencode(os.readlink(place))) == change.blob
    if change.mode == _LINK or os.path.islink(place) or not os.path.isfile(place):
        return False
    is_same_kind = os.access(place, os.X_OK) == change.mode.endswith("755")
    return is_same_kind and git.line("hash-object", f"--path={change.path}", place) == change.blob


def _blob_of(git: Git, content: bytes) -> str:
    return git.line("hash-object", "--stdin", stdin=content)


def fast_forward(git: Git, target: Checkout, new: str, *, note: str) -> None:
    """Move a checkout, and the branch that is checked out there, to a descendant of its head. Other changes stay.

    Raises:
        RefusedError: files that would change were changed; they are named.
        BusyError: another csa has been landing there for long.
        MovedError: it is not where it was.
        GitError: git fails.
    """
    with _alone(git, target) as held:
        _fast_forward(held, target, new, note)


@contextmanager
def _alone(git: Git, target: Checkout) -> Iterator[Git]:
    """Yield git while no other csa moves the checkout: git reads the index before it locks it, so two mix it up."""
    fd = os.open(os.fsdecode(git.run("rev-parse", "--absolute-git-dir").removesuffix(b"\n")), os.O_RDONLY)
    try:
        _wait_for(fd, target)
        yield replace(git, held=(*git.held, fd))
    finally:
        os.close(fd)


def _wait_for(fd: int, target: Checkout) -> None:
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise BusyError(
                    f"Another csa is landing in {target.top}.", hint="land again when it has ended"
                ) from None
        except OSError:  # a file system without such locks
            return None
        time.sleep(_LOOK_S)


def _fast_forward(git: Git, target: Checkout, new: str, note: str) -> None:
    if read_head(git, target.top) != target:
        raise MovedError(f"{target.top} has moved.")
    found = _in_way(git, target, new)
    if blocked := _blocked(git, target, found):
        raise in_the_way(target, blocked)
    staged = {each.path for each in _staged(git)} if found else set()
    try:
        _lock_once(git, target, new)
        _stage(git, [(each.mode, each.blob, each.path) for each in found])
    except GitError as error:
        _explain(git, target, new, error)
    try:
        _merging(git, target, note).run(
            "merge", "--quiet", "--ff-only", "--no-overwrite-ignore", "--no-autostash", "--no-stat",
            "--no-verify-signatures", new,
        )  # fmt: skip
    except GitError as error:
        if read_head(git, target.top) == target:
            _stage(git, [(each.before, each.old, each.path) for each in found if each.path not in staged])
            _refuse_begun(git, target, new, found, error)
        _explain(git, target, new, error)


def _refuse_begun(git: Git, target: Checkout, new: str, found: Sequence[_Change], error: GitError) -> None:
    """Raise RefusedError if git has written some of the files before it failed, as on a full disk."""
    begun = [each.path for each in _in_way(git, target, new) if each not in found]
    if begun and _OVERWRITTEN not in error.said:
        raise RefusedError(
            f"git could not write all of the work to {target.top}: {error.said.rstrip('.')}.",
            hint=f"it has begun with {some_names(begun)}: git restore or rm those, as git status has them; land again",
        ) from error


def _lock_once(git: Git, target: Checkout, new: str) -> None:
    """Take the lock of the branch, and give it back: git would find out only when it has changed the files."""
    git.run("update-ref", "--stdin", stdin=f"start\nupdate HEAD {new} {target.head}\nprepare\nabort\n".encode())


def _stage(git: Git, entries: Sequence[tuple[str, str, str]]) -> None:
    """Have entries of the index, each a mode, a blob and a path."""
    if entries:
        lines = "".join(f"{mode} {blob}\t{path}\0" for mode, blob, path in entries)
        git.run("update-index", "-z", "--index-info", stdin=os.fsencode(lines))


def _merging(git: Git, target: Checkout, note: str) -> Git:
    """Return git for a fast-forward, without what `branch.<name>.mergeOptions` adds, as `--squash`."""
    plain = (f"--config-env=branch.{target.branch}.mergeOptions=CSA_NO_OPTIONS",) if target.branch else ()
    environ = {**git.environ, "GIT_REFLOG_ACTION": note, "CSA_NO_OPTIONS": ""}
    return replace(git, environ=environ, place=(*git.place, *plain))


def _explain(git: Git, target: Checkout, new: str, error: GitError) -> None:
    """Raise what kept a checkout from moving; return if it has moved all the same."""
    now = read_head(git, target.top)
    if now.head == new:
        return
    if now != target:
        raise MovedError(f"{target.top} has moved.") from error
    if blocked := find_in_way(git, target, new):
        raise in_the_way(target, blocked) from error
    if ".lock'" in error.said:
        raise RefusedError(
            f"{target.top} is locked: {error.said.rstrip('.')}.",
            hint="another git may be running there; if not, remove that file",
        ) from error
    raise RefusedError(
        f"git does not move {target.top}: {error.said.rstrip('.')}.", hint="see git status; nothing was changed there"
    ) from error


def in_the_way(target: Checkout, files: Sequence[str]) -> RefusedError:
    """Return the error for files that somebody has changed in a checkout, and that are about to change there."""
    return RefusedError(
        f"These files were changed in {target.top}, and the work changes them too: {some_names(files, most=10)}.",
        hint="commit them, or git stash; nothing was changed there",
    )
