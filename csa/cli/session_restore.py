"""Bring a session back that was cleaned or deleted, as long as it is not purged.

It counts as used now, and no longer expires. If another session has got its name meanwhile, it comes back without.
"""

from __future__ import annotations

from csa.cli.acting import report
from csa.cli.selecting import add_selector, announce_elsewhere, open_client, selected

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.runner.session import find_retired  # noqa: PLC0415  # help needs none of it
    from csa.runner.sessions.removal import restore_session  # noqa: PLC0415  # help needs none of it

    client = open_client()
    session = find_retired(client.setting, selected(arguments))
    announce_elsewhere(client, session)
    restored = restore_session(session)
    state = restored.state
    lost = [f"another session is called {restored.lost_name} now; this one has no name"] if restored.lost_name else []
    facts = {"session_id": state.session_id, "phase": state.phase, "name": state.name}
    report(arguments, f"restored {state.session_id}", facts, [*lost, *restored.losses])
    return 0
