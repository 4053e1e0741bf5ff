"""What `csa run --dry-run` prints: the plan of a turn, and where its settings come from."""

from __future__ import annotations

import shlex

from csa.cli.output import print_json, printable
from csa.runner.request import RunRequest
from csa.runner.turns.plan import TurnPlan


def _attachments(request: RunRequest) -> list[str]:
    if not (request.images or request.files):
        return []
    from csa.model.attachment import describe  # noqa: PLC0415  # few turns have some
    from csa.runner.attaching import attachments_of  # noqa: PLC0415  # as above

    return [describe(each.to_event()) for each in attachments_of(request)]


def _worktree(plan: TurnPlan, *, as_json: bool) -> dict[str, object] | str | None:
    """Return what is known of the worktree that would be made; None for a session that has one, or gets none."""
    tree = plan.state.worktree
    if tree is None or tree.git_dir:
        return None
    if not as_json:
        return f"{tree.branch} from {tree.target or 'a detached HEAD'} ({tree.base[:7]})"
    told: dict[str, object] = {name: getattr(tree, name) for name in ("path", "branch", "base", "target", "setup")}
    return {**told, "with_changes": plan.request.with_changes, "dirty": list(map(printable, plan.dirty))}


def print_plan(plan: TurnPlan, *, as_json: bool) -> None:
    """Print what a turn would be."""
    origins = plan.origins
    facts = {
        "session": "new" if plan.is_new else plan.state.session_id,
        "project": str(plan.context.store.project),
        "tool": plan.adapter.name,
        "why": plan.why_tool,
        "transport": plan.transport,
        "command": shlex.join(plan.command),
        "cwd": plan.cwd,
        "worktree": _worktree(plan, as_json=as_json),
        "permission": plan.permission.value,
        "model": plan.model,
        "effort": plan.effort,
        "schema": None if plan.request.schema is None else "native" if plan.is_held_to_schema else "asked",
        "template": plan.request.template.name if plan.request.template else None,
        "flags": list(plan.request.flags or ()),
        "secrets": list(plan.request.secrets or ()),
        "env_drop": plan.context.config.for_tool(plan.adapter.name).dropped(plan.context.environ),
        "attachments": _attachments(plan.request),
        "extra_writable": list(plan.state.extra_writable),
        "timeout_s": plan.timeout_s,
        "idle_timeout_s": plan.idle_timeout_s,
        "retries": plan.retries,
        "fallback": list(plan.fallback),
        "on_quota": f"wait={plan.park_limit_s:g}s" if plan.park_limit_s else None,
        "parent": plan.state.parent_session_id,
        "depth": plan.state.depth,
        "resumes": plan.tool_state.provider_session_id,
        "fork_of": plan.state.fork_of,
    }
    if as_json:
        whose = {"session_id": None if plan.is_new else facts["session"], "name": plan.state.name}
        print_json({**whose, "parent_session_id": facts["parent"], **facts, "origins": origins})
        return
    for name, value in facts.items():
        if value not in (None, []):
            origin = f" ({origins[name]})" if name in origins else ""
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"{name:<11} {printable(f'{shown}{origin}')}")
