"""What a tool is started with, for a turn or a compaction: the request to its adapter, command, environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.model.adapter import Adapter, Compactor, Invocation, TurnRequest
from csa.model.permission import Permission
from csa.model.state import ToolState
from csa.paths import SessionPaths
from csa.procfs import random_uuid
from csa.runner.environment import (
    apply_changes,
    base_environment,
    outer_sandbox,
    session_environment,
    system_note,
    with_secrets,
    worktree_around,
)
from csa.runner.namedfiles import read_named_files
from csa.runner.toolbox import check_files, find_command, find_login, loadable_adapters
from csa.runner.turns.handoff import Handoff, make_handoff
from csa.runner.turns.origins import begins_merged, find_histories, missing_sources
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.runfiles import is_roots_alone, run_directory
from csa.runner.turns.sharing import vendor_given
from csa.runner.turns.window import digest_limits
from csa.store.artifacts import PROMPT_FILES
from csa.store.atomic import make_private_directory
from csa.store.inherited import is_same_work_tree, without_repository
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment
    from csa.runner.request import RunRequest

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.turns.replaying import StandIn


class ToolCommand(Struct):
    """What a tool is started with. `problems` are warnings for the user.

    With `stand_in`, that is started instead, and `argv` is the command line of the tool.
    """

    asked: TurnRequest
    invocation: Invocation
    environment: Mapping[str, str]
    handoff: Handoff | None
    problems: list[str]
    argv: tuple[str, ...]
    stand_in: StandIn | None = None


def make_command(plan: TurnPlan, known: ToolState, *, turn: int, paths: SessionPaths, start: int = 0) -> ToolCommand:
    """Decide what the tool of a turn is started with; `start` counts how often it was started in this turn before.

    `known` is its conversation by now; `paths` is where the record currently is.
    """
    handoff = None if plan.compacts else _naming_vendor(plan, _handoff(plan, known, turn=turn, paths=paths))
    asked, problems = _make_request(plan, known, handoff)
    if begins_merged(plan.state):
        gone = missing_sources(plan.context, paths)
        lost = "which was merged into this one, cannot be read: it is not told of"
        problems += [f"session {source}, {lost}" for source in gone]
    if plan.compacts:
        assert isinstance(plan.adapter, Compactor)  # plan_compaction has seen to it
        invocation = plan.adapter.compaction(asked)
    else:
        invocation = plan.adapter.invocation(asked)
    argv, stand_in = invocation.argv, None
    if plan.replay is not None:
        from csa.runner.turns.replaying import make_stand_in  # noqa: PLC0415  # only replays need it

        stand_in = make_stand_in(plan, plan.replay, asked, start=start)
        invocation = stand_in.invocation
    environment = _environment(plan, asked, invocation, turn=turn)
    return ToolCommand(asked, invocation, environment, handoff, problems, argv, stand_in)


def _make_request(plan: TurnPlan, known: ToolState, handoff: Handoff | None) -> tuple[TurnRequest, list[str]]:
    context, fork = plan.context, plan.fork
    adapters, problems = loadable_adapters(context.config)
    base = tool_environment(plan, adapters)
    if plan.replay is None:
        problems += ["; ".join(each) for each in check_files(plan.adapter, base, plan.cwd)]
    directory = run_directory(context.store.paths(plan.state.session_id))
    worktree = plan.state.worktree or worktree_around(context.store, plan.cwd)
    note = system_note(
        plan.state,
        csa_command=context.command,
        max_depth=plan.max_depth,
        worktree=worktree,
        makes_branches=plan.permission is Permission.FULL or plan.adapter.capabilities.writes_repository,
    )
    asked = TurnRequest(
        prompt="" if plan.compacts else _prompt(plan, known, handoff),
        cwd=plan.cwd,
        command=plan.command,
        provider_session_id=known.provider_session_id,
        new_provider_id=random_uuid(),
        fork_of=fork.provider_session_id if fork else None,
        permission=plan.permission,
        model=plan.model,
        effort=plan.effort,
        auth_method=context.config.for_tool(plan.adapter.name).auth_method,
        system=_join(None if plan.state.ephemeral else note, plan.request.system),
        schema=plan.request.schema if plan.is_held_to_schema else None,
        attachments=_attachments(plan.request, directory),
        flags=() if plan.compacts else plan.request.plan or plan.request.flags or (),
        timeout_s=plan.timeout_s,
        ephemeral=plan.state.ephemeral,
        environ=base,
        is_root=os.geteuid() == 0,
        asks=plan.asks,
        ask_timeout_s=plan.ask_timeout_s,
        csa_command=context.command,
        sandboxed_by=outer_sandbox(),
        extra_writable=plan.state.extra_writable if plan.permission is Permission.EDIT else (),
        writable_dirs=(str(context.store.root), *(() if plan.replay else _homes(plan, adapters, base))),
        previous_totals=fork.totals if fork else known.totals,
        files=read_named_files(plan.adapter.capabilities.reads, base, plan.cwd),
        run_directory=os.path.realpath(directory),
        run_directory_is_roots=is_roots_alone(directory),
    )
    return asked, problems


def tool_environment(plan: TurnPlan, adapters: list[Adapter]) -> dict[str, str]:
    """Return the environment a plan's tool starts with, before its session and its adapter change it."""
    context = plan.context
    markers = (marker for adapter in adapters for marker in adapter.outer_markers)
    is_elsewhere = not is_same_work_tree(context.directory, plan.cwd)
    environ = without_repository(context.environ) if is_elsewhere else context.environ
    base = base_environment(environ, markers, context.config.for_tool(plan.adapter.name))
    return with_secrets(base, context.secrets)


def _environment(plan: TurnPlan, asked: TurnRequest, invocation: Invocation, *, turn: int) -> Mapping[str, str]:
    store = plan.context.store
    own = session_environment(
        plan.state,
        store.paths(plan.state.session_id),
        turn=turn,
        tool=plan.adapter.name,
        root=store.root,
        keep_background=plan.request.keep_background,
        worktree=plan.state.worktree or worktree_around(store, plan.cwd),
    )
    return apply_changes({**asked.environ, **own}, invocation, plan.cwd)


def _naming_vendor(plan: TurnPlan, handoff: Handoff | None) -> Handoff | None:
    """Add the vendor that gets a summary of what was said with another's tools."""
    vendor = vendor_given(plan.context, plan.adapter.name, handoff.tools) if handoff else None
    return replace(handoff, data={**handoff.data, "vendor": vendor}) if handoff and vendor else handoff


def _handoff(plan: TurnPlan, known: ToolState, *, turn: int, paths: SessionPaths) -> Handoff | None:
    context = plan.context
    limits = digest_limits(context.config, plan.state.window, since=plan.fork.since if plan.fork else None)
    if plan.fork is not None:
        from csa.runner.turns.forking import fork_handoff  # noqa: PLC0415  # only forks need it

        return fork_handoff(plan.fork, plan.adapter.name, limits)
    if plan.is_new or not (plan.hands_over or begins_merged(plan.state)):
        return None
    return make_handoff(
        paths,
        plan.adapter.name,
        limits,
        turn=turn,
        conversation=known.provider_session_id,
        prompt=context.redactor.redact(plan.request.prompt).strip(),
        histories=[] if known.provider_session_id else find_histories(context, plan.state, paths),
    )


def _prompt(plan: TurnPlan, known: ToolState, handoff: Handoff | None) -> str:
    dropped = known.provider_session_id and not plan.adapter.capabilities.system_on_resume
    system = plan.request.system if dropped else None  # the tool would silently ignore it
    schema = None if plan.is_held_to_schema else plan.request.schema
    return _join(system, handoff.text if handoff else None, plan.request.prompt, _ask_for(schema)) or ""


def _attachments(request: RunRequest, directory: Path) -> tuple[Attachment, ...]:
    if not (request.images or request.files):
        return ()
    from csa.runner.attaching import attachments_of, located  # noqa: PLC0415  # few turns have some

    return located(attachments_of(request), os.path.join(os.path.realpath(directory), PROMPT_FILES))


def _ask_for(schema: Mapping[str, Any] | None) -> str | None:
    if schema is None:
        return None
    from csa.model.structured import ask_for  # noqa: PLC0415  # few turns have one

    return ask_for(schema)


def _homes(plan: TurnPlan, adapters: list[Adapter], environ: Mapping[str, str]) -> list[str]:
    """Return where the tool, and nested ones, keep their state: a sandbox can only open directories that exist.

    The tool's own homes are created. Of other tools, only the missing ones of a tool that has some (opencode has four,
    and needs them all) or a login: a tool that nobody has set up here gets none.
    """
    own, config = plan.adapter.homes(environ), plan.context.config
    homes = list(own)
    for adapter in adapters:
        others = adapter.homes(environ)
        if others == own or not find_command(adapter, config, environ):
            continue
        if any(map(os.path.isdir, others)) or find_login(adapter, config, environ).is_there:
            homes += others
    homes = list(dict.fromkeys(homes))
    for home in homes:
        with suppress(OSError):  # `check_files` has reported it
            make_private_directory(Path(home))
    return [home for home in homes if os.path.isdir(home)]


def _join(*texts: str | None) -> str | None:
    return "\n\n".join(text for text in texts if text) or None
