"""What is asked of agents: for the session of a plan, and for each task as far as it is.

A task that has changed, or whose last turn has ended early, goes on in its session, where its work is. One that was
merged and has changed since begins again in a new one, as does whatever is asked for with `--fresh`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from csa.errors import UsageError
from csa.model.config import Config
from csa.model.permission import Permission
from csa.model.plan import NAME_LENGTH, Plan, PlanTask, plan_session_name, session_name
from csa.model.planstates import Known
from csa.model.usage import CHARS_PER_TOKEN
from csa.model.worktree import BRANCHES, Task
from csa.runner.caller import refuse_check, refuse_setup
from csa.runner.context import Context
from csa.runner.plans.reading import ReadPlan
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.templates import apply_template, find_template
from csa.runner.turns.fallback import split_fallback
from csa.runner.turns.handoff import cut_to, quoted
from csa.store.gitwork import has_branch
from csa.store.transcript import last_started
from csa.structs import replace

_ANSWERS = "What the tasks before this one have answered"
_CHANGED = "The task has changed since your last turn; what you have done so far is still here. It is now:"
_GO_ON = "Your last turn ended before the task was done. Go on from where you stopped. The task was:"
_ONCE = ("description", "budget_tokens", "budget_usd", "budget_time_s", "ttl")  # said when a session begins
_FRAME = 40
_MOST_BRANCHES = 1000


def plan_request(context: Context, read: ReadPlan, words: Iterable[str]) -> RunRequest:
    """Return the request for a run of a plan, in the session that it had before, or a new one.

    Raises:
        UsageError: another plan, or no plan at all, has a session of that name.
        RefusedError: an agent that may not do everything names a command for setup, or as a check.
    """
    plan, name = read.plan, plan_session_name(read.stem)
    if any(task.options.get("setup") for task in plan.tasks.values()):
        refuse_setup(context.caller)
    if any(task.check for task in plan.tasks.values()):
        refuse_check(context.caller)
    session = session_of_plan(context, read)
    is_new = session is None
    return RunRequest(
        prompt=read.text,
        plan=tuple(words),
        session=session.session_id if session else None,
        name=name if is_new else None,
        description=f"plan {os.path.basename(read.file) or read.stem}: {len(plan.tasks)} tasks" if is_new else None,
        worktree=name if is_new and plan.has_worktrees else None,
        with_changes=is_new and plan.with_changes and plan.has_worktrees,
        setup="" if is_new and plan.has_worktrees else None,
        permission=_highest(plan, context.config),
        **plan.options,
    )


def _highest(plan: Plan, config: Config) -> Permission:
    """Return what the session of a plan may do: as much as any of its tasks."""
    least = Permission.EDIT if plan.has_worktrees else Permission.READ_ONLY
    return max([least, *(_level(task, config) for task in plan.tasks.values())], key=lambda level: level.rank)


def _level(task: PlanTask, config: Config) -> Permission:
    usual = config.permission if task.has_worktree else Permission.READ_ONLY
    return Permission(task.options.get("permission", usual))


def session_of_plan(context: Context, read: ReadPlan) -> Session | None:
    """Return the session of a plan, whose file may have moved; None if it never ran.

    Raises:
        UsageError: another plan, or no plan at all, has a session of that name.
    """
    session_id = context.store.find_name(plan_session_name(read.stem))
    if session_id is None:
        return None
    session = Session(context, session_id)
    file = file_of(session)
    hint = "--name NAME gives this plan's sessions another name"
    name = plan_session_name(read.stem)
    if file is None and "plan" not in session.load().tools:
        raise UsageError(f"The session named '{name}' is not a plan's.", hint=hint)
    if file and file != read.file and os.path.exists(file):
        raise UsageError(f"The session '{name}' is that of another plan, {file}.", hint=hint)
    return session


def file_of(session: Session) -> str | None:
    """Return the file of the plan whose session it is; empty for one from a pipe, None if it is no plan's."""
    started = last_plan_started(session)
    words = started.data.get("flags") if started else None
    if not isinstance(words, list) or "--file" not in words[:-1]:
        return None
    return str(words[words.index("--file") + 1])


def last_plan_started(session: Session) -> Any:
    """Return the last `run_started` of a plan's session that was a run of the plan; None if there is none."""
    from csa.store.transcript import read_events_backwards  # noqa: PLC0415  # after the common case

    started = last_started(session.content.transcript)
    if started is None or started.data.get("tool") == "plan":
        return started
    runs = read_events_backwards(session.content.transcript)
    return next((each for each in runs if each.type == "run_started" and each.data.get("tool") == "plan"), None)


class TaskRequests:
    """Makes the requests for the tasks of a plan."""

    def __init__(self, context: Context, read: ReadPlan, directory: str) -> None:
        self._context, self._read, self._directory = context, read, directory

    def first(self, task: PlanTask, unit: str, answers: Mapping[str, str]) -> RunRequest:
        """Return the request for a new session of a unit, which gets the answers of the tasks that it needs."""
        name = session_name(self._read.stem, unit)
        request = self._said(task, unit, task.prompt)
        prompt = "\n\n".join(filter(None, [request.prompt, quote_answers(answers, self._context.config)]))
        worktree = self._free_branch(name) if task.has_worktree else None
        return replace(request, prompt=prompt, name=name, worktree=worktree)

    def next(self, task: PlanTask, unit: str, known: Known) -> RunRequest:
        """Return the request for a turn that goes on in the session of a unit."""
        words = _CHANGED if known.digest != task.digest else _GO_ON
        request = self._said(replace(task, options=_without(task.options, _ONCE)), unit, task.prompt)
        prompt = request.prompt if known.status is None else f"{words}\n\n{request.prompt}"
        is_still_open = known.status is None
        opening = request.opening if is_still_open else None
        return replace(request, prompt=prompt, session=known.session_id, directory=None, opening=opening)

    def repair(self, task: PlanTask, unit: str, known: Known) -> RunRequest:
        """Return the request for a turn that repairs what kept the work of a unit from being merged."""
        plain = _without(task.options, (*_ONCE, "schema", "images", "files", "system"))
        request = self._said(replace(task, options=plain, template=None), unit, "")
        return replace(request, session=known.session_id, directory=None, repair=True, task=None)

    def _said(self, task: PlanTask, unit: str, prompt: str) -> RunRequest:
        """Return what the plan says of a unit."""
        options = dict(task.options)
        for field in ("images", "files"):
            options |= {field: tuple(self._located(path) for path in options[field])} if field in options else {}
        if (tool := task.units[unit]) is not None:
            options["tool"], model = split_fallback(tool)
            options |= {"model": model} if model else {}
        if not task.has_worktree:
            options.setdefault("permission", Permission.READ_ONLY.value)
            options.pop("setup", None)
        request = RunRequest(
            prompt=prompt,
            directory=Path(self._directory),
            park_limit_s=task.park_limit_s,
            task=Task(name=unit, digest=task.digest),
            **options,
        )
        if task.template is None:
            return request
        return apply_template(find_template(self._context, task.template), request, task.variables)

    def _free_branch(self, name: str) -> str:
        """Return a name whose branch is free: an earlier session of the task may still have its own."""
        names = (name, *(f"{name}-{number}" for number in range(2, _MOST_BRANCHES)))
        environ = self._context.environ
        return next((each for each in names if not has_branch(self._directory, BRANCHES + each, environ)), name)

    def _located(self, path: str) -> str:
        return os.path.join(self._read.base, path)


def _without(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    left_out = {*names}
    return {name: value for name, value in options.items() if name not in left_out}


def aside_name(name: str, taken: Iterable[str]) -> str:
    """Return a name for a session whose task begins again in another one."""
    known = {*taken}
    numbers = (f"-{number}" for number in range(1, len(known) + 2))
    names = (name[: NAME_LENGTH - len(end)] + end for end in numbers)
    return next(each for each in names if each not in known)


def quote_answers(answers: Mapping[str, str], config: Config) -> str:
    """Return what other tasks have answered, as a quotation, no longer than a handoff may be; empty for nothing."""
    told = {name: text.strip() for name, text in answers.items() if text.strip()}
    if not told:
        return ""
    room = config.context_tokens * CHARS_PER_TOKEN // len(told) - _FRAME
    whole = "\n\n".join(f"{name}:\n{cut_to(text, max(0, room))}" for name, text in told.items())
    return quoted(_ANSWERS, whole)
