"""Run an agent on a prompt, in a new or an existing session, and print its answer.

stdout has the answer and nothing else; progress, the session's id and hints go to stderr.
Exits 0 if the turn succeeded, 1 if it failed, 2 on wrong usage, 3 if the session is not found, 4 if it is busy, 5 if a
limit or budget refuses or ends it, 6 if the configuration is wrong or a record is damaged, 7 if the tool is missing or
not logged in, 8 after a rate limit or with a used-up quota, 124 after a timeout, and 129, 130 or 143 if it was ended by
a hangup, an interrupt or a termination signal.

What follows -- goes to the tool's own command line, for this turn only: csa run PROMPT -- --flag value. Without a
PROMPT before it, the next word is the prompt, whatever it begins with.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable

from csa.cli.ourselves import own_command
from csa.cli.output import has_room, lossy, print_json, silence, tell, to_json, warn
from csa.cli.results import answer_of, print_failure, summary_of
from csa.cli.run_options import add_options
from csa.cli.run_request import is_prompt_given, request_from, unread_stdin_told, wants_editor
from csa.cli.selecting import announce, open_client
from csa.cli.views.signs import about_sessions, signs_of_life
from csa.errors import MirroredError, UsageError
from csa.model.result import RunResult
from csa.process.launch import become_subreaper
from csa.process.wakeup import heeded_signals, noted_signals
from csa.runner.caller import refuse_command
from csa.runner.client import Csa
from csa.runner.current import find_pointer, make_current
from csa.runner.detach import refuse_ephemeral
from csa.runner.on_finish import FollowUp, run_on_finish
from csa.runner.request import RunRequest
from csa.runner.session import Session, refuse_idle
from csa.runner.turns.ahead import load_at_once
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.plan import TurnPlan
from csa.runner.waking import wake_parked
from csa.store.locks import Heeding
from csa.store.queue import count_queued
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import IO, Protocol

    from csa.cli.views.progress import Progress
    from csa.cli.views.signs import Signs
    from csa.model.redaction import Redactor
    from csa.model.worktree import Worktree
    from csa.runner.turns.turn import Turn

    class _Ending(Protocol):  # a turn, here or on another host
        @property
        def has_ended(self) -> bool: ...


_HERE = "here"  # as a value of --on
_STALLED_S = 1.0  # without room on stderr
_PIECE = 1 << 10  # characters, so that they are no more than PIPE_BUF bytes


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    _find_template(arguments)
    if arguments.repair and not is_prompt_given(arguments):
        arguments.prompt, arguments.is_literal = "", True
    if not wants_editor(arguments):
        return run_turn(arguments)
    from csa.cli.editor import composed  # noqa: PLC0415  # most prompts are given

    arguments.is_literal = True
    with composed(is_kept=arguments.dry_run) as arguments.prompt:
        return run_turn(arguments)


def _find_template(arguments: argparse.Namespace) -> None:
    """Put the template in place of its name; one with a whole prompt needs no other."""
    if arguments.template is None and arguments.specialist is None and not arguments.variables:
        return
    from csa.cli.templates import chosen_template  # noqa: PLC0415  # most runs have none

    arguments.template = chosen_template(open_client().context, arguments)
    if arguments.template and arguments.template.has_whole_prompt and not is_prompt_given(arguments):
        arguments.prompt, arguments.is_literal = "", True


def run_turn(arguments: argparse.Namespace) -> int:
    """Run the turn that the arguments ask for, or plan or start it; return the exit code."""
    client = Csa.from_environment(command=own_command(), owns_process=True)
    request = settled(client, request_from(arguments))
    if arguments.summary and request.ephemeral:
        raise UsageError("--summary leaves text out, and --ephemeral keeps nothing to read it from.")
    if arguments.wait is not None and not arguments.wait >= 0:
        raise UsageError("--wait takes a number of seconds, 0 or more.")
    warn(client.context.config.warnings)
    if arguments.on not in {None, _HERE} or (arguments.on is None and ":" in (request.session or "")):
        return _run_there(client, request, arguments, arguments.on)
    try:
        return _run_here(client, request, arguments)
    except MirroredError as error:
        if arguments.on is not None or request.session is None:
            raise
        return _run_there(client, replace(request, session=error.session_id), arguments, error.host)


def _run_there(client: Csa, request: RunRequest, arguments: argparse.Namespace, host: str | None) -> int:
    from csa.runner.hosts.ahead import reached_ahead  # noqa: PLC0415  # most turns run here

    named = host or (request.session or "").rpartition(":")[0]
    with reached_ahead(client.context.config, "" if arguments.dry_run or arguments.wait else named) as link:
        from csa.cli.placing import run_there  # noqa: PLC0415  # while the host is being reached

        return run_there(client, request, arguments, host, link)


def _run_here(client: Csa, request: RunRequest, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        if arguments.detach:
            refuse_ephemeral(request)
        from csa.cli.dry_run import print_plan  # noqa: PLC0415  # turns that run need none of it

        print_plan(client.plan(request), as_json=arguments.json)
        return 0
    return carry_out(client, request, arguments)


def carry_out(client: Csa, request: RunRequest, arguments: argparse.Namespace) -> int:
    """Run the turn, or start or queue it; return the exit code."""
    if client.caller is None:
        wake_abandoned(client)
    with unread_stdin_told(arguments), signs_of_life(client.caller, quiet=arguments.quiet) as signs:
        if arguments.queue:
            return _queue(client, request, arguments)
        if arguments.detach:
            return _detach(client, request, arguments)
        return run_when_free(client, lambda: client.plan(request), arguments, signs)


def settled(client: Csa, request: RunRequest) -> RunRequest:
    """Return the request with the session that is the current one now, which another terminal may change meanwhile."""
    if client.caller is None:
        find_pointer(client.context)  # what CSA_CURRENT cannot mean is refused before anything begins
    if request.session != "@current":
        return request
    return replace(request, session=refuse_idle(client.session("@current")).session_id)


def _make_current(client: Csa, request: RunRequest, session_id: str) -> None:
    loss = None if request.ephemeral else make_current(client.context, session_id)
    warn([loss] if loss else [])


def run_when_free(
    client: Csa,
    make_plan: Callable[[], TurnPlan],
    arguments: argparse.Namespace,
    signs: Signs,
    view: Callable[[TurnPlan], Progress] | None = None,
) -> int:
    """Run one turn, after waiting as far as the arguments ask for it; return its exit code.

    A `view` shows it instead of the usual one, and goes on with what is queued.
    """
    if arguments.wait is None:
        return _run_turn(client, make_plan, arguments, signs, view)
    return try_until_free(
        lambda: _run_turn(client, make_plan, arguments, signs, view),
        limit_s=arguments.wait,
        tell=_teller(signs, quiet=arguments.quiet),
    )


def wake_abandoned(client: Csa) -> None:
    """Go on with what was parked for a quota and whose supervisor has died; the look costs one call of the system."""
    if (client.store.path / "parked").is_dir():
        warn(wake_parked(client.store, client.context.environ)[1])


def _teller(signs: Signs, *, quiet: bool) -> Callable[[str], None]:
    """Return what says on stderr what is waited for."""

    def announce_wait(words: str) -> None:
        signs.about(lambda: f"waiting: {words}")
        load_at_once("csa.cli.views.progress", "csa.cli.views.naming")  # csa may be upgraded while it waits
        if not quiet:
            tell("csa", f"waiting: {words}")

    return announce_wait


def _run_turn(
    client: Csa,
    make_plan: Callable[[], TurnPlan],
    arguments: argparse.Namespace,
    signs: Signs,
    view: Callable[[TurnPlan], Progress] | None,
) -> int:
    """Plan the turn, run it and print its answer. BusyError and FullError come before anything is done."""
    become_subreaper()
    faults: list[OSError] = []
    plan = make_plan()
    after = follow_up(client, arguments)
    with noted_signals() as noted:
        with Heeding(lambda: _leave_on_signal(noted)):
            started = client.begin(plan)
        _make_current(client, plan.request, plan.state.session_id)
        _announce(client, plan.state.session_id, str(plan.context.store.project))
        if started.plan.is_new and started.plan.state.worktree and not arguments.quiet:
            _tell_worktree(started.plan.state.worktree)
        signs.about(about_sessions([(plan.context.store, plan.state.session_id)]))
        import anyio  # noqa: PLC0415  # loaded while the tool starts, as all of what attends to it

        from csa.cli.views.progress import make_progress  # noqa: PLC0415  # as above

        events_on_terminal = arguments.stream_json and sys.stdout.isatty()  # a line there would spoil a redrawn view
        progress = (
            view(plan)
            if view
            else make_progress(client, quiet=arguments.quiet, plain=events_on_terminal, verbose=arguments.verbose)
        )
        turn = client.attend(started)
        if view:
            turn.hand_over = lambda: None
        anyio.run(_drive_turn, turn, progress, faults if arguments.stream_json else None, noted)
    unprinted = print_outcome(turn.result, arguments, turn.losses, was_cancelled_here=bool(view))
    if not (arguments.quiet or view) and (turn.is_handed_over or count_queued(turn.paths)):
        _tell_queue(turn)
    if after:
        name = plan.state.name or plan.state.session_id
        signs.about(lambda: f"{name} has ended; --on-finish is running")
        run_follow_up(after, client, turn.result, turn.plan.context.redactor)
    if faults and not isinstance(faults[0], BrokenPipeError):
        raise faults[0]
    if unprinted:
        raise unprinted
    return turn.result.exit_code


def _tell_queue(turn: Turn) -> None:
    """Say what becomes of the prompts that wait."""
    from csa.cli.queueing import tell_queue  # noqa: PLC0415  # few prompts wait

    if turn.is_handed_over:
        tell("csa", f"the queue of {turn.session_id} goes on in the background")
        tell("hint", f"csa wait {turn.session_id}")
        return
    tell_queue(Session(turn.plan.context, turn.session_id))


def _tell_worktree(tree: Worktree) -> None:
    """Say where the agent works, and from which commit that was made."""
    tell("worktree", f"{tree.branch} from {tree.target or 'a detached HEAD'} ({tree.base[:7]})")
    if tree.setup:
        tell("setup", tree.setup)


def _announce(client: Csa, session_id: str, project: str) -> None:
    """Say where the turn runs, if that is another project."""
    if project != str(client.store.project):
        announce(session_id, project)


def _queue(client: Csa, request: RunRequest, arguments: argparse.Namespace) -> int:
    """Add the prompt to its session's queue; print the session's id."""
    from csa.cli.queueing import queue_and_tell  # noqa: PLC0415  # few prompts wait

    refuse_output(arguments, "--queue")
    if arguments.wait is not None or arguments.steal:
        raise UsageError("--queue cannot be combined with --wait or --steal: the prompt waits in any case.")
    if not (request.session or request.last or request.session_id):
        raise UsageError("--queue needs a session.", hint='csa run --queue --session S "what to do"')
    if client.caller is not None and arguments.on_finish is None:
        arguments.on_finish = ""  # whatever is configured
    queued = client.queue(request, on_finish=follow_up(client, arguments))
    _make_current(client, request, queued.session_id)
    return queue_and_tell(queued, arguments, project=str(client.store.project))


def refuse_output(arguments: argparse.Namespace, option: str) -> None:
    """Refuse what shows a turn that runs, where none runs here."""
    if arguments.verbose:
        raise UsageError(f"{option} and --verbose exclude each other.", hint="csa show -f")
    if arguments.summary:
        raise UsageError(f"{option} and --summary cannot be combined.", hint="csa result ID --summary")
    if arguments.stream_json:
        raise UsageError(f"{option} and --stream-json cannot be combined.", hint="csa logs -f --events")


def _detach(client: Csa, request: RunRequest, arguments: argparse.Namespace) -> int:
    """Start the turn by itself; print its session's id, which any process can resolve from then on."""
    refuse_output(arguments, "--detach")
    import csa.cli.views.naming  # noqa: F401, PLC0415  # csa may be upgraded while it waits

    started = client.start(request, wait_s=arguments.wait, on_finish=follow_up(client, arguments))
    if arguments.json:
        print_json(started.to_json())
    else:
        print(started.session_id)
    _make_current(client, request, started.session_id)
    _announce(client, started.session_id, started.project)
    if not arguments.quiet:
        what = f"{started.tool}, turn {started.turn}, PID {started.pid}"
        tell("csa", f"session {started.session_id} is running in the background ({what})")
        if request.worktree is not None and (tree := client.session(started.session_id).load().worktree):
            _tell_worktree(tree)
        tell("hint", f"csa wait {started.session_id}")
    return 0


def follow_up(client: Csa, arguments: argparse.Namespace) -> FollowUp | None:
    """Return what is to be run when the turn has ended; `--on-finish ''` is nothing, whatever is configured."""
    config = client.context.config
    if arguments.on_finish:
        refuse_command(client.caller, "a command for --on-finish", "run it in the shell afterwards")
    command = config.on_finish if arguments.on_finish is None else arguments.on_finish
    if not command:
        return None
    limit_s = config.on_finish_timeout_s if arguments.on_finish_timeout is None else arguments.on_finish_timeout
    return FollowUp(command, limit_s or None)


def run_follow_up(command: FollowUp, client: Csa, result: RunResult, redactor: Redactor) -> None:
    """Run the command that was asked for, and warn of what went wrong."""
    sys.stdout.flush()
    directory = str(client.context.directory)
    problems = run_on_finish(command, result, environ=client.context.environ, directory=directory)
    warn([redactor.redact(problem) for problem in problems])


def _leave_on_signal(noted: list[int]) -> None:
    """Obey a signal that came while the turn could not yet begin."""
    if noted:
        raise SystemExit(128 + noted[0])


async def _drive_turn(turn: Turn, progress: Progress, stream_faults: list[OSError] | None, noted: list[int]) -> None:
    """Run the turn and show it; with a list for faults, its events go to stdout as they come.

    `noted` are the signals that came before.
    """
    import anyio  # noqa: PLC0415  # imported by the caller

    from csa.cli.views.progress import Subject  # noqa: PLC0415  # as above

    with anyio.open_signal_receiver(*heeded_signals()) as signals:
        async with turn, anyio.create_task_group() as tasks:

            async def obey() -> None:
                for number in noted:
                    turn.cancel(signal_name=signal.Signals(number).name)
                async for number in signals:
                    if turn.has_ended:  # all that is left is what nobody reads
                        tasks.cancel_scope.cancel()
                    turn.cancel(signal_name=signal.Signals(number).name)

            tasks.start_soon(obey)
            with lossy(sys.stderr):
                progress.begin(Subject.of(turn))
            try:
                tasks.start_soon(progress.keep_fresh)
                async for event in turn:
                    if stream_faults is not None:
                        await write_text(turn, sys.stdout, to_json(event.to_dict()) + "\n", stream_faults)
                    if progress.speaks:
                        await room_for(turn, sys.stderr)
                    with lossy(sys.stderr):
                        progress.show(event)
                    await write_text(turn, sys.stderr, progress.text(event))
                if progress.speaks:
                    await room_for(turn, sys.stderr)
            finally:
                with lossy(sys.stderr):
                    progress.end()
            tasks.cancel_scope.cancel()


async def write_text(turn: _Ending, stream: IO[str], text: str, faults: list[OSError] | None = None) -> None:
    """Print a text of any length, as fast as it is read."""
    for at in range(0, len(text), _PIECE):
        await room_for(turn, stream)
        with lossy(stream, faults):
            stream.write(text[at : at + _PIECE])
            stream.flush()


def _is_one_output() -> bool:
    return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())


async def room_for(turn: _Ending, stream: IO[str]) -> None:
    """Wait until a little can be printed; once the turn has ended, what a stalled reader of stderr leaves is dropped.

    The answer and the exit code must not wait for it, unless they go the same way, or a person has halted a terminal.
    """
    import anyio  # noqa: PLC0415  # imported by the caller

    from csa.cli.views.progress import room_on  # noqa: PLC0415  # as above

    can_drop = stream is sys.stderr and not stream.isatty() and not _is_one_output()
    while not has_room(stream):
        with anyio.move_on_after(_STALLED_S):
            await room_on(stream)
            return
        if can_drop and turn.has_ended:
            silence(stream)


def print_outcome(
    result: RunResult, arguments: argparse.Namespace, losses: Iterable[str], *, was_cancelled_here: bool = False
) -> OSError | None:
    """Print what was asked for; return why stdout has not got it, where it has not: the rest is done all the same."""
    faults: list[OSError] = []
    with lossy(sys.stdout, faults):
        if arguments.json:
            print_json(result.to_json())
        elif arguments.print_id:
            print(result.session_id)
        elif not arguments.stream_json and result.text and not _was_shown(arguments):
            print(summary_of(result) if arguments.summary else answer_of(result))
        sys.stdout.flush()
    warn(losses)
    if not (was_cancelled_here and result.status == "cancelled"):  # who did that knows
        print_failure(result)
    return faults[0] if faults else None


def _was_shown(arguments: argparse.Namespace) -> bool:
    """Say whether the answer stands on the terminal already, as a part of the conversation."""
    return bool(arguments.verbose and arguments.schema is None and sys.stdout.isatty() and sys.stderr.isatty())
