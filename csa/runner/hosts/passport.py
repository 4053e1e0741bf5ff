"""The passport: what another host must know of the session whose agent places one there.

There it becomes the caller of the plan, so that depth, permission and limits bind as for any child. What it may spend
does not travel with it: that is the allowance, which becomes the new session's own budget (`escrow.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.errors import RefusedError
from csa.ids import is_session_id
from csa.model.config import Engine
from csa.model.configkeys import SHARED
from csa.model.limits import Limits, is_count
from csa.model.permission import Permission
from csa.model.recordkeys import RecordFault
from csa.model.state import SessionState, ToolState, parse_limits
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.turns.worktree import refuse_foreign
from csa.store.genealogy import ancestors
from csa.store.project import git_top
from csa.store.sessions import Store
from csa.store.trees import read_members
from csa.store.worktrees import link_of
from csa.structs import replace


def passport_of(context: Context, session_id: str | None = None) -> dict[str, Any] | None:
    """Return what another host must know of the caller, as JSON values; None outside any session.

    `session_id` is the session that goes there, if it is one of the tree already. Limits are as they are now, those of
    the tree and of children: how many turns a host runs at once is its own affair. Of `max_tree_sessions` it is what is
    left, as each host counts its own sessions. StateError if a record of the tree is damaged.
    """
    caller = context.caller
    if caller is None:
        return None
    state = caller.state
    return {
        "session_id": state.session_id,
        "project": state.project_path,
        "host": os.uname().nodename,
        "root_session_id": state.root_session_id or state.session_id,
        "depth": state.depth,
        "max_depth": context.config.max_depth if state.max_depth is None else state.max_depth,
        "permission": caller.permission.value,
        "limits": _limits(context, caller, session_id).to_record(),
        "ask": state.ask,
        "owner": state.owner,
        "tool": state.last_tool,
        "lineage": list(caller.lineage()),
    }


def caller_of(passport: Mapping[str, Any], root: Path) -> Caller:
    """Return the caller that a passport speaks of, whose record is on another host; RefusedError if it is damaged.

    `root` is the state root here.
    """
    try:
        state, above = _read(passport), [_as_id(each) for each in passport["lineage"]]
        host = _as_text(passport["host"])
    except (RecordFault, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(
            f"The passport of a session that another host sends here is damaged: {error}.",
            hint="install the same version of csa on both hosts",
        ) from error
    paths = Store(root, state.project_path).paths(state.session_id)
    top, link = passport.get("repository"), passport.get("link")
    known = (top, link if isinstance(link, str) else None) if isinstance(top, str) else None
    return Caller(state, paths, root, host=host, above=tuple(above), repository=known)


def with_repository(passport: Mapping[str, Any] | None, context: Context, engine: Engine) -> Mapping[str, Any] | None:
    """Return a passport that says which repository its session may use there: that of here, if the files are shared.

    The records that show whose it is are here. Its agent may change it before the order is carried out, so that the
    other host looks whether its link to git's directory is still the one that was seen here.
    """
    if passport is None or engine.code != SHARED or not (top := git_top(os.path.realpath(context.directory_pathname))):
        return passport
    link = link_of(top)
    try:
        refuse_foreign(context, top)
    except RefusedError:  # as the other host says, if git is to do anything
        return passport
    return {**passport, "repository": top, "link": link}


def _read(passport: Mapping[str, Any]) -> SessionState:
    session_id, top = _as_id(passport["session_id"]), _as_id(passport["root_session_id"])
    tool, ask, now = passport["tool"], passport["ask"], datetime.now(UTC)
    return SessionState(
        session_id=session_id,
        project_path=_as_text(passport["project"]),
        created_at=now,
        last_accessed=now,
        owner=None if passport["owner"] is None else _as_text(passport["owner"]),
        permission=Permission(passport["permission"]).value,
        ask=ask if isinstance(ask, bool) else None,
        root_session_id=None if top == session_id else top,
        depth=_as_depth(passport["depth"]),
        max_depth=_as_depth(passport["max_depth"]),
        limits=parse_limits(passport["limits"]),
        tools={} if tool is None else {_as_text(tool): ToolState()},
    )


def _as_id(value: object) -> str:
    if not isinstance(value, str) or not is_session_id(value):
        raise ValueError(f"{value!r} is no session")
    return value


def _as_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _as_depth(value: object) -> int:
    if not is_count(value):
        raise ValueError(f"{value!r} is no depth")
    assert isinstance(value, int)
    return value


def _limits(context: Context, caller: Caller, session_id: str | None) -> Limits:
    state = caller.state
    top = [state, *ancestors(caller.root, state)][-1]
    limits = context.config.limits.tightened_by(state.limits).tightened_by(top.limits.of_tree())
    limits = replace(limits, max_running=0, tools={})
    if not limits.max_tree_sessions:
        return limits
    there = [each for each in read_members(caller.root, top)[0] if each.is_there(caller.root)]
    others = sum(each.session_id != session_id for each in there)
    return replace(limits, max_tree_sessions=max(1, limits.max_tree_sessions - others))
