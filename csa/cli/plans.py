"""Plans: many agents on one repository (csa plan)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from csa.cli.ourselves import own_command
from csa.cli.output import print_json, tell, warn
from csa.cli.run_options import add_budget_options, add_outcome_options, defaults_of_run
from csa.errors import CsaError, NotFoundError, UsageError
from csa.model.configkeys import AUTO
from csa.model.permission import Permission
from csa.paths import NEW_PREFIX

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.plan import PlanTask
    from csa.runner.client import Csa
    from csa.runner.plans.looking import Looked
    from csa.runner.plans.reading import ReadPlan

# Options in place of a plan's keys: what a task says itself comes first.
_KEYS = (
    *("host", "tool", "model", "effort", "permission", "timeout", "idle_timeout", "retries", "fallback", "on_quota"),
    *("check", "setup", "max_running", "budget_tokens", "budget_usd", "budget_time"),
)
_BEGIN_S = 10.0  # in which a session that is being created, with its worktree, can be found
_DONE = frozenset({"merged", "done"})


def configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="FILE [TASK]", help="the plan, and tasks of it with all they need")
    which = parser.add_argument_group("which tasks")
    which.add_argument(
        "--each",
        metavar="FILE",
        help="make one task for each line of FILE (`-` is stdin), of the prompt in place of a plan: a line stands for "
        "{}, the values of a JSON line for {key}",
    )
    which.add_argument("--fresh", metavar="TASK", action="append", help="begin TASK again in a new session; repeatable")
    which.add_argument(
        "--take", metavar="TASK.TOOL", action="append", help="merge this alternative of a race; repeatable"
    )
    which.add_argument("--name", metavar="NAME", help="what its sessions are named by (default: the file's name)")
    how = parser.add_argument_group("how, where a task does not say it itself")
    how.add_argument("--on", dest="host", metavar="HOST", help="the host to work on, as csa run --on has it")
    how.add_argument("-t", "--tool", metavar="T", help=f"the tool to use: codex, claude-code, ..., or {AUTO}")
    how.add_argument("-m", "--model", metavar="M", help="the model to ask for")
    how.add_argument("--effort", metavar="E", help="the reasoning effort to ask for")
    how.add_argument("--permission", choices=[level.value for level in Permission], help="what the agents may do")
    how.add_argument("--no-worktree", action="store_true", help="with --each: work where the plan does, without git")
    how.add_argument("--check", metavar="CMD", help="this shell command must succeed before work is merged")
    how.add_argument("--setup", metavar="CMD", help="run this shell command in each new worktree first")
    how.add_argument("--max-running", type=int, metavar="N", help="run at most N tasks at once (default: 3)")
    how.add_argument("--timeout", type=float, metavar="S", help="end a task's turn after S seconds")
    how.add_argument("--idle-timeout", type=float, metavar="S", help="end it after S seconds without output or work")
    how.add_argument("--retries", type=int, metavar="N", help="retry transient provider errors up to N times")
    how.add_argument("--fallback", metavar="T[:M],...", help="if the provider fails, continue with one of these tools")
    how.add_argument("--on-quota", metavar="WHAT", help="wait (default), wait=26h, fallback or fail")
    how.add_argument("--on-finish", metavar="CMD", help="run this shell command when the plan has ended")
    how.add_argument("--on-finish-timeout", type=float, metavar="S", help="kill that command after S seconds; 0: never")
    add_outcome_options(parser, how)
    add_budget_options(parser)


def execute_run(arguments: argparse.Namespace) -> int:
    """Run the tasks of a plan, each in a worktree of its own, and merge their work, one after the other.

    FILE is TOML: a table [task.NAME] for each task, with prompt = "..." and what it needs. A task starts from a tree
    that has the work of those it needs, and is told their answers. Work that conflicts, or that fails the plan's check
    on the combined tree, goes back to its agent once. Nothing changes in your checkout: csa land brings the whole
    there. Run again, it goes on with what is not done; what was merged stays.

    Exits 0 if every task is merged (or done, if it only reads), 1 if one failed, is in conflict or blocked, 8 if only
    quotas are in the way, 4 if the plan is running, and else as csa run does.
    """
    from csa.cli.run import carry_out  # noqa: PLC0415  # `csa completion` loads every command
    from csa.runner.client import Csa  # noqa: PLC0415  # as above
    from csa.runner.plans.requests import plan_request, session_of_plan  # noqa: PLC0415  # as above
    from csa.runner.plans.words import Words  # noqa: PLC0415  # as above

    client = Csa.from_environment(command=own_command(), owns_process=True)
    read, names = _read(arguments)
    fresh, takes = tuple(arguments.fresh or ()), tuple(arguments.take or ())
    for name in fresh:
        read.plan.check_task(name)
    wanted = read.plan.with_needs([*names, *fresh] if names else ())
    tasks = _check_takes(client, read, takes)
    warn([*client.context.config.warnings, *read.plan.warnings])
    if arguments.dry_run:
        _print_dry_run(client, read, [*wanted, *(name for name in tasks if name not in wanted)], {*fresh}, arguments)
        return 0
    words = Words(
        file=read.file, base=read.base, stem=read.stem, instead=read.instead, tasks=names, fresh=fresh, takes=takes
    )

    def run() -> int:
        request = plan_request(client.context, read, words.render())
        return carry_out(client, request, argparse.Namespace(**{**defaults_of_run(), **_of_turn(arguments)}))

    is_first = session_of_plan(client.context, read) is None
    try:
        code = run()
    except CsaError:
        if not (is_first and _has_begun(client, read)):
            raise
        code = run()
    if code == 0 and read.plan.has_worktrees and not (arguments.quiet or arguments.detach or client.caller):
        tell("hint", f"csa land plan-{read.stem}")
    return code


def _has_begun(client: Csa, read: ReadPlan) -> bool:
    """Say whether another process has begun the first run of the plan, once its session can be found."""
    from csa.runner.plans.requests import session_of_plan  # noqa: PLC0415  # as in execute_run

    end = time.monotonic() + _BEGIN_S
    while session_of_plan(client.context, read) is None:
        names = os.listdir(client.store.sessions_dir) if os.path.isdir(client.store.sessions_dir) else ()
        if time.monotonic() > end or not any(name.startswith(NEW_PREFIX) for name in names):
            return False
        time.sleep(0.05)
    return True


def _check_takes(client: Csa, read: ReadPlan, takes: tuple[str, ...]) -> list[str]:
    """Return the tasks of the alternatives that are to be merged; UsageError unless it is one of each race."""
    from csa.runner.plans.looking import look_at_plan  # noqa: PLC0415  # as in execute_run

    chosen = {unit: read.plan.unit_task(unit) for unit in takes}
    known = look_at_plan(client.context, read).known if takes else {}
    merged = {unit for unit, each in known.items() if each.merged}
    for unit, task in chosen.items():
        if other := next((each for each in task.units if each != unit and each in merged | chosen.keys()), None):
            words = f"{other} is merged" if other in merged else f"{other} is to be taken, too"
            hint = f"one of a race is merged; --fresh {task.name} begins it again"
            raise UsageError(f"{unit} cannot be taken: {words}.", hint=hint)
    return [task.name for task in chosen.values()]


def _of_turn(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that are about the turn of the plan's own session, and what is printed of it."""
    names = ("detach", "wait", "quiet", "verbose", "summary", "json", "stream_json", "print_id")
    return {name: getattr(arguments, name) for name in (*names, "on_finish", "on_finish_timeout")}


def _read(arguments: argparse.Namespace) -> tuple[ReadPlan, tuple[str, ...]]:
    """Return the plan, and the tasks of it that are named."""
    from csa.runner.plans.reading import read_plan  # noqa: PLC0415  # as in execute_run

    instead = _instead(arguments)
    if arguments.each is not None:
        return _read_each(arguments, instead), ()
    if arguments.no_worktree:
        raise UsageError("--no-worktree is for --each; in a plan, a task has worktree = false.")
    if not arguments.words:
        raise UsageError("Name a plan.", hint='csa plan run plan.toml, or csa plan run --each FILE "prompt with {}"')
    file, *names = arguments.words
    return read_plan(file, directory=os.getcwd(), name=arguments.name, instead=instead), tuple(names)


def _read_each(arguments: argparse.Namespace, instead: dict[str, Any]) -> ReadPlan:
    from csa.model.planeach import tasks_of_lines  # noqa: PLC0415  # few plans are made so
    from csa.runner.plans.reading import plan_of_text, text_of_tasks  # noqa: PLC0415  # as in execute_run

    if len(arguments.words) != 1:
        raise UsageError("--each takes one prompt.", hint='csa plan run --each FILE "prompt with {}"')
    each = tasks_of_lines(_lines(arguments.each), arguments.words[0])
    keys: dict[str, Any] = {}
    if arguments.no_worktree:
        keys = {"worktree": False, **({"permission": arguments.permission} if arguments.permission else {})}
    file = "" if arguments.each == "-" else os.path.realpath(arguments.each)
    repeated = f"{each.repeated} lines are repetitions of others, which are one task" if each.repeated else ""
    return plan_of_text(
        text_of_tasks(each.prompts, **keys),
        place=f"--each {arguments.each}",
        file=file,
        base=os.getcwd(),
        stem=arguments.name or (None if file else "each"),
        instead=instead,
        warnings=[repeated] if repeated else [],
    )


def _lines(file: str) -> list[str]:
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode().splitlines()
        with open(file, "rb") as opened:
            return opened.read().decode().splitlines()
    except FileNotFoundError as error:
        raise NotFoundError(f"--each: there is no file {file}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--each: {file} cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def _instead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that options stand for."""
    from csa.model.plan import parse_value  # noqa: PLC0415  # as in execute_run

    given = {key: getattr(arguments, key) for key in _KEYS if getattr(arguments, key) is not None}
    if "fallback" in given:
        given["fallback"] = [word.strip() for word in given["fallback"].split(",") if word.strip()]
    options = {"host": "--on"}
    return {
        key: parse_value(options.get(key, f"--{key.replace('_', '-')}"), key, value) for key, value in given.items()
    }


def _print_dry_run(
    client: Csa, read: ReadPlan, wanted: list[str], fresh: set[str], arguments: argparse.Namespace
) -> None:
    """Print the tasks in their order, and what would be done for each."""
    from csa.runner.plans.looking import look_at_plan  # noqa: PLC0415  # as in execute_run

    looked = look_at_plan(client.context, read)
    found = [_planned(read.plan.tasks[name], looked, fresh) for name in wanted]
    if arguments.json:
        print_json(found)
        return
    width = max(len(each["task"]) for each in found)
    for each in found:
        needs = f", after {', '.join(each['needs'])}" if each["needs"] else ""
        where = f" on {each['host']}" if each["host"] else ""
        print(f"{each['task']:<{width}}  {each['would']}{where} ({each['state']}{needs})")


def _planned(task: PlanTask, looked: Looked, fresh: set[str]) -> dict[str, Any]:
    state = looked.states[task.name]
    tools = [task.options.get("tool")] if not task.tools else [*task.tools]
    return {
        "task": task.name,
        "state": state.words,
        "would": "begin again" if task.name in fresh else _would(task, looked, state.kind),
        "needs": list(task.needs),
        "host": _host_of(task, looked),
        "tools": [tool for tool in tools if tool],
        "sessions": [looked.known[unit].session_id for unit in task.units if unit in looked.known],
    }


def _host_of(task: PlanTask, looked: Looked) -> str | None:
    """Return where a task would go on: where its session is, or where it says."""
    known = next((looked.records[unit] for unit in task.units if unit in looked.records), None)
    return known.store.host if known else task.host


def _would(task: PlanTask, looked: Looked, kind: str) -> str:
    """Say what a run would do for a task, once what it needs is there."""
    if kind in _DONE:
        return "nothing"
    if kind == "to_choose":
        return "nothing: --take chooses one"
    if kind in {"finished", "conflict", "check_failed"}:
        return "merge"
    return "go on" if any(unit in looked.known for unit in task.units) else "run"
