"""Whether csa can run here, and what prevents it: the checks of `csa doctor`, as data.

Nothing is changed, except that a lock is tried in a file of its own in the state root.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from csa import __version__
from csa.errors import ConfigError, CsaError, RefusedError, ToolUnavailableError
from csa.model.adapter import Adapter
from csa.model.check import ANSWER_LIMIT_S, Check
from csa.model.config import Config, ToolConfig, combine_layers
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.context import Context
from csa.runner.doctor.other_checks import check_command, check_encryption, check_mirrors, check_other_store
from csa.runner.doctor.store_checks import check_store
from csa.runner.doctor.system_checks import check_system, check_temporary
from csa.runner.doctor.tool_checks import ToolFinding, ask_version, find_tools, judge_tool
from csa.runner.environment import base_environment
from csa.runner.toolbox import check_config, choose_tool, installed_agents, loadable_adapters
from csa.store.configfile import config_layers
from csa.store.gitwork import OLDEST_GIT
from csa.structs import Struct, replace


class Diagnosis(Struct):
    """All findings, by topic."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 if a run could work, else the code of the first thing that prevents it."""
        return next((check.exit_code for check in self.checks if check.exit_code), 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `csa doctor --json` prints."""
        return {"ok": self.exit_code == 0, "checks": [check.to_dict() for check in self.checks]}


async def diagnose(
    context: Context, *, limit_s: float = ANSWER_LIMIT_S, report: Callable[[Check], None] = lambda _: None
) -> Diagnosis:
    """Check everything. Each tool has `limit_s` to report its version; nothing a tool or a file does raises.

    `report` gets each check as soon as it and all before it are done, topic by topic.
    """
    checks: list[Check] = []

    def add(*found: Check) -> None:
        for check in found:
            checks.append(check)
            report(check)

    config, config_check = _check_config(context)
    adapters, problems = loadable_adapters(config)
    adapters += installed_agents(config, context.environ)
    add(Check("setup", "csa", "ok", f"{__version__}, Python {platform.python_version()}"), config_check)
    add(*_check_caller(context), *check_command(context.environ), await _check_git(context, limit_s=limit_s))

    def tell(finding: ToolFinding) -> None:
        add(_redacted(context, judge_tool(finding, config)))

    findings = await find_tools(context, config, adapters, limit_s=limit_s, report=tell)
    step = "reinstall or remove the package that provides it"
    add(*(_redacted(context, Check("tools", "adapter", "fail", problem, step)) for problem in problems))
    add(_check_choice(context, config, findings))
    add(*check_store(context.store), *check_other_store(context.store.root, context.environ))
    add(*check_mirrors(context.store.root), *check_encryption(config.encryption, context.environ))
    add(*check_system(), check_temporary(context.environ))
    return Diagnosis(tuple(checks))


def _redacted(context: Context, check: Check) -> Check:
    """Return a check in whose detail a tool, or an adapter, is quoted."""
    return replace(check, detail=context.redactor.redact(check.detail))


def _check_config(context: Context) -> tuple[Config, Check]:
    """Return the configuration, or the defaults if it is wrong, and the check for it."""
    try:
        layers = config_layers(context.config_directory, context.environ)
        config = combine_layers(layers)
        check_config(config)
    except ConfigError as error:
        return combine_layers([]), Check("setup", "config", "fail", error.message, error.hint, error.exit_code)
    if config.warnings:
        step = "put csa's settings into your own config file"
        return config, Check("setup", "config", "warn", "\n".join(config.warnings), step)
    sources = ", ".join(layer.origin for layer in layers)
    return config, Check("setup", "config", "ok", sources or "no config files; using the defaults")


def _check_caller(context: Context) -> list[Check]:
    if not any(name in context.environ for name in IDENTITY_VARIABLES):
        return []
    try:
        caller = context.caller
    except RefusedError as error:
        return [Check("setup", "caller", "fail", error.message, error.hint, error.exit_code)]
    assert caller is not None
    detail = f"inside session {caller.session_id}: runs from here become its children"
    return [Check("setup", "caller", "ok", detail)]


async def _check_git(context: Context, *, limit_s: float) -> Check:
    path = shutil.which("git", path=context.environ.get("PATH"))
    if path is None:
        return Check("setup", "git", "warn", "not installed; agents need it to work on code", "install git")
    environment = base_environment(context.environ, (), ToolConfig())
    answer = await ask_version((path, "--version"), str(context.directory), environment, limit_s=limit_s)
    if answer.problem:
        return Check("setup", "git", "warn", f"{path} {answer.problem}", f"check the output of `{path} --version`")
    found = re.search(r"(\d+)\.(\d+)", answer.version or "")
    if found and (int(found[1]), int(found[2])) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        detail = f"{answer.version}, {path}: too old for csa run --worktree, which needs {oldest}"
        return Check("setup", "git", "warn", detail, f"install git {oldest} or newer")
    return Check("setup", "git", "ok", f"{answer.version}, {path}")


def _check_choice(context: Context, config: Config, findings: Sequence[ToolFinding]) -> Check:
    """Say which tool `csa run` would use, and whether it works."""
    usable = [finding.adapter for finding in findings if finding.is_usable]
    if not usable:
        installed = any(finding.command for finding in findings)
        detail = "no tool works" if installed else "no AI coding tool is installed"
        step = "fix one of the tools above" if installed else "install one of the tools above and log in"
        return Check("tools", "run", "fail", detail, step, ToolUnavailableError.exit_code)
    try:
        choice = choose_tool(None, None, config, context.environ, avoid_family=None)
    except CsaError as error:
        return _other_tool(f"`csa run` would fail: {error.message}", usable[0])
    if choice.adapter.name not in {adapter.name for adapter in usable}:
        return _other_tool(f"`csa run` would use {choice.adapter.name}, which does not work", usable[0])
    return Check("tools", "run", "ok", f"`csa run` would use {choice.adapter.name} ({choice.why})")


def _other_tool(problem: str, other: Adapter) -> Check:
    step = f'csa run --tool {other.name} "...", or set tool = "{other.name}" in your config file'
    return Check("tools", "run", "warn", problem, step)
