"""Say whether csa can work here, and what to do where it cannot.

Looks at the configuration, the tools (each is asked for its version), the state root, its sessions, processes they
have left behind, and the machine. Changes nothing. A `!` may surprise you, a `✗` does not work; the line behind the
arrow is the next step.

Exits 0 when a run could work: at least one tool answers, and the state root can be written. A tool without a login
that csa can see counts, because not every kind of login can be seen. Exits 5 when the shell's CSA_* variables forbid
runs, 6 when the configuration or the state root is at fault, and 7 when no tool works, or the kernel lacks what runs
need.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import groupby
from textwrap import wrap

from csa.cli.output import Style, one_line, print_json, terminal_width
from csa.cli.selecting import open_client
from csa.errors import UsageError
from csa.model.check import ANSWER_LIMIT_S, Check

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_TITLES = {"setup": "Setup", "tools": "Tools", "state": "State", "system": "System"}
_NARROW = 60


def configure(parser: argparse.ArgumentParser) -> None:
    waiting = f"how long to wait for each tool's version, in seconds (default: {ANSWER_LIMIT_S:g})"
    parser.add_argument("--timeout", type=float, default=ANSWER_LIMIT_S, metavar="S", help=waiting)
    parser.add_argument("--json", action="store_true", help="print an object: ok, and the checks")


def execute(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds.")
    client = open_client(arguments)
    import anyio  # noqa: PLC0415  # help and usage errors need none of it

    from csa.runner.diagnosis import diagnose  # noqa: PLC0415  # as above

    diagnosis = anyio.run(lambda: diagnose(client.setting, limit_s=arguments.timeout))
    if arguments.json:
        print_json(diagnosis.to_dict())
    else:
        _print(diagnosis.checks)
        print(_verdict(diagnosis.checks, diagnosis.exit_code))
    return diagnosis.exit_code


def _print(checks: tuple[Check, ...]) -> None:
    style = Style(sys.stdout)
    width = terminal_width(sys.stdout)
    name_width = max(len(check.name) for check in checks)
    indent = 4 if width is not None and width < _NARROW else name_width + 6
    for topic, members in groupby(checks, key=lambda check: check.topic):
        print(style(_TITLES[topic], "bold"))
        for check in members:
            mark, colour = _MARKS[check.status]
            head = f"  {style(mark, colour)} {check.name:<{name_width}}  "
            lines = _fill(_homely(check.detail), width, indent)
            if indent < name_width + 6:
                print(head.rstrip())
                print(" " * indent + lines[0])
            else:
                print(head + lines[0])
            for line in lines[1:]:
                print(" " * indent + line)
            if check.next_step:
                first, *rest = _fill(_homely(check.next_step), width, indent + 2)
                print(" " * indent + style("→ ", "cyan") + first)
                for line in rest:
                    print(" " * (indent + 2) + line)
        print()


def _fill(text: str, width: int | None, indent: int) -> list[str]:
    if width is None:
        return [text]
    return wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False) or [""]


def _homely(text: str) -> str:
    """Make a text safe to show, with `~` for the home directory."""
    home = os.environ.get("HOME", "").rstrip("/")
    shown = one_line(text)
    return shown.replace(f"{home}/", "~/") if home else shown


def _verdict(checks: tuple[Check, ...], exit_code: int) -> str:
    style = Style(sys.stdout)
    if exit_code:
        blocking = ", ".join(check.name for check in checks if check.exit_code)
        return style(f"No run can work here until this is mended: {blocking}.", "red")
    troubles = sum(check.status != "ok" for check in checks)
    rest = "" if not troubles else f" {troubles} {'line' if troubles == 1 else 'lines'} above may interest you."
    return style("csa can work here.", "green") + rest
