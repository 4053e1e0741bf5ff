"""Landing: the work of a session's worktree is brought into a checkout, or nothing there changes.

Under the session's lock the work is put onto the head of the checkout, in the session's own worktree; a command may
check it there. Then the checkout moves, by a fast-forward. What was landed, and what was refused, is in the record.
Killed at any moment, it can be asked for again: each step leaves the work whole, and the checkout before or after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from csa.errors import CsaError, RefusedError
from csa.model.permission import Permission
from csa.model.text import some_names
from csa.model.worktree import REFS, SESSION_TRAILER, Refused, Worktree
from csa.process.launch import SpawnError
from csa.process.shell import ShellEnd, run_shell
from csa.runner.caller import Caller, refuse_own_lineage
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, record_act, record_update
from csa.runner.sessions.worktrees import let_go
from csa.runner.turns.worktree import make_again
from csa.store import landing as git_landing
from csa.store.commits import find_work, read_commits
from csa.store.conflicts import with_markers
from csa.store.genealogy import ancestors
from csa.store.gitplumbing import Git
from csa.store.gitwork import commit_of, find_commit, find_tip, is_ancestor, is_usable, open_worktree
from csa.store.held import HeldSession
from csa.store.inherited import without_descriptors, without_repository
from csa.store.keeping import HookError, Kept, borrow, find_obstacle, give_back, keep_work, peek
from csa.store.landing import Commit, ConflictError, MovedError
from csa.store.owner import LANDING
from csa.store.project import git_top
from csa.store.worktrees import relocate, take_away
from csa.structs import Struct, asdict, replace

if TYPE_CHECKING:
    from typing import TypeVar

    from csa.model.state import SessionState

    _T = TypeVar("_T")

_TRIES = 5  # to follow a checkout that moves meanwhile
_TOLD_LINES = 40  # of the output of a check
_SHORT = 7
_SLACK_S = 86_400  # by which the clocks of those who commit may differ
ADVICE = "csa wait, then land it"


class LandError(CsaError):
    """The work of a session cannot be landed as it is; nothing was changed in the checkout.

    Attributes:
        kind: conflict, markers (left by a repair), check (failed) or hook (of the project, refused).
        session_id: whose work it is.
        files: in conflict, or with markers.
        onto: the commit that it was to follow.
        others: what has changed those files there meanwhile: commits, with the sessions they were landed for.
        said: the last lines of the check, or of the hook.
    """

    def __init__(
        self, refused: Refused, session_id: str, *, check: str | None = None, others: Sequence[Commit] = ()
    ) -> None:
        super().__init__(_WORDS[refused.kind](refused, session_id, check), hint=f"csa run -s {session_id} --repair")
        self.kind = self.code = refused.kind
        self.session_id = session_id
        self.files = refused.files
        self.onto = refused.onto
        self.others = tuple(others)
        self.said = refused.message


_WORDS: dict[str, Callable[[Refused, str, str | None], str]] = {
    "conflict": lambda refused, who, _: f"The work of session {who} conflicts in {some_names(refused.files)}.",
    "markers": lambda refused, who, _: (
        f"The work of session {who} has conflict markers in {some_names(refused.files)}."
    ),
    "check": lambda _, who, check: f"The check of session {who}'s work failed: {check}.",
    "hook": lambda _, who, __: f"The pre-commit hook refuses what session {who} has left.",
}


class Landed(Struct, kw_only=True):
    """What was landed, or would be.

    Attributes:
        session_id: whose work.
        into: the top of the checkout.
        branch: the branch that is checked out there; None if its head is detached.
        onto: its commit before.
        head: its commit after; the same if there was nothing to land.
        commits: those that it got, oldest first.
        files: the paths that have changed.
        is_squashed: whether the work is one commit now, as asked for or because it did not fit otherwise.
        is_dropped: whether the session's worktree was removed.
        is_contained: whether the work had come into the checkout in another way.
        is_preview: whether it is a dry run, which has changed nothing.
        conflicts: of a dry run, the files in conflict.
        in_way: of a dry run, the files that were changed in the checkout, and would change.
        warnings: what else one should know.
    """

    session_id: str
    into: str
    branch: str | None
    onto: str
    head: str
    commits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    is_squashed: bool = False
    is_dropped: bool = False
    is_contained: bool = False
    is_preview: bool = False
    conflicts: tuple[str, ...] = ()
    in_way: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """What became of the work, in a word."""
        if self.is_preview and self.commits:
            return "would_refuse" if self.conflicts or self.in_way else "would_land"
        if self.is_contained:
            return "already"
        return "landed" if self.commits else "nothing"


def outcome_to_json(
    session_id: str,
    landed: Landed | None = None,
    error: CsaError | None = None,
    *,
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the object of a session in `csa land --json`; without an outcome it was not tried.

    `told` is the error's object.
    """
    known: dict[str, Any] = dict.fromkeys(("into", "branch", "onto", "head"))
    known |= {name: [] for name in ("commits", "files", "conflicts", "in_way", "warnings", "others")}
    known |= {"is_squashed": False, "is_dropped": False, "said": None}
    if landed:
        known |= {name: getattr(landed, name) for name in known if hasattr(landed, name)}
    if isinstance(error, LandError):
        others = [asdict(each) for each in error.others]
        known |= {"conflicts": error.files, "onto": error.onto, "others": others, "said": error.said or None}
    status = landed.status if landed else "refused" if error else "not_tried"
    lists = {name: list(value) for name, value in known.items() if isinstance(value, tuple)}
    return {"session_id": session_id, "status": status, **known, **lists, "error": told}


async def land_session(
    session: Session,
    *,
    into: Path | str,
    squash: bool = False,
    check: str | None = None,
    dry_run: bool = False,
    keep: bool = False,
    on_output: Callable[[bytes], None] | None = None,
) -> Landed:
    """Bring the work of a session's worktree into the checkout around a directory.

    Args:
        session: whose work.
        into: the directory.
        squash: as one commit.
        check: a shell command that must succeed in the worktree, with the work on the checkout's head.
        dry_run: say what would be landed, and change nothing; nothing is checked.
        keep: leave the worktree and its branch where they are.
        on_output: called with what the check writes, as it comes.

    Raises:
        LandError: the work conflicts with the checkout, or the check fails. Only the session's record says so.
        RefusedError: a changed file is in the way, or the directory is no checkout of this repository; or an agent
            asks for what it may not.
        BusyError: the session is running.
        WorktreeError: the worktree is gone and cannot be made again.
        GitError: git refuses.
    """
    refuse_to_land(session, into)
    with hold_session(session, errand=LANDING, advice=ADVICE) as held:
        work = _Work(session, held, str(into), squash=squash)
        if dry_run:
            return await _in_thread(work.preview)
        for _ in range(_TRIES):
            if (found := await _in_thread(work.begin)) is None:
                return await _in_thread(lambda: work.note_nothing(keep=keep))
            try:
                if check is not None:
                    await _check(session, held, work, check, on_output)
                return await _in_thread(lambda: work.finish(found, keep=keep))
            except MovedError:
                continue
            except anyio.get_cancelled_exc_class():  # before it has moved anything: git itself is not interrupted
                with anyio.CancelScope(shield=True):
                    await _in_thread(work.give_back)
                raise
        raise RefusedError(f"{work.target.top} keeps moving.", hint="land again when nobody commits there")


async def _in_thread(act: Callable[[], _T]) -> _T:
    """Run git without holding up the event loop; when cancelled, after it has ended."""
    return await anyio.to_thread.run_sync(act)


def refuse_to_land(session: Session, into: Path | str) -> None:
    """Raise RefusedError unless the caller may land a session there.

    An agent lands what it has started, into the work tree where it works itself.
    """
    caller = session.context.caller
    if caller is None:
        return
    refuse_own_lineage(caller, session.session_id, verb="land")
    if caller.permission is Permission.READ_ONLY:
        raise RefusedError(f"Session {caller.session_id} may only read, so it cannot land anything.")
    above = {state.session_id for state in ancestors(session.store.root, session.load())}
    if caller.session_id not in above:
        raise RefusedError(
            f"Session {session.session_id} was not started by the calling session {caller.session_id}.",
            hint="leave that to whoever started it",
        )
    if git_top(os.path.realpath(into)) != _work_tree_of(caller):
        raise RefusedError(
            f"Session {caller.session_id} can only land into its own work tree, {_work_tree_of(caller)}.",
            hint="call csa land there",
        )


def _work_tree_of(caller: Caller) -> str | None:
    state = caller.state
    known = state.tools.get(state.last_tool or "")
    place = state.worktree.path if state.worktree else (known and known.cwd) or state.project_path
    return git_top(os.path.realpath(place))


class _Found(Struct):
    """The work on the head of the checkout, as it is to be there."""

    tip: str
    commits: tuple[str, ...]
    files: tuple[str, ...]
    is_squashed: bool


class _Work:
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
        if tip is None and tree.landed is None and tree.dropped_at is None:
            tip = find_tip(self._there, tree, session_id=self.session_id)
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

    def begin(self) -> _Found | None:
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
        if git_landing.has_same_tree(self.git, base, kept.tip):
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
        return _Found(tip, tuple(commits), tuple(files), is_squashed)

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

    def finish(self, found: _Found, *, keep: bool) -> Landed:
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
        """Return the last lines of an output, redacted."""
        text = self.session.context.redactor.redact(output).strip()
        return "\n".join(text.splitlines()[-_TOLD_LINES:])

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


async def _check(
    session: Session, held: HeldSession, work: _Work, check: str, on_output: Callable[[bytes], None] | None
) -> None:
    """Prepare the worktree if it was made again, run the check in it, and clean it of what that has left.

    LandError if one of them fails.
    """
    environ = without_descriptors(without_repository(session.context.environ))
    commands = [work.tree.setup] if work.tree.setup and not work.tree.is_ready else []
    try:
        for command in (*commands, check):
            end = await run_shell(
                command,
                cwd=work.tree.path,
                env={**environ, "CSA_WORKTREE": str(work.tree.number)},
                shared_fds=held.shared_fds,
                owns_process=session.context.owns_process,
                on_output=on_output,
            )
            if not end.has_succeeded:
                break
    except SpawnError as error:
        raise CsaError(f"The check cannot be started: {error}.") from error
    finally:
        with anyio.CancelScope(shield=True):
            await _in_thread(work.give_back)
    if not end.has_succeeded:
        raise await _in_thread(lambda: work.refuse_check(command, end))
