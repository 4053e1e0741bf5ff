"""Who descends from whom, wherever it is: in any project here, and in the mirrors of other hosts. Only reads.

Mirrors are only looked into where the list of a tree's members says that some are on other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from csa.errors import StateError
from csa.model.genealogy import descend
from csa.model.state import SessionState
from csa.store.atomic import read_regular
from csa.store.genealogy import ancestors
from csa.store.sessions import Store, Target, is_directory
from csa.store.stores import find_stores
from csa.store.trees import Member, has_hosts, has_members, members_with, read_members

_PARENT = re.compile(rb"parent_session_id\s*=\s*[\"']([0-9A-Z]{26})[\"']")
_Key = tuple[str, str]  # see `Store.key`
_Faults = Callable[[StateError], None]


class Descendants:
    """The descendants of `founders`, as found so far in the stores that `find` yields.

    Parents never change, so each record is read only once.
    """

    def __init__(self, founders: Iterable[Target], find: Callable[[], Iterable[Store]]) -> None:
        self._find = find
        self._known: dict[_Key, tuple[Target | None, Store]] = {}
        self._members: dict[_Key, Store | None] = {store.key(session_id): None for store, session_id in founders}

    def look(self) -> list[Target]:
        """Return the current descendants, parents before children."""
        for store in self._find():
            for session_id in store.ids():
                key = store.key(session_id)
                if key not in self._known:
                    self._known[key] = (_parent(store, session_id), store)
        while found := self._children():
            self._members.update(found)
        return [(store, session_id) for (_, session_id), store in self._members.items() if store]

    def _children(self) -> dict[_Key, Store]:
        """Return the children of members that are not members yet."""
        ids = {session_id for _, session_id in self._members}
        return {
            key: store
            for key, (parent, store) in self._known.items()
            if parent and parent[1] in ids and key not in self._members and self._is_member(parent)
        }

    def _is_member(self, parent: Target) -> bool:
        """Say whether a parent is a member: with its id in the named project, or elsewhere, as it is not there."""
        store, session_id = parent
        return store.key(session_id) in self._members or not is_directory(store.find(session_id).pathname)


class Family:
    """The descendants of sessions: on their own host, and as far as mirrors show it, on others."""

    def __init__(self, founders: Sequence[Target], on_fault: _Faults | None) -> None:
        self._founders = founders
        self._roots = list(dict.fromkeys(store.root for store, _ in founders))
        self._on_fault = on_fault
        self._here = Descendants(founders, self._find)

    def look(self) -> list[Target]:
        """Return the current ones, parents before children."""
        found = [*self._here.look(), *find_elsewhere(self._founders)]  # one may be placed at any time
        return list({store.key(session_id): (store, session_id) for store, session_id in found}.values())

    def unheard(self) -> list[Target]:
        """Return those that were placed on other hosts, and of which nothing was heard."""
        return find_unheard(self._founders)

    def _find(self) -> Iterator[Store]:
        return chain.from_iterable(find_stores(root, on_fault=self._on_fault) for root in self._roots)


def family_of(founders: Sequence[Target], *, on_fault: _Faults | None = None) -> Family:
    """Return the descendants of sessions, to look at again and again.

    At each look `on_fault` gets the directories that cannot be listed: descendants may be there.
    """
    return Family(founders, on_fault)


def find_relatives(store: Store, states: Iterable[SessionState]) -> list[Target]:
    """Return the members of these sessions' trees that are below them, and in other projects or on other hosts."""
    known, tops = set[str](), dict[str, SessionState]()
    for state in states:
        known.add(state.session_id)
        if top := _top(store, state):
            tops[top.session_id] = top
    listed = [member for top in tops.values() for member in read_members(store.root, top)[0]]
    members = {
        (each.project, each.session_id): each
        for each in listed
        if (each.project != store.project_pathname or each.host) and each.session_id not in known
    }
    below = set(descend(known, ((each.session_id, each.parent) for each in members.values())))
    found = [each for each in members.values() if each.session_id in below]
    here = [(_store_there(store, each) if each.host else each.store(store.home), each.session_id) for each in found]
    return _with_all_below(here) if any(each.host for each in found) else here


def is_spread(root: Path, state: SessionState) -> bool:
    """Say whether a session's tree has members on other hosts, according to the list in its root."""
    return has_hosts(root, _highest(root, state))


def find_elsewhere(founders: Sequence[Target]) -> list[Target]:
    """Return the descendants of sessions that are on other hosts than those, as far as mirrors show them."""
    return _with_all_below(find_placed(founders))


def find_placed(founders: Sequence[Target]) -> list[Target]:
    """Return the descendants of sessions that were placed on other hosts, also those that no mirror has seen."""
    return list({member.session_id: target for member, target in _placed(founders)}.values())


def find_unheard(founders: Sequence[Target]) -> list[Target]:
    """Return those that were placed on other hosts, are not known to have ended, and are in no mirror."""
    found = [target for member, target in _placed(founders) if not (member.hold and member.hold.is_settled)]
    return [(store, each) for store, each in found if not is_directory(store.find(each).pathname)]


def _placed(founders: Sequence[Target]) -> Iterator[tuple[Member, Target]]:
    for store, session_id in founders:
        members = {each.session_id: each for each in _members_around(store, session_id)}
        for each in descend([session_id], ((each.session_id, each.parent) for each in members.values())):
            member = members.get(each)
            if member and member.host and not (member.hold and member.hold.is_released):
                yield member, (_store_there(store, member), each)


def _members_around(store: Store, session_id: str) -> list[Member]:
    """Return the members of a session's tree, if some are on other hosts.

    Where its record, or that of one above it, is damaged, all lists that name it are read.
    """
    state = store.record(session_id).state
    try:
        top = [state, *ancestors(store.root, state)][-1] if state else None
    except StateError:
        top = None
    if top:
        return read_members(store.root, top)[0] if has_hosts(store.root, top) else []
    if not is_directory(store.find(session_id).pathname):
        return []
    return [member for each in find_stores(store.root, with_retired=True) for member in members_with(each, session_id)]


def _store_there(store: Store, member: Member) -> Store:
    """Return the store of a session that was placed: until it is settled its project there may be another one."""
    from csa.store.mirrors import Mirror  # noqa: PLC0415  # few trees are on several hosts

    named = member.store(store.home)
    if is_directory(named.find(member.session_id).pathname):
        return named
    others = Mirror(named.root_pathname).stores()
    return next((each for each in others if is_directory(each.find(member.session_id).pathname)), named)


def _with_all_below(targets: Iterable[Target]) -> list[Target]:
    """Return those of some sessions that can be seen here, and all that the lists of those on other hosts name.

    Each host's list comes with its sessions, and has what was started there.
    """
    found: dict[_Key, Target] = {}
    queue = list(targets)
    for store, session_id in queue:  # the list grows
        key, record = store.key(session_id), store.record(session_id)
        if key in found or (record.fault and record.is_gone):
            continue
        found[key] = store, session_id
        if store.host and record.state:
            _, *members = read_members(store.root, record.state)[0]
            queue += [
                (_store_there(store, each) if each.host else each.store(store.root), each.session_id)
                for each in members
            ]
    return list(found.values())


def _highest(root: Path, state: SessionState) -> SessionState:
    """Return the highest ancestor of a session whose record can be read, or its own."""
    top = state
    with suppress(StateError):  # the ancestors of a damaged record are unknown
        for above in ancestors(root, state):
            top = above
    return top


def _parent(store: Store, session_id: str) -> Target | None:
    """Return a session's parent; most are roots, which the raw bytes show without parsing TOML."""
    try:
        match = _PARENT.search(read_regular(store.paths(session_id).state))
    except OSError:
        return None
    if match is None:
        return None
    state = store.record(session_id).state
    if state is None:
        return store, match[1].decode()
    parent = state.parent_session_id
    return (Store(store.root_pathname, state.parent_project or store.project_pathname), parent) if parent else None


def _top(store: Store, state: SessionState) -> SessionState | None:
    """Return the root of a session's tree if it has to be checked: it is this one, or in another project."""
    if state.parent_session_id is None or state.parent_host:
        return state if has_members(store, state.session_id) else None
    if state.parent_project is None:
        return None
    top = _highest(store.root, state)
    return None if top is state else top
