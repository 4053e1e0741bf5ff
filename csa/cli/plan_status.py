"""`csa plan status`: what has become of each task of a plan."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from csa.cli.output import Style, can_redraw, print_json, terminal_width, warn
from csa.cli.selecting import open_client
from csa.errors import CsaError, UsageError
from csa.model.text import shortened

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.cli.views.fullscreen import Step
    from csa.cli.views.live import Line
    from csa.runner.client import Csa
    from csa.runner.plans.status import PlanStatus

PLAN_HELP = "the plan: its file, its name, or its session (default: the plan that was run last)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", metavar="PLAN", help=PLAN_HELP)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--watch", action="store_true", help="show it live; needs a terminal")
    kinds.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    """Show what has become of each task of a plan, what it has changed and cost, and which would conflict now.

    LINES are those added and removed, committed or not. TOKENS, COST and TIME are those of all sessions of a task and
    everything below them. Tasks whose work is not merged yet are merged with each other, and with what is merged, on
    the side: below the table is what would conflict. Nothing is written to the repository.

    With --watch it fills the screen and is refreshed; q quits.
    """
    client = open_client()
    if arguments.watch:
        if not can_redraw(sys.stdout):
            raise UsageError("--watch needs a terminal.", hint="csa plan status")
        return _watch(client, arguments.plan)
    status = _look(client, arguments.plan)
    warn(status.notes)
    if arguments.json:
        print_json(status.to_json())
        return 0
    from csa.cli.views.plan_table import lines_of  # noqa: PLC0415  # JSON needs none of it

    style = Style(sys.stdout)
    for line in lines_of(status, terminal_width(sys.stdout)):
        print("".join(style(text, look) for text, look in line).rstrip())
    return 0


def _look(client: Csa, which: str | None) -> PlanStatus:
    from csa.cli.plan_finding import find_plan  # noqa: PLC0415  # completion and help need none of it
    from csa.runner.plans.status import read_status  # noqa: PLC0415  # as above

    return read_status(client.context, find_plan(client, which))


def _watch(client: Csa, which: str | None) -> int:
    from csa.cli.views.fullscreen import show  # noqa: PLC0415  # imports prompt_toolkit

    return show(_Watched(client, which))


class _Watched:
    """The status of a plan on the whole screen."""

    def __init__(self, client: Csa, which: str | None) -> None:
        self._client, self._which = client, which
        self._status: PlanStatus | None = None
        self._problem = ""

    def look(self) -> None:
        """Look again; while somebody is just writing the file, what it was before stays."""
        try:
            self._status, self._problem = _look(self._client, self._which), ""
        except CsaError as error:
            if self._status is None:
                raise
            self._problem = error.message

    def lines(self, width: int, height: int) -> Sequence[Line | str]:
        """Return what fits: the sum stays at the bottom."""
        from csa.cli.views.plan_table import lines_of  # noqa: PLC0415  # imported by the caller

        assert self._status is not None  # `look` comes first
        lines = lines_of(self._status, width)
        room = max(1, height - 2)
        shown = lines if len(lines) <= room else [*lines[: room - 2], [("...", "dim")], lines[-1]]
        last: Line = [(shortened(self._problem, width), "red")] if self._problem else [("q quit", "dim")]
        return [*shown, *([[]] * (room - len(shown))), [], last][:height]

    def press(self, key: str, _text: str) -> Step | None:
        """Leave with q."""
        from csa.cli.views.fullscreen import BACK  # noqa: PLC0415  # imported by the caller

        return BACK if key in {"q", "escape"} else None
