"""Make a new session that goes on with several others. It prints the new session's id.

The new session begins without a turn. The tool of its first turn gets a summary of all of them, in the order of time,
within `context_tokens` and `context_turns`; each source has an equal share, and what it does not need, the others get.
The sources stay as they are, and may be of other projects. One that is running is refused (exit 4).

The tool is that of the source used last, unless --tool or the first csa run says otherwise. It may do what each of the
sources may.
"""

from __future__ import annotations

import argparse

from csa.cli.output import count_of, print_json, tell, warn
from csa.cli.selecting import open_client

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.sessions.merging import Merged


def configure(parser: argparse.ArgumentParser) -> None:
    what = "the sessions, two or more: names, ids or unique prefixes, or @last, @current"
    parser.add_argument("sessions", nargs="+", metavar="SESSION", help=what)
    parser.add_argument("--name", metavar="NAME", help="name the new session; names are unique in a project")
    parser.add_argument("--description", metavar="D", help='describe it (default: "merge of A and B")')
    parser.add_argument("-t", "--tool", metavar="TOOL", help="the tool of its first turn")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    client = open_client()
    merged = client.merge(
        *arguments.sessions, name=arguments.name, description=arguments.description, tool=arguments.tool
    )
    state = merged.state
    if arguments.json:
        print_json(_to_json(merged))
    else:
        print(state.session_id)
        parts = [f"{source.session_id} ({count_of(source.turns, 'turn')})" for source in merged.sources]
        tell("csa", f"merged {', '.join(parts[:-1])} and {parts[-1]}")
        tell("hint", f'csa run --session {state.session_id} "..."')
    warn(merged.losses)
    return 0


def _to_json(merged: Merged) -> dict[str, object]:
    state = merged.state
    return {
        "session_id": state.session_id,
        "name": state.name,
        "project": state.project_path,
        "tool": state.last_tool,
        "description": state.description,
        "merged_from": [
            {
                "session_id": source.session_id,
                "name": source.name,
                "project": source.project_path,
                "turns": source.turns,
            }
            for source in merged.sources
        ],
    }
