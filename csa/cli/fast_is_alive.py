"""`csa session is-alive`, answered by the light parts of the store alone: the command itself takes twice as long.

Scripts and agents ask this again and again. Only the plain question is answered here, about a session that is in its
place: one id or prefix of one, with no other option, in the project around the current directory. To anything else the
answer is None, and the command goes its usual way; where there is an answer, it is the same (a test compares them).
"""

from __future__ import annotations

import os

from csa.errors import CsaError
from csa.paths import state_root
from csa.runner.ancestry import with_identity
from csa.store.flocks import find_stranger
from csa.store.locks import probe_lock
from csa.store.project import find_project
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping


def is_alive(words: list[str], environ: Mapping[str, str]) -> int | None:
    """Print the answer and return the exit code; None, with nothing printed, where the usual way has to be gone."""
    if len(words) == 2 and words[0] in {"-s", "--session"}:  # noqa: PLR2004  # the option and its value
        words = words[1:]
    if len(words) != 1 or not words[0][:1].isdigit():
        return None
    try:
        store = Store(os.path.realpath(state_root(with_identity(environ))), find_project("."))
        session = store.paths(store.resolve(words[0]))
        held, content = probe_lock(f"{session.pathname}/locks/session.lock")
    except (CsaError, OSError):  # the usual way says what is the matter
        return None
    if not held and (content or find_stranger(session.pathname)):  # an owner that has gone may be of another machine
        return None
    if not held and os.path.exists(f"{session.pathname}/resume-target.toml"):
        return None
    line = _owner_in_words(content) if held else "not alive"
    if line is None:
        return None
    print(line)
    return 0 if held else 1


def _owner_in_words(content: bytes) -> str | None:
    """Return the line about an owner whose process is there; None for one that has not yet said, or is elsewhere."""
    from csa.store.owner import may_be_running, parse_owner  # noqa: PLC0415  # only for a session that runs

    owner = parse_owner(content)
    if owner is None or not owner.is_local or not may_be_running(owner):
        return None
    return f"alive: {owner.in_words}"
