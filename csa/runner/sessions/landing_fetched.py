"""Landing what a session on another host has done: from the refs that `csa fetch` has brought, into a checkout here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from csa.errors import RefusedError
from csa.model.worktree import SESSION_TRAILER, Refused
from csa.runner.session import Session
from csa.runner.sessions.fetched import fetched_refs, not_here, worktree_of
from csa.runner.sessions.landing import refuse_to_land
from csa.runner.sessions.landing_outcome import Landed, LandError
from csa.store import landing as git_landing
from csa.store.gitplumbing import open_project
from csa.store.gitwork import has_same_tree, is_ancestor, kept_last, order_of
from csa.store.landing import ConflictError
from csa.store.project import git_top
from csa.structs import replace


def land_fetched(session: Session, into: Path | str, *, squash: bool = False, dry_run: bool = False) -> Landed:
    """Bring what was fetched of a session on another host into the checkout around a directory.

    It is put onto the head there in a worktree that is removed again, and then the checkout is fast-forwarded.

    Raises:
        LandError: it conflicts with the checkout.
        NotFoundError: it is not here.
        RefusedError, BusyError, MovedError, GitError: as `land_session`.
    """
    refuse_to_land(session, into)
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
    landed = Landed(
        session_id=session_id,
        into=top,
        branch=target.branch,
        onto=target.head,
        head=target.head,
        warnings=_missing(session, refs),
    )
    if has_same_tree(git, base, tip) or is_ancestor(git, tip, target.head):
        return replace(landed, is_contained=tip != tree.base)
    if dry_run:
        conflicts = git_landing.find_conflicts(git, onto=target.head, base=base, tip=tip)
        work = git.line("commit-tree", f"{tip}^{{tree}}", "-p", base, stdin=b"work")
        return replace(
            landed,
            commits=tuple(git_landing.list_commits(git, base, tip)),
            files=tuple(git_landing.list_files(git, base, tip)),
            is_preview=True,
            conflicts=tuple(conflicts),
            in_way=tuple(git_landing.find_in_way(git, replace(target, head=base), work)),
        )
    state = session.load()
    subject = " ".join((state.description or state.name or f"work of session {session_id}").split())
    message = f"{subject}\n\n{SESSION_TRAILER}: {session_id}\n"
    with git_landing.scratch(git, target.head) as aside:
        try:
            new, is_squashed = git_landing.bring_onto(
                aside, onto=target.head, base=base, tip=tip, squash=message if squash else None, message=message
            )
        except ConflictError as error:
            others = git_landing.who_changed(git, base=base, onto=target.head, files=error.files)
            refused = Refused(kind="conflict", files=error.files, onto=target.head)
            failure = LandError(refused, session_id, others=others)
            failure.hint = f"git cherry-pick {base[:12]}..{tip[:12]}, and resolve it; commit your own changes before"
            raise failure from None
    if new == target.head:
        return replace(landed, is_contained=True)
    commits, files = git_landing.list_commits(git, target.head, new), git_landing.list_files(git, target.head, new)
    git_landing.fast_forward(git, target, new, note=f"csa land {session_id}")
    return replace(landed, head=new, commits=tuple(commits), files=tuple(files), is_squashed=is_squashed)


def _missing(session: Session, refs: Mapping[str, str]) -> tuple[str, ...]:
    """Say which turns are known of here, but were not fetched: each that has ended has a ref."""
    last, turns = max(order for ref in refs if (order := order_of(ref)))[0], session.load().turns
    if turns <= last:
        return ()
    which = f"turn {turns}" if turns == last + 1 else f"turns {last + 1} to {turns}"
    return (f"{which} of session {session.session_id} was not fetched, nor landed: csa fetch, and land again",)
