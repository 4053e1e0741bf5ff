"""The members of a tree of sessions, listed in the root's `locks/tree.lock`, and the one lock under which trees grow.

Starting a turn takes the lock, checks the limits, creates or opens the session, lists a new one, and releases it. The
list makes the cost of counting depend on the tree instead of the store, and finds members in other projects. Members
that were not listed from the beginning (an older csa's tree) are searched in the root's store first.

Locks that csa waits for are taken in this order: tree.lock, then .slots/lock (released at once), then store.lock. It
never waits for the locks of sessions. A session's own lock may be held when tree.lock is taken (`leave`), and nobody
waits for a session while holding tree.lock.

Lines of the file: `{"v": 1}` (the list is complete), a member (`id`, `project`, `parent`), and a deleted member
(`id`, `gone`: what it had spent).

A member on another host also has `host`. What counts for it is in a line of the form of a deleted member's, which is
what a csa takes it for that does not know of hosts: with `held`, `gone` is the allowance that it took along; with
`settled`, what was used of it; with `released`, it was never there. The last such line counts. The first is written
before the member's own, so that a line that was cut off leaves nothing booked.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from csa.errors import RefusedError
from csa.ids import is_session_id
from csa.model.genealogy import descend
from csa.model.limits import Budget, Spent
from csa.model.state import SessionState
from csa.ownership import make_directory, open_private
from csa.paths import NEW_PREFIX, SessionPaths, is_project_path
from csa.store.atomic import read_regular, sync_file
from csa.store.genealogy import ancestors, find_record
from csa.store.locks import Lock, acquire_lock, is_locked
from csa.store.sessions import Store, is_directory
from csa.structs import Struct, replace

_COMPLETE = {"v": 1}
_COMPLETE_LINE = b'{"v":1}\n'


class Hold(Struct):
    """What a member on another host takes from the budgets of its tree.

    `spent` is its allowance until it `is_settled`, then what it has used, as far as it was known.
    """

    spent: Spent
    is_settled: bool = False
    is_released: bool = False  # it has never been there
    project: str | None = None  # there, once that is known


class Member(Struct):
    """A session of a tree. With a `host` it is there, and its record here in the mirror of that host."""

    session_id: str
    project: str
    parent: str | None
    host: str | None = None
    hold: Hold | None = None  # of a member on another host

    def store(self, root: Path) -> Store:
        """Return the store in which its record is."""
        if self.host:
            from csa.store.mirrors import mirror_for  # noqa: PLC0415  # few trees are on several hosts

            there = (self.hold and self.hold.project) or self.project
            return Store(mirror_for(str(root), self.host).pathname, there)
        return Store(root, self.project)

    def paths(self, root: Path) -> SessionPaths | None:
        """Return where its record is, even if it is still being created; None if it is gone."""
        store = self.store(root)
        building = store.paths(NEW_PREFIX + self.session_id)
        if is_locked(building.session_lock):  # checked first: a session moves from there to its place, never back
            return building
        paths = store.paths(self.session_id)
        return paths if paths.root.is_dir() else None

    def is_there(self, root: Path) -> bool:
        """Say whether it exists, here or on another host."""
        if self.hold:
            return not self.hold.is_released and not self._is_deleted_there(root)
        return self.paths(root) is not None

    def _is_deleted_there(self, root: Path) -> bool:
        """Say whether its host has said that it is in the trash there, or purged."""
        if not (self.hold and self.hold.is_settled and self.hold.project):
            return False
        return is_directory(self.store(root).retired_paths(self.session_id).pathname)

    def is_running(self, root: Path) -> bool:
        """Say whether a supervisor holds it."""
        paths = self.paths(root)
        return paths is not None and is_locked(paths.session_lock)


_NOTHING = Hold(Spent(), is_settled=True, is_released=True)  # of a member whose allowance was not booked


class Listed(Struct):
    """The members that a tree.lock lists. `top` is not in `members`."""

    members: dict[str, Member]
    gone: dict[str, Spent]
    is_complete: bool


class Tree:
    """A tree whose lock is held. `top` is its root, or the highest ancestor whose record still exists."""

    def __init__(self, root: Path, top: SessionState, lock: Lock) -> None:
        self.root = root
        self.top = top
        self._lock = lock
        self._parsed: tuple[bytes, Listed] | None = None

    def most(self, parent: str | None = None) -> int:
        """Return an upper limit of the members, or of the children of `parent`, including deleted ones.

        This does not need to parse a long list: most trees are far from their limits.
        """
        content = self._content()
        if not _is_complete(content):
            return sys.maxsize
        return content.count(parent.encode()) if parent else content.count(b"\n")

    def listed(self, session_ids: Iterable[str]) -> list[str]:
        """Return which of some sessions are members; the rest of the list is not parsed."""
        content = self._content()
        if not _is_complete(content):
            known = {member.session_id for member in self.members()}
        else:
            known = {self.top.session_id, *(each for each in session_ids if f'"id":"{each}"'.encode() in content)}
        return [each for each in session_ids if each in known]

    def members(self) -> list[Member]:
        """Return all members there have ever been, the top first; those of an older csa are searched, and listed."""
        roll = self._roll()
        if not roll.is_complete:
            found = _search(self.root, self.top, roll)
            self._append(*(_line(each) for each in found if each.session_id not in roll.members), _COMPLETE)
            roll = Listed({**roll.members, **{each.session_id: each for each in found}}, roll.gone, True)
        return [_member(self.top), *roll.members.values()]

    def gone(self) -> dict[str, Spent]:
        """Return what deleted members had spent."""
        return self._roll().gone

    def add(self, state: SessionState) -> None:
        """List a session; durable when this returns."""
        self._append(_line(_member(state)))

    def leave(self, session_id: str, spent: Spent) -> None:
        """Record that a session is deleted, and what it has spent."""
        self._append({"id": session_id, "gone": spent.to_dict()})

    def book(self, member: Member, held: Budget) -> None:
        """List a member on another host, with what it takes along; durable when this returns.

        What it has used before is within the new allowance.
        """
        known = self._roll().members.get(member.session_id)
        before = known.hold.spent if known and known.hold else Spent()
        line = {"id": member.session_id, "gone": held.as_spent().at_least(before).to_dict(), "held": True}
        self._append(line, *(() if known else ({**_line(member), "host": member.host},)))

    def move(self, member: Member) -> None:
        """Record on which host a member is, as a scheduler has chosen it; what it took along stays booked."""
        self._append(_line(member))

    def settle(self, session_id: str, spent: Spent, *, project: str | None = None, released: bool = False) -> None:
        """Record what a member on another host has used; with `released`, that it was never there."""
        line: dict[str, Any] = {"id": session_id, "gone": spent.to_dict(), "settled": True}
        self._append({**line, **({"project": project} if project else {}), **({"released": True} if released else {})})

    def _content(self) -> bytes:
        return os.pread(self._lock.fd, os.fstat(self._lock.fd).st_size, 0)

    def _roll(self) -> Listed:
        """Return the content of the list; it is read once, since nobody else writes it meanwhile."""
        content = self._content()
        if self._parsed is None or self._parsed[0] != content:
            self._parsed = content, _parse(content)
        return self._parsed[1]

    def _append(self, *lines: dict[str, Any]) -> None:
        fd = self._lock.fd
        end = os.fstat(fd).st_size
        mend = b"\n" if end and os.pread(fd, 1, end - 1) != b"\n" else b""  # after a half-written line
        content = mend + b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        try:
            while content:
                written = os.pwrite(fd, content, end)
                content, end = content[written:], end + written
        finally:
            sync_file(fd)


@contextmanager
def open_tree(root: Path, top: SessionState) -> Iterator[Tree]:
    """Take the lock of the tree of `top`; RefusedError if that session has just been deleted."""
    place = Store(root, Path(top.project_path)).paths(top.session_id)
    paths = find_record(root, top.project_path, top.session_id) or place
    try:
        make_directory(paths.tree_lock.parent)
        lock = acquire_lock(paths.tree_lock, wait=True)
    except FileNotFoundError as error:
        raise RefusedError(
            f"Session {top.session_id}, the root of this tree, has just been deleted.", hint="try again"
        ) from error
    with lock:
        yield Tree(root, top, lock)


def begin_members(paths: SessionPaths) -> None:
    """Start the list of a new root, which nobody else knows yet."""
    fd = open_private(paths.tree_lock, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with open(fd, "wb") as file:
        file.write(json.dumps(_COMPLETE, separators=(",", ":")).encode() + b"\n")


def read_members(root: Path, top: SessionState) -> tuple[list[Member], dict[str, Spent]]:
    """Return the members, the top first, and what deleted ones had spent, without a lock or a write."""
    try:
        paths = find_record(root, top.project_path, top.session_id)
        roll = _parse(read_regular(paths.tree_lock) if paths else b"")
    except OSError:
        roll = Listed({}, {}, is_complete=False)
    more = {} if roll.is_complete else {each.session_id: each for each in _search(root, top, roll)}
    return [_member(top), *{**roll.members, **more}.values()], roll.gone


def has_members(store: Store, session_id: str) -> bool:
    """Say whether the list of a root has any members; also False if it has no list."""
    return _roll_with_members(store, session_id) is not None


def has_hosts(root: Path, top: SessionState) -> bool:
    """Say whether a tree has members on other hosts: the list is not parsed for that, and an empty one not read."""
    roll = _roll_with_members(Store(root, top.project_path), top.session_id)
    try:
        return roll is not None and b'"host":' in read_regular(roll)
    except OSError:
        return False


def members_with(store: Store, session_id: str) -> Iterator[Member]:
    """Yield the members that the lists in a store have which are of a session, or name it; no record is read."""
    mark = f'"id":"{session_id}"'.encode()
    for top in dict.fromkeys([*store.ids(), *store.retired_ids()]):
        if roll := _roll_with_members(store, top):
            with suppress(OSError):
                content = read_regular(roll)
                if top == session_id or mark in content:
                    yield from _parse(content).members.values()


def _roll_with_members(store: Store, session_id: str) -> str | None:
    for directory in (store.sessions_dir, store.retired_dir):
        roll = f"{directory}/{session_id}/locks/tree.lock"
        with suppress(OSError):
            return roll if os.stat(roll).st_size > len(_COMPLETE_LINE) else None
    return None


def leave_tree(root: Path, state: SessionState) -> None:
    """Record in its tree what a session about to be deleted has spent: deleting must not refund a budget.

    A root's list is deleted with it. OSError if the list cannot be written.
    """
    above = list(ancestors(root, state))
    if above:
        with open_tree(root, above[-1]) as tree:
            tree.leave(state.session_id, state.spent)


def _member(state: SessionState) -> Member:
    return Member(state.session_id, state.project_path, state.parent_session_id)


def _line(member: Member) -> dict[str, Any]:
    known = {"id": member.session_id, "project": member.project, "parent": member.parent}
    return {**known, "host": member.host} if member.host else known


def _is_complete(content: bytes) -> bool:
    return content.startswith(_COMPLETE_LINE) or b"\n" + _COMPLETE_LINE in content


def _parse(content: bytes) -> Listed:
    """Read the list; invalid lines are skipped."""
    members: dict[str, Member] = {}
    gone: dict[str, Spent] = {}
    holds: dict[str, Hold] = {}
    is_complete = False
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            if entry == _COMPLETE:
                is_complete = True
            elif not is_session_id(entry["id"]):
                continue
            elif "held" in entry or "settled" in entry:
                holds[entry["id"]] = _hold(entry, holds.get(entry["id"]))
            elif "gone" in entry:
                gone[entry["id"]] = Spent.from_dict(entry["gone"])
            else:
                members[entry["id"]] = _listed(entry)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    away = [member for member in members.values() if member.host]
    members.update((each.session_id, replace(each, hold=holds.get(each.session_id, _NOTHING))) for each in away)
    return Listed(members, gone, is_complete)


def _listed(entry: dict[str, Any]) -> Member:
    parent = entry["parent"]
    if not (parent is None or isinstance(parent, str)):
        raise ValueError(parent)
    return Member(entry["id"], _project(entry["project"]), parent, _host(entry.get("host")))


def _hold(entry: dict[str, Any], before: Hold | None) -> Hold:
    project = _project(entry["project"]) if "project" in entry else before.project if before else None
    is_settled = "settled" in entry
    return Hold(Spent.from_dict(entry["gone"]), is_settled, is_settled and "released" in entry, project)


def _project(name: object) -> str:
    """Return a project's path; ValueError for what is none: another host may have written the list."""
    if not is_project_path(name):
        raise ValueError(name)
    return str(name)


def _host(name: object) -> str | None:
    if name is None:
        return None
    from csa.store.mirrors import is_host_name  # noqa: PLC0415  # as above

    if not (isinstance(name, str) and is_host_name(name)):  # it would be part of a path
        raise ValueError(name)
    return name


def _search(root: Path, top: SessionState, roll: Listed) -> list[Member]:
    """Find the tree's sessions in its top's store; most records are ruled out by their bytes.

    Below a top whose parent is on another host: other sessions of this host may have the same root, which is there.
    """
    names = {top.session_id, top.root_session_id or top.session_id}
    marks = [name.encode() for name in names]
    store = Store(root, Path(top.project_path))
    found = []
    for session_id in store.ids():
        try:
            content = read_regular(store.paths(session_id).state)
        except OSError:
            continue
        if session_id in roll.members or session_id in names or not any(mark in content for mark in marks):
            continue
        state = store.record(session_id).state
        if state and (state.root_session_id in names or state.parent_session_id in names):
            found.append(_member(state))
    if top.parent_host:
        below = set(descend([top.session_id], ((each.session_id, each.parent) for each in found)))
        found = [each for each in found if each.session_id in below]
    return found
