"""Say what is wrong with the records of sessions: of one, or of all of the project.

Looks at the state, every line of the transcript, the result, the layout, who may read the files, the names, and the
parents. Changes nothing. An error is damage (`csa session repair` may mend it), a warning may become one.

Exits 0 when there is no error, and 6 when there is.
"""

from __future__ import annotations

import sys

from csa.cli.acting import count
from csa.cli.output import Style, lossy, one_line, print_json
from csa.cli.selecting import add_selector, find_one, open_client
from csa.errors import StateError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    from csa.store.checking import check_names, check_session  # noqa: PLC0415  # help needs none of it

    is_one = arguments.session is not None or arguments.session_option is not None
    one = find_one(arguments, retired=True) if is_one else None
    store = one.store if one else open_client().store
    ids = [one.session_id] if one else store.ids()
    problems = [problem for session_id in ids for problem in check_session(store, store.find(session_id))]
    problems += [problem for problem in check_names(store) if not is_one or problem.session_id == ids[0]]
    if arguments.json:
        print_json([problem.to_json() for problem in problems])
    else:
        style = Style(sys.stdout)
        for problem in problems:
            print(f"{style(problem.severity, _STYLES[problem.severity])}: {one_line(str(problem))}")
    damaged = dict.fromkeys(problem.session_id for problem in problems if problem.severity == "error")
    if not arguments.json:
        print(f"{count(len(ids), 'session')} checked, {len(damaged)} damaged")
    if damaged and not arguments.json:
        with lossy(sys.stderr):
            print(f"hint: csa session repair --dry-run -s {next(iter(damaged))}", file=sys.stderr)
    return StateError.exit_code if damaged else 0
