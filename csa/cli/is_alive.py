"""Check whether a session is running.

Prints one line; exits 0 when it is running, 1 when it is not, 3 when there is no such session, 4 when csa cannot know
(it belongs to another machine, or its lock cannot be read). Looks at the session's lock, and takes nothing.
"""

# Scripts and agents call this repeatedly. The plain question, about a session in its place, is answered by
# the light parts of the store only (`answer`), in half the time: one id or prefix, with no other option, in the
# project of the current directory. Anything else goes the usual way (`execute`); if both have an answer, it is
# the same (a test compares them).

from __future__ import annotations

import os

from csa.errors import CsaError
from csa.paths import MIRRORS, state_root
from csa.runner.ancestry import with_identity
from csa.store.flocks import find_stranger
from csa.store.locks import probe_lock
from csa.store.project import find_project
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from csa.store.liveness import Liveness

_EXITS = {"alive": 0, "not_alive": 1, "unknown": 4}


def configure(parser: argparse.ArgumentParser) -> None:
    from csa.cli.selecting import add_hosts, add_selector  # noqa: PLC0415  # the plain question needs none of it

    add_selector(parser)
    add_hosts(parser, several=False)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.cli.output import one_line, print_json  # noqa: PLC0415  # as above
    from csa.cli.selecting import find_one  # noqa: PLC0415  # as above

    session = find_one(arguments, retired=True)
    liveness = session.liveness()
    owner = liveness.owner
    if arguments.json:
        print_json(
            {
                "session_id": session.session_id,
                "project": session.store.project_pathname,
                "mirror": session.store.host,
                **_to_json(liveness),
            }
        )
    elif liveness.state == "not_alive":
        print("not alive")
    elif liveness.fault is not None:
        print(f"unknown: {one_line(str(liveness.fault))}")
    elif liveness.away is not None:
        print(f"away: {liveness.away.in_words}")
    elif liveness.stranger is not None:
        print(f"{liveness.state}: {liveness.stranger.in_words}")
    elif owner is None:
        print(f"{liveness.state}: owner unknown")
    else:
        where = f"{host}: " if (host := session.store.host) else ""
        print(f"{liveness.state}: {where}{owner.in_words}")
    return _EXITS[liveness.state]


def _to_json(liveness: Liveness) -> dict[str, object]:
    owner, stranger, fault = liveness.owner, liveness.stranger, liveness.fault
    if stranger or fault or liveness.state == "not_alive":
        owner = None
    return {
        "state": liveness.state,
        "tool": owner.tool if owner else stranger and stranger.tool,
        "turn": owner and owner.turn,
        "pid": owner.pid if owner else stranger and stranger.pid,
        "since": owner and owner.since,
        "errand": (owner and owner.errand) or None,
        "parked_until": (owner and owner.parked_until) or None,
        "another_program": stranger is not None,
        "fault": fault and fault.to_json(),
        "error": fault and fault.message,
    }


def answer(words: list[str], environ: Mapping[str, str]) -> int | None:
    """Print the answer and return the exit code; None, with nothing printed, if that needs the usual way."""
    if len(words) == 2 and words[0] in {"-s", "--session"}:  # noqa: PLR2004  # the option and its value
        words = words[1:]
    if len(words) != 1 or not words[0][:1].isdigit():
        return None
    try:
        store = Store(os.path.realpath(state_root(with_identity(environ))), find_project("."))
        session = store.paths(store.resolve(words[0]))
        held, content = probe_lock(f"{session.pathname}/locks/session.lock")
    except (CsaError, OSError):  # the usual way reports the problem
        return None
    is_mirrored = f"/{MIRRORS}/" in session.pathname  # its locks say nothing
    if is_mirrored or (not held and (content or find_stranger(session.pathname))):  # it may be on another machine
        return None
    if not held and os.path.exists(f"{session.pathname}/resume-target.toml"):
        return None
    line = _owner_in_words(content) if held else "not alive"
    if line is None:
        return None
    print(line)
    return 0 if held else 1


def _owner_in_words(content: bytes) -> str | None:
    """Return the line about an owner whose process exists; None for one without a record yet, or elsewhere."""
    from csa.store.owner import may_be_running, parse_owner  # noqa: PLC0415  # only for a session that runs

    owner = parse_owner(content)
    if owner is None or not owner.is_local or not may_be_running(owner):
        return None
    return f"alive: {owner.in_words}"
