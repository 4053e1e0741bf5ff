"""Show what a session and all that its agents have started have used, and what is left of their budgets.

A budget is given with csa run --budget-tokens, --budget-usd and --budget-time, and binds the session and all below it:
no further turn of theirs starts when it is used up. Turns whose tool did not say what it used count as nothing; how
many there are is shown. Tokens of a running turn are known as soon as its tool says them, mostly at its end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from csa.cli.describe import elapsed
from csa.cli.output import Style, cut, one_line, print_json, terminal_width
from csa.cli.selecting import add_selector, open_client, selected
from csa.runner.sessions.budget import BudgetReport, BudgetState, report_budget
from csa.store.spending import Account

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_ID = 10  # characters, on a terminal
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens": ("tokens", lambda count: f"{int(count):,}"),
    "usd": ("money", lambda amount: f"${amount:,.2f}"),
    "time_s": ("time", elapsed),
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    report = report_budget(open_client(arguments).setting, selected(arguments))
    if arguments.json:
        print_json(report.to_json())
        return 0
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    _print_budget(report.own, style)
    for state in report.above:
        print()
        _print_budget(state, style, above=True)
    print()
    _print_sessions(report, style, width)
    return 0


def _print_budget(state: BudgetState, style: Style, *, above: bool = False) -> None:
    whose = "above it, session" if above else "session"
    print(f"{whose} {style(state.session_id, 'bold')} and all below it")
    print(style(f"{'':<7}{'USED':>14}{'BUDGET':>14}{'LEFT':>14}", "dim"))
    for amount, (name, render) in _SHOWN.items():
        limit, left = getattr(state.budget, amount), state.left(amount)
        shown = "-" if left is None else render(left)
        used = render(getattr(state.used, amount))
        line = f"{name:<7}{used:>14}{render(limit) if limit else '-':>14}"
        print(f"{line}{style(f'{shown:>14}', 'red' if left == 0 else '')}{_unknown(state, amount)}".rstrip())


def _unknown(state: BudgetState, amount: str) -> str:
    count = {"tokens": state.used.turns_unmeasured, "usd": state.used.turns_unpriced}.get(amount, 0)
    return f"  and {count} {'turn' if count == 1 else 'turns'} unknown" if count else ""


def _print_sessions(report: BudgetReport, style: Style, width: int | None) -> None:
    id_width = 26 if width is None else _ID
    print(style(f"{'SESSION':<{id_width}}  {'STATE':<8}{'TOKENS':>12}{'MONEY':>10}{'TIME':>8}  DESCRIPTION", "dim"))
    for account in report.accounts:
        spent = account.spent
        amounts = f"{spent.tokens:>12,}{_SHOWN['usd'][1](spent.usd):>10}{elapsed(spent.time_s):>8}"
        unknown = f"{'?':>12}{'?':>10}{'?':>8}"
        line = (
            f"{account.member.session_id[:id_width]}  {_state_of(account):<8}{amounts if account.is_known else unknown}"
        )
        text = one_line(account.state.description) if account.state else ""
        print(f"{line}  {cut(text, width and max(10, width - len(line) - 2))}".rstrip())


def _state_of(account: Account) -> str:
    return "gone" if account.state is None else "running" if account.is_running else "at rest"
