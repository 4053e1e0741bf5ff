"""Keep a session from being collected, however old it gets; `session delete` then refuses it as well.

With --off it may be collected again. A session that is running is refused.
"""

from __future__ import annotations

from csa.cli.acting import report
from csa.cli.selecting import add_selector, find_one

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--off", action="store_true", help="let it be collected again")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    from csa.runner.sessions.editing import pin_session  # noqa: PLC0415  # help needs none of it

    edit = pin_session(find_one(arguments, acts=True), pinned=not arguments.off)
    state = edit.after
    words = f"{state.session_id} is {'' if state.pinned else 'not '}pinned{'' if edit.is_change else ' already'}"
    if not edit.is_change and not state.pinned:
        words = f"{state.session_id} was not pinned"
    report(arguments, words, {"session_id": state.session_id, "pinned": state.pinned}, edit.losses)
    return 0
