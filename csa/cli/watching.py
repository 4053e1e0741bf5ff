"""Waiting for running turns, and following them."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator

from csa.cli.output import (
    STATUS_STYLES,
    Style,
    count_of,
    hint_of,
    lossy,
    one_line,
    print_json,
    print_problem,
    tell,
    text_for,
    warn,
)
from csa.cli.results import print_failure
from csa.cli.selecting import (
    Unlistable,
    add_selector,
    add_selectors,
    find,
    find_all,
    find_to_show,
    open_client,
    selected,
)
from csa.cli.views.naming import head_of_line
from csa.cli.views.progress import Progress, Subject, make_progress, room_on
from csa.cli.views.signs import about_sessions, signs_of_life
from csa.errors import CsaError, UsageError
from csa.model.events import Event
from csa.model.result import SIGNAL_EXITS, RunResult, result_from_event
from csa.model.state import parse_time
from csa.model.wording import elapsed
from csa.runner.caller import refuse_endless_wait, refuse_own_lineage
from csa.runner.client import Csa
from csa.runner.session import Session, follow_resumed
from csa.runner.sessions.waiting import EXIT_BUSY, WaitResult, await_endings, waiters_exit_code
from csa.store.following import follow
from csa.store.taking import refuse_busy
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.store.owner import Owner


def configure_wait(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--any", action="store_true", help="return when the first of them has finished")
    parser.add_argument("--tree", action="store_true", help="also wait for all their descendants, present and future")
    parser.add_argument("--timeout", type=float, metavar="S", help="give up after S seconds (exit code 4)")
    parser.add_argument("--json", action="store_true", help="print an array of objects at the end")


def execute_wait(arguments: argparse.Namespace) -> int:
    """Wait until sessions have finished, and exit as their turns did.

    Prints a line for each session as it finishes. Any number of processes may wait. A session that is not running
    counts as finished. If another turn follows at once, as with queued prompts, csa waits for that one too.

    Exits 0 when all succeeded, else with the first code that is not 0, in the order of the arguments: 1 failed,
    cancelled, killed or lost; 3 never ran; 4 csa cannot know whether it is running; 6 its record is damaged; 7 not
    logged in; 8 rate limited; 124 timed out. With --any, exits with the code of the first to finish. Exits 4 when
    --timeout is up.

    A session that is damaged or never ran is reported on stderr, and csa waits for the others. With --tree, so is a
    directory that cannot be read: there may be descendants in it.
    """
    if arguments.timeout is not None and not 0 <= arguments.timeout < float("inf"):
        raise UsageError("--timeout takes a number of seconds, 0 or more.")
    sessions = [follow_resumed(session) for session in find_all(arguments, retired=True)]
    if len(sessions) == 1 or not arguments.any:  # of several, another one may end first
        _refuse_endless(sessions, arguments)
    with signs_of_life(sessions[0].context.caller) as signs:
        signs.about(about_sessions([session.target for session in sessions]))
        return _print_wait_results(sessions, arguments)


def _print_wait_results(sessions: list[Session], arguments: argparse.Namespace) -> int:
    endings: dict[tuple[str, str], WaitResult] = {}
    unlistable = Unlistable()
    for ending in await_endings(
        [session.target for session in sessions],
        tree=arguments.tree,
        first_only=arguments.any,
        timeout_s=arguments.timeout,
        on_fault=unlistable.note,
    ):
        endings[ending.project, ending.session_id] = ending
        if ending.fault is not None:
            print_problem(ending.fault.message, hint=hint_of(ending.fault))
        elif not arguments.json and ending.status != "running":
            _print_wait_result(ending)
    if arguments.json:
        print_json([ending.to_json() for ending in endings.values()])
    code = unlistable.report(hint="not waiting for what is running there; wait as the user who owns it")
    for ending in endings.values():
        if ending.status == "unknown":
            words = f"It is unknown here whether {ending.session_id} is running."
            print_problem(words, hint=f"csa status {ending.session_id}")
    unfinished = [ending.session_id for ending in endings.values() if ending.status == "running"]
    if unfinished:
        many = f"{len(unfinished)} sessions are"
        who = " and ".join(unfinished) + (" are" if unfinished[1:] else " is")
        words = f"Timed out after {arguments.timeout:g} s: {many if len(unfinished) > _NAMED else who} still running."
        print_problem(words, hint=f"csa status {unfinished[0]}")
        return EXIT_BUSY
    named = [session.store.key(session.session_id) for session in sessions]
    known = [endings[key] for key in (*named, *endings) if key in endings]
    return _first_exit_code(known, arguments) or code


def _refuse_endless(sessions: list[Session], arguments: argparse.Namespace) -> None:
    for session in sessions:
        refuse_endless_wait(session.context.caller, session.session_id)
        if arguments.tree:
            refuse_own_lineage(session.context.caller, session.session_id, verb="wait for the tree of")


def _first_exit_code(endings: list[WaitResult], arguments: argparse.Namespace) -> int:
    """Return the first code that is not 0; with --any that of the first to end, if one has ended."""
    first = [ending for ending in endings if ending.is_known] if arguments.any else []
    return next((ending.exit_code for ending in first or endings if ending.exit_code), 0)


def _print_wait_result(ending: WaitResult) -> None:
    style = Style(sys.stdout)
    head, name = head_of_line(ending.session_id)
    facts = [name, ending.tool, f"turn {ending.turn}" if ending.turn else ""]
    facts.append("" if ending.duration_s is None else elapsed(ending.duration_s))
    known = one_line(", ".join(fact for fact in facts if fact))
    why = one_line(str(ending.error["message"])) if ending.error and ending.error.get("message") else ""
    status = style(ending.status, STATUS_STYLES.get(ending.status, ""))
    print(f"{head}: {status}{f' ({known})' if known else ''}{f': {why}' if why else ''}", flush=True)
    if ending.queued and ending.status != "running":
        tell("csa", f"{count_of(ending.queued, 'queued prompt')} of {ending.session_id} did not begin")
        tell("hint", f"csa queue {ending.session_id} --resume")


_NAMED = 3  # sessions that are still running
_SHOWN_BEFORE = 10  # events of the turn
_LOOK_S = 0.05
_DETACHING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configure_attach(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("-i", "--interactive", action="store_true", help="open the tool's own interface: csa open")
    parser.add_argument("-t", "--tool", metavar="T", help="with --interactive: the tool (default: of the last turn)")
    parser.set_defaults(reopen=False)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--json", action="store_true", help="print the result as one object instead of the answer")


def execute_attach(arguments: argparse.Namespace) -> int:
    """Follow a running turn as if you had started it here, and print its answer at the end.

    Progress goes to stderr, the answer to stdout. Ctrl-C detaches; the turn goes on. If the session is not running,
    the answer of its last turn is printed. Queued prompts are followed too. Exits like csa wait, or with 130 when
    detached.

    With --interactive it opens the tool's own interface, as csa open does.
    """
    if arguments.interactive:
        return execute_open(arguments)
    if arguments.tool:
        raise UsageError("--tool is for --interactive.")
    client = open_client()
    session = find_to_show(arguments)
    session_id = session.session_id
    refuse_endless_wait(client.caller, session_id, verb="attach to")
    liveness = session.liveness()
    seen = _Seen()
    if liveness.stranger is not None:
        refuse_busy(session.files)
    if liveness.state == "alive" and liveness.owner is not None:
        with signs_of_life(client.caller, quiet=arguments.quiet) as signs:
            signs.about(about_sessions([session.target]))
            number = _follow_turn(client, session, liveness.owner, seen, quiet=arguments.quiet)
        if number is not None:
            tell("csa", f"detached; session {session_id} continues")
            tell("hint", f"csa attach {session_id}")
            return 128 + number
    return _print_end(session, seen, as_json=arguments.json)


def configure_open(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("-t", "--tool", metavar="T", help="the tool to open (default: that of the last turn)")
    parser.add_argument("--reopen", action="store_true", help="open the session even if it is closed (csa close)")
    parser.set_defaults(json=False)


def execute_open(arguments: argparse.Namespace) -> int:
    """Open the tool's own interface on a session's conversation, here on the terminal, until you leave it.

    The session is locked meanwhile. What you say there is known to the tool, and not recorded in the transcript.
    csa attach --interactive does the same.

    Exits 0 when the tool did, else 1; 4 when a turn is running.
    """
    client = open_client()
    session = find(client, selected(arguments), acts=True)
    session_id = session.session_id
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("This needs a terminal.", hint=f'csa run --session {session_id} "..."')
    if arguments.json:
        raise UsageError("--interactive and --json cannot be combined.")
    from csa.runner.sessions.interactive import Interaction  # noqa: PLC0415  # imports pexpect and anyio

    interaction = Interaction(session, tool=arguments.tool, reopen=arguments.reopen)
    warn(interaction.invocation.warnings)
    ended = interaction.run()
    warn(interaction.losses)
    tell("csa", f"left session {session_id}")
    if ended.stopped_by in SIGNAL_EXITS:
        return SIGNAL_EXITS[ended.stopped_by]
    return 0 if ended.end.code == 0 and ended.stopped_by is None else 1


class _Seen(Struct, frozen=False):
    """What to remember of the events: an ephemeral session is gone when its turn has ended."""

    message: str = ""
    finished: Event | None = None

    def note(self, event: Event) -> None:
        if event.type == "agent_message" and not event.data.get("chunk"):
            self.message = str(event.data.get("text", ""))
        elif event.type == "run_finished":
            self.finished = event


def _print_end(session: Session, seen: _Seen, *, as_json: bool) -> int:
    session_id = session.session_id
    if seen.finished is not None and not session.store.has(session_id):
        known = result_from_event(session_id, seen.finished.turn, seen.finished.data)
        result = RunResult(**known, project=session.store.project_pathname, text=seen.message)
        code = waiters_exit_code(seen.finished)
    else:
        ending = next(await_endings([session.target]))
        if ending.fault is not None:
            raise ending.fault
        if ending.status in {"lost", "unknown"}:
            lost = CsaError(f"turn {ending.turn} {ending.status}.", hint=f"csa status {session_id}")
            lost.exit_code = ending.exit_code
            raise lost
        result, code = session.result(), ending.exit_code
    if as_json:
        print_json(result.to_json())
    elif result.text:
        print(text_for(sys.stdout, result.text))
    print_failure(result)
    return code


def _follow_turn(client: Csa, session: Session, owner: Owner, seen: _Seen, *, quiet: bool) -> int | None:
    """Show events until the turn has ended; return the number of the signal that detached us."""
    import anyio  # noqa: PLC0415  # `csa completion`, in each new shell, loads every command

    since = parse_time(owner.since)
    subject = Subject(
        record=session.record,
        turn=owner.turn,
        verb="attached to session",
        facts=f"{owner.tool} (since {owner.since_clock})",
        tool=owner.tool,
        is_new=False,
        started_at=since.timestamp() if since else time.time(),
    )
    looks = follow(session.paths, tail=_SHOWN_BEFORE)
    events = (filter(lambda event: event.turn >= owner.turn, look) for look in looks)
    return anyio.run(_show_until_end, events, subject, make_progress(client, quiet=quiet), seen)


async def _show_until_end(
    looks: Iterator[Iterator[Event]], subject: Subject, progress: Progress, seen: _Seen
) -> int | None:
    import anyio  # noqa: PLC0415  # imported by the caller

    detached_by: list[int] = []
    with anyio.open_signal_receiver(*_DETACHING) as signals:
        async with anyio.create_task_group() as tasks:

            async def obey() -> None:
                detached_by.append(await anext(aiter(signals)))
                tasks.cancel_scope.cancel()

            with lossy(sys.stderr):
                progress.begin(subject)
            try:
                tasks.start_soon(obey)
                tasks.start_soon(progress.keep_fresh)
                for look in looks:
                    for event in look:
                        seen.note(event)
                        if progress.speaks:
                            await room_on(sys.stderr)
                        with lossy(sys.stderr):
                            progress.show(event)
                    await anyio.sleep(_LOOK_S)
            finally:
                with lossy(sys.stderr):
                    progress.end()
            tasks.cancel_scope.cancel()
    return detached_by[0] if detached_by else None
