"""Give a session a name, by which commands can be told of it, or take it away.

A name begins with a letter, and no other session of the project has it. A session that is running is refused.
"""

from __future__ import annotations

from csa.cli.acting import add_selector_and_value, report, selected_with_value
from csa.cli.output import one_line
from csa.cli.selecting import find, open_client
from csa.errors import UsageError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector_and_value(parser, "NAME", "the name")
    parser.add_argument("--clear", action="store_true", help="take the name away")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    selector, name = selected_with_value(arguments, "NAME")
    if (name is None) is not arguments.clear:
        raise UsageError("Give a NAME, or --clear.", hint="csa session rename -s SESSION NAME")
    from csa.runner.sessions.editing import rename_session  # noqa: PLC0415  # help needs none of it

    edit = rename_session(find(open_client(), selector, acts=True), name)
    session_id, before = edit.after.session_id, edit.before.name
    words = f"{session_id} is called {name}" if name else f"{session_id} has no name"
    if edit.is_change and before:
        words += f" (it was {one_line(before)})"
    report(arguments, words, {"session_id": session_id, "name": name, "before": before}, edit.losses)
    return 0
