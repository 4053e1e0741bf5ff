"""Starting a new session from another one's conversation: `csa run --fork-from S`.

The source is only read, and must not be running. If its tool can, it copies its own conversation; otherwise the new
session's agent gets a summary of the source's transcript.
"""

from __future__ import annotations

from pathlib import Path

from csa.errors import BusyError, UsageError
from csa.model.limits import ContextWindow
from csa.model.state import SessionState, ToolState
from csa.runner.caller import refuse_endless_wait
from csa.runner.session import Session
from csa.runner.turns.handoff import DigestLimits, Handoff, Origin, hand_over_histories, hand_over_rest
from csa.runner.turns.origins import history_of
from csa.runner.turns.plan import Fork, TurnPlan
from csa.runner.turns.window import in_force, why_outgrown
from csa.store.project import find_work_tree
from csa.store.taking import refuse_busy
from csa.structs import replace


def load_source(source: Session, *, verb: str = "fork") -> SessionState:
    """Return the state of the session to fork, or to merge.

    Raises:
        NotFoundError, StateError: as their names say.
        BusyError: it is running, or may be: a copy would be incomplete.
        UsageError: nothing was said in it yet.
    """
    session_id = source.session_id
    liveness = source.liveness()
    if liveness.state == "alive" and liveness.stranger is None:
        refuse_endless_wait(source.context.caller, session_id, verb=verb)
        raise BusyError(
            f"Session {session_id} is running; {verb} it when its turn has ended.",
            hint=f"csa is-alive {session_id}",
        )
    refuse_busy(source.files)
    state = source.load()  # the record as its turn has left it
    if not (state.turns or state.merged_from or any(known.provider_session_id for known in state.tools.values())):
        raise UsageError(f"Session {session_id} has no conversation to {verb}.")
    return state


def plan_fork(plan: TurnPlan, source: Session, state: SessionState) -> TurnPlan:
    """Add the fork to the plan of the new session.

    A native fork runs where the source does. In another project or worktree the work has to be done there, so
    the tool gets a summary.
    """
    known = state.tools.get(plan.adapter.name, ToolState())
    cwd = known.cwd or state.project_path
    is_native = (
        plan.adapter.capabilities.fork
        and known.provider_session_id is not None
        and known.account in {None, plan.account}
        and not plan.state.ephemeral  # it has its conversations elsewhere
        and Path(cwd).is_dir()
        and find_work_tree(cwd) == find_work_tree(plan.cwd)
        and why_outgrown(source.content, known, plan.adapter.name, _window(plan, state)) is None
    )
    origin = Origin(source.content, state.turns, state.window.since_turn)
    fork = Fork(
        source.content,
        state.turns,
        known.provider_session_id if is_native else None,
        known.totals if is_native else None,
        state.window.since_turn,
        history_of(source.context, state, origin),
    )
    return replace(plan, fork=fork, cwd=cwd if is_native else plan.cwd)


def _window(plan: TurnPlan, source: SessionState) -> ContextWindow:
    """Return the new session's window, in which the source's pruned turns are none."""
    return replace(in_force(plan.context.config, plan.state.window), since_turn=source.window.since_turn)


def fork_handoff(fork: Fork, tool: str, limits: DigestLimits) -> Handoff | None:
    """Summarise the source: all of it, or what the copied conversation lacks because other tools have worked since."""
    if fork.provider_session_id:
        return hand_over_rest(fork.source, tool, limits)
    return hand_over_histories([fork.history], tool, limits)
