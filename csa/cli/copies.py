"""Copies: keeping what is in the sessions in a database too, for other programs to read. See docs/copies.md."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import cast

from csa.cli.output import count_of, tell, warn
from csa.cli.selecting import open_client
from csa.errors import BusyError, NotFoundError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.errors import CsaError
    from csa.runner.client import Csa
    from csa.runner.copies.copying import Copier
    from csa.runner.copies.target import Address, Target

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        metavar="URL",
        help="postgresql://... or redis://..., env:NAME for a variable that has it, or a name of [copies] in your "
        "configuration (default: the only one there)",
    )
    parser.add_argument("--project", action="append", metavar="DIR", help="only sessions of this project; repeatable")
    parser.add_argument(
        "--forget",
        metavar="SOURCE",
        help="remove what another csa has put there, and copy nothing; HOST:STATE_ROOT, as in the column source",
    )
    parser.add_argument(
        "--encrypt",
        action="append",
        metavar="KEY",
        help="encrypt what was said for the holder of a key: age1..., a public key of SSH, or a file with some; "
        "repeatable",
    )
    parser.add_argument("--watch", action="store_true", help="go on as things happen, until Ctrl-C")


def execute(arguments: argparse.Namespace) -> int:
    """Copy sessions into a database, for other programs: what is new, of all projects, and of mirrors of other hosts.

    PostgreSQL gets tables in a schema csa, for which csa[postgres] has to be installed; Redis a hash for each session
    and a stream for each transcript (csa[redis]). It is one way: csa works whether the database is there or not, and
    the files are the truth. Secrets are hidden in what is copied. Deleted
    sessions are marked, purged ones removed. It can be killed at any instant; the next run brings the rest.

    With --encrypt, what was said is encrypted in the copy (age, in base64), and titles are left out; whoever has a key
    reads it. Ids, names, owners, projects, times, status, usage, and the kinds of messages stay readable. What was
    copied in another way before is copied again.

    A password is not taken from the command line, where others can see it. Exits 7 if the database cannot be reached;
    with --watch only at the beginning, later it is tried again.
    """
    from csa.runner.copies.target import DatabaseError, find_address  # noqa: PLC0415  # `csa completion` loads all

    client = open_client()
    address = find_address(client.context.config, os.environ, arguments.to)
    if arguments.forget:
        return _forget(address, arguments.forget)
    with _ending_on_signals():
        copier = _copy(client, address, arguments)
        pause_s = FIRST_PAUSE_S
        while copier is None:  # it was lost, after it had been there
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                copier = _copy(client, address, arguments)
            except (DatabaseError, BusyError) as error:  # the connection that was lost may have the lock for a while
                tell("csa", f"{error.message} Trying again in {pause_s:.0f} s.")
    for source in sorted(copier.namesakes):
        tell("csa", f"{source} has copied the same sessions; if this host was called so: csa mirror --forget {source}")
    if not arguments.watch:
        print(f"{address.label}: {_in_words(copier)}")
    return 1 if copier.faults else 0


def _forget(address: Address, source: str) -> int:
    from csa.runner.copies.target import open_target  # noqa: PLC0415  # `csa completion` loads all

    with closing(open_target(address, source)) as target:  # which that csa must not do meanwhile
        known = target.standing()
        if not known:
            raise NotFoundError(f"No csa {source} has put anything there.", hint="HOST:STATE_ROOT, as in csa.session")
        target.forget(known)
    print(f"{address.label}: {count_of(len(known), 'session')} of {source} removed")
    return 0


def _copy(client: Csa, address: Address, arguments: argparse.Namespace) -> Copier | None:
    """Copy; None if the connection was lost while watching. DatabaseError if there is none."""
    from csa.runner.copies.copying import Copier, source_of  # noqa: PLC0415  # as above
    from csa.runner.copies.target import DatabaseError, open_target  # noqa: PLC0415  # as above

    projects = {os.path.realpath(each) for each in arguments.project or ()}
    root = client.store.root
    with closing(open_target(address, source_of(root))) as target:
        copier = Copier(
            root,
            client.context.redactor,
            _sealing(target, arguments),
            lambda project: not projects or project in projects,
            _tell_fault,
        )
        copier.copy_all()
        if not arguments.watch:
            return copier
        tell("csa", f"{address.label}: {_in_words(copier)}; watching")
        try:
            copier.follow(_wait)
        except (DatabaseError, BusyError) as error:  # another csa, with a mirror of the same host, say
            tell("csa", f"{error.message} Trying again in {FIRST_PAUSE_S:.0f} s.")
            return None
        except KeyboardInterrupt:
            pass
    return copier


def _sealing(target: Target, arguments: argparse.Namespace) -> Target:
    if not arguments.encrypt:
        return target
    from csa.runner.copies.encrypting import Encrypted  # noqa: PLC0415  # few encrypt
    from csa.store.sealing import Sealer  # noqa: PLC0415  # as above

    return cast("Target", Encrypted(target, Sealer(arguments.encrypt)))


def _tell_fault(fault: CsaError) -> None:
    warn([f"not copied: {fault.message}"])


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _in_words(copier: Copier) -> str:
    done = copier.copied
    if not done.sessions and not done.removed:
        return "nothing new"
    words = f"{count_of(done.sessions, 'session')}, {count_of(done.rows, 'row')}"
    return words + (f", {done.removed} removed" if done.removed else "")


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let TERM and HUP end the block as Ctrl-C does: what was begun in the database is taken back there."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
