"""Which plan is meant: a file, the name of a plan, its session, or the plan that was run last."""

from __future__ import annotations

import os
from contextlib import suppress

from csa.errors import ConfigError, NotFoundError, UsageError
from csa.model.plan import plan_session_name
from csa.runner.client import Csa
from csa.runner.plans.reading import ReadPlan, plan_of_text, read_plan
from csa.runner.plans.requests import file_of, last_plan_started, session_of_plan
from csa.runner.plans.words import parse_words
from csa.runner.session import Session
from csa.store.sessions import may_hold, read_state_text

_PREFIX = plan_session_name("")


def find_plan(client: Csa, which: str | None) -> ReadPlan:
    """Return the plan that is meant, as its file says now; without a file, as it was run last.

    Raises:
        NotFoundError: there is no such file and no such session, or no plan was run yet.
        UsageError: the session is no plan's.
        ConfigError: the file is no plan.
    """
    if which is None:
        return plan_of_session(_last_plan(client))
    if os.path.isfile(os.path.join(client.context.directory_pathname, which)):
        return _as_it_ran(client, read_plan(which, directory=client.context.directory_pathname))
    if which.endswith(".toml"):
        raise NotFoundError(f"There is no file {which}.", hint="csa plan status shows the plan that was run last")
    return plan_of_session(_named(client, which))


def _named(client: Csa, which: str) -> Session:
    """Return the session that the name of a plan stands for, or that of a session."""
    name = plan_session_name(which)
    return client.session(name if client.store.find_name(name) else which)


def plan_of_session(session: Session) -> ReadPlan:
    """Return the plan of a session: as its file says now, else as it was run. UsageError if it is no plan's."""
    started = last_plan_started(session)
    flags = started.data.get("flags") if started else None
    if started is None or not isinstance(flags, list) or "--stem" not in flags:
        raise _no_plan(session)
    words = parse_words([str(word) for word in flags])
    if words.file:
        with suppress(NotFoundError, ConfigError):  # it is gone, a list, or somebody is just writing it
            return read_plan(words.file, directory="/", name=words.stem, instead=words.instead)
    return plan_of_text(
        str(started.data.get("prompt") or ""),
        place=words.file or words.stem,
        file=words.file,
        base=words.base,
        stem=words.stem,
        instead=words.instead,
    )


def _no_plan(session: Session) -> UsageError:
    return UsageError(f"Session {session.session_id} is not a plan's.", hint="csa ls --tool plan")


def _as_it_ran(client: Csa, read: ReadPlan) -> ReadPlan:
    """Return the plan of a file with the name that it was run with; UsageError if only another file's has its own."""
    try:
        if session_of_plan(client.context, read):
            return read
    except UsageError:
        if not (found := _plan_of_file(client, read.file)):
            raise
    else:
        found = _plan_of_file(client, read.file)
    return plan_of_session(found) if found else read


def _plan_of_file(client: Csa, file: str) -> Session | None:
    return next((session for session in _plans(client) if file_of(session) == file), None)


def _last_plan(client: Csa) -> Session:
    """Return the plan's session that was used last."""
    if found := next(iter(_plans(client)), None):
        return found
    raise NotFoundError("No plan was run in this project.", hint="csa plan run FILE; docs/plans.md has an example")


def _plans(client: Csa) -> list[Session]:
    """Return the sessions of plans, those that were used last first."""
    store, mark = client.store, f'"{_PREFIX}'.encode()
    found = [
        state
        for session_id in store.ids()
        if may_hold(read_state_text(store.paths(session_id).pathname), mark)
        and (state := store.record(session_id).state)
        and (state.name or "").startswith(_PREFIX)
        and "plan" in state.tools
    ]
    newest = sorted(found, key=lambda state: state.last_accessed, reverse=True)
    return [client.session(state.session_id) for state in newest]


def find_plan_session(client: Csa, which: str) -> Session:
    """Return the session of a plan, by name whatever its file says now. NotFoundError if it never ran; else as
    `find_plan`.
    """
    if not which.endswith(".toml") and not os.path.isfile(os.path.join(client.context.directory_pathname, which)):
        named = _named(client, which)
        if "plan" not in named.load().tools:
            raise _no_plan(named)
        return named
    if session := session_of_plan(client.context, find_plan(client, which)):
        return session
    raise NotFoundError(f"The plan {which} never ran in this project.", hint=f"csa plan run {which}")
