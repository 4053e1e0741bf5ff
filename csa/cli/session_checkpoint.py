"""Put a session on record: its state.toml, its result.toml and the digest of its transcript become a commit.

The commit is in csa's own repository (audit.git in the project's store), on a ref of the session, with a git note bound
to it. The project's own repository is not touched. Prints the commit. A running session can be put on record too.
"""

from __future__ import annotations

from csa.cli.output import print_json, warn
from csa.cli.selecting import add_selector, find_one

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--label", metavar="TEXT", help="what the checkpoint is of")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.cli.session_checkpoints import to_json  # noqa: PLC0415  # --help needs none of it
    from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # as above
    from csa.runner.turns.checkpointing import checkpoint_session  # noqa: PLC0415  # as above

    session = find_one(arguments, acts=True)
    made, losses = checkpoint_session(session, label=arguments.label)
    loss = record_act(
        session.setting, "session checkpoint", session.session_id, what="checkpointed", commit=made.commit
    )
    warn([*losses, *([loss] if loss else [])])
    if arguments.json:
        print_json(to_json(made))
    else:
        print(made.commit)
    return 0
