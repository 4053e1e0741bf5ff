"""What `csa doctor` says about the tools: installed, answering, which version, and with credentials or not.

A tool is asked for its version the way a run would start it: under a guardian, so that a hanging one leaves nothing.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from csa.model.adapter import Adapter, Login, ToolExit
from csa.model.check import Check
from csa.model.config import Config
from csa.model.text import shortened
from csa.process.launch import SpawnError
from csa.process.tool import ToolProcess, start_tool
from csa.runner.context import Context
from csa.runner.environment import base_environment
from csa.runner.toolbox import check_files, find_command, find_login
from csa.store.usage_stats import ToolUsage, load_usage_stats
from csa.structs import Struct, field, replace

_VERSION = re.compile(r"v?(\d+(?:\.\d+)+(?:[-+][\w.+-]+)?)")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_KEPT_BYTES = 16 << 10
_ERROR_LINE = re.compile(r"^[^\w\n]*(?:\w*Error|[Ee]rror|ERROR|fatal|FATAL)\b.*", re.MULTILINE)
_DRAIN_S = 0.5  # for a pipe that something the tool has started still holds
_WORDS = 160
SLOW_S = 4.0


class Answer(Struct):
    """What a command answered to the question for its version: that, or what is wrong with it, and after how long.

    One that `is_late` has not answered in the time it had, which on a busy machine says little of it.
    """

    version: str | None = None
    problem: str | None = None
    took_s: float = 0.0
    is_late: bool = False


class ToolFinding(Struct):
    """A tool and its findings; it is usable if it has answered, and may be if it is late."""

    adapter: Adapter
    command: tuple[str, ...] | None
    answer: Answer
    login: Login
    usage: ToolUsage = field(default_factory=ToolUsage)
    faults: list[tuple[str, str]] = field(default_factory=list)  # of its files, each with a next step
    dropped: list[str] = field(default_factory=list)  # variables it does not get

    @property
    def is_usable(self) -> bool:
        return self.answer.version is not None or self.answer.is_late


async def find_tools(
    context: Context,
    config: Config,
    adapters: Sequence[Adapter],
    *,
    limit_s: float,
    report: Callable[[ToolFinding], None],
) -> list[ToolFinding]:
    """Look for the tools of all adapters, and ask the installed ones for their versions, all at once.

    `report` gets each finding as soon as it and all before it are there.
    """
    markers = [marker for adapter in adapters for marker in adapter.outer_markers]
    usage = load_usage_stats(context.store)
    findings: dict[str, ToolFinding] = {}
    found = {adapter.name: anyio.Event() for adapter in adapters}

    async def look(adapter: Adapter) -> None:
        configured = config.for_tool(adapter.name)
        command = find_command(adapter, config, context.environ)
        answer = Answer()
        if command:
            asked = (*command, *adapter.probe.version_arguments)
            environment = base_environment(context.environ, markers, configured)
            answer = await ask_version(asked, str(context.directory), environment, limit_s=limit_s)
        known = find_login(adapter, config, context.environ, command=command or (), directory=str(context.directory))
        variables = configured.environment(context.environ)
        faults = check_files(adapter, variables, str(context.directory)) if command else []
        taken = usage.get(adapter.name, ToolUsage())
        findings[adapter.name] = ToolFinding(
            adapter, command, answer, known, taken, faults, configured.dropped(context.environ)
        )
        found[adapter.name].set()

    async with anyio.create_task_group() as tasks:
        for adapter in adapters:
            tasks.start_soon(look, adapter)
        for adapter in adapters:
            await found[adapter.name].wait()
            report(findings[adapter.name])
    return [findings[adapter.name] for adapter in adapters]


async def ask_version(argv: Sequence[str], cwd: str, env: Mapping[str, str], *, limit_s: float) -> Answer:
    """Run a version command to its end, or for `limit_s`; never raises for what the command does."""
    began = time.monotonic()
    try:
        async with start_tool(argv, cwd=cwd, env=env) as tool:
            with anyio.move_on_after(limit_s):
                return replace(judge_answer(*await _listen(tool)), took_s=time.monotonic() - began)
            return Answer(problem=f"did not answer {argv[-1]} within {limit_s:g} s", is_late=True)
    except SpawnError as error:
        return Answer(problem=str(error))


async def _listen(tool: ToolProcess) -> tuple[ToolExit, str, str]:
    out, err = bytearray(), bytearray()
    ended = [anyio.Event(), anyio.Event()]

    async def collect(read: Callable[[], Awaitable[bytes]], kept: bytearray, end: anyio.Event) -> None:
        while chunk := await read():
            kept += chunk[: _KEPT_BYTES - len(kept)]
        end.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, tool.read_stdout, out, ended[0])
        tasks.start_soon(collect, tool.read_stderr, err, ended[1])
        await tool.feed_stdin(b"")
        end = await tool.wait()
        with anyio.move_on_after(_DRAIN_S):
            for event in ended:
                await event.wait()
        tasks.cancel_scope.cancel()
    return end, out.decode(errors="replace"), err.decode(errors="replace")


def judge_answer(end: ToolExit, out: str, err: str) -> Answer:
    """Find the version in a command's stdout, or quote what is wrong."""
    if end.signal is not None:
        return Answer(problem=_with_words(f"was killed by signal {end.signal}", err or out))
    if end.code != 0:
        return Answer(problem=_with_words(f"exits {end.code}", err or out))
    version = _find_version(_ESCAPES.sub("", out))
    return Answer(version=version) if version else Answer(problem=_with_words("does not report a version", out or err))


def _find_version(text: str) -> str | None:
    """Return the first word that is a version, in a line that is text: any garbage contains digits and dots."""
    words = (word for line in text.splitlines() if "\ufffd" not in line and line.isprintable() for word in line.split())
    return next((found[1] for word in words if (found := _VERSION.fullmatch(word))), None)


def _with_words(problem: str, text: str) -> str:
    """Quote a command's output from its first line about an error on: node shows source code before it."""
    plain = _ESCAPES.sub("", text)
    error = _ERROR_LINE.search(plain)
    words = " ".join(plain[error.start() if error else 0 :].split())
    shown = shortened(words, _WORDS)
    return f"{problem}: {shown}" if shown else f"{problem}, without any output"


def judge_tool(finding: ToolFinding, config: Config) -> Check:
    """Say what a tool needs before it can run."""
    name, probe = finding.adapter.name, finding.adapter.probe
    if finding.command is None:
        return _not_installed(finding.adapter, config)
    asked = shlex.join([*finding.command, *probe.version_arguments])
    if finding.answer.is_late:
        step = f"try again when the machine is less busy, or with a longer --timeout; see what `{asked}` says"
        return Check("tools", name, "warn", f"{finding.command[0]} {finding.answer.problem}: slow, or stuck", step)
    if finding.answer.problem:
        step = f"check the output of `{asked}`" + (f"; to reinstall it: {probe.install}" if probe.install else "")
        return Check("tools", name, "fail", f"{finding.command[0]} {finding.answer.problem}", step)
    version = finding.answer.version or ""
    steps = []
    detail = [version + _compared_to_tested(version, probe.tested)]
    if probe.tested and order_key(version) < order_key(probe.tested):
        steps.append(f"update it: {probe.install}" if probe.install else f"update it to {probe.tested}")
    detail.append(_login(finding.login))
    if finding.login.is_there is False:
        steps.append(finding.login.step or _login_step(finding.adapter))
    detail += _memory(finding.usage)
    if finding.dropped:
        detail.append(f"does not get {', '.join(finding.dropped)} (env_drop)")
    detail.append(finding.command[0])
    steps += [step for _, step in finding.faults]
    took_s = finding.answer.took_s
    slow = [f"took {took_s:.0f} s to answer {probe.version_arguments[-1]}: slow, not broken"] if took_s > SLOW_S else []
    text = "\n".join([", ".join(detail), *slow, *(words for words, _ in finding.faults)])
    return Check("tools", name, "warn" if steps else "ok", text, "; ".join(dict.fromkeys(steps)) or None)


def _login(login: Login) -> str:
    """Say whether it is logged in, and why not, or why that is not known."""
    if login.is_there:
        return "logged in or key set"
    words = "login not known" if login.is_there is None else "no login or key found"
    return f"{words} ({login.why})" if login.why else words


def _memory(usage: ToolUsage) -> list[str]:
    """Say what its last turns here took, if there were any."""
    peak = usage.p95_peak_rss_bytes
    return [f"up to {peak / (1 << 20):.0f} MB per turn (P95 of {usage.turns})"] if peak else []


def _not_installed(adapter: Adapter, config: Config) -> Check:
    configured = config.for_tool(adapter.name).command
    if configured:
        detail = f"there is no {configured[0]}, as set in tools.{adapter.name}.command"
        return Check("tools", adapter.name, "fail", detail, "fix or remove the command in your config file")
    step = adapter.probe.install or f"install it, or set command in [tools.{adapter.name}] of the config"
    return Check("tools", adapter.name, "warn", f"not installed: no '{adapter.executable}' on the PATH", step)


def _login_step(adapter: Adapter) -> str:
    variables = adapter.probe.login_variables[:1]
    ways = [adapter.probe.login or "log in with it", *(f"set {name}" for name in variables)]
    return ", or ".join(ways)


def _compared_to_tested(version: str, tested: str) -> str:
    if not tested:
        return ""
    if version == tested:
        return " (tested)"
    older = order_key(version) < order_key(tested)
    return f" ({'older' if older else 'newer'} than the tested {tested})"


def order_key(version: str) -> tuple[int, ...]:
    """Return what versions are ordered by: their numbers; a pre-release counts as its release."""
    return tuple(int(number) for number in re.split(r"[-+]", version)[0].split("."))
