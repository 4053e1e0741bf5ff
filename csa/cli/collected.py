"""What `csa session clean` and `csa gc` have in common: their options, and how they tell what went."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

from csa.cli.output import can_redraw, cut_behind, is_in_background, lossy, one_line, print_json, terminal_width, warn
from csa.errors import UsageError
from csa.model.collection import Rule
from csa.model.duration import parse_duration
from csa.runner.doctor.store_checks import size_words
from csa.runner.sessions.collecting import Item, Report
from csa.runner.setting import Setting
from csa.store.sessions import format_age

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_PROGRESS_S = 0.2


def days(text: str) -> int:
    """Read the value of --days."""
    if not (text.isascii() and text.isdecimal()):
        from argparse import ArgumentTypeError  # noqa: PLC0415  # then argparse is loaded anyway

        raise ArgumentTypeError(f"'{text}' is not a whole number from 0 up")
    return int(text)


def read_rule(arguments: argparse.Namespace, setting: Setting) -> Rule:
    """Make the rule of the options, as far as the command has them."""
    asked = getattr(arguments, "older_than", None)
    older_than = parse_duration(asked) if asked is not None else None
    if asked is not None and older_than is None:
        raise UsageError(f"--older-than takes a time such as 7d, 12h or 30m, not '{asked}'.")
    tools = getattr(arguments, "tool", None)
    names = frozenset(name.strip() for name in tools.split(",") if name.strip()) if tools is not None else frozenset()
    if tools is not None and not names:
        raise UsageError("--tool names no tool.")
    return Rule(
        days=arguments.days,
        older_than=older_than,
        tools=names,
        damaged=getattr(arguments, "damaged", False),
        purge=getattr(arguments, "purge", False),
        undo_days=setting.config.undo_days,
    )


class Counter:
    """Counts on stderr while it takes long, where that is a terminal."""

    def __init__(self) -> None:
        self._is_terminal = can_redraw(sys.stderr)
        self._is_shown = False
        self._count = 0
        self._next = time.monotonic() + _PROGRESS_S

    def __call__(self, _item: Item) -> None:
        """Count one more."""
        self._count += 1
        if self._is_terminal and time.monotonic() >= self._next and not is_in_background(sys.stderr):
            self._is_shown = True
            self._next = time.monotonic() + _PROGRESS_S
            self._write(f"\r{self._count} collected ...")

    def end(self) -> None:
        """Take the count away again."""
        if self._is_shown:
            self._write("\r\033[K")

    @staticmethod
    def _write(text: str) -> None:
        with lossy(sys.stderr):
            sys.stderr.write(text)
            sys.stderr.flush()


def print_items(report: Report, *, dry_run: bool, with_project: bool = False) -> None:
    """Print a line for each thing that went, or would go."""
    width, now = terminal_width(sys.stdout), datetime.now(UTC)
    tool_width = max((len(_tools(item)) for item in (*report.retired, *report.purged)), default=0)
    for verb, items in (("retire", report.retired), ("purge", report.purged)):
        word = f"would {verb}" if dry_run else f"{verb}d"
        for item in items:
            about = _describe(item, now, tool_width, with_project=with_project)
            print(cut_behind(f"{word}  {item.session_id}", about, width))


def _describe(item: Item, now: datetime, tool_width: int, *, with_project: bool) -> str:
    state = item.state
    age = format_age(now, state.last_accessed) if state else "-"
    about = (f"[{state.name}] " if state.name else "") + state.description if state else ""
    place = f"  {one_line(str(item.store.project))}" if with_project else ""
    return f"  {item.reason:<9} {age:>4}  {_tools(item):<{tool_width}}{place}  {one_line(about)}".rstrip()


def _tools(item: Item) -> str:
    return one_line(",".join(item.state.tools)) or "-" if item.state else "-"


def summary(report: Report, *, dry_run: bool) -> str:
    """Say in one line how much went; empty when nothing did."""
    size = "" if report.is_size_whole else "more than "
    parts = []
    if report.retired:
        verb = "would retire" if dry_run else "retired"
        parts.append(f"{verb} {_sessions(report.retired)} ({size}{size_words(report.retired_bytes)})")
    if report.purged:
        verb = "would purge" if dry_run else "purged"
        parts.append(f"{verb} {_sessions(report.purged)} ({size}{size_words(report.freed_bytes)} freed)")
    return "; ".join(parts)


def _sessions(items: list[Item]) -> str:
    """Count sessions, and what is none."""
    counts: dict[str, int] = {}
    for item in items:
        name = {"remains": "remains", "runtime": "runtime"}.get(item.reason, "session")
        counts[name] = counts.get(name, 0) + 1
    words = {
        "session": ("session", "sessions"),
        "remains": ("remains of a start or removal", "remains of starts or removals"),
        "runtime": ("runtime directory", "runtime directories"),
    }
    return ", ".join(f"{count} {words[name][count != 1]}" for name, count in counts.items())


def warn_of_rest(report: Report, *, damaged: bool) -> None:
    """Say what was left though it would be time, and what failed."""
    shown = report.damaged if damaged else []
    warn(f"damaged, left as it is: {fault.message}" for _, fault in shown)
    warn(report.failures)
    if shown:
        with lossy(sys.stderr):
            print("hint: csa session validate says more; --damaged removes old ones", file=sys.stderr)


def print_report(report: Report, *, dry_run: bool, more: dict[str, Any] | None = None) -> None:
    """Print everything as one object."""
    print_json(
        {
            "dry_run": dry_run,
            "retired": [item.to_json() for item in report.retired],
            "purged": [item.to_json() for item in report.purged],
            "damaged": [{"id": session_id, "error": str(fault)} for session_id, fault in report.damaged],
            "running": report.running,
            "retired_bytes": report.retired_bytes,
            "freed_bytes": report.freed_bytes,
            "failures": report.failures,
            **(more or {}),
        }
    )
