"""Say whether a session is running.

Prints one line; exits 0 when it runs, 1 when it does not, 3 when there is no such session, 4 when that cannot be
known (it belongs to another machine, or its lock cannot be read). Looks at the session's lock, and takes nothing.
"""

from __future__ import annotations

from csa.cli.output import one_line, print_json
from csa.cli.selecting import add_selector, find_one

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.store.liveness import Liveness

_EXITS = {"alive": 0, "not_alive": 1, "unknown": 4}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    session = find_one(arguments, retired=True)
    liveness = session.liveness()
    owner = liveness.owner
    if arguments.json:
        print_json({"session_id": session.session_id, "project": session.store.project_pathname, **_to_json(liveness)})
    elif liveness.state == "not_alive":
        print("not alive")
    elif liveness.fault is not None:
        print(f"unknown: {one_line(str(liveness.fault))}")
    elif liveness.stranger is not None:
        print(f"{liveness.state}: {liveness.stranger.in_words}")
    elif owner is None:
        print(f"{liveness.state}: owner unknown")
    else:
        print(f"{liveness.state}: {owner.in_words}")
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
