"""The plan of a turn, made of a request and of what is known of the session."""

from __future__ import annotations

from datetime import datetime

from csa.errors import ToolUnavailableError, UsageError
from csa.model.limits import PLAN
from csa.model.permission import Permission
from csa.model.result import summarise
from csa.model.state import SessionState, ToolState
from csa.model.text import shortened
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.toolbox import ToolChoice, choose_tool, loadable_adapters, plan_tool
from csa.runner.turns.asking import asks_token
from csa.runner.turns.choices import choose_model
from csa.runner.turns.fallback import fallback_of, first_installed, others
from csa.runner.turns.grants import asked_permission, permission_of
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.reach import extra_writable
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.paths import SessionPaths
    from csa.runner.turns.recorded import Replay

DESCRIPTION_LENGTH = 80


def with_opening(request: RunRequest) -> RunRequest:
    """Return the request for the first turn of a session."""
    if not request.opening:
        return request
    return replace(request, prompt=f"{request.opening}\n\n{request.prompt}", opening=None)


def make_plan(
    context: Context,
    request: RunRequest,
    choice: ToolChoice,
    state: SessionState,
    known: ToolState,
    *,
    is_new: bool,
    cwd: str,
    replay: Replay | None,
) -> TurnPlan:
    """Make the plan; `known` is what the session, or the one it is forked from, has kept of the tool."""
    tool = choice.adapter.name
    if request.images or request.files or request.flags:
        from csa.runner.turns.extras import with_extras  # noqa: PLC0415  # few turns have some

        request = with_extras(context, request, choice)
    configured = context.config.for_tool(tool)
    permission = permission_of(context, request, state)
    asked = replace(request, model=choice.model, effort=None) if choice.is_fallback else request
    model, effort = choose_model(asked, known, context.config, tool)
    is_plan = request.plan is not None  # its tasks have the limits, and meet the quotas
    return TurnPlan(
        request=request,
        context=context,
        is_new=is_new,
        state=replace(
            state,
            permission=permission.value,
            extra_writable=extra_writable(context, request, choice, permission, state.extra_writable),
            ask=state.ask if request.ask is None else request.ask,
        ),
        adapter=choice.adapter,
        command=choice.command,
        why_tool=choice.why,
        transport=choice.transport,
        permission=permission,
        cwd=cwd,
        account=choice.adapter.account({**configured.environment(context.environ), **context.secrets}),
        model=model.value,
        effort=effort.value,
        origins={
            "model": model.origin,
            "effort": effort.origin,
            **_limit_origins(context, request),
            **_template_origins(request, permission),
        },
        timeout_s=None if is_plan else request.timeout_s or context.config.timeout_s,
        idle_timeout_s=None if is_plan else request.idle_timeout_s or context.config.idle_timeout_s,
        max_depth=state.max_depth if state.max_depth is not None else context.config.max_depth,
        retries=0 if is_plan else context.config.retries if request.retries is None else request.retries,
        fallback=() if is_plan else others(fallback_of(context, request), tool, model.value),
        park_limit_s=context.config.park_limit_s if request.park_limit_s is None else request.park_limit_s,
        hands_over=not is_plan and (context.config.hands_over if request.handoff is None else request.handoff),
        callers=tuple(context.caller.lineage()) if context.caller else (),
        replay=replay,
        asks=asks_token(context, request, choice, permission, kept=state.ask),
        ask_timeout_s=context.config.ask_timeout_s if request.ask_timeout_s is None else request.ask_timeout_s or None,
    )


def _limit_origins(context: Context, request: RunRequest) -> dict[str, str]:
    """Say where a turn's time limits come from; the session does not keep them."""
    values = context.config.values
    return {
        "timeout_s": "--timeout" if request.timeout_s else values["timeout_s"][1],
        "idle_timeout_s": "--idle-timeout" if request.idle_timeout_s else values["idle_timeout_s"][1],
    }


def _template_origins(request: RunRequest, permission: Permission) -> dict[str, str]:
    """Say which file the template is, and what became of its permission."""
    if request.template is None:
        return {}
    found = {"template": request.template.place}
    if request.is_templates("permission"):
        asked = asked_permission(request)
        is_raised = asked and asked.rank > permission.rank
        words = f"; the {asked.value} of a project's is ignored" if asked and is_raised else ""
        found["permission"] = f"{request.origin_of('permission', '')}{words}"
    return found


def expiry_of(context: Context, request: RunRequest, now: datetime) -> datetime | None:
    """Return when a new session expires; an ephemeral one is deleted with its run."""
    if request.ttl and request.ephemeral:
        raise UsageError("An ephemeral session is deleted when its run ends; --ttl has no effect on it.")
    ttl = request.ttl or context.config.session_ttl
    return now + ttl if ttl and not request.ephemeral else None


def as_recorded_there(
    context: Context, request: RunRequest, *, turn: int, continues: SessionPaths | None = None
) -> tuple[RunRequest, Replay | None]:
    """Return what stands in for the tool, if the environment names a recording, and the request as it was then."""
    if not context.replay:
        return request, None
    from csa.runner.turns.recorded import as_recorded, find_replay  # noqa: PLC0415  # only replays need it

    replay = find_replay(context, turn=turn, continues=continues)
    return as_recorded(context, request, replay), replay


def choose_for(
    context: Context, request: RunRequest, *, previous: str | None, replay: Replay | None = None
) -> ToolChoice:
    """Return the tool of a turn; `previous` is the session's last one. ToolUnavailableError as `choose_tool`."""
    if request.plan is not None:
        return plan_tool()
    if replay is not None:
        from csa.runner.turns.recorded import replayed_tool  # noqa: PLC0415  # as above

        return replayed_tool(request, context.config)
    previous = None if previous == PLAN else previous
    outer = context.caller.state.last_tool if context.caller else None
    known, _ = loadable_adapters(context.config)
    family = next((adapter.family for adapter in known if adapter.name == outer), None)
    fallback = fallback_of(context, request)
    try:
        choice = choose_tool(
            request.tool,
            previous,
            context.config,
            {**context.environ, **context.secrets},
            avoid_family=family,
            transport=request.transport,
        )
        return replace(choice, why=request.origin_of("tool", choice.why))
    except ToolUnavailableError as missing:
        if other := first_installed(fallback, context.config, context.environ, missing):
            return other
        raise


def about(context: Context, request: RunRequest) -> str:
    """Return the description of a session whose first prompt it is."""
    return _fold(summarise(context.redactor.redact(request.prompt)))


def description_of(context: Context, text: str) -> str:
    """Return a text as the description of a session: redacted, on one line, cut to 80 characters."""
    return _fold(context.redactor.redact(text))  # the whole text: cutting first may cut a secret


def _fold(text: str) -> str:
    return shortened(" ".join(text.split()), DESCRIPTION_LENGTH)
