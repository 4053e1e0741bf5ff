"""What the sessions of a tree have spent: from their records, and for turns without an end what is known so far.

Unknown stays unknown: turns whose tool has not said what it used are counted, and never taken for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import StateError
from csa.model.limits import Spent, spent_by_turn
from csa.model.state import SessionState, parse_time
from csa.model.usage import Usage
from csa.store.lineage import find_record
from csa.store.locks import probe_lock
from csa.store.owner import parse_owner
from csa.store.statefile import load_state
from csa.store.transcript import read_events_backwards
from csa.store.trees import Member
from csa.structs import Struct, replace

_MAX_LOOK_BACK = 2000  # events of a turn that has not ended


class Account(Struct):
    """What one member has spent. `state` is None where only its spending, or nothing, is known."""

    member: Member
    state: SessionState | None
    spent: Spent
    is_running: bool = False
    is_known: bool = True


def accounts_of(root: Path, members: Iterable[Member], gone: Mapping[str, Spent]) -> list[Account]:
    """Return the account of each member; StateError when a record is damaged, so that nobody knows what it spent."""
    return [_account(root, member, gone.get(member.session_id)) for member in members]


def below(accounts: list[Account], session_id: str) -> list[Account]:
    """Return those of a session and of all that descend from it."""
    found = {session_id}
    pending = True
    while pending:
        more = {a.member.session_id for a in accounts if a.member.parent in found} - found
        found |= more
        pending = bool(more)
    return [account for account in accounts if account.member.session_id in found]


def total(accounts: Iterable[Account]) -> Spent:
    """Add accounts up."""
    return sum((account.spent for account in accounts), Spent())


def unfinished_turn(transcript: Path, *, until: datetime | None = None) -> tuple[Usage | None, Spent]:
    """Return what is known of the last turn, if it has no end (yet); nothing when it has one.

    It lasts until its last event, or until the moment given.
    """
    usage: Usage | None = None
    last: datetime | None = None
    for count, event in enumerate(read_events_backwards(transcript)):
        if event.type == "run_finished":
            break
        moment = parse_time(event.ts)
        last = last or moment
        if event.type == "usage" and usage is None:
            usage = Usage.from_dict(event.data)  # the newest says the most
        if event.type == "run_started" or count >= _MAX_LOOK_BACK:
            end = until or last
            duration_s = max(0.0, (end - moment).total_seconds()) if end and moment else 0.0
            return usage, spent_by_turn(usage, round(duration_s, 3))
    return None, Spent()


def _account(root: Path, member: Member, gone: Spent | None) -> Account:
    paths = member.paths(root) or find_record(root, member.project, member.session_id)
    try:
        state = load_state(paths.state) if paths else None
    except StateError:
        if paths and paths.root.exists():
            raise
        state = None  # it has gone in this moment
    if paths is None or state is None:
        return Account(member, None, gone or Spent(), is_known=gone is not None)
    is_running, content = probe_lock(paths.session_lock)
    owner = parse_owner(content) if is_running else None
    began = parse_time(owner.since) if owner else None
    now = datetime.now(UTC)
    _, so_far = unfinished_turn(paths.transcript, until=now if is_running else None)
    if began and so_far.time_s:  # a turn of very many events is not read to its beginning
        so_far = replace(so_far, time_s=max(so_far.time_s, (now - began).total_seconds()))
    return Account(member, state, state.spent + so_far, is_running)
