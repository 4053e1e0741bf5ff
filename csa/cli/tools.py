"""List the tools csa can run: whether each is installed and logged in, its version, and its default model.

`*` marks the tool that csa run uses by default. Files and the environment show whether a tool is logged in, without
network access: `unknown` if they do not. csa doctor shows more, and how to fix problems.
"""

from __future__ import annotations

import sys

from csa.cli.output import STATUS_STYLES, Style, cut, one_line, print_json, shorten, terminal_width, warn
from csa.cli.selecting import open_client
from csa.cli.views.table import Column, Table, columns_for
from csa.errors import UsageError
from csa.paths import home

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from csa.runner.client import Csa

    _Facts = dict[str, Any]

_LIMIT_S = 5.0
_LOGINS = {True: "yes", False: "no", None: "unknown"}
_STYLES = {"yes": STATUS_STYLES["succeeded"], "no": STATUS_STYLES["failed"], "unknown": STATUS_STYLES["unknown"]}
_LOGIN_FROM, _MODEL_FROM = 40, 60  # columns


def configure(parser: argparse.ArgumentParser) -> None:
    waiting = f"how long to wait for a tool's version, in seconds (default: {_LIMIT_S:g})"
    parser.add_argument("--timeout", type=float, default=_LIMIT_S, metavar="S", help=waiting)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds.")
    from csa.runner.doctor.tool_list import look_at_tools  # noqa: PLC0415  # brings anyio, and `csa completion` loads every command

    client = open_client()
    facts, problems = look_at_tools(client.context, arguments.timeout)
    if arguments.json:
        print_json(facts)
    else:
        _print(facts, client)
    warn(problems)
    return 0


def _print(facts: list[_Facts], client: Csa) -> None:
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    user_home = home(client.context.environ)
    columns = columns_for(
        width,
        (
            Column("TOOL", lambda each: each["tool"], gap=1),
            Column("", lambda each: "*" if each["is_default"] else " ", 1, gap=1),
            Column("VERSION", lambda each: each["version"] or "-"),
            Column("LOGIN", _login, since=_LOGIN_FROM, style=lambda _, text: style(text, _STYLES.get(text, ""))),
            Column("MODEL", lambda each: one_line(each["model"] or "-"), since=_MODEL_FROM),
        ),
    )
    table = Table(columns, facts)
    room = None if width is None else max(0, width - table.width)
    print(style(f"{table.head()}{cut('COMMAND', room)}".rstrip(), "dim"))
    for each in facts:
        print(f"{table.line(each)}{cut(_place(each, lambda path: shorten(path, user_home)), room)}".rstrip())


def _login(each: _Facts) -> str:
    return _LOGINS[each["logged_in"]] if each["installed"] else "-"


def _place(each: _Facts, render: Callable[[str], str]) -> str:
    """Say where a tool is, or what is wrong with it."""
    if each["problem"]:
        return one_line(each["problem"])
    return render(each["command"][0]) if each["command"] else "not installed"
