"""Landing what a session on another host has done: from the refs that `csa fetch` has brought, into a checkout here.

The work is put onto the head of the checkout in a worktree that is removed again. A command may check it there. Then
the checkout is fast-forwarded. What was landed, and what was refused, is noted in the repository here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio

from csa.errors import RefusedError
from csa.model.worktree import SESSION_TRAILER, Refused, Worktree
from csa.runner.caller import refuse_check
from csa.runner.session import Session
from csa.runner.sessions.fetched import fetched_refs, not_here, worktree_of
from csa.runner.sessions.landing import TRIES, in_thread, refuse_to_land, run_check
from csa.runner.sessions.landing_outcome import Landed, LandError, told
from csa.store import landing as git_landing
from csa.store.conflicts import with_markers
from csa.store.gitplumbing import Git, open_project
from csa.store.gitwork import Checkout, has_same_tree, is_ancestor, kept_last, order_of
from csa.store.landing import ConflictError, MovedError
from csa.store.project import git_top
from csa.store.reception import copy_reception, note_reception, read_reception
from csa.store.worktreefiles import copy_included
from csa.structs import Struct, replace


async def land_fetched(
    session: Session,
    into: Path | str,
    *,
    squash: bool = False,
    check: str | None = None,
    setup: str | None = None,
    dry_run: bool = False,
    on_output: Callable[[bytes], None] | None = None,
) -> Landed:
    """Bring what was fetched of a session on another host into the checkout around a directory.

    Args:
        session: whose work; its record is in a mirror.
        into: the directory.
        squash: as one commit.
        check: a shell command that must succeed in a worktree with the work on the checkout's head.
        setup: a shell command that prepares this worktree; as configured when None.
        dry_run: say what would be landed, and change nothing; nothing is checked.
        on_output: called with what the check writes, as it comes.

    Raises:
        LandError: it conflicts with the checkout, or the check fails. The repository notes it.
        NotFoundError: it is not here.
        RefusedError, BusyError, GitError: as `land_session`.
    """
    refuse_to_land(session, into)
    if check is not None:
        refuse_check(session.context.caller)
    for _ in range(TRIES):
        work = await in_thread(lambda: _find_work(session, into, squash=squash))
        if dry_run:
            return await in_thread(work.preview)
        try:
            return await _land(work, check, setup, on_output)
        except MovedError:
            continue
    raise RefusedError(f"{work.target.top} keeps moving.", hint="land again when nobody commits there")


async def _land(work: _Work, check: str | None, setup: str | None, on_output: Callable[[bytes], None] | None) -> Landed:
    if work.is_there:
        return await in_thread(lambda: work.note(work.landed))
    with ExitStack() as stack:
        try:
            aside, done = await in_thread(lambda: work.put_aside(stack))
            if check is not None and done.head != work.target.head:
                await _check(work, aside, check, setup, on_output)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await in_thread(stack.close)
            raise
        return await in_thread(lambda: work.finish(done))


async def _check(
    work: _Work, aside: Git, check: str, setup: str | None, on_output: Callable[[bytes], None] | None
) -> None:
    """Prepare the worktree, and run the check in it; LandError if one of them fails."""
    context = work.session.context
    top = await in_thread(lambda: aside.path("rev-parse", "--show-toplevel"))
    tree = replace(work.tree, path=top, git_dir=await in_thread(lambda: aside.path("rev-parse", "--absolute-git-dir")))
    await in_thread(lambda: copy_included(tree, context.environ))
    first = context.config.worktree_setup if setup is None else setup
    commands = [first] if first else []
    command, end = await run_check(context, [*commands, check], top, on_output=on_output)
    if not end.has_succeeded:
        said = told(context.redactor, f"$ {command}\n{end.tail}")
        refused = Refused(kind="check", onto=work.target.head, message=said)
        raise await in_thread(lambda: work.refused(refused, check=command))


class _Work(Struct, frozen=False):
    """What was fetched of a session, on its way into a checkout. Each method is a step, and blocks.

    Attributes:
        session: whose it is.
        git: in the checkout.
        target: the checkout, as it was found.
        tree: the session's worktree on its host; `checkout` is the one here.
        refs: those that keep the work.
        turn: that which the work is from.
        base: the commit that it begins after.
        tip: its last.
        squash: whether it is to be one commit.
        landed: what is known of its landing.
    """

    session: Session
    git: Git
    target: Checkout
    tree: Worktree
    turn: int
    base: str
    tip: str
    squash: bool
    landed: Landed

    @property
    def is_there(self) -> bool:
        """Whether there is nothing to land."""
        return has_same_tree(self.git, self.base, self.tip) or is_ancestor(self.git, self.tip, self.target.head)

    def preview(self) -> Landed:
        """Say what would be landed."""
        if self.is_there:
            return self.landed
        git, target, base, tip = self.git, self.target, self.base, self.tip
        conflicts = git_landing.find_conflicts(git, onto=target.head, base=base, tip=tip)
        work = git.line("commit-tree", f"{tip}^{{tree}}", "-p", base, stdin=b"work")
        return replace(
            self.landed,
            commits=tuple(git_landing.list_commits(git, base, tip)),
            files=tuple(git_landing.list_files(git, base, tip)),
            is_contained=False,
            is_preview=True,
            conflicts=tuple(conflicts),
            in_way=tuple(git_landing.find_in_way(git, replace(target, head=base), work)),
        )

    def put_aside(self, stack: ExitStack) -> tuple[Git, Landed]:
        """Put the work onto the head of the checkout, in a worktree of its own; return git there, and what it is."""
        self._refuse_markers()
        git, target, session_id = self.git, self.target, self.session.session_id
        state = self.session.load()
        subject = " ".join((state.description or state.name or f"work of session {session_id}").split())
        message = f"{subject}\n\n{SESSION_TRAILER}: {session_id}\n"
        aside = stack.enter_context(git_landing.scratch(git, target.head))
        try:
            new, is_squashed = git_landing.bring_onto(
                aside,
                onto=target.head,
                base=self.base,
                tip=self.tip,
                squash=message if self.squash else None,
                message=message,
            )
        except ConflictError as error:
            others = git_landing.who_changed(git, base=self.base, onto=target.head, files=error.files)
            refused = Refused(kind="conflict", files=error.files, onto=target.head)
            raise self.refused(refused, others=others) from None
        commits, files = git_landing.list_commits(git, target.head, new), git_landing.list_files(git, target.head, new)
        if blocked := git_landing.find_in_way(git, target, new):
            raise git_landing.in_the_way(target, blocked)
        done = replace(self.landed, head=new, commits=tuple(commits), files=tuple(files), is_squashed=is_squashed)
        return aside, replace(done, is_contained=new == target.head)

    def _refuse_markers(self) -> None:
        """Raise LandError for conflict markers that a repair has left."""
        before = read_reception(self.git, self.session.session_id)
        refused = before.refused if before else None
        if refused is None or not refused.files:
            return
        onto = refused.onto or self.target.head
        files = with_markers(self.git, self.session.session_id, tip=self.tip, onto=onto, files=refused.files)
        if files:
            raise self.refused(Refused(kind="markers", files=tuple(files), onto=onto))

    def finish(self, done: Landed) -> Landed:
        """Move the checkout; MovedError if it has moved itself."""
        if done.head != self.target.head:
            git_landing.fast_forward(self.git, self.target, done.head, note=f"csa land {self.session.session_id}")
        return self.note(done)

    def note(self, done: Landed) -> Landed:
        """Note that the work is in the checkout, unless that is known."""
        before = None if done.commits else read_reception(self.git, self.session.session_id)
        landed = before.landed if before and before.turn == self.turn else None
        if landed and is_ancestor(self.git, landed, done.head):
            return done
        self._note(landed=done.head, commits=done.commits)
        return done

    def _note(self, **what: Any) -> None:
        session = self.session
        note_reception(self.git, session.session_id, self.turn, **what)
        copy_reception(self.git, session.session_id, session.files)

    def refused(self, refused: Refused, **more: Any) -> LandError:
        """Note why the work is not landed, and return the error."""
        session = self.session
        self._note(refused=refused)
        failure = LandError(refused, session.session_id, **more)
        failure.hint = f"csa run -s {session.store.host}:{session.session_id} --repair"
        return failure


def _find_work(session: Session, into: Path | str, *, squash: bool) -> _Work:
    """Return what was fetched of a session; raises as `land_fetched`."""
    environ, session_id = session.context.environ, session.session_id
    if (top := git_top(os.path.realpath(into))) is None:
        raise not_here(session, str(into))
    common = open_project(top, environ).path("rev-parse", "--path-format=absolute", "--git-common-dir")
    tree = replace(worktree_of(session), checkout=top, path="", git_dir=f"{common}/worktrees/-")
    git, target = git_landing.read_target(top, tree, environ)
    refs = fetched_refs(git, session)
    if (tip := kept_last(refs)) is None:
        raise not_here(session, top)
    base = git_landing.find_base(git, tree, tip=tip, onto=target.head)
    if base is None:
        raise RefusedError(f"The work of session {session_id} has no commit in common with {top}.")
    turn = last_fetched(refs)
    landed = Landed(
        session_id=session_id,
        into=top,
        branch=target.branch,
        onto=target.head,
        head=target.head,
        is_contained=tip != tree.base,
        warnings=_missing(session, turn),
    )
    return _Work(session, git, target, tree, turn, base, tip, squash, landed)


def last_fetched(refs: Mapping[str, str]) -> int:
    """Return the last turn whose work is kept by refs; 0 if none is."""
    return max((order[0] for ref in refs if (order := order_of(ref))), default=0)


def _missing(session: Session, last: int) -> tuple[str, ...]:
    """Say which turns are known of here, but were not fetched: each that has ended has a ref."""
    turns = session.load().turns
    if turns <= last:
        return ()
    which = f"turn {turns}" if turns == last + 1 else f"turns {last + 1} to {turns}"
    return (f"{which} of session {session.session_id} was not fetched, nor landed: csa fetch, and land again",)
