"""What the sessions of a tree have spent: from their records, and for turns without an end what is known so far.

Unknown stays unknown: turns whose tool has not reported its usage are counted, and never treated as zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import StateError
from csa.model.genealogy import descend
from csa.model.limits import Spent
from csa.model.state import SessionState, parse_time
from csa.paths import SessionPaths
from csa.store.genealogy import find_record
from csa.store.liveness import probe
from csa.store.statefile import load_state
from csa.store.trees import Member
from csa.store.unfinished import Unfinished, read_unfinished
from csa.structs import Struct, replace


class Account(Struct):
    """What one member has spent. `state` is None if only its spending, or nothing, is known."""

    member: Member
    state: SessionState | None
    spent: Spent
    is_running: bool = False
    is_known: bool = True


def below(accounts: list[Account], session_id: str) -> list[Account]:
    """Return the accounts of a session and all its descendants."""
    found = set(descend([session_id], ((each.member.session_id, each.member.parent) for each in accounts)))
    return [account for account in accounts if account.member.session_id in found]


def total(accounts: Iterable[Account]) -> Spent:
    """Add accounts up."""
    return sum((account.spent for account in accounts), Spent())


class Ledger:
    """The accounts of trees in a state root, read repeatedly: only what has changed is read again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}

    def accounts(self, members: Iterable[Member], gone: Mapping[str, Spent]) -> list[Account]:
        """Return the account of each member; StateError if a record is damaged: its spending is unknown."""
        return [self._account(member, gone.get(member.session_id)) for member in members]

    def _account(self, member: Member, gone: Spent | None) -> Account:
        known = self._known.get(member.session_id)
        if known and not known.account.is_running and known.files == _sign(known.paths):
            return known.account
        paths = member.paths(self._root) or find_record(self._root, member.project, member.session_id)
        files = _sign(paths) if paths else ()  # before reading anything: later changes show next time
        try:
            state = load_state(paths.state) if paths else None
        except StateError:
            if paths and paths.root.exists():
                raise
            state = None  # it was deleted just now
        if paths is None or state is None:
            self._known.pop(member.session_id, None)
            return Account(member, None, gone or Spent(), is_known=gone is not None)
        liveness = probe(paths)
        is_running, owner = liveness.runs_turn, liveness.owner if liveness.runs_turn else None
        began = parse_time(owner.since) if owner else None
        now = datetime.now(UTC)
        before = known.unfinished if known and known.files[-1:] == files[-1:] else None  # of the same file
        unfinished = read_unfinished(paths.transcript, before)
        so_far = unfinished.spent(until=now if is_running and unfinished.turn else None)
        if began and unfinished.turn and not unfinished.turn.started:  # a very long one is not read completely
            so_far = replace(so_far, time_s=max(so_far.time_s, (now - began).total_seconds()))
        account = Account(member, state, state.spent + so_far, is_running)
        self._known[member.session_id] = _Known(account, paths, files, unfinished)
        return account


class _Known(Struct):
    """An account as it was, and the state of its files."""

    account: Account
    paths: SessionPaths
    files: tuple[object, ...]
    unfinished: Unfinished


def _sign(paths: SessionPaths) -> tuple[object, ...]:
    """Return a value that changes when a record or transcript is written (a turn begins with a line) or replaced."""
    signs: list[object] = []
    inode = None
    for name in ("state.toml", "transcript.jsonl"):
        try:
            found = os.stat(f"{paths.pathname}/{name}")
        except OSError:
            signs.append(None)
        else:
            signs.append((found.st_mtime_ns, found.st_size, found.st_ino))
            inode = found.st_ino
    return (*signs, inode)
