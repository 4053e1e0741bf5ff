"""The worktree of a session whose turn begins: planned, and made under its lock.

Without the worktree there is no start: a turn never works in the user's checkout instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, UsageError
from csa.ids import is_session_id
from csa.model.permission import Permission
from csa.model.state import SessionState
from csa.model.text import some_names
from csa.model.worktree import BRANCHES, Worktree
from csa.ownership import make_directory, owner_above
from csa.paths import NEW_PREFIX, WORKTREES
from csa.runner.caller import refuse_setup
from csa.runner.context import Context
from csa.runner.environment import outer_sandbox
from csa.runner.request import RunRequest
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.turnrecorder import TurnRecorder, with_tool
from csa.store.gitwork import (
    WorktreeError,
    is_usable,
    list_dirty,
    list_submodules,
    open_repository,
    read_checkout,
    repository_of,
    require_commit,
    worktree_path,
)
from csa.store.gonetrees import is_published, move_aside
from csa.store.held import HeldSession, store_lock
from csa.store.keeping import keep_work, reclaim, snapshot
from csa.store.project import git_top
from csa.store.retiring import hold
from csa.store.sessions import Store, is_directory
from csa.store.statefile import load_state
from csa.store.worktreefiles import copy_included
from csa.store.worktrees import (
    add_worktree,
    check_branch,
    forget_worktree,
    link_of,
    relocate,
    revive_worktree,
    take_away_unbegun,
    unmake_worktree,
)
from csa.structs import replace

_SHORT_ID = 8  # the last characters of an id, which differ most


def plan_worktree(plan: TurnPlan) -> TurnPlan:
    """Add a worktree to the plan of a new session, made from the checkout around its directory.

    Raises:
        UsageError: there is no checkout, or the name is none for a branch.
        RefusedError: an agent that may not do everything names a setup command, which nothing would confine, or is in
            a repository of its own.
        WorktreeError: there is such a branch already.
        ToolUnavailableError: git is not installed.
    """
    request, context, state = plan.request, plan.context, plan.state
    _refuse_setup(context, request)
    environ = context.environ
    found = read_checkout(plan.cwd, environ)
    if request.worktree_base:  # csa has sent it there, and nobody works in that checkout
        require_commit(found.top, request.worktree_base, environ)
        found = replace(found, head=request.worktree_base, branch=request.worktree_target)
    else:
        refuse_foreign(context, found.top)
    branch = BRANCHES + (request.worktree or state.name or state.session_id[-_SHORT_ID:].lower())
    try:
        check_branch(found.top, branch, environ)
    except WorktreeError:
        _clear_killed(context.store, branch, environ)
        check_branch(found.top, branch, environ)
    path = worktree_path(context.store, state.session_id)
    tree = Worktree(
        path=path,
        git_dir="",
        branch=branch,
        base=found.head,
        checkout=found.top,
        target=found.branch,
        setup=(context.config.worktree_setup if request.setup is None else request.setup) or None,
    )
    below = os.path.relpath(os.path.realpath(plan.cwd), found.top)
    return replace(
        plan,
        state=replace(state, worktree=tree, branch=branch),
        cwd=os.path.normpath(f"{path}/{below}"),
        dirty=() if request.worktree_base else tuple(list_dirty(found.top, environ)),
    )


def _clear_killed(store: Store, branch: str, environ: Mapping[str, str]) -> None:
    """Remove a worktree with a branch that was made by a start which was killed before its session began.

    Nothing has run there. What is left of the session itself is for a clean-up. BusyError if it is not dead.
    """
    for name in os.listdir(store.sessions_dir) if is_directory(store.sessions_dir) else ():
        session_id, paths = name.removeprefix(NEW_PREFIX), store.paths(name)
        state = _state_of(store, session_id) if name != session_id and not is_published(store, session_id) else None
        if state is None or state.worktree is None or state.worktree.branch != branch:
            continue
        try:
            with hold(paths):
                if not is_published(store, session_id):
                    take_away_unbegun(state.worktree, store, session_id, environ)
        except (BusyError, BlockingIOError) as error:
            raise BusyError(f"Another run is making the branch {branch}.", hint="retry later, or --wait") from error
        except FileNotFoundError:  # it has begun, or was cleaned up
            continue


def check_worktree(context: Context, state: SessionState, request: RunRequest) -> None:
    """Raise UsageError where a session that continues is to work elsewhere: its conversation belongs to a directory."""
    _refuse_setup(context, request)
    asked, tree = request.worktree, state.worktree
    if tree is None:
        option = "--setup" if asked is None else "--worktree"
        raise UsageError(
            f"Session {state.session_id} has no worktree, so {option} has no effect on it.",
            hint=f'csa run --worktree --fork-from {state.session_id} "..." continues in a new one, which has',
        )
    if request.with_changes or (asked and tree.branch != BRANCHES + asked):
        raise UsageError(
            f"Session {state.session_id} has a worktree already, on the branch {tree.branch}.",
            hint=f"csa run --session {state.session_id} continues there",
        )


def _refuse_setup(context: Context, request: RunRequest) -> None:
    """Refuse a command with a secret, and one of an agent's that would run outside of what confines it."""
    if request.setup and context.redactor.redact(request.setup) != request.setup:
        raise UsageError(
            "The setup command has a secret in it, which csa would have to store.",
            hint="name a variable there: the command has the agent's environment, and what --secret gives it",
        )
    if request.setup:
        refuse_setup(context.caller)


def refuse_foreign(context: Context, top: str) -> None:
    """Refuse an agent a repository that it may have made: its configuration can name programs for git to run.

    Where the agent calls csa by MCP, those would run outside of its sandbox.
    """
    if context.caller is None or context.caller.permission is Permission.FULL:
        return
    if (top, link_of(top)) == context.caller.repository:
        return
    owner = os.path.basename(top)
    state = context.store.record(owner).state if is_session_id(owner) else None
    tree = state.worktree if state else None
    if tree is None and top == git_top(os.path.realpath(context.caller.state.project_path)):
        return
    if tree is None or tree.path != top or link_of(top) != os.path.realpath(tree.git_dir):
        raise RefusedError(
            f"Session {context.caller.session_id} may not use {top}, which is not its project's repository.",
            hint="run it from the project or the session's own worktree, as they were, or ask whoever started you",
        )


def refuse_gone_repository(session_id: str, tree: Worktree) -> None:
    """Raise NotFoundError if a worktree that is gone cannot be made again, as its repository is gone, too."""
    if not repository_of(tree):
        raise NotFoundError(
            f"The worktree of session {session_id} is gone, and so is its repository, {tree.checkout}.",
            hint=f'csa run --fork-from {session_id} "..." continues in a new session with a summary',
        )


def prepare_worktree(recorder: TurnRecorder) -> list[str]:
    """Make the worktree of the session's first turn, or one that is gone again; return warnings for the transcript.

    The plan of the recorder then says where the turn works. Raises WorktreeError and OSError; nothing is left of it.
    """
    held, tree = recorder.held, recorder.held.state.worktree
    if tree is None:
        return []
    if tree.git_dir:
        return _reuse(recorder, tree)
    environ = recorder.plan.context.environ
    if recorder.plan.request.with_changes and recorder.plan.dirty:
        base = snapshot(tree.checkout, environ, message=f"csa: changes in {tree.checkout} that are not committed\n")
        tree = replace(tree, base=base)
    tree = _add(_numbered(held, tree), environ)
    try:
        warnings = _left_out(recorder.plan) + copy_included(tree, environ) + _empty_submodules(tree, environ)
        _settle(recorder, tree)
    except BaseException:
        unmake_worktree(tree, environ)
        raise
    return warnings


def _add(tree: Worktree, environ: Mapping[str, str]) -> Worktree:
    """Make a new worktree in the directory that has its number; that is removed again if it cannot be made."""
    try:
        return add_worktree(tree, environ)
    except WorktreeError as error:
        with suppress(OSError):
            os.rmdir(tree.path)
        if not error.hint and outer_sandbox():
            error.hint = "the sandbox keeps the repository from being written; csa mcp's `run`, or --permission full"
        elif not error.hint and (owner := owner_above(tree.checkout)):
            error.hint = f"git runs as {owner}, whose project it is: run csa as {owner}, or where {owner} may write"
        raise


def undo_worktree(recorder: TurnRecorder) -> None:
    """Remove the worktree of a session that was not published after all."""
    tree = recorder.held.state.worktree
    if tree and tree.git_dir and recorder.plan.is_new and not recorder.held.is_published:
        unmake_worktree(tree, recorder.plan.context.environ)


def _numbered(held: HeldSession, tree: Worktree) -> Worktree:
    """Give a worktree the smallest number that is free in the project, and a directory, which takes it."""
    with store_lock(held.store):
        number = _free_number(held.store)
        tree = replace(tree, number=number)
        held.save(replace(held.state, worktree=tree))
        make_directory(Path(tree.path).parent)
        make_directory(Path(tree.path))
    return tree


def _free_number(store: Store) -> int:
    try:
        names = os.listdir(f"{store.pathname}/{WORKTREES}")
    except FileNotFoundError:
        return 1
    trees = [_state_of(store, name) for name in names if is_session_id(name)]
    taken = {state.worktree.number for state in trees if state and state.worktree}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _state_of(store: Store, session_id: str) -> SessionState | None:
    """Return the state of a session, which may be about to begin."""
    if (state := store.record(session_id).state) is not None:
        return state
    with suppress(CsaError):
        return load_state(store.paths(NEW_PREFIX + session_id).state)
    return None


def _settle(recorder: TurnRecorder, tree: Worktree) -> None:
    """Record the worktree as it is now, and where the turn works in it."""
    held, plan = recorder.held, recorder.plan
    cwd = plan.cwd if os.path.isdir(plan.cwd) else tree.path  # the caller's directory may not be in the commit
    recorder.plan = replace(plan, cwd=cwd, state=replace(plan.state, worktree=tree, branch=tree.branch))
    state = replace(held.state, worktree=tree, branch=tree.branch)
    held.save(with_tool(state, recorder.plan) if plan.is_new else state)


def _reuse(recorder: TurnRecorder, tree: Worktree) -> list[str]:
    setup = recorder.plan.request.setup
    if setup is not None and setup != (tree.setup or ""):
        tree = replace(tree, setup=setup or None, is_ready=False)
        recorder.held.state = replace(recorder.held.state, worktree=tree)
    tree = _where_the_store_is(recorder, tree)
    if not is_usable(tree):
        return _restore(recorder, tree)
    reclaim(tree, recorder.plan.context.environ, session_id=recorder.held.state.session_id)
    os.makedirs(recorder.plan.cwd, exist_ok=True)  # an agent may have removed it; its conversation is found there
    return []


def _where_the_store_is(recorder: TurnRecorder, tree: Worktree) -> Worktree:
    """Return the worktree as it is where the store is now; the turn works there."""
    held, plan = recorder.held, recorder.plan
    moved = relocate(tree, held.store, held.state.session_id, plan.context.environ)
    if moved != tree:
        held.state = replace(held.state, worktree=moved)
        below = os.path.relpath(plan.cwd, tree.path)
        if not below.startswith(".."):
            recorder.plan = replace(plan, cwd=os.path.normpath(f"{moved.path}/{below}"))
    return moved


def _restore(recorder: TurnRecorder, tree: Worktree) -> list[str]:
    """Make a worktree that is gone again; where its work was landed, it goes on from where that is now."""
    tree, warnings = make_again(recorder.held, tree, recorder.plan.context.environ)
    _settle(recorder, tree)
    return warnings


def make_again(held: HeldSession, tree: Worktree, environ: Mapping[str, str]) -> tuple[Worktree, list[str]]:
    """Make a worktree that is gone again; return its record, and warnings. WorktreeError, GitError and OSError."""
    session_id = held.state.session_id
    if os.path.lexists(tree.path):  # a link, or a directory of which git knows nothing: kept, and moved aside
        keep_work(tree, environ, session_id=session_id, turn=held.last_turn() or 1, subject="what was left")
        move_aside(tree.path, session_id)
    forget_worktree(open_repository(tree, environ), tree)
    tree, why = revive_worktree(_numbered(held, tree), environ, session_id=session_id)
    warnings = copy_included(tree, environ)
    return replace(tree, is_ready=False), [f"the worktree was gone; it was made again {why}", *warnings]


def have_worktree(held: HeldSession, environ: Mapping[str, str], *, directory: str) -> None:
    """Have the session's worktree, and the directory in it, where a tool starts without a turn; raises as above."""
    if (tree := held.state.worktree) is None:
        return
    if os.path.isdir(tree.path):
        reclaim(tree, environ, session_id=held.state.session_id)
    else:
        made, _ = make_again(held, tree, environ)
        held.save(replace(held.state, worktree=made))
    os.makedirs(directory, exist_ok=True)


def _left_out(plan: TurnPlan) -> list[str]:
    """Name what is not committed in the checkout, and so not in the worktree."""
    if not plan.dirty or plan.request.with_changes:
        return []
    how = "with_changes = true" if plan.request.plan else "--with-changes"
    return [f"not in the worktree, as it is not committed: {some_names(plan.dirty)} ({how} takes it along)"]


def _empty_submodules(tree: Worktree, environ: Mapping[str, str]) -> list[str]:
    """Name the submodules, which git leaves empty in a new worktree."""
    paths = [] if "submodule" in (tree.setup or "") else list_submodules(tree, environ)
    way = "--setup 'git submodule update --init' fills them"
    return [f"submodules are empty in the worktree: {some_names(paths)} ({way})"] if paths else []
