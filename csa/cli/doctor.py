"""Check which tools are installed and logged in, and say how to fix what is not.

Checks the configuration, the tools (each is asked for its version), the state directory with its sessions and
leftover processes, and the system, and prints each check as it is done. Changes nothing. `!` is a warning, `✗` does not
work; the line after the arrow is the next step. A tool that does not answer in time is a warning: it may just be slow.

Exits 0 when csa can run something: at least one tool is usable, and the state directory is writable. A tool whose
login csa cannot see counts as usable, because some kinds of login cannot be seen. Exits 5 when CSA_* variables of the
shell forbid runs, 6 when the configuration or the state directory is wrong, and 7 when no tool works, or the kernel
lacks a required feature.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from textwrap import wrap

from csa.cli.output import Style, count_of, one_line, print_json, terminal_width
from csa.cli.selecting import open_client
from csa.errors import UsageError
from csa.model.check import ANSWER_LIMIT_S, Check

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_TITLES = {"setup": "Setup", "tools": "Tools", "state": "State", "system": "System"}
_NARROW = 60
_NAME = 11  # columns; as many as `claude-code` takes


def configure(parser: argparse.ArgumentParser) -> None:
    waiting = f"how long to wait for each tool's version, in seconds (default: {ANSWER_LIMIT_S:g})"
    parser.add_argument("--timeout", type=float, default=ANSWER_LIMIT_S, metavar="S", help=waiting)
    parser.add_argument("--json", action="store_true", help="print an object: ok, and the checks")


def execute(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds.")
    client = open_client()
    import anyio  # noqa: PLC0415  # `csa completion`, in each new shell, loads every command

    from csa.runner.doctor.diagnosis import diagnose  # noqa: PLC0415  # as above

    report = (lambda _: None) if arguments.json else _Printer().print
    diagnosis = anyio.run(lambda: diagnose(client.context, limit_s=arguments.timeout, report=report))
    if arguments.json:
        print_json(diagnosis.to_dict())
    else:
        _print_verdict(diagnosis.checks, diagnosis.exit_code)
    return diagnosis.exit_code


class _Printer:
    """Prints each check as it comes, below its topic's title."""

    def __init__(self) -> None:
        self._style = Style(sys.stdout)
        self._width = terminal_width(sys.stdout)
        self._topic = ""

    def print(self, check: Check) -> None:
        if check.topic != self._topic:
            print("\n" * bool(self._topic) + self._style(_TITLES[check.topic], "bold"))
            self._topic = check.topic
        _print_check(check, self._style, self._width)
        sys.stdout.flush()


def _print_check(check: Check, style: Style, width: int | None) -> None:
    mark, colour = _MARKS[check.status]
    head = f"  {style(mark, colour)} {check.name:<{_NAME}}  "
    indent = _NAME + 6
    if width is not None and width < _NARROW:
        print(head.rstrip())
        head, indent = " " * 4, 4
    first, *rest = _wrap_lines(check.detail, width, indent)
    print(head + first)
    for line in rest:
        print(" " * indent + line)
    if check.next_step:
        first, *rest = _wrap_lines(check.next_step, width, indent + 2)
        print(" " * indent + style("→ ", "cyan") + first)
        for line in rest:
            print(" " * (indent + 2) + line)


def _wrap_lines(text: str, width: int | None, indent: int) -> list[str]:
    """Wrap each line of a text to what is left of the width; None leaves them as they are."""
    lines = [_homely(line) for line in text.splitlines()]
    if width is not None:
        room = max(width - indent, 20)
        lines = [part for line in lines for part in wrap(line, room, break_long_words=False, break_on_hyphens=False)]
    return lines or [""]


def _homely(text: str) -> str:
    """Make a text safe to show, with `~` for the home directory at the start of words: it can still be pasted."""
    home = os.environ.get("HOME", "").rstrip("/")
    shown = one_line(text)
    return re.sub(rf"(?<!\S){re.escape(home)}/", "~/", shown) if home else shown


def _print_verdict(checks: tuple[Check, ...], exit_code: int) -> None:
    if exit_code:
        blocking = ", ".join(check.name for check in checks if check.exit_code)
        text, colour = f"csa cannot run anything yet; fix: {blocking}.", "red"
    else:
        warnings = sum(check.status != "ok" for check in checks)
        text, colour = f"Ready, with {count_of(warnings, 'warning')}." if warnings else "Ready.", "green"
    style = Style(sys.stdout)
    print()
    for line in _wrap_lines(text, terminal_width(sys.stdout), 0):
        print(style(line, colour))
