"""Sessions of other hosts: turns are begun there, and what changes but a record is done by csa there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from csa.errors import CsaError, MirroredError, NotFoundError
from csa.runner.client import Csa
from csa.runner.hosts.acting import do_there
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.starting import PARTS, start_watched, take_up
from csa.runner.hosts.syncing import Sync
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.changes import Changes
from csa.runner.sessions.fetched import read_fetched
from csa.serve.requests import Asked
from csa.serve.served import ELSEWHERE, Served
from csa.store.mirrors import find_mirrors


def list_hosts(served: Served, _: Asked) -> Any:
    """Answer with the hosts that are configured or have a mirror; none if only some projects are served."""
    if not served.fleet.is_served(ELSEWHERE):
        return []
    config = served.client().context.config
    mirrors = {each.host: each for each in find_mirrors(served.root)}
    return [
        {
            "host": name,
            "kind": config.engine(name).kind,
            "heard_at": mirrors[name].heard_time() if name in mirrors else None,
        }
        for name in sorted({*config.engines, *mirrors})
    ]


def start_elsewhere(
    served: Served, client: Csa, request: RunRequest, on: str | None, *, wait_s: float | None
) -> dict[str, Any]:
    """Start a turn on another host, which is watched from here until its end."""
    served.refuse_others(ELSEWHERE)
    goes_on = request.session is not None  # else a request that comes again would be a turn more
    begun = start_watched(client.context, request, on, served.keeping, wait_s=wait_s, parts=PARTS, goes_on=goes_on)
    return begun.to_json()


def take_up_elsewhere(served: Served) -> None:
    """Watch what was placed on other hosts, and that nobody watches, as after a server that was killed."""
    if not served.fleet.is_served(ELSEWHERE):
        return
    try:
        take_up(served.client().context, served.keeping, lambda directory: served.client(directory).context)
    except (CsaError, OSError) as error:
        logging.getLogger(__name__).warning("what runs on other hosts is not watched: %s", error)


def edit_there(served: Served, session: Session, body: Mapping[str, Any]) -> None:
    """Make the changes to a record that a body asks for."""
    for command, *words in _edits(body):
        do_elsewhere(served, session, command, *words)


def _edits(body: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the commands that make them."""
    if "description" in body:  # first: it may have words that do not travel, and then nothing is changed
        yield ["describe", "--", body["description"]]
    if "name" in body:
        yield ["rename", "--clear"] if body["name"] is None else ["rename", "--", body["name"]]
    if "pinned" in body:
        yield ["pin"] if body["pinned"] else ["pin", "--off"]


def do_elsewhere(served: Served, session: Session, command: str, *words: str) -> Any:
    """Have csa on a session's host do what changes nothing but its record; bring its mirror up to date."""
    host = str(session.store.host)
    if session.context.caller is not None:  # there it would be nobody's child
        raise MirroredError(host, session.session_id)
    engine = session.context.config.engine(host)
    said = do_there(engine, session.session_id, [command, "--json", "--session", session.session_id, *words])
    with suppress(CsaError):  # it is shown when its host is heard of again
        Sync(served.root, engine).once()
    return said


def fetch_before_landing(served: Served, asked: Asked, session: Session, into: str) -> None:
    """Have the work of a session here, if its host can be reached: else what is here is landed."""
    host = str(session.store.host)
    context = served.client(into, asked).context
    with suppress(CsaError, OSError):
        fetch_work(context, context.config.engine(host), session.session_id, host)


def read_elsewhere(served: Served, session: Session, turn: int | None) -> Changes:
    """Return what a session of another host has changed, as its work is in the repository of a project that is served.

    NotFoundError if it is in none of them.
    """
    absent = NotFoundError(f"The work of session {session.session_id} is on {session.store.host}.")
    for store in served.places():
        try:
            return read_fetched(session, store.project_pathname, turn=turn, form="patch", width=0)
        except NotFoundError as error:
            absent = error
    raise absent
