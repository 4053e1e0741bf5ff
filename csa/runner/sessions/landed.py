"""What work in worktrees has cost, and which of its commits are in the history of the branch that one stands on.

The work of a session is its own turns and those of everything below it, down to sessions with worktrees of their own,
whose work is theirs. What a plan has tried for one task is one work, however many sessions that took. Deleted
sessions count as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from csa.errors import StateError
from csa.model.genealogy import descend
from csa.model.landed import Base, Landed, Landing, Work, arrange
from csa.model.state import SessionState
from csa.runner.context import Context
from csa.runner.sessions.history import why_refused
from csa.runner.sessions.statistics import add_turns
from csa.store.commits import History, count_lines, find_work, read_commits
from csa.store.family import find_relatives
from csa.store.gitplumbing import Git, GitError, open_work_tree
from csa.store.project import is_commit
from csa.store.sessions import Record, Store, may_hold, read_state_text
from csa.store.transcript import HEAD_BYTES, parse_line, read_lines

_MARK = b"[worktree]"
_ROOT = re.compile(rb"root_session_id\s*=\s*[\"']([0-9A-Z]{26})[\"']")
_LANDED = b'"landed"'
_SLACK_S = 86_400.0  # by which the clocks of those who commit may differ


def gather_landed(context: Context, stores: Iterable[Store], *, since: datetime | None = None) -> Landed:
    """Return the works of some projects that were used or landed since then, newest first, each below the one above it.

    They are looked for in the branch of the caller's directory; of other projects, in that of the project's own.

    Raises:
        ToolUnavailableError: git is not installed.
    """
    found = Landed()
    for store in stores:
        works = _works(store, found.left_out)
        if works:
            own = store == context.store
            directory = context.directory_pathname if own else store.project_pathname
            git = open_work_tree(directory, context.environ)
            try:
                found.bases.append(_look(git, store, directory, works))
            except GitError as error:
                found.notes.append(why_refused(directory, error.said))
            found.works += [work for work in works if since is None or work.used_at >= since]
    return found


def _look(git: Git, store: Store, directory: str, works: Sequence[Work]) -> Base:
    """Find the commits of works in the history of a directory's branch."""
    head = git.line("rev-parse", "--verify", "HEAD^{commit}")
    oldest = min(state.created_at for work in works for state in work.attempts)
    history = read_commits(git, since=oldest.timestamp() - _SLACK_S, tip=head)
    _share_out(git, history, works)
    branch = None
    with suppress(GitError):  # it is detached
        branch = git.line("symbolic-ref", "--short", "HEAD")
    return Base(project=store.project_pathname, directory=directory, branch=branch, head=head)


def _share_out(git: Git, history: History, works: Sequence[Work]) -> None:
    """Give each work its commits; those above come first. What a work and one below it both have is that one's."""
    known = find_work(git, history, {id_: commits for work in works for id_, commits in work.landed.items()})
    for work in works:
        mine = [commit for state in work.attempts for commit in known[state.session_id]]
        if not mine and work.above and work.was_squashed_with(work.above):
            mine = work.above.kept
        work.kept = list(dict.fromkeys(mine))
    taken = {(id(above), commit) for work in works for above in work.line() for commit in work.kept}
    for work in works:
        work.commits = [commit for commit in work.kept if (id(work), commit) not in taken]
    owners = Counter(commit for work in works for commit in work.commits)
    lines = count_lines(git, owners)
    for work in works:
        work.lines = {commit: lines[commit] for commit in work.commits}
        work.shared = frozenset(commit for commit in work.commits if owners[commit] > 1)


def _works(store: Store, left_out: list[StateError]) -> list[Work]:
    """Return the works of a project, with all that they have cost; newest first, and those below one after it."""
    parents, records = _family(store)
    works: dict[str, Work] = {}
    by_key: dict[tuple[str, ...], Work] = {}
    for record in records.values():  # oldest first
        if record.state and record.state.worktree:
            work = by_key.setdefault(_key(record.state), Work())
            work.attempts.append(record.state)
            works[record.session_id] = work
    for session_id, record in records.items():
        owner = next((works[each] for each in _line(session_id, parents) if each in works), None)
        if owner and record.state:
            try:
                add_turns(owner.tally, record, record.state)
                owner.landings += landings_of(record) if session_id in works else []
            except StateError as fault:
                left_out.append(fault)
    for work in by_key.values():
        parent = parents.get(work.attempts[-1].session_id)
        work.above = next((works[each] for each in _line(parent, parents) if each in works), None)
    return arrange(by_key.values())


def _key(state: SessionState) -> tuple[str, ...]:
    """Return what the attempts at one task have in common."""
    if state.task and state.parent_session_id:
        return state.parent_session_id, state.task.name
    return (state.session_id,)


def _family(store: Store) -> tuple[dict[str, str | None], dict[str, Record]]:
    """Return the sessions with worktrees and all below them, oldest first, each with its parent.

    Most records are ruled out by their bytes.
    """
    texts = {each: read_state_text(_place_of(store, each)) for each in (*store.ids(), *store.retired_ids())}
    records = {each: store.record(each) for each, text in texts.items() if may_hold(text, _MARK)}
    records = {each: record for each, record in records.items() if record.state and record.state.worktree}
    states = [record.state for record in records.values() if record.state]
    roots = {(state.root_session_id or state.session_id).encode() for state in states}
    if roots:
        for each, text in texts.items():
            if each not in records and (match := _ROOT.search(text or b"")) and match[1] in roots:
                records[each] = store.record(each)
        for place, each in find_relatives(store, states):
            records.setdefault(each, place.record(each))
    parents = {each: record.state.parent_session_id for each, record in records.items() if record.state}
    family = descend((state.session_id for state in states), parents.items())
    return parents, {each: records[each] for each in sorted(family)}


def _place_of(store: Store, session_id: str) -> str:
    return store.find(session_id).pathname


def _line(session_id: str | None, parents: dict[str, str | None]) -> Iterator[str]:
    """Yield a session and its ancestors, nearest first."""
    seen = set[str]()
    while session_id and session_id not in seen:
        yield session_id
        seen.add(session_id)
        session_id = parents.get(session_id)


def landings_of(record: Record) -> list[Landing]:
    """Return when a session's work was landed, and as what; StateError if its transcript cannot be read."""
    found = []
    for line in read_lines(record.paths.transcript):
        if b'"session_updated"' in line[:HEAD_BYTES] and _LANDED in line and (event := parse_line(line)):
            commits = event.data.get("commits")
            if event.data.get("what") == "landed" and isinstance(commits, list):
                names = tuple(each for each in commits if isinstance(each, str) and is_commit(each))
                into = str(event.data.get("into") or "")
                found.append(Landing(record.session_id, names, into, bool(event.data.get("squash"))))
    return found
