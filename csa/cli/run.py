"""Hand a prompt to an AI coding tool, in a new session or an old one, and print its answer.

stdout is the answer and nothing else; what the agent is doing, the session's id and hints go to stderr.
Exits 0 when the turn succeeded, 1 when it failed, 2 on bad usage, 3 when the session is not found, 4 when it is busy,
5 when a limit forbids it, 7 when the tool is missing or not logged in, 8 when the provider limits the rate, 124 when
the time is up, 130 and 143 when interrupted or terminated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from csa.cli.output import lossy, print_json, print_problem
from csa.errors import UsageError
from csa.model.config import AUTO, TRANSPORTS
from csa.model.duration import parse_duration
from csa.model.permission import Permission
from csa.model.result import RunResult
from csa.runner.client import Csa
from csa.runner.plan import TurnPlan
from csa.runner.request import RunRequest

if TYPE_CHECKING:
    from csa.cli.progress import Progress
    from csa.runner.turn import Turn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to do; `-` or nothing reads it from stdin")
    which = parser.add_argument_group("which session")
    which.add_argument("-s", "--session", metavar="S", help="go on in session S (an id, unique prefix or name)")
    which.add_argument("--last", action="store_true", help="go on in the session used last")
    which.add_argument("--session-id", metavar="ID", help="go on in the session with this ULID or name, or create it")
    which.add_argument("--ephemeral", action="store_true", help="keep nothing: no project files read, no session left")
    which.add_argument("--description", metavar="TEXT", help="what the session is about (default: the prompt's start)")
    which.add_argument("--name", metavar="NAME", help="a name for the session, unique in the project")
    which.add_argument("--ttl", metavar="TIME", help="how long a new session is kept: 7d, 12h, 30m")
    how = parser.add_argument_group("how")
    how.add_argument("-t", "--tool", metavar="T", help=f"the tool: codex, claude-code, ..., or {AUTO}")
    how.add_argument(
        "--transport", choices=TRANSPORTS, help="how csa speaks to the tool (default: as configured, or native)"
    )
    how.add_argument("-m", "--model", metavar="M", help="the model to ask the tool for")
    how.add_argument("--effort", metavar="E", help="the reasoning effort to ask the tool for")
    how.add_argument(
        "--permission", choices=[level.value for level in Permission], help="what the agent may do (default: edit)"
    )
    how.add_argument("--system", metavar="TEXT", help="text to add to the tool's system prompt")
    how.add_argument("--system-file", metavar="FILE", help="the same, from a file")
    how.add_argument("--timeout", type=float, metavar="S", help="end the turn after S seconds")
    how.add_argument("--dry-run", action="store_true", help="say what would be run; create and start nothing")
    prompt = parser.add_argument_group("the prompt")
    prompt.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file")
    prompt.add_argument("--stdin", action="store_true", help="add what stdin holds to PROMPT, behind a blank line")
    output = parser.add_argument_group("output")
    output.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    kinds = output.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print the result as one object instead of the answer")
    kinds.add_argument("--stream-json", action="store_true", help="print the transcript's events as they come")
    kinds.add_argument("--print-id", action="store_true", help="print the session's id instead of the answer")


def execute(arguments: argparse.Namespace) -> int:
    client = Csa.from_environment(arguments.cd or ".", command=_own_command(), owns_process=True)
    request = _request(arguments)
    if arguments.dry_run:
        _print_plan(client.plan(request), as_json=arguments.json)
        return 0
    import anyio  # noqa: PLC0415  # a dry run and a usage error need no event loop

    from csa.cli.progress import make_progress  # noqa: PLC0415  # as above
    from csa.process.tool import become_subreaper  # noqa: PLC0415  # as above

    become_subreaper()
    turn = client.run(request)
    events_on_terminal = arguments.stream_json and sys.stdout.isatty()  # a line there would spoil a redrawn view
    progress = make_progress(client, quiet=arguments.quiet, plain=events_on_terminal)
    faults: list[OSError] = []
    anyio.run(_drive, turn, progress, faults if arguments.stream_json else None)
    assert turn.result is not None
    _print_outcome(turn, turn.result, arguments)
    if faults and not isinstance(faults[0], BrokenPipeError):
        raise faults[0]
    return turn.result.exit_code


async def _drive(turn: Turn, progress: Progress, stream_faults: list[OSError] | None) -> None:
    """Run the turn and show it; with a list for faults, its events go to stdout as they come."""
    import anyio  # noqa: PLC0415  # imported by the caller

    with anyio.open_signal_receiver(*_heeded_signals()) as signals:
        async with turn, anyio.create_task_group() as tasks:

            async def obey() -> None:
                async for number in signals:
                    turn.cancel(signal_name=signal.Signals(number).name)

            tasks.start_soon(obey)
            with lossy(sys.stderr):
                progress.begin(turn)
            try:
                tasks.start_soon(progress.keep_fresh)
                async for event in turn:
                    if stream_faults is not None:
                        with lossy(sys.stdout, stream_faults):
                            print(json.dumps(event.to_dict(), ensure_ascii=False), flush=True)
                    with lossy(sys.stderr):
                        progress.show(event)
            finally:
                with lossy(sys.stderr):
                    progress.end()
            tasks.cancel_scope.cancel()


def _heeded_signals() -> list[signal.Signals]:
    """Return the signals that end a turn, without those our parent has us ignore (nohup, a shell's `&`)."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _print_outcome(turn: Turn, result: RunResult, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(result.to_json())
    elif arguments.print_id:
        print(result.session_id)
    elif not arguments.stream_json and result.text:
        print(result.text)
    with lossy(sys.stderr):
        for loss in turn.losses:
            print(f"warning: {loss}", file=sys.stderr)
        if result.status != "succeeded":
            kind = f" ({result.error_kind})" if result.error_kind else ""
            words = f"{result.tool} {_STATUS_WORDS[result.status]}{kind}: {result.error_message}"
            print_problem(words, hint=_hint(result))


_STATUS_WORDS = {
    "failed": "failed",
    "cancelled": "was cancelled",
    "timed_out": "ran out of time",
    "killed": "was killed",
    "lost": "was lost",
}


def _hint(result: RunResult) -> str | None:
    if result.error_kind == "auth":
        return f"log in with {result.tool}, or set its key"
    if result.error_kind == "context_overflow":
        return "begin a new session, or shorten this one with the tool's own compaction"
    if result.provider_session_id is None:
        return None
    return f'csa run --session {result.session_id} "go on"'


def _request(arguments: argparse.Namespace) -> RunRequest:
    return RunRequest(
        prompt=_prompt(arguments),
        tool=arguments.tool,
        transport=arguments.transport,
        session=arguments.session,
        last=arguments.last,
        session_id=arguments.session_id,
        description=arguments.description,
        name=arguments.name,
        model=arguments.model,
        effort=arguments.effort,
        permission=Permission(arguments.permission) if arguments.permission else None,
        system=_read_file("--system-file", arguments.system_file) if arguments.system_file else arguments.system,
        ephemeral=arguments.ephemeral,
        timeout_s=arguments.timeout,
        ttl=_ttl(arguments.ttl) if arguments.ttl is not None else None,
        directory=Path(arguments.cd).resolve() if arguments.cd else None,
    )


def _ttl(text: str) -> timedelta:
    if (found := parse_duration(text)) is None:
        raise UsageError(f"--ttl takes a time such as 7d, 12h or 30m, not '{text}'.")
    return found


def _prompt(arguments: argparse.Namespace) -> str:
    """Put the prompt together. stdin is read only where it is asked for, or is the only source."""
    words = arguments.prompt if arguments.prompt not in {None, "-"} else None
    if words is not None and arguments.prompt_file:
        raise UsageError("PROMPT and --prompt-file exclude each other.")
    if arguments.prompt_file:
        words = _read_file("--prompt-file", arguments.prompt_file)
    if words is None:
        return _read_stdin()
    return f"{words}\n\n{_read_stdin()}" if arguments.stdin else str(words)


def _read_stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("There is no prompt.", hint='csa run "what to do", or pipe it in')
    return _decode("the prompt on stdin", sys.stdin.buffer.read())


def _read_file(option: str, name: str) -> str:
    try:
        return _decode(name, Path(name).read_bytes())
    except OSError as error:
        raise UsageError(f"{option}: {name} cannot be read ({error.strerror}).") from error


def _decode(what: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 (byte {error.start}).") from error


def _own_command() -> str:
    """Return how agents should call this csa: by the absolute path it was started by."""
    started_as = Path(sys.argv[0])
    if started_as.name == "csa" and started_as.is_file():
        return str(started_as.absolute())
    return shutil.which("csa") or "csa"


def _print_plan(plan: TurnPlan, *, as_json: bool) -> None:
    facts = {
        "session": "new" if plan.is_new else plan.state.session_id,
        "tool": plan.adapter.name,
        "why": plan.why_tool,
        "transport": plan.transport,
        "command": shlex.join(plan.command),
        "cwd": plan.cwd,
        "permission": plan.permission.value,
        "model": plan.model,
        "effort": plan.effort,
        "timeout_s": plan.timeout_s,
        "parent": plan.state.parent_session_id,
        "depth": plan.state.depth,
        "resumes": plan.tool_state.provider_session_id,
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if value is not None:
            print(f"{name:<11} {value}")
