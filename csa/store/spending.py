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
from csa.store.liveness import probe
from csa.store.statefile import load_state
from csa.store.trees import Member
from csa.store.turns import newest_of_turn
from csa.structs import Struct, replace


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
    events = newest_of_turn(transcript)
    if not events or events[0].type == "run_finished":
        return None, Spent()
    used = next((event for event in events if event.type == "usage"), None)  # the newest says the most
    usage = Usage.from_dict(used.data) if used else None
    began, end = parse_time(events[-1].ts), until or parse_time(events[0].ts)
    duration_s = max(0.0, (end - began).total_seconds()) if end and began else 0.0
    return usage, spent_by_turn(usage, round(duration_s, 3))


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
    liveness = probe(paths)
    is_running, owner = liveness.runs_turn, liveness.owner if liveness.runs_turn else None
    began = parse_time(owner.since) if owner else None
    now = datetime.now(UTC)
    _, so_far = unfinished_turn(paths.transcript, until=now if is_running else None)
    if began and so_far.time_s:  # a turn of very many events is not read to its beginning
        so_far = replace(so_far, time_s=max(so_far.time_s, (now - began).total_seconds()))
    return Account(member, state, state.spent + so_far, is_running)
