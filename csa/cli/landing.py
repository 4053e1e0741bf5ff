"""Bringing the work of sessions with a worktree into the checkout one stands in."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from csa.cli.ourselves import own_command
from csa.cli.output import count_of, error_to_json, one_line, print_error, print_json, tell, warn
from csa.cli.selecting import add_selectors, find
from csa.cli.views.naming import head_of_line
from csa.errors import CsaError, RefusedError, UsageError
from csa.model.text import some_names
from csa.process.launch import become_subreaper
from csa.runner.client import Csa

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.session import Session
    from csa.runner.sessions.landing_outcome import Landed

_SHORT, _NAMED = 7, 5
_REFUSED = 1  # the exit code of a dry run whose work could not be landed


def configure(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--squash", action="store_true", help="as one commit")
    parser.add_argument("--check", metavar="COMMAND", help="a shell command that must succeed on the result first")
    parser.add_argument("--dry-run", action="store_true", help="show what would be landed, and change nothing")
    parser.add_argument("--keep", action="store_true", help="leave the session's worktree and branch where they are")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    """Bring the work of sessions that ran with --worktree into the checkout you are in, onto the branch you are on.

    For each session, in the order given: what is left in its worktree is committed, its commits are rebased onto your
    current commit there, --check runs there, and then your branch is fast-forwarded. Your other changes stay as they
    are. Afterwards the worktree and its branch are removed, unless --keep is given; the session can be continued.
    The file of a plan, as plan.toml, stands for the plan's session.

    Nothing changes in your checkout if the work conflicts with it, or if the check fails: csa run -s SESSION --repair
    hands that back to its agent. Files that you have changed, and that the work changes too, are never overwritten.
    Work that does not fit commit by commit, or in which the agent has merged something, is landed as one commit, if it
    fits as a whole. What the check changes or leaves in the worktree is thrown away, but for files that git ignores.

    At the first session that cannot be landed csa stops; those before it are landed. An agent can land the sessions
    that it has started, into the directory where it works itself.

    Of a session on another host, HOST:SESSION, what csa fetch has brought here is landed; the session stays as it is.

    Exits 0 when everything is landed, also when there was nothing to land; 1 when there was a conflict or a check
    failed; 4 when a session is running; 5 when a file of yours is in the way, or you are not in a checkout of the
    repository.
    """
    if arguments.check is not None and not arguments.check.strip():
        raise UsageError("--check takes a shell command.")
    selectors = [*arguments.session, *(arguments.session_option or ())]
    if not selectors:
        raise UsageError("Name a session.", hint="csa ls")
    from csa.runner.sessions.landing_outcome import outcome_to_json  # noqa: PLC0415  # `csa completion` loads this file

    client = Csa.from_environment(command=own_command(), owns_process=True)
    become_subreaper()
    found = [_find(client, selector) for selector in dict.fromkeys(selectors)]
    waiting = list({session.paths.pathname: session for session in found}.values())
    done: list[dict[str, Any]] = []
    exit_code = 0
    while waiting and not exit_code:
        session = waiting.pop(0)
        try:
            landed = _land(session, arguments)
        except CsaError as error:
            exit_code = error.exit_code
            done.append(outcome_to_json(session.session_id, error=error, told=error_to_json(error)))
            if not arguments.json:
                _tell_failure(error)
            continue
        done.append(outcome_to_json(session.session_id, landed))
        exit_code = _REFUSED if landed.status == "would_refuse" else 0
        if not arguments.json:
            print(_in_words(landed), flush=True)
        warn(landed.warnings)
    if arguments.json:
        print_json([*done, *(outcome_to_json(session.session_id) for session in waiting)])
    elif waiting:
        tell("csa", f"not tried: {', '.join(session.session_id for session in waiting)}")
    return exit_code


def _find(client: Csa, selector: str) -> Session:
    """Return the session that is meant: that of a plan, if the selector is its file."""
    if not (selector.endswith(".toml") and os.path.isfile(selector)):
        return _find_one(client, selector)
    from csa.cli.plan_finding import find_plan_session  # noqa: PLC0415  # most land sessions by name

    return find_plan_session(client, selector)


def _find_one(client: Csa, selector: str) -> Session:
    """Return the session that is meant, which may be on another host: what was fetched of it is here."""
    try:
        return find(client, selector, acts=True)
    except RefusedError:
        session = find(client, selector, retired=True)
        if session.store.host is None:
            raise
        return session


def _land(session: Session, arguments: argparse.Namespace) -> Landed:
    """Land one session; SystemExit when a signal has ended that."""
    import anyio  # noqa: PLC0415  # `csa completion`, in each new shell, loads every command

    from csa.process.wakeup import heeded_signals  # noqa: PLC0415  # as above
    from csa.runner.sessions.landing import land_session  # noqa: PLC0415  # as above

    how: dict[str, Any] = {"squash": arguments.squash, "check": arguments.check, "dry_run": arguments.dry_run}
    if session.store.host:
        from csa.runner.sessions.landing_fetched import land_fetched  # noqa: PLC0415  # few are on other hosts

        land = partial(land_fetched, session, **how)
    else:
        land = partial(land_session, session, keep=arguments.keep, **how)
    came: list[int] = []

    async def drive() -> Landed | CsaError | None:
        outcome: Landed | CsaError | None = None
        with anyio.open_signal_receiver(*heeded_signals()) as signals:
            async with anyio.create_task_group() as tasks:

                async def obey() -> None:
                    async for number in signals:
                        came.append(number)
                        tasks.cancel_scope.cancel()

                tasks.start_soon(obey)
                try:
                    outcome = await land(into=Path.cwd(), on_output=_pass_on)
                except CsaError as error:  # it must not be wrapped in a group
                    outcome = error
                tasks.cancel_scope.cancel()
        return outcome

    outcome = anyio.run(drive)
    if outcome is None:
        tell("csa", f"{session.session_id} is not landed: {signal.Signals(came[0]).name}")
        raise SystemExit(128 + came[0])
    if isinstance(outcome, CsaError):
        raise outcome
    return outcome


def _pass_on(output: bytes) -> None:
    with suppress(OSError):  # nobody reads it: the check goes on
        sys.stderr.flush()
        os.write(sys.stderr.fileno(), output)


def _in_words(landed: Landed) -> str:
    head, name = head_of_line(landed.session_id)
    named = f" ({name})" if name else ""
    return f"{head}{named}: {_outcome(landed)}"


def _outcome(landed: Landed) -> str:
    where = one_line(landed.branch or landed.into)
    if landed.status == "nothing":
        return "nothing to land"
    if landed.status == "already":
        return f"is in {where} already"
    what = f"{count_of(len(landed.commits), 'commit')} ({some_names(landed.files)})"
    if landed.status == "landed":
        one = " as one" if landed.is_squashed and len(landed.commits) == 1 else ""
        return f"landed {what}{one} on {where}, now {landed.head[:_SHORT]}"
    reasons = [
        f"{why}: {some_names(files)}"
        for why, files in (("conflicts in", landed.conflicts), ("changed here", landed.in_way))
        if files
    ]
    return f"would {'not ' if reasons else ''}land {what} on {where}{'; ' if reasons else ''}{'; '.join(reasons)}"


def _tell_failure(error: CsaError) -> None:
    from csa.runner.sessions.landing_outcome import LandError  # noqa: PLC0415  # loaded by now

    print_error(error, as_json=False)
    others = error.others if isinstance(error, LandError) else ()
    for each in others[:_NAMED]:
        by = f" of session {each.session_id}" if each.session_id else ""
        tell("csa", f"changed there by {each.commit[:_SHORT]}{by}: {one_line(each.subject)}")
