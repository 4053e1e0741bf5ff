"""Turns on other hosts, for MCP: the mirrors of those that were begun, or are waited for, are kept up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from csa.runner.attached import Placed, start_placed
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.hosts.starting import PARTS, budget_of, start_watched, take_up
from csa.runner.hosts.tether import Begun
from csa.runner.hosts.watching import SEEN_WITHIN_S, Keeping, has_ended
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.store.liveness import HEARTBEAT_FRESH_S
from csa.store.mirrors import Mirror

_LOOK_S = 0.05


class Elsewhere:
    """What goes on there; turns that are not detached end with this process."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._attached: list[Placed] = []

    def take_up(self, client: Csa, client_for: Callable[[str], Csa]) -> None:
        """Watch what was placed from this project, by who asks here, and is watched by nobody. Raises as `take_up`."""
        project, caller = client.store.project_pathname, client.caller
        parent = caller and caller.session_id
        take_up(
            client.context,
            self._keeping,
            lambda directory: client_for(directory).context,
            lambda each: (each.project, each.parent) == (project, parent),
        )

    def start(self, context: Context, request: RunRequest, on: str, *, is_detached: bool) -> str:
        """Start a turn on a host, or on one that a scheduler finds; return `HOST:ID`, which is in the mirror then.

        Raises as `start_placed`.
        """
        self._await_settled(request.session or "")
        if is_detached:
            return _when_seen(context, start_watched(context, request, on, self._keeping, parts=PARTS))
        allowance = budget_of(context, request)
        queue_s = context.config.engine(on.partition(":")[0]).queue_s
        placed = start_placed(context, request, host=on, allowance=allowance, parts=PARTS, queue_s=queue_s)
        self._attached = [*(each for each in self._attached if each.wait(0) is None), placed]
        return _when_seen(context, placed)

    def _await_settled(self, session: str) -> None:
        """Have the turn before settled, whose end was seen a moment ago."""
        for each in self._attached:
            if session.endswith(each.session_id):
                each.wait(SEEN_WITHIN_S)

    def watch(self, context: Context, session: Session) -> None:
        """Keep the mirror of a session's host up to date until it has ended; nothing is to be done for one of here."""
        if (host := session.store.host) and session.liveness().state != "not_alive":
            store, session_id = session.target
            is_over = partial(has_ended, store, session_id, 0)
            self._keeping.keep(context.config.engine(host), store.key(session_id), is_over)


def _when_seen(context: Context, begun: Begun | Placed) -> str:
    """Return what names a session when it is in the mirror of its host, which is fresh, or after a while."""
    store, session_id = begun.target(context.store.root_pathname)
    transcript, mirror = store.paths(session_id).transcript, Mirror(store.root_pathname)
    deadline = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < deadline:
        if transcript.exists() and mirror.heard_s() < HEARTBEAT_FRESH_S:  # else it would be taken for away
            break
        time.sleep(_LOOK_S)
    return f"{begun.host}:{begun.session_id}"
