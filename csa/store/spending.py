"""What the sessions of a tree have spent: from their records, and for turns without an end what is known so far.

A member on another host counts as its whole allowance until that is settled; then as what was used of it, or what its
mirror knows, whichever is more. What is below it there is in that.

Unknown stays unknown: turns whose tool has not reported its usage are counted, and never treated as zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import StateError
from csa.model.genealogy import descend
from csa.model.limits import Spent
from csa.model.state import SessionState, parse_time
from csa.paths import MIRRORS, SessionPaths
from csa.store.genealogy import ancestors, find_record
from csa.store.liveness import probe
from csa.store.sessions import Store, is_directory
from csa.store.statefile import load_state
from csa.store.stores import find_stores
from csa.store.trees import Member, read_members
from csa.store.unfinished import Unfinished, read_unfinished
from csa.structs import Struct, replace

_LOOK_S = 30.0  # between two searches of a mirror for a session that should not be there


class Account(Struct):
    """What one member has spent. `state` is None if only its spending, or nothing, is known.

    `is_running` is of a turn on this host, whose time goes on; an allowance has the time in it.
    """

    member: Member
    state: SessionState | None
    spent: Spent
    is_running: bool = False
    is_known: bool = True

    @property
    def is_reserved(self) -> bool:
        """Whether it is on another host, and what it has spent is not settled: its whole allowance counts."""
        return self.member.hold is not None and not self.member.hold.is_settled

    @property
    def is_void(self) -> bool:
        """Whether it was given back, and was never on its host, as far as is known."""
        return self.member.hold is not None and self.member.hold.is_released and self.spent == Spent()


def below(accounts: list[Account], session_id: str) -> list[Account]:
    """Return the accounts of a session and all its descendants."""
    found = set(descend([session_id], ((each.member.session_id, each.member.parent) for each in accounts)))
    return [account for account in accounts if account.member.session_id in found]


def total(accounts: Iterable[Account]) -> Spent:
    """Add accounts up."""
    return sum((account.spent for account in accounts), Spent())


def spent_here(root: Path, state: SessionState) -> tuple[Spent, int]:
    """Return what the tree of a session has spent, without what is above it on other hosts, and how many of it run."""
    top = [state, *ancestors(root, state)][-1]
    accounts = Ledger(root).accounts(*read_members(root, top))
    return total(accounts), sum(each.is_running or each.is_reserved for each in accounts)


class Ledger:
    """The accounts of trees in a state root, read repeatedly: only what has changed is read again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        self._mirrored: dict[str, Mirrored] = {}

    def accounts(self, members: Iterable[Member], gone: Mapping[str, Spent]) -> list[Account]:
        """Return the account of each member; StateError if a record is damaged: its spending is unknown."""
        return [self._account(member, gone.get(member.session_id)) for member in members]

    def _account(self, member: Member, gone: Spent | None) -> Account:
        if member.hold:
            return self._settled(member) if member.hold.is_settled else Account(member, None, member.hold.spent)
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

    def _settled(self, member: Member) -> Account:
        """Return what a settled member has used: it may have gone on, without having asked here."""
        assert member.hold
        if member.session_id not in self._mirrored:
            place = self._root, str(member.host), member.session_id, member.hold.project
            self._mirrored[member.session_id] = Mirrored(*place)
        there = self._mirrored[member.session_id].accounts()
        return Account(member, there[0].state if there else None, member.hold.spent.at_least(total(there)))


class Mirrored:
    """A session on another host, and all below it there, as its mirror here knows them; read as a `Ledger` reads."""

    def __init__(self, root: Path, host: str, session_id: str, project: str | None) -> None:
        self._root = root / MIRRORS / host
        self._ledger = Ledger(self._root)
        self._id = session_id
        self._project, self._looked_at = project, -_LOOK_S - 1
        self._members: tuple[int, list[Member], dict[str, Spent]] | None = None

    def accounts(self) -> list[Account]:
        """Return the accounts, the session's own first; empty while the mirror does not have it."""
        try:
            if (top := self._load()) is None:
                return []
            return below(self._ledger.accounts(*self._tree(top)), self._id)
        except (StateError, OSError):  # it is only a copy, and comes again
            return []

    def _tree(self, top: SessionState) -> tuple[list[Member], dict[str, Spent]]:
        """Return its members; a mirror has no list of them, and is searched when a session has come or gone."""
        stamp = os.stat(Store(self._root, top.project_path).sessions_dir).st_mtime_ns
        if self._members is None or self._members[0] != stamp:
            self._members = stamp, *read_members(self._root, top)
        return self._members[1:]

    def _load(self) -> SessionState | None:
        if self._project is None and (now := time.monotonic()) - self._looked_at > _LOOK_S:
            self._project, self._looked_at = self._find(), now
        paths = find_record(self._root, self._project, self._id) if self._project else None
        return load_state(paths.state) if paths else None

    def _find(self) -> str | None:
        """Return its project there, which was not said: it was given back before it was known to have begun."""
        stores = find_stores(self._root, with_retired=True) if is_directory(str(self._root)) else ()
        return next((store.project_pathname for store in stores if is_directory(store.find(self._id).pathname)), None)


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
