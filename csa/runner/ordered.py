"""Turns by order: the JSON that a detached supervisor gets, a parked turn leaves, and a queued prompt is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.errors import CsaError
from csa.runner.caller import Caller
from csa.runner.client import Csa
from csa.runner.detach import request_from_json
from csa.runner.turns.plan import TurnPlan
from csa.store.queue import Entry
from csa.structs import replace


def client_for(order: Mapping[str, Any], environ: Mapping[str, str], *, is_detached: bool = True) -> Csa:
    """Return the client that carries out an order, on behalf of who gave it and with no more rights than then."""
    client = Csa.from_environment(
        order["directory"],
        environ=callers_environment(order, environ),
        command=order["command"],
        owns_process=True,
        is_detached=is_detached,
    )
    if "placed" in order:  # by another host, where its caller is
        passport = order["placed"]["passport"]
        client.context.is_placed = True
        client.context = client.context.on_behalf_of(passport and _caller_of(passport, client))
    if "ceiling" in order:  # it was queued
        client.context = client.context.as_then(order["ceiling"])
    return client


def _caller_of(passport: Mapping[str, Any], client: Csa) -> Caller:
    from csa.runner.hosts.passport import caller_of  # noqa: PLC0415  # few orders come from other hosts

    return caller_of(passport, client.store.root)


def callers_environment(order: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the variables of the session whose agent gave the order, or none, in place of ours.

    Where an agent gave it, it has none that this one lacked: `env_drop` may have taken them from it.
    """
    known = order.get("variables")
    rest = {name: value for name, value in environ.items() if name not in order["caller"]}
    if known is not None:
        rest = {name: value for name, value in rest.items() if name in known}
    return {**rest, **{name: value for name, value in order["caller"].items() if value is not None}}


def plan_entry(entry: Entry, environ: Mapping[str, str], *, is_detached: bool = True) -> TurnPlan:
    """Plan the turn of a queued prompt; raises as `plan_turn`, and CsaError for one that this csa cannot read."""
    try:
        client = client_for(entry.order, environ, is_detached=is_detached)
        request = request_from_json(entry.order["request"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CsaError(f"Another version of csa has queued it: {error}.", hint="csa queue S --remove ID") from error
    return replace(client.plan(request), queued=entry.entry_id)
