"""Step one of a run: deciding what to do, from records and configuration, before anything is written.

Everything that can be refused is refused here.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import NameTakenError, NotFoundError, RefusedError, RetiredError, UsageError
from csa.ids import ENTROPY_BYTES, new_session_id
from csa.model.limits import PLAN, Budget, ContextWindow
from csa.model.state import SessionState, ToolState
from csa.runner.caller import owner_name, refuse_own_lineage
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_last, find_session, follow_resumed, refuse_closed, refuse_idle
from csa.runner.turns.checks import (
    asked_id,
    check_name,
    check_numbers,
    check_request,
    check_texts,
    is_unicode,
    refuse_changed,
)
from csa.runner.turns.drafting import (
    about,
    as_recorded_there,
    choose_for,
    description_of,
    expiry_of,
    make_plan,
    with_opening,
)
from csa.runner.turns.grants import (
    asked_budget,
    asked_window,
    changed_budget,
    limits_on_resume,
    refuse_too_deep,
    with_budget,
)
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.sharing import asked_sharing, is_shared, refuse_second_tool, refuse_to_hand_over
from csa.store.held import refuse_when_full
from csa.store.project import git_branch
from csa.store.recovery import caught_up
from csa.store.transcript import last_started
from csa.structs import replace


def plan_turn(
    context: Context, request: RunRequest, *, new_id: str | None = None, now: datetime | None = None
) -> TurnPlan:
    """Decide what `request` means. `new_id` is for a new session, which gets one of this moment when None.

    Raises:
        UsageError, NotFoundError, AmbiguousError, StateError, ToolUnavailableError: as their names say.
        RefusedError: a limit, the genealogy, or another account's conversation.
    """
    check_request(request, may_lack_prompt=bool(context.replay) or request.repair)
    context, request = _knowing_secrets(context, request)
    if request.images or request.files:
        from csa.runner.attaching import with_contents  # noqa: PLC0415  # few turns have some

        request = with_contents(request, str(context.directory))
    now = now or datetime.now(UTC)
    target = _find_target(context, request)
    if target is None:
        plan = _plan_new(context, request, new_id=asked_id(request) or new_id or new_id_now(), now=now)
    else:
        plan = plan_resume(target, request, now=now)
    if context.secrets:
        from csa.runner.secrets import refuse_words_of_records  # noqa: PLC0415  # few turns have any

        tree = plan.state.worktree
        names = [plan.adapter.name, plan.cwd, plan.state.name, plan.model, plan.effort, plan.state.project_path]
        names += [tree.branch, tree.setup] if tree else []
        refuse_words_of_records(context.secrets, [plan.state.session_id, *filter(None, names)])
    return plan


def _knowing_secrets(context: Context, request: RunRequest) -> tuple[Context, RunRequest]:
    """Return a context with the values of the request's secrets, read now, and the request with their full sources."""
    if not request.secrets:
        return context, request
    from csa.runner.secrets import parse_secrets  # noqa: PLC0415  # few turns have any

    sources = parse_secrets(request.secrets, context.directory, context.environ)
    values = {source.name: source.read(context.environ) for source in sources}
    return context.with_secrets(values), replace(request, secrets=tuple(source.words for source in sources))


def _find_target(context: Context, request: RunRequest) -> Session | None:
    """Return the session to continue; None for a new one."""
    if request.session is not None:
        found = follow_resumed(find_session(context, request.session), retired=False)
        return refuse_idle(found) if request.session in {"@last", "@current"} else found
    if request.last:
        return refuse_idle(follow_resumed(find_last(context, is_open=not request.reopen), retired=False))
    if request.session_id is None:
        return None
    if asked := asked_id(request):
        return _find_asked(context, asked)
    known = context.store.find_name(request.session_id)
    return Session(context, known) if known else None


def _find_asked(context: Context, session_id: str) -> Session | None:
    try:
        return follow_resumed(find_session(context, session_id), retired=False)
    except RetiredError as error:
        raise RetiredError(
            f"Session {session_id} is deleted, and could later be restored beside a new one.", hint=error.hint
        ) from error
    except NotFoundError:
        return None


def plan_session(
    context: Context,
    request: RunRequest,
    *,
    previous: str | None = None,
    permission: str | None = None,
    sources: Sequence[SessionState] = (),
) -> TurnPlan:
    """Decide what a new session without a turn is; raises as `plan_turn`.

    Args:
        context: where it is to be.
        request: what is said about it; the prompt is not used.
        previous: the tool, if the request names none.
        permission: what its agents may do, if the request does not say it.
        sources: the sessions that it is merged from.
    """
    from csa.runner.environment import refuse_in_replay  # noqa: PLC0415  # few sessions begin without a turn

    refuse_in_replay(context, "a session without a turn")
    check_texts(request)
    check_numbers(request)
    check_name(request.name)
    now = datetime.now(UTC)
    plan = _plan_new(context, request, new_id=new_id_now(), now=now, previous=previous, permission=permission)
    refuse_to_hand_over(context, sources, plan.adapter.name)
    is_private = plan.state.shared is None and any(not is_shared(context, source) for source in sources)
    merged_from = tuple(source.session_id for source in sources)
    shared = False if is_private else plan.state.shared
    return replace(plan, state=replace(plan.state, merged_from=merged_from, shared=shared))


def new_id_now() -> str:
    """Return an id for a session that begins now."""
    return new_session_id(time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))


def _plan_new(
    context: Context,
    request: RunRequest,
    *,
    new_id: str,
    now: datetime,
    previous: str | None = None,
    permission: str | None = None,
) -> TurnPlan:
    parent, host = (context.caller.state, context.caller.host) if context.caller else (None, None)
    depth = parent.depth + 1 if parent else 0
    max_depth = refuse_too_deep(context.config, parent)
    refuse_changed(request, new_id, turn=0)
    request, replay = as_recorded_there(context, request, turn=1)
    origin = None
    if request.fork_from is not None:
        origin = follow_resumed(find_session(context, request.fork_from), retired=False)
    source = _load_source(origin) if origin else None
    choice = choose_for(context, request, previous=source.last_tool if source else previous, replay=replay)
    refuse_when_full(context.store, context.config.max_sessions)
    directory = request.directory or context.directory
    if not directory.is_dir():
        raise NotFoundError(f"The directory {directory} does not exist.")
    name = request.name or (request.session_id if request.session_id and not asked_id(request) else None)
    holder = context.store.find_name(request.name) if request.name else None
    if holder:  # one by --session-id is settled when it is published
        raise NameTakenError(f"A session named '{name}' exists.", hint=f'csa run --session {holder} "..." continues it')
    project = context.store.project
    if not is_unicode(f"{project}{directory}"):
        raise UsageError("The project's path is not valid UTF-8, so csa cannot record it.", hint="rename the directory")
    state = SessionState(
        session_id=new_id,
        project_path=str(project),
        created_at=now,
        last_accessed=now,
        description=(description_of(context, request.description) if request.description else about(context, request)),
        name=name,
        owner=request.owner or owner_name(context.environ),
        branch=git_branch(directory),
        permission=source.permission if source else permission,
        fork_of=source.session_id if source else None,
        ephemeral=request.ephemeral,
        expires_at=expiry_of(context, request, now),
        parent_session_id=parent.session_id if parent else None,
        parent_project=parent.project_path if parent and (host or parent.project_path != str(project)) else None,
        parent_host=host,
        above=context.caller.above if host and context.caller else (),
        root_session_id=(parent.root_session_id or parent.session_id) if parent else None,
        depth=depth,
        max_depth=max_depth,
        limits=context.config.limits.tightened_by(parent.limits) if parent else context.config.limits,
        budget=with_budget(Budget(), asked_budget(request)),
        window=replace(source.window if source else ContextWindow(), since_turn=0).asked(*asked_window(request)),
        shared=source.shared if source else None,
        ask=source.ask if source else parent.ask if parent else None,
        task=request.task,
    )
    if source:
        refuse_second_tool(context, source, choice.adapter.name)
    state = replace(state, shared=asked_sharing(context, request, state))
    known = (source or state).tools.get(choice.adapter.name, ToolState())
    request = with_opening(request)
    plan = make_plan(context, request, choice, state, known, is_new=True, cwd=str(directory), replay=replay)
    if request.worktree is not None:
        from csa.runner.turns.worktree import plan_worktree  # noqa: PLC0415  # few sessions have one

        plan = plan_worktree(plan)
    return _plan_fork(plan, origin, source) if origin and source else plan


def _load_source(origin: Session) -> SessionState:
    from csa.runner.turns.forking import load_source  # noqa: PLC0415  # only forks need it

    return load_source(origin)


def _plan_fork(plan: TurnPlan, origin: Session, source: SessionState) -> TurnPlan:
    from csa.runner.turns.forking import plan_fork  # noqa: PLC0415  # only forks need it

    return plan_fork(plan, origin, source)


def plan_resume(session: Session, request: RunRequest, *, now: datetime) -> TurnPlan:
    """Decide what the next turn of a session is; raises as `plan_turn`."""
    context = session.context
    refuse_own_lineage(context.caller, session.session_id)
    state = caught_up(session.paths, session.load())
    refuse_changed(request, state.session_id, turn=state.turns)
    if not request.reopen:
        refuse_closed(state)
    if (request.worktree is not None and not request.is_templates("worktree")) or request.setup is not None:
        from csa.runner.turns.worktree import check_worktree  # noqa: PLC0415  # few sessions have one

        check_worktree(context, state, request)
    _refuse_plan(session, state, request)
    if request.repair:
        from csa.runner.turns.repair import check_repair  # noqa: PLC0415  # few turns are one

        check_repair(state, request)
    request, replay = as_recorded_there(context, request, turn=state.turns + 1, continues=session.paths)
    choice = choose_for(context, request, previous=state.last_tool, replay=replay)
    known = state.tools.get(choice.adapter.name, ToolState())
    cwd = known.cwd or _last_directory(state)
    if not Path(cwd).is_dir():
        _refuse_gone(state, cwd)
    if request.name and request.name != state.name and context.store.find_name(request.name):
        raise UsageError(f"A session named '{request.name}' exists.")
    state = replace(
        state,
        name=request.name or state.name,
        description=(
            description_of(context, request.description)
            if request.description and not (request.is_templates("description") and state.turns)
            else state.description or ("" if state.turns else about(context, request))
        ),
        expires_at=_expiry_on_resume(context, request, state, now),
        limits=limits_on_resume(context, state),
        budget=changed_budget(context, state, asked_budget(request)),
        window=state.window.asked(*asked_window(request)),
        shared=asked_sharing(context, request, state),
        task=request.task or state.task,
    )
    refuse_second_tool(context, state, choice.adapter.name)
    if not state.turns:
        request = with_opening(request)
    plan = make_plan(context, request, choice, state, known, is_new=False, cwd=cwd, replay=replay)
    _refuse_other_account(plan, known)
    return plan


def _refuse_plan(session: Session, state: SessionState, request: RunRequest) -> None:
    """Refuse a prompt for the session of a plan, which its scheduler runs; an agent may repair what it has merged."""
    if PLAN not in state.tools or request.plan is not None or request.repair:
        return
    words = started.data.get("flags") if (started := last_started(session.content.transcript)) else None
    file = words[words.index("--file") + 1] if isinstance(words, list) and "--file" in words[:-1] else "FILE"
    raise RefusedError(
        f"Session {state.session_id} is the run of a plan: its tasks have sessions of their own.",
        hint=f"csa plan run {shlex.quote(str(file))} goes on with it; csa ls --tree shows its tasks",
    )


def _last_directory(state: SessionState) -> str:
    """Return where a tool that is new to a session starts: where the last one worked, which may be a worktree."""
    last = state.tools.get(state.last_tool or "", ToolState())
    return last.cwd or state.project_path


def _refuse_gone(state: SessionState, cwd: str) -> None:
    """Refuse a conversation that cannot continue where it began; tools do not find theirs from anywhere else.

    A worktree of the session's own is made again.
    """
    if state.worktree and f"{cwd}/".startswith(f"{state.worktree.path}/"):
        from csa.runner.turns.worktree import refuse_gone_repository  # noqa: PLC0415  # few sessions have one

        refuse_gone_repository(state.session_id, state.worktree)
        return
    branch = f" {state.branch}" if state.branch and cwd != state.project_path else ""
    back = f"git worktree add {shlex.quote(cwd)}{branch}" if branch else "restore the directory"
    raise NotFoundError(
        f"Session {state.session_id} works in {cwd}, which is gone.",
        hint=f'{back}, or csa run --fork-from {state.session_id} "..." to continue in a new session with a summary',
    )


def _expiry_on_resume(context: Context, request: RunRequest, state: SessionState, now: datetime) -> datetime | None:
    """Return when a reused session expires: as before, unless told otherwise or already expired."""
    has_passed = state.expires_at is not None and state.expires_at <= now
    return expiry_of(context, request, now) if request.ttl or has_passed else state.expires_at


def _refuse_other_account(plan: TurnPlan, known: ToolState) -> None:
    if known.account and known.provider_session_id and known.account != plan.account:
        raise RefusedError(
            f"Session {plan.state.session_id} belongs to the {plan.adapter.name} account {known.account}, "
            f"and this would run under {plan.account}.",
            hint=f'csa run --fork-from {plan.state.session_id} "..." continues in a new session with a summary of it; '
            "or set the tool's home and endpoint to what they were when it began",
        )
