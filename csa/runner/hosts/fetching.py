"""Having the work of a session on another host here, and noting that it is: then the session may be deleted there."""

from __future__ import annotations

from csa.model.config import Engine
from csa.runner.context import Context
from csa.runner.hosts.code import Brought, bring_back
from csa.runner.hosts.escrow import fetched
from csa.store.gitwork import order_of
from csa.store.placements import list_placements


def fetch_work(context: Context, engine: Engine, session_id: str, host: str) -> Brought:
    """Do so; raises as `bring_back`. `host` is what the session's host is called, however it is reached."""
    root = context.store.root
    brought = bring_back(context, engine, session_id)
    last = max((order[0] for each in brought.refs if (order := order_of(each.ref))), default=0)
    for placement in list_placements(root):
        is_its = placement.session_id == session_id and placement.host == host
        if is_its and (placement.is_settled or (placement.turn and placement.turn <= last)):
            fetched(root, placement.id)
    return brought
