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

    from csa.store.owner import Owner

_EXITS = {"alive": 0, "not_alive": 1, "unknown": 4}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def _parked(owner: Owner) -> dict[str, str]:
    return {"parked_until": owner.parked_until} if owner.parked_until else {}


def execute(arguments: argparse.Namespace) -> int:
    session = find_one(arguments, retired=True)
    liveness = session.liveness()
    owner = liveness.owner
    if arguments.json:
        known = (
            {
                "tool": owner.tool,
                "turn": owner.turn,
                "pid": owner.pid,
                "since": owner.since,
                "errand": owner.errand or None,
                **_parked(owner),
            }
            if owner and liveness.state != "not_alive"
            else {}
        )
        if (stranger := liveness.stranger) is not None:
            known = {"tool": stranger.tool, "pid": stranger.pid, "another_program": True}
        if liveness.fault is not None:
            known = {"error": liveness.fault.message}
        print_json({"session_id": session.session_id, "state": liveness.state, **known})
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
