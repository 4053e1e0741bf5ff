"""Show what a session and its sub-agents have used, and what is left of their budgets; or set a budget.

A budget is set here or with csa run --budget-tokens, --budget-usd and --budget-time. It applies to the session and
everything below it: when it is used up, their running turns are ended, and no new one starts. A running session is
refused (exit 4), and so is an agent (exit 5): budgets are set from outside any session.

What a session has taken along to another host is reserved, and counts as used, until the host has said what was used of
it (csa hosts --placed).

A + means at least this much: turns whose tool did not report its usage count as nothing, and their number is shown. -
means that nothing is known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from csa.cli.output import Style, cut, one_line, print_json, terminal_width, warn
from csa.cli.selecting import add_selector, find_one, find_to_show
from csa.cli.views.naming import as_read
from csa.cli.views.table import Column, Table, columns_for
from csa.model.limits import Spent
from csa.model.wording import elapsed
from csa.runner.sessions.budget import BudgetReport, BudgetState, report_budget
from csa.store.spending import Account

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.runner.session import Session
    from csa.runner.turns.grants import AskedBudget

_NAME_WIDTH = 10  # on a terminal, at least
_ROOMY_FROM, _MONEY_FROM = 70, 54  # columns
_TEXT_WIDTH = 10  # at least
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens": ("tokens", lambda count: f"{int(count):,}"),
    "usd": ("cost", lambda amount: f"${amount:,.2f}"),
    "time_s": ("time", elapsed),
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    setting = parser.add_argument_group("set a budget; 0 is none, what is not given stays")
    setting.add_argument("--tokens", type=int, metavar="N", help="input and output tokens")
    setting.add_argument("--usd", "--cost", type=float, metavar="X", help="US dollars, as far as the tools report cost")
    setting.add_argument("--time", type=float, metavar="S", help="total seconds of all turns")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    asked = arguments.tokens, arguments.usd, arguments.time
    report = report_budget(find_to_show(arguments) if asked == (None,) * 3 else _set_budget(arguments, asked))
    if arguments.json:
        print_json(report.to_json())
        return 0
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    is_narrow = width is not None and width < _ROOMY_FROM
    _print_budget(report.own, style, is_narrow=is_narrow)
    for state in report.above:
        print()
        _print_budget(state, style, is_narrow=is_narrow, above=True)
    print()
    _print_sessions(report, style, width)
    return 0


def _set_budget(arguments: argparse.Namespace, asked: AskedBudget) -> Session:
    from csa.runner.sessions.editing import budget_session  # noqa: PLC0415  # 40 ms, which showing a budget need not wait for

    session = find_one(arguments, acts=True)
    warn(budget_session(session, asked).losses)
    return session


def _print_budget(state: BudgetState, style: Style, *, is_narrow: bool, above: bool = False) -> None:
    room, then = (11, "\n") if is_narrow else (14, " ")
    whose = f"above it,{then}session" if above else "session"
    print(
        f"{whose} {style(as_read(state.session_id, sys.stdout), 'bold')}{then}and all below it:{then}{_in_words(state)}"
    )
    has_reserved = state.reserved != Spent() and not is_narrow
    reserved_head = f"{'RESERVED':>{room}}" if has_reserved else ""
    print(style(f"{'':<7}{'USED':>{room}}{reserved_head}{'BUDGET':>{room}}{'LEFT':>{room}}", "dim"))
    for amount, (name, render) in _SHOWN.items():
        limit, left = getattr(state.budget, amount), state.left(amount)
        shown = "-" if left is None else render(left)
        used = _known(state.used, amount, render)
        held = getattr(state.reserved, amount)
        reserved = f"{render(held) if held else '-':>{room}}" if has_reserved else ""
        line = f"{name:<7}{used:>{room}}{reserved}{render(limit) if limit else '-':>{room}}"
        unknown = _unknown(state, amount)
        behind = f"{then} {unknown}" if unknown else ""
        print(f"{line}{style(f'{shown:>{room}}', 'red' if left == 0 else '')}{behind}".rstrip())


def _in_words(state: BudgetState) -> str:
    """Render the usage of the amounts that have a limit."""
    parts = []
    for amount, (_, render) in _SHOWN.items():
        if limit := getattr(state.budget, amount):
            unit = " tokens" if amount == "tokens" else ""
            used = _known(state.used, amount, render)
            held = getattr(state.reserved, amount)
            more = f" and {render(held)} reserved" if held else ""
            parts.append(f"{'?' if used == '-' else used}{more} of {render(limit)}{unit}")
    return ", ".join(parts) or "no budget"


def _unknown(state: BudgetState, amount: str) -> str:
    count = _count_unknown(state.used, amount)
    return f"and {count} {'turn' if count == 1 else 'turns'} unknown" if count else ""


def _count_unknown(spent: Spent, amount: str) -> int:
    return {"tokens": spent.usage.turns_unmeasured, "usd": spent.usage.turns_unpriced}.get(amount, 0)


def _known(spent: Spent, amount: str, render: Callable[[float], str]) -> str:
    """Render what is known: + means at least this much, - nothing."""
    value: float | None = getattr(spent, amount)
    unknown = _count_unknown(spent, amount)
    return "-" if value is None or (unknown and not value) else render(value) + ("+" if unknown else "")


def _print_sessions(report: BudgetReport, style: Style, width: int | None) -> None:
    def name(account: Account) -> str:
        return cut(as_read(account.member.session_id, sys.stdout), width and max(_NAME_WIDTH, width // 4))

    columns = (
        Column("SESSION", name),
        Column("STATE", _state_of, 8),
        Column("TOKENS", _amount("tokens"), 10, gap=0, is_number=True),
        Column("COST", _amount("usd"), 10, gap=0, since=_MONEY_FROM, is_number=True),
        Column("TIME", _amount("time_s"), 8, is_number=True),
    )
    table = Table(columns_for(width, columns), report.accounts)
    room = None if width is None else width - table.width if width - table.width >= _TEXT_WIDTH else 0
    print(style(f"{table.head()}{cut('DESCRIPTION', room)}".rstrip(), "dim"))
    for account in report.accounts:
        text = one_line(account.state.description) if account.state else ""
        if account.member.host:
            text = f"on {account.member.host}" + (f": {text}" if text else "")
        print(f"{table.line(account)}{cut(text, room)}".rstrip())


def _amount(name: str) -> Callable[[Account], str]:
    _, render = _SHOWN[name]
    return lambda account: _known(account.spent, name, render) if account.is_known else "?"


def _state_of(account: Account) -> str:
    if account.is_reserved:
        return "reserved"
    if account.state is None:
        return "settled" if account.member.host else "deleted"
    if account.is_running:
        return "running"
    return "finished" if account.state.turns or account.state.schema is None else "never ran"
