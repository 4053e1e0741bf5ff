"""Continuing what nobody looks after any more, as after a reboot: turns parked for a quota, and queued prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping

from csa.errors import BusyError, CsaError, NotFoundError
from csa.runner.context import REPLAY, Context
from csa.runner.detach import restart, start_queue
from csa.runner.environment import outer_sandbox
from csa.store.liveness import probe
from csa.store.parked import claim_due, save_parked
from csa.store.queue import count_queued
from csa.store.sessions import Store


def wake_parked(store: Store, environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Start the turns that are due in a project, detached; return the ids of their sessions, and what went wrong.

    A turn that cannot be started now is kept, and tried again the next time.
    """
    woken: list[str] = []
    problems: list[str] = []
    if outer_sandbox() or environ.get(REPLAY):  # whose end would end the supervisor; they need the tools themselves
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


def wake_queues(context: Context, store: Store) -> tuple[list[str], list[str]]:
    """Go on with the queues of a project that are not held and that no process goes on with.

    Return the ids of their sessions, and what went wrong: the next prompt then waits, or its queue is held.
    """
    woken: list[str] = []
    problems: list[str] = []
    place = context.in_project(store.project_pathname)
    for session_id in () if outer_sandbox() or context.replay else store.ids():
        paths = store.paths(session_id)
        if not count_queued(paths):
            continue
        try:
            if probe(paths).state == "not_alive" and start_queue(place, session_id, resumes=False, holds=True):
                woken.append(session_id)
        except BusyError:  # somebody was faster
            continue
        except CsaError as error:
            problems.append(f"the queue of session {session_id} cannot go on: {error.message}")
    return woken, problems
