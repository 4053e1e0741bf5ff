"""Say what a session is about: the text that lists show, at first the beginning of its prompt.

One line of up to 80 characters; secrets are redacted. A session that is running is refused.
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
    add_selector_and_value(parser, "TEXT", "the description")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    selector, text = selected_with_value(arguments, "TEXT")
    if text is None:
        raise UsageError("Give the description.", hint='csa session describe -s SESSION "what it is about"')
    from csa.runner.sessions.editing import describe_session  # noqa: PLC0415  # help needs none of it

    edit = describe_session(find(open_client(), selector, acts=True), text)
    state = edit.after
    facts = {"session_id": state.session_id, "description": state.description, "before": edit.before.description}
    report(arguments, f"{state.session_id}: {one_line(state.description)}", facts, edit.losses)
    return 0
