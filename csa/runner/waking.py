"""Continuing detached turns that were parked for a quota and whose supervisor has died since, as in a reboot."""

from __future__ import annotations

import time
from collections.abc import Mapping

from csa.errors import BusyError, CsaError, NotFoundError
from csa.runner.detach import restart
from csa.runner.environment import outer_sandbox
from csa.store.parked import claim_due, save_parked
from csa.store.sessions import Store


def wake_parked(store: Store, environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Start the turns that are due in a project, detached; return the ids of their sessions, and what went wrong.

    A turn that cannot be started now is kept, and tried again the next time.
    """
    woken: list[str] = []
    problems: list[str] = []
    if outer_sandbox():  # whose end would end the supervisor
        return woken, problems
    now = time.time()
    for session_id, order in claim_due(store, now):
        try:
            restart(order, environ, store, session_id)
            woken.append(session_id)
        except (BusyError, NotFoundError):  # somebody has already continued it, or it is gone
            continue
        except CsaError as error:
            save_parked(store, session_id, order, until=now)
            problems.append(f"session {session_id}, parked for a quota, cannot continue: {error.message}")
    return woken, problems
