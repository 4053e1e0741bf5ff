"""What the library does with sessions that are named: finding, reading, waiting for, ending and changing them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

from csa.errors import UsageError
from csa.runner.session import Session, find_session
from csa.runner.sessions.listing import select_sessions

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from datetime import datetime
    from typing import TypeVar

    from csa.errors import StateError
    from csa.model.conversation import Message
    from csa.model.events import Event
    from csa.model.genealogy import Node
    from csa.model.result import RunResult
    from csa.paths import SessionPaths
    from csa.runner.context import Context
    from csa.runner.hosts.code import Brought
    from csa.runner.sessions.answering import Answered, Ask
    from csa.runner.sessions.budget import BudgetReport
    from csa.runner.sessions.editing import Edit
    from csa.runner.sessions.ending import KillResult
    from csa.runner.sessions.removal import Removed, Restored
    from csa.runner.sessions.searching import Hit
    from csa.runner.sessions.waiting import WaitResult
    from csa.store.checkpoints import Checkpoint
    from csa.store.liveness import Liveness
    from csa.store.mirrors import Mirror
    from csa.store.sessions import Store
    from csa.store.shown import SessionInfo

    _T = TypeVar("_T")

_LOOK_S = 0.05


class SessionVerbs:
    """The part of `Csa` that works with sessions there are."""

    context: Context

    @property
    def store(self) -> Store:
        """The project's store."""
        return self.context.store

    def session(self, selector: str, *, retired: bool = False, mirrored: bool = False) -> Session:
        """Return the session that a selector means, in whichever project; with `retired` also a deleted one.

        One in the mirror of another host is returned with either of them.

        Raises:
            UsageError: the selector is empty, or an unknown @word.
            NotFoundError: nothing matches; RetiredError when what matches was deleted, and `retired` is not set.
            RefusedError: it is another host's, and neither is set.
            AmbiguousError: several sessions match.
        """
        return find_session(self.context, selector, retired=retired, mirrored=mirrored)

    def find(self, selector: str, *, retired: bool = False) -> Session:
        """Return the session that an id, a prefix of one or a name means, looking in all projects alike.

        Raises as `session`; AmbiguousError also when sessions of several projects match.
        """
        from csa.runner.session import find_anywhere  # noqa: PLC0415  # only this needs it
        from csa.store.stores import find_stores  # noqa: PLC0415  # as above

        return find_anywhere(self.context, selector, find_stores(self.store.root, with_retired=True), retired=retired)

    def resolve(self, selector: str, *, retired: bool = False) -> str:
        """Return the full id that a selector means; raises as `session`."""
        return self.session(selector, retired=retired).session_id

    def paths(self, selector: str) -> SessionPaths:
        """Return the files of a session, for reading: it may be a deleted one. Raises as `session`."""
        return self.session(selector, retired=True).files

    def sessions(self, *, limit: int | None = None, host: str | None = None) -> list[SessionInfo]:
        """Return the project's sessions, newest first, damaged ones too; at most `limit`.

        With `host`, those of all projects of that host, as they were when it was heard of last; NotFoundError if it
        never was: see `sync`.
        """
        return select_sessions(self.stores(host), limit=limit).infos

    def hosts(self) -> list[Mirror]:
        """Return the mirrors of other hosts: `.host` is its name, `.heard_s()` how long ago it was heard of."""
        from csa.store.mirrors import find_mirrors  # noqa: PLC0415  # few look at other hosts

        return find_mirrors(self.store.root_pathname)

    def sync(self, host: str) -> Mirror:
        """Bring the mirror of a host up to date, and return it.

        Raises:
            HostError: it cannot be reached, or csa is not there.
            BusyError: another process keeps it up to date.
            UsageError: there can be no such host.
        """
        from csa.runner.hosts.sending import host_called  # noqa: PLC0415  # as above
        from csa.runner.hosts.syncing import Sync  # noqa: PLC0415  # as above
        from csa.store.mirrors import mirror_for  # noqa: PLC0415  # as above

        Sync(self.store.root_pathname, host_called(self.context, host)).once()
        return mirror_for(self.store.root_pathname, host)

    def fetch(self, selector: str) -> Brought:
        """Have the work of a session on another host here, as refs of the repository the client was opened in.

        Raises as `session`, and:
            UsageError: it is on this host.
            HostError: its host cannot be reached.
            RefusedError: the client was not opened in a checkout of its repository.
        """
        from csa.runner.hosts.fetching import fetch_work  # noqa: PLC0415  # as above

        session = self.session(selector, mirrored=True)
        if (host := session.store.host) is None:
            raise UsageError(f"Session {session.session_id} is on this host: its commits are in its repository.")
        return fetch_work(self.context, self.context.config.engine(host), session.session_id, host)

    def stores(self, host: str | None = None) -> list[Store]:
        """Return the project's store; with `host`, those in the mirror of that host. NotFoundError if there is none."""
        if host is None:
            return [self.store]
        from csa.store.mirrors import find_mirror  # noqa: PLC0415  # as above

        return list(find_mirror(self.store.root_pathname, host).stores())

    def tree(self) -> list[Node[SessionInfo]]:
        """Return the sessions as trees: newest roots first, children oldest first."""
        from csa.runner.sessions.genealogy import arrange_sessions  # noqa: PLC0415  # only this needs it

        return arrange_sessions(self.sessions())

    def info(self, selector: str) -> SessionInfo:
        """Return what lists show of a session: its status, tool, name, usage. Raises as `session`."""
        return self.session(selector, retired=True).record.examine()

    def liveness(self, selector: str) -> Liveness:
        """Say whether a session runs, and who runs it: `.state` is "alive", "not_alive" or "unknown"."""
        return self.session(selector, retired=True).liveness()

    def result(self, selector: str, *, turn: int | None = None) -> RunResult:
        """Return how the last finished turn, or the given one, ended.

        Raises:
            NotFoundError: no such turn has ended, or there is no such session.
            StateError: its record is damaged.
        """
        return self.session(selector, retired=True).result(turn=turn)

    def events(
        self,
        selector: str,
        *,
        tail: int | None = None,
        follow: bool = False,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Yield a session's events in order; the last `tail` of them where that is given.

        With `follow`, those that come are yielded too, until the session no longer runs; waiting for them blocks.

        `after` and `before` are positions, the `seq` of events: only those in between are read, of a long transcript
        too. At most `limit`: the first ones after `after`, else the last ones. Not together with `tail`.
        """
        from csa.store import following, lines, transcript  # noqa: PLC0415  # only this needs it

        if tail is not None and tail < 0:
            raise UsageError("tail is a number of events, 0 or more.")
        if limit is not None and limit < 0:
            raise UsageError("limit is a number of events, 0 or more.")
        is_page = (after, before, limit) != (None, None, None)
        if is_page and (tail is not None or (follow and (before, limit) != (None, None))):
            raise UsageError("after, before and limit cannot be combined with tail, nor before and limit with follow.")
        paths = self.session(selector, retired=True).content
        if follow:
            for events in following.follow(paths, tail=tail, after=after):
                yield from events
                time.sleep(_LOOK_S)
        elif is_page:
            found = lines.read_page(paths.transcript, after=after, before=before, limit=limit)
            yield from filter(None, map(transcript.parse_line, found))
        elif tail is None:
            yield from transcript.read_events(paths.transcript)
        else:
            yield from reversed(list(islice(transcript.read_events_backwards(paths.transcript), tail)))

    def show(self, selector: str, *, turn: int | None = None) -> list[Message]:
        """Return the conversation: what was asked, said and done; all of it, or of one turn. Raises as `session`."""
        from csa.model.conversation import read_conversation  # noqa: PLC0415  # only this needs it

        messages = read_conversation(self.events(selector))
        return [message for message in messages if turn in {None, message.turn}]

    def search(
        self,
        *words: str,
        tools: Sequence[str] = (),
        since: datetime | None = None,
        with_deleted: bool = False,
        host: str | None = None,
    ) -> Iterator[Hit]:
        """Yield the messages and tool calls of the project that contain all words, in any case, newest session first.

        Args:
            words: what to look for; a word may have blanks. UsageError when there is none.
            tools: only in turns of these tools.
            since: only what was said after this moment, which has a time zone.
            with_deleted: in deleted sessions too.
            host: in those of all projects of that host instead, as for `sessions`.
        """
        from csa.runner.sessions.searching import Query, search  # noqa: PLC0415  # only this needs it

        wanted = tuple(word.lower() for word in words if word.strip())
        if not wanted:
            raise UsageError("Name a word to look for.")
        query = Query(words=wanted, tools=frozenset(tools), since=since, with_deleted=with_deleted)
        return search(self.stores(host), query, keys=self.context.keys)

    def budget(
        self, selector: str, *, tokens: int | None = None, usd: float | None = None, time_s: float | None = None
    ) -> BudgetReport:
        """Return what a session and all below it have used, and what is left of its budget, and of those above it.

        Amounts that are given become its budget first: 0 is no budget, None leaves it as it is.

        Raises as `session`, and:
            StateError: a record of the tree is damaged.
            BusyError: a budget was to be set, and the session is running.
            RefusedError: a budget was to be set by an agent.
        """
        from csa.runner.sessions.budget import report_budget  # noqa: PLC0415  # only this needs it

        asked = tokens, usd, time_s
        session = self.session(selector, retired=asked == (None,) * 3)
        if asked != (None,) * 3:
            from csa.runner.sessions.editing import budget_session  # noqa: PLC0415  # as above

            budget_session(session, asked)
        return report_budget(session)

    def wait(
        self, *selectors: str, tree: bool = False, first_only: bool = False, timeout_s: float | None = None
    ) -> list[WaitResult]:
        """Block until sessions have finished; return how each ended, in the order of their ends.

        Args:
            selectors: the sessions.
            tree: wait for all their descendants too.
            first_only: return as soon as one has finished.
            timeout_s: for how long to wait; what still runs then has the status "running". None is for ever.

        Raises as `session`, and StateError when a directory cannot be listed in which descendants may be.
        """
        from csa.runner.sessions.waiting import await_endings  # noqa: PLC0415  # only this needs it

        faults: list[StateError] = []
        targets = [session.target for session in self._named(selectors, retired=True)]
        found = await_endings(targets, tree=tree, first_only=first_only, timeout_s=timeout_s, on_fault=faults.append)
        return _unless(faults, list(found))

    def kill(
        self, *selectors: str, tree: bool = False, force: bool = False, grace_s: float | None = None
    ) -> list[KillResult]:
        """End what runs in sessions, the tools and all they have started; return when nothing of it is left.

        The sessions stay, and can be resumed. One that cannot be ended is told of in its result's `error`. What is on
        another host is ended there.

        Args:
            selectors: the sessions; of one that does not run the outcome is "not_running".
            tree: end all their descendants too.
            force: do not ask the supervisors first, which leaves the turns without an outcome ("lost").
            grace_s: how many seconds a supervisor has to end its turn before it is killed; 10 when None.

        Raises as `session`, and:
            RefusedError: a session is the calling one, or above it. Nothing has been ended.
            StateError: a directory cannot be listed in which descendants may run; all others have been ended.
        """
        from csa.runner.hosts.ending import kill_everywhere  # noqa: PLC0415  # only this needs it
        from csa.runner.sessions.ending import GRACE_S  # noqa: PLC0415  # as above

        faults: list[StateError] = []
        found = kill_everywhere(
            self._named(selectors, mirrored=True),
            tree=tree,
            force=force,
            grace_s=GRACE_S if grace_s is None else grace_s,
            on_fault=faults.append,
        )
        return _unless(faults, list(found))

    def asks(self, *selectors: str) -> list[Ask]:
        """Return what agents wait to be allowed: those of these sessions, else of all that run in the project.

        Raises as `session`.
        """
        from csa.runner.sessions.answering import pending_asks  # noqa: PLC0415  # only this needs it
        from csa.runner.sessions.listing import Selection  # noqa: PLC0415  # as above

        if selectors:
            return [ask for session in self._named(selectors) for ask in pending_asks(session)]
        running = select_sessions([self.store], Selection(statuses=frozenset({"running"}))).infos
        return [ask for info in running for ask in pending_asks(Session(self.context, info.session_id))]

    def answer(self, selector: str, ask: str | None = None, *, allow: bool, via: str = "library") -> Answered:
        """Allow once what an agent asks for, or deny it; without `ask`, the only thing it asks.

        Raises as `session`, and:
            RefusedError: an agent answers.
            NotFoundError: nothing is asked, or nothing by that name.
            UsageError: several things are asked, and `ask` is not given.
            SettledError: it was answered already, or denied in the meantime, or the turn has ended.
            BusyError: the turn's process does not respond.
        """
        from csa.runner.sessions.answering import answer_ask  # noqa: PLC0415  # only this needs it

        return answer_ask(self.session(selector), ask, allow=allow, via=via)

    def rename(self, selector: str, name: str | None) -> Edit:
        """Give a session another name, or none.

        Raises:
            UsageError: it is not a name, or another session of the project has it.
            BusyError: the session is in use, and who runs it does not respond. Else as `session`.
        """
        from csa.runner.sessions.editing import rename_session  # noqa: PLC0415  # only this needs it

        return rename_session(self.session(selector), name)

    def describe(self, selector: str, text: str) -> Edit:
        """Give a session another description: one line, cut to 80 characters. Raises as `rename`."""
        from csa.runner.sessions.editing import describe_session  # noqa: PLC0415  # only this needs it

        return describe_session(self.session(selector), text)

    def pin(self, selector: str, *, pinned: bool = True) -> Edit:
        """Protect a session from clean-up and deletion, or no longer. Raises as `rename`."""
        from csa.runner.sessions.editing import pin_session  # noqa: PLC0415  # only this needs it

        return pin_session(self.session(selector), pinned=pinned)

    def close(self, selector: str) -> Edit:
        """Close a session: it is continued only with `reopen`. BusyError while it runs."""
        from csa.runner.sessions.editing import close_session  # noqa: PLC0415  # only this needs it

        return close_session(self.session(selector))

    def delete(self, *selectors: str, force: bool = False, purge: bool = False) -> list[Removed]:
        """Move sessions to the trash, from where `restore` brings them back for some days.

        Args:
            selectors: the sessions. At the first that cannot be deleted the error is raised; those before are deleted.
            force: end those that run first, and take pinned ones.
            purge: delete for good, at once.

        Raises as `session`, and:
            BusyError: a session is running, and `force` is not set.
            RefusedError: it is pinned, and `force` is not set; or it is the calling session, or above it.
        """
        from csa.runner.sessions.removal import delete_session, find_to_delete  # noqa: PLC0415  # only this needs it

        sessions = find_to_delete(self.context, selectors)
        return [delete_session(session, force=force, purge_now=purge) for session in sessions]

    def restore(self, selector: str) -> Restored:
        """Bring a deleted session back; NotFoundError when there is none, or it was purged."""
        from csa.runner.session import find_retired  # noqa: PLC0415  # only this needs it
        from csa.runner.sessions.removal import restore_session  # noqa: PLC0415  # as above

        return restore_session(find_retired(self.context, selector))

    def checkpoint(self, selector: str, *, label: str | None = None) -> Checkpoint:
        """Save a checkpoint of a session: its record and its transcript's hash, as a git commit of csa's own."""
        from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # as above
        from csa.runner.turns.checkpointing import checkpoint_session  # noqa: PLC0415  # only this needs it

        session = self.session(selector)
        made, _ = checkpoint_session(session, label=label)
        record_act(session.context, "session checkpoint", session.session_id, what="checkpointed", commit=made.commit)
        return made

    def _named(self, selectors: Sequence[str], *, retired: bool = False, mirrored: bool = False) -> list[Session]:
        """Return the sessions that are named, each once; UsageError when there is none."""
        if not selectors:
            raise UsageError("Name a session.")
        found = [self.session(selector, retired=retired, mirrored=mirrored) for selector in selectors]
        return list({session.paths.pathname: session for session in found}.values())


def _unless(faults: list[StateError], found: list[_T]) -> list[_T]:
    if faults:
        raise faults[0]
    return found
