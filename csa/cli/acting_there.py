"""What is asked of a session on another host is done there, by the same words: few commands, and only a person's.

An agent's words are not passed on: there it would be nobody's child, and could do what it may not do here.
"""

from __future__ import annotations

import os
import sys

from csa.cli.commands import find_command
from csa.cli.output import print_json, printable, tell
from csa.cli.selecting import open_client
from csa.errors import CsaError, MirroredError
from csa.ids import may_be_id
from csa.runner.session import LONG_PREFIX

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.client import Csa

# What changes nothing but the session's record, and takes at most one word beside the sessions.
_WORDS_BESIDE = {"rename": 1, "describe": 1, "pin": 0, "close": 0, "delete": 0}


def act_there(words: list[str], error: MirroredError) -> int:
    """Do it on the session's host, and return the exit code; raise the error if it is not to be done so.

    All sessions must be that host's, each with its name or by its id: a word that is neither might mean one of this
    host, and another one there.
    """
    command, rest = find_command(words)
    name = command.name if command else ""
    client = open_client()
    beside = _WORDS_BESIDE.get(name)
    if beside is None or client.caller is not None:
        raise error
    found = {word: _id_there(client, word, error.host) for word in rest if not word.startswith("-")}
    said = [found.get(word) or word for word in rest]
    if sum(each is None for each in found.values()) > beside or not any(found.values()):
        raise error
    from csa.runner.hosts.acting import LIMIT_S, NOT_OF_CSA, Call, is_plain  # noqa: PLC0415  # few act on other hosts

    if not all(map(is_plain, said)):
        raise error
    call = Call(client.context.config.engine(error.host), [name, *said], limit_s=LIMIT_S)
    answer = call.answer()
    if answer.code in NOT_OF_CSA:
        raise call.failure(answer)
    print(printable(answer.err), end="", file=sys.stderr)
    if "--json" in said:
        print_json(answer.json)
    else:
        print(printable(answer.out), end="")
    if answer.code == os.EX_OK:
        tell("csa", f"done on {error.host}; csa sync {error.host} shows it here")
    return answer.code


def _id_there(client: Csa, word: str, host: str) -> str | None:
    """Return the id of the session on that host that a word names; None for a word that may mean anything else."""
    if not (word.startswith(f"{host}:") or (may_be_id(word) and len(word) >= LONG_PREFIX)):
        return None
    try:
        session = client.session(word, retired=True)
    except CsaError:
        return None
    return session.session_id if session.store.host == host else None
