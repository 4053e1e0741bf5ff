"""What the turns of a session have changed in the project."""

from __future__ import annotations

import argparse
import os
import sys

from csa.cli.output import Style, print_json, printable, tell, terminal_width, warn
from csa.cli.pager import page
from csa.cli.selecting import add_selector, find_to_show

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.sessions.comparing import Form

_STYLES = {"+": "green", "-": "red", "@": "cyan", "d": "bold"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--turn", type=int, metavar="N", help="only what turn N has changed")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--stat", action="store_true", help="print how much was changed in each file")
    forms.add_argument("--name-only", action="store_true", help="print the names of the files")
    forms.add_argument("--json", action="store_true", help="print an object, which has the diff and the files")


def execute(arguments: argparse.Namespace) -> int:
    """Show what a session's turns have changed in their git work tree, committed or not, new files included.

    Compared are the commit before the first turn and the files now, but only those that changed during a turn: what
    was changed before, and is not committed, is left out, unless a turn has changed the same file again. Files that
    git ignores are not looked at, nor the insides of submodules. git starts no program of the configuration meanwhile:
    no diff driver, and no filter, so that files in git LFS are shown as they are in the work tree.

    csa takes no copy of the files when a turn begins; it goes by the commits before and after, and by the times at
    which files were changed. So files that you have edited again since are left out and named, and what other
    sessions have changed in the same directory meanwhile cannot be told apart: those are named, too. Turns in a git
    worktree of their own do not have that problem. Secrets are redacted. Of a session on another host, what csa fetch
    has brought to the repository you are in is compared.
    """
    from csa.runner.sessions.changes import read_changes  # noqa: PLC0415  # completion and help need none of it

    session = find_to_show(arguments)
    form: Form = "stat" if arguments.stat else "names" if arguments.name_only else "patch"
    width = terminal_width(sys.stdout) or 80
    if session.store.host:
        from csa.runner.sessions.fetched import read_fetched  # noqa: PLC0415  # few look at other hosts

        found = read_fetched(session, os.getcwd(), turn=arguments.turn, form=form, width=width)
    else:
        found = read_changes(session, turn=arguments.turn, form=form, width=width)
    if arguments.json:
        print_json(found.to_json())
        return 0
    warn(found.warnings())
    if found.files:
        page(found.text if arguments.name_only else painted(found.text, Style(sys.stdout)))
    else:
        tell("csa", "no changes")
    return 0


def painted(text: str, style: Style) -> str:
    """Return a diff in colours, without what a terminal would obey."""
    lines = printable(text).split("\n")
    return "\n".join(style(line, _STYLES.get(line[:1], "")) for line in lines)
