"""Encryption of sessions that have finished, by hand. See docs/encryption.md."""

from __future__ import annotations

import argparse
from contextlib import contextmanager

from csa.cli.selecting import add_selectors, find_all, open_client
from csa.errors import CsaError, UsageError
from csa.runner.session import Session

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterator


def configure_seal(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)
    parser.add_argument("--all", action="store_true", help="all sessions of the project that have finished")


def execute_seal(arguments: argparse.Namespace) -> int:
    """Encrypt what was said and done in sessions that have finished, for the recipients in your configuration.

    With [store] encrypt = "finished" there that happens by itself. Encrypted sessions are listed, waited for and
    counted as before; whatever shows what is in them needs your key, and so does running in them, for which they are
    opened. Their names, times, status and usage stay readable, and so do the tools' own files and the project.
    """
    from csa.runner.atrest import seal_finished  # noqa: PLC0415  # `csa completion` loads every command
    from csa.store.taking import refuse_busy  # noqa: PLC0415  # as above

    if arguments.all == bool(arguments.session or arguments.session_option):
        raise UsageError("Name sessions, or use --all.", hint="csa ls")
    if arguments.all:
        client = open_client()
        found = [Session(client.context, session_id) for session_id in client.store.ids()]
    else:
        found = find_all(arguments, acts=True)
    for session in found:
        recipients = session.context.config.encryption.recipients
        if not recipients:
            hint = '[store] recipients = ["age1..."] in your configuration; age-keygen makes a key'
            raise UsageError("For whom is it to be encrypted?", hint=hint)
        if not arguments.all:
            refuse_busy(session.paths)
        with _explaining(session, "encrypted"):
            done = seal_finished(session.store, session.session_id, recipients)
        if done:
            print(f"{session.session_id} is encrypted")
        elif not arguments.all:
            is_done = session.load().sealed_at is not None
            words = "is encrypted already" if is_done else "has nothing to encrypt, or its queue has prompts"
            print(f"{session.session_id} {words}")
    return 0


@contextmanager
def _explaining(session: Session, done: str) -> Iterator[None]:
    """Have a disk that is full, say, be an error that says of which session."""
    try:
        yield
    except OSError as error:
        where = error.filename or session.paths.pathname
        words = f"Session {session.session_id} cannot be {done}: {error.strerror or error}: {where}."
        raise CsaError(words, hint="nothing of it is lost; free space, or make it writable, and try again") from error


def configure_unseal(parser: argparse.ArgumentParser) -> None:
    add_selectors(parser)


def execute_unseal(arguments: argparse.Namespace) -> int:
    """Open encrypted sessions, with your key: what was said and done in them is in plain files again.

    Nothing else needs that: commands that show a session open it in memory, and csa run for its turn. With [store]
    encrypt = "finished" in your configuration the next turn or csa gc encrypts it again. Exits 7 without the key.
    """
    from csa.runner.atrest import unseal  # noqa: PLC0415  # as above

    for session in find_all(arguments, acts=True):
        with _explaining(session, "opened"):
            done = unseal(session.store, session.session_id, session.context.keys)
        print(f"{session.session_id} {'is open' if done else 'is not encrypted'}")
    return 0
