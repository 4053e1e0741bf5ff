"""`csa hosts --placed` and `--release`: what this host has asked others to run, and what of its budgets they hold."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from csa.cli.output import Style, print_json, tell, terminal_width
from csa.cli.views.naming import as_read
from csa.cli.views.table import Column, Table, columns_for
from csa.errors import BusyError
from csa.model.limits import Budget, Spent
from csa.model.placement import Placement
from csa.model.state import parse_time
from csa.model.wording import elapsed, money, tokens
from csa.runner.client import Csa
from csa.runner.hosts.escrow import release
from csa.runner.hosts.fencing import find_order, is_fenced
from csa.runner.hosts.syncing import Sync
from csa.store.liveness import HEARTBEAT_FRESH_S
from csa.store.mirrors import mirror_for
from csa.store.placements import list_placements
from csa.structs import asdict

_ROOMY_FROM = 90  # columns


def print_placed(client: Csa, hosts: list[str], *, json: bool) -> int:
    """List the placements, of all hosts or those that are named."""
    placed = [each for each in list_placements(client.store.root_pathname) if not hosts or each.host in hosts]
    if json:
        print_json([_to_json(each) for each in placed])
    elif placed:
        _print(placed)
    else:
        print("Nothing is placed on other hosts")
    return 0


def release_placed(client: Csa, selector: str, *, force: bool, json: bool) -> int:
    """Give one back."""
    root = client.store.root

    def ask(placement: Placement) -> bool:
        tell("csa", f"asking {placement.host}")
        placement, engine = find_order(root, client.context.config, placement)
        if engine is None:
            return True
        refused = is_fenced(engine, placement.id)
        try:
            Sync(client.store.root_pathname, engine).once()
        except BusyError:
            if mirror_for(client.store.root_pathname, engine.name).heard_s() > HEARTBEAT_FRESH_S:
                raise  # otherwise another process keeps it up to date
        return refused

    given = release(root, selector, ask, force=force)
    if json:
        print_json(_to_json(given))
    else:
        spent = _spent_in_words(given.spent) if given.spent else "nothing"
        print(f"{given.session_id}: given back; used on {given.host}: {spent}")
    return 0


def _to_json(placement: Placement) -> dict[str, Any]:
    """Return the object of `hosts --placed --json`."""
    held = {name: amount or None for name, amount in asdict(placement.held).items()}
    return {
        "id": placement.id,
        "session_id": placement.session_id,
        "mirror": placement.host,
        "state": placement.state,
        "parent_session_id": placement.parent,
        "project": placement.project,
        "held": held,
        "used": placement.spent and placement.spent.to_dict(),
        "at": placement.at,
        "awaits_code": placement.awaits_code,
    }


def _print(placed: list[Placement]) -> None:
    width = terminal_width(sys.stdout)
    columns = (
        Column("SESSION", lambda each: as_read(each.session_id, sys.stdout)),
        Column("HOST", lambda each: each.host),
        Column("STATE", lambda each: each.state),
        Column("HELD", lambda each: "-" if each.is_settled else _held_in_words(each.held)),
        Column("FOR", _age, is_number=True),
        Column("PARENT", lambda each: as_read(each.parent or "-", sys.stdout), since=_ROOMY_FROM),
    )
    table = Table(columns_for(width, columns), placed)
    print(Style(sys.stdout)(table.head().rstrip(), "dim"))
    for each in placed:
        print(table.line(each).rstrip())


def _age(placement: Placement) -> str:
    at = parse_time(placement.at)
    return elapsed((datetime.now(UTC) - at).total_seconds()) if at else "-"


def _held_in_words(held: Budget) -> str:
    return _spent_in_words(held.as_spent()) if held else "-"


def _spent_in_words(spent: Spent) -> str:
    parts = [f"{tokens(spent.tokens)} tokens"] if spent.tokens else []
    parts += [money(spent.usd)] if spent.usd else []
    parts += [elapsed(spent.time_s)] if spent.time_s else []
    return ", ".join(parts) or "nothing"
