"""The steps of a landing, in git and in the session's record. Killed between any two, a landing can be begun again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from csa.errors import CsaError, RefusedError
from csa.model.text import some_names
from csa.model.worktree import REFS, SESSION_TRAILER, Refused, Worktree
from csa.process.shell import ShellEnd
from csa.runner.session import Session
from csa.runner.sessions.acting import record_act, record_update
from csa.runner.sessions.landing_outcome import Landed, LandError, told
from csa.runner.sessions.worktrees import let_go
from csa.runner.turns.worktree import make_again
from csa.store import landing as git_landing
from csa.store.commits import find_work, read_commits
from csa.store.conflicts import with_markers
from csa.store.gitplumbing import Git
from csa.store.gitwork import (
    commit_of,
    find_commit,
    find_tip,
    has_same_tree,
    is_ancestor,
    is_usable,
    kept_beyond,
    open_worktree,
)
from csa.store.held import HeldSession
from csa.store.keeping import HookError, Kept, borrow, find_obstacle, give_back, keep_work, peek
from csa.store.landing import ConflictError
from csa.store.worktrees import relocate, take_away
from csa.structs import Struct, replace

if TYPE_CHECKING:
    from csa.model.state import SessionState

_SHORT = 7
_SLACK_S = 86_400  # by which the clocks of those who commit may differ


class FoundWork(Struct):
    """The work on the head of the checkout, as it is to be there."""

    tip: str
    commits: tuple[str, ...]
    files: tuple[str, ...]
    is_squashed: bool


class LandingWork:
    """The work of a session that is held, on its way into a checkout. Each method is a step, and blocks."""

    def __init__(self, session: Session, held: HeldSession, into: str, *, squash: bool) -> None:
        self.session, self.held, self._squash = session, held, squash
        self._environ = session.context.environ
        self.tree = relocate(_worktree_of(held.state), held.store, session.session_id, self._environ)
        self.git: Git
        fds = held.shared_fds
        self._there, self.target = git_landing.read_target(into, self.tree, self._environ, held=fds)
        self._warnings: tuple[str, ...] = ()
        self._problems: tuple[str, ...] = ()  # what could not be committed of what is left
        self._tip = ""
        self._is_contained = False  # the checkout has got the work in another way, or we were killed in between

    @property
    def session_id(self) -> str:
        return self.session.session_id

    def preview(self) -> Landed:
        """Say what would be landed."""
        tip = self._looked_at()
        if tip is None:
            return self._nothing()
        there, target = self._there, self.target
        base = self._base_of(there, tip)
        if tip == base:
            return self._nothing()
        commits = git_landing.list_commits(there, base, tip)
        conflicts = git_landing.find_conflicts(there, onto=target.head, base=base, tip=tip) if commits else []
        files = tuple(git_landing.list_files(there, base, tip))
        work = there.line("commit-tree", f"{tip}^{{tree}}", "-p", base, stdin=b"work")
        in_way = git_landing.find_in_way(there, replace(target, head=base), work)
        return replace(
            self._landed(self.target.head),
            commits=tuple(commits),
            files=files,
            is_preview=True,
            conflicts=tuple(conflicts),
            in_way=tuple(in_way),
        )

    def _looked_at(self) -> str | None:
        """Return where the work ends, with what is not committed yet; None for nothing."""
        if not is_usable(self.tree):
            return self._kept_last()
        if obstacle := find_obstacle(open_worktree(self.tree, self._environ), self.tree):
            raise self._unfinished((obstacle,))
        return peek(self.tree, self._environ)

    def _kept_last(self) -> str | None:
        """Return the last commit of work whose worktree is gone; None if all of it was landed, or given up."""
        tree = self.tree
        tip = commit_of(tree, self._environ)
        if tip is None and tree.dropped_at is None:
            find = find_tip if tree.landed is None else kept_beyond
            tip = find(self._there, tree, session_id=self.session_id)
        return None if tip == tree.landed else tip

    def _base_of(self, git: Git, tip: str) -> str:
        base = git_landing.find_base(git, self.tree, tip=tip, onto=self.target.head)
        if base is None:
            raise RefusedError(f"The branch {self.tree.branch} has no commit in common with {self.target.top}.")
        return base

    def _unfinished(self, problems: Sequence[str]) -> RefusedError:
        return RefusedError(
            f"The work of session {self.session_id} is unfinished: {'; '.join(problems)}.",
            hint=f'csa run -s {self.session_id} "finish it, or undo it", or git in {self.tree.path}',
        )

    def begin(self) -> FoundWork | None:
        """Put the work onto the head of the checkout, in the worktree, which is borrowed then; None if there is none.

        The session goes on from there, whether or not it is landed.
        """
        self._follow()
        if not self._make_ready():
            return None
        kept = self._keep()
        self._tip, self._problems = kept.tip, kept.problems
        onto = self.target.head
        base = self._base_of(self.git, kept.tip)
        if has_same_tree(self.git, base, kept.tip):
            self._is_contained = kept.tip not in {self.tree.base, self.tree.landed}
            return None
        self._refuse_markers(kept.tip)
        self._refuse_overwriting(kept.tip)
        borrow(self.tree)
        try:
            tip, is_squashed = self._bring(onto, base, kept.tip)
            self._adopt(tip, onto)
            self._refuse_in_way(tip)
        except BaseException:
            give_back(self.git, self.tree)
            raise
        if tip == onto:  # all of it is there already
            give_back(self.git, self.tree)
            self._is_contained = True
            return None
        commits = git_landing.list_commits(self.git, onto, tip)
        files = git_landing.list_files(self.git, onto, tip)
        return FoundWork(tip, tuple(commits), tuple(files), is_squashed)

    def _follow(self) -> None:
        """Look where the checkout is now. Nobody has asked for another branch than the one that was there."""
        before, self.target = self.target, git_landing.read_head(self._there, self.target.top)
        if self.target.branch != before.branch:
            raise RefusedError(
                f"{before.top} is not on {before.branch or 'a detached head'} any more.",
                hint="land again where the work is to be; nothing was changed there",
            )

    def _make_ready(self) -> bool:
        """Have the worktree there; return whether the session has any work."""
        if not is_usable(self.tree):
            if self._kept_last() is None:
                return False
            tree, problems = make_again(self.held, self.tree, self._environ)
            self._warnings = tuple(problems)
            self._save(tree)
        self.git = replace(open_worktree(self.tree, self._environ), held=self.held.shared_fds)
        return True

    def _keep(self) -> Kept:
        """Commit what is left in the worktree, as after a lost turn."""
        turn, config = self.held.last_turn(), self.session.context.config
        try:
            kept = keep_work(
                self.tree,
                self._environ,
                session_id=self.session_id,
                turn=turn,
                subject=f"what turn {turn} has left",
                run_hooks=config.worktree_hooks,
            )
        except HookError as error:
            raise self._refused(Refused(kind="hook", message=self._told(error.said))) from error
        if kept.is_unfinished:
            raise self._unfinished(kept.problems)
        return kept

    def _refuse_overwriting(self, tip: str) -> None:
        """Raise RefusedError for ignored files of the worktree in whose place the checkout has some: they would go."""
        place = replace(self.target, top=self.tree.path, head=tip)
        if files := git_landing.find_in_way(self.git, place, self.target.head):
            raise RefusedError(
                f"git ignores {some_names(files)} in {place.top}, and {self.target.top} has another there: "
                "it would be overwritten.",
                hint="move it, or delete it, and land again",
            )

    def _refuse_markers(self, tip: str) -> None:
        before = self.tree.refused
        if before is None or not before.files:
            return
        onto = before.onto or self.target.head
        if files := with_markers(self.git, self.session_id, tip=tip, onto=onto, files=before.files):
            raise self._refused(Refused(kind="markers", files=tuple(files), onto=onto))

    def _bring(self, onto: str, base: str, tip: str) -> tuple[str, bool]:
        message = self._message()
        try:
            return git_landing.bring_onto(
                self.git, onto=onto, base=base, tip=tip, squash=message if self._squash else None, message=message
            )
        except ConflictError as error:
            refused = Refused(kind="conflict", files=error.files, onto=onto)
            others = git_landing.who_changed(self.git, base=base, onto=onto, files=error.files)
            raise self._refused(refused, others=others) from None

    def _message(self) -> str:
        """Return the message of the one commit that the work becomes."""
        state = self.held.state
        subject = " ".join((state.description or state.name or f"work of session {self.session_id}").split())
        return f"{subject}\n\n{SESSION_TRAILER}: {self.session_id}\n"

    def _adopt(self, tip: str, onto: str) -> None:
        """Have the session's branch at the work as it is now, and the record say so."""
        branch = f"refs/heads/{self.tree.branch}"
        self.git.run("update-ref", "-m", "csa land: onto the target", branch, tip, self._tip)
        self.git.run("symbolic-ref", "HEAD", branch)
        self._tip = tip
        self._save(replace(self.tree, base=onto))

    def _refuse_in_way(self, tip: str) -> None:
        if files := git_landing.find_in_way(self._there, self.target, tip):
            raise git_landing.in_the_way(self.target, files)

    def give_back(self) -> None:
        """Clean the worktree, and its branch, of what the check has left."""
        if not os.path.isdir(self.tree.path):
            raise RefusedError(
                f"The check has removed the worktree {self.tree.path}.", hint="the work is kept: land again"
            )
        self.git.run("update-ref", "-m", "csa land", f"refs/heads/{self.tree.branch}", self._tip)
        give_back(self.git, self.tree)

    def refuse_check(self, check: str, end: ShellEnd) -> LandError:
        """Record that the check has failed, and return the error."""
        refused = Refused(kind="check", onto=self.target.head, message=self._told(f"$ {check}\n{end.tail}"))
        return self._refused(refused, check=check)

    def finish(self, found: FoundWork, *, keep: bool) -> Landed:
        """Move the checkout; from then on the work is landed. MovedError if it has moved itself."""
        self.give_back()
        self.git.run("update-ref", self._ref("landing"), found.tip)
        git_landing.fast_forward(self._there, self.target, found.tip, note=f"csa land {self.session_id}")
        done = replace(self._landed(found.tip), files=found.files, is_squashed=found.is_squashed)
        return self._note(done, found.commits, keep=keep)

    def note_nothing(self, *, keep: bool) -> Landed:
        """Return that there is nothing to land; if the work is in the checkout already, the record says so."""
        done = self._nothing()
        if not self._is_contained:
            return self._drop(done) if self.tree.landed and not keep else done
        is_ours = self.git.run("for-each-ref", f"--points-at={self._tip}", self._ref("landing"))
        commits = git_landing.list_commits(self.git, self.tree.base, self._tip) if is_ours else []
        return self._note(replace(done, is_contained=not commits), commits, keep=keep)

    def _note(self, done: Landed, commits: Sequence[str], *, keep: bool) -> Landed:
        """Record that the work is in the checkout."""
        tip = self._tip
        done = replace(done, commits=tuple(commits))
        self.git.run("update-ref", self._ref("landed"), tip)
        tree = replace(self.tree, base=tip, landed=tip, landed_at=datetime.now(UTC), refused=None)
        facts = {"commits": list(commits), "onto": done.onto, "into": done.into, "squash": done.is_squashed}
        changes = {**facts, "branch": done.branch, "head": done.head}
        record_update(self.session.context, self.held, "landed", changes, replace(self.held.state, worktree=tree))
        self.tree = tree
        loss = record_act(
            self.session.context, "session land", self.session_id, store=self.held.store, what="landed", **changes
        )
        done = replace(done, warnings=(*done.warnings, loss)) if loss else done
        self.git.run("update-ref", "-d", self._ref("landing"))
        return done if keep else self._drop(done)

    def _ref(self, name: str) -> str:
        return f"{REFS}{self.session_id}/{name}"

    def _drop(self, done: Landed) -> Landed:
        """Remove the worktree, whose work is landed, unless something is left in it."""
        context, held = self.session.context, self.held
        if not os.path.isdir(self.tree.path):  # we were killed when it was gone, or somebody has removed it
            take_away(self.tree, self._environ, session_id=self.session_id, tip=self.tree.landed)
            return done
        try:
            tree, dropped = let_go(context, held.store, held.state, force=False)
        except (CsaError, OSError) as error:
            return replace(done, warnings=(*done.warnings, f"its worktree stays: {error}"))
        changes = {"tip": dropped.tip, "branch": dropped.branch}
        record_update(context, held, "worktree dropped", changes, replace(held.state, worktree=tree))
        return replace(done, is_dropped=True)

    def _nothing(self) -> Landed:
        """Return that there is nothing new to land; it warns where the work was given up."""
        done, tree = self._landed(self.target.head), self.tree
        if tree.dropped_at and tree.dropped and tree.dropped not in {tree.landed, tree.base}:
            what = f"its work up to {tree.dropped[:_SHORT]} was given up"
            done = replace(done, warnings=(*done.warnings, f"{what}; csa run -s {self.session_id} goes on from there"))
        return done

    def _missing(self) -> tuple[str, ...]:
        """Return a warning if the checkout has not what was landed before."""
        landed = self.tree.landed
        if landed is None or self._has_landed(landed):
            return ()
        what = f"what was landed before, as {landed[:_SHORT]}, is not there"
        return (f"{what}: rewritten, undone, or landed elsewhere; if it is missing, git cherry-pick brings it",)

    def _has_landed(self, commit: str) -> bool:
        """Say whether the checkout has what was landed before, as it was or rewritten."""
        git, head = self._there, self.target.head
        if is_ancestor(git, commit, head) or find_commit(git, commit) is None:
            return True
        since = int(git.line("show", "--no-patch", "--format=%ct", commit)) - _SLACK_S
        return bool(
            find_work(git, read_commits(git, since=since, tip=head), {self.session_id: [commit]})[self.session_id]
        )

    def _landed(self, head: str) -> Landed:
        target = self.target
        return Landed(
            session_id=self.session_id,
            into=target.top,
            branch=target.branch,
            onto=target.head,
            head=head,
            warnings=(*self._warnings, *self._problems, *self._missing()),
        )

    def _refused(self, refused: Refused, **more: Any) -> LandError:
        """Record why the work is not landed, and return the error."""
        tree = replace(self.tree, refused=refused)
        facts = {"kind": refused.kind, "files": list(refused.files), "onto": refused.onto, "into": self.target.top}
        changes = {**facts, "message": refused.message or None}
        record_update(self.session.context, self.held, "refused", changes, replace(self.held.state, worktree=tree))
        self.tree = tree
        return LandError(refused, self.session_id, **more)

    def _told(self, output: str) -> str:
        return told(self.session.context.redactor, output)

    def _save(self, tree: Worktree) -> None:
        self.held.save(replace(self.held.state, worktree=tree))
        self.tree = tree


def _worktree_of(state: SessionState) -> Worktree:
    if state.worktree is None or not state.worktree.git_dir:
        raise RefusedError(
            f"Session {state.session_id} has no worktree of its own: what it has done is where it worked.",
            hint='csa run --worktree "..." gives a new session one',
        )
    return state.worktree
