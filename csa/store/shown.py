"""The session as shown: what lists, trees, live views and their JSON know about a session at one moment."""

from __future__ import annotations

from csa.errors import StateError
from csa.ids import unique_prefix_length
from csa.model.state import format_time, parse_time
from csa.model.usage import number_of
from csa.paths import RETIRED
from csa.store.liveness import probe
from csa.store.sessions import Record, Store, may_hold, read_state_text
from csa.store.status import session_status
from csa.store.unfinished import usage_of
from csa.structs import Struct, asdict, field, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from csa.model.events import Event
    from csa.model.state import SessionState
    from csa.model.usage import Usage
    from csa.model.worktree import Worktree
    from csa.store.owner import Owner
    from csa.store.reception import Reception

CLOSED = "closed"  # a phase, as views see it; the record has the time
SHOWN_LENGTH = 10  # characters of an id, at least


class Siblings(Struct, frozen=False):
    """The sessions of a store, as context for one that is shown: their sorted ids, and who its relatives are.

    Counting reads no record again that was noted.
    """

    store: Store
    ids: Sequence[str]
    _known: dict[str, SessionState | None] = field(default_factory=dict)
    _counts: dict[str, int] | None = None
    _merges: dict[str, list[str]] = field(default_factory=dict)

    def replace(self, ids: Sequence[str]) -> None:
        """Go on with other sessions; what is known of those that stay is kept."""
        self.ids, self._counts, self._merges = ids, None, {}
        for gone in self._known.keys() - set(ids):
            del self._known[gone]

    def note(self, record: Record) -> None:
        """Note one that has been read."""
        self._known[record.session_id] = record.state

    def relatives(self, session_id: str) -> Iterator[tuple[Record, SessionState]]:
        """Yield the sessions whose records name one, oldest first; those without its id are not even parsed."""
        for other in self.ids:
            if other != session_id and may_hold(read_state_text(self.store.paths(other).pathname), session_id.encode()):
                record = self.store.record(other)
                if record.state:
                    yield record, record.state

    def children(self, session_id: str) -> Iterator[Record]:
        """Yield the children of a session, oldest first."""
        for record, state in self.relatives(session_id):
            if state.parent_session_id == session_id:
                yield record

    def count_children(self, session_id: str) -> int:
        """Return how many sessions of the project have that one as their parent; counted on first use."""
        return self._count().get(session_id, 0)

    def merges(self, session_id: str) -> list[str]:
        """Return the sessions of the project that were merged from that one and others, oldest first."""
        self._count()
        return self._merges.get(session_id, [])

    def _count(self) -> dict[str, int]:
        if self._counts is None:
            self._counts = {}
            for other in self.store.ids():
                state = self._known[other] if other in self._known else self._read(other)
                if state and (parent := state.parent_session_id):
                    self._counts[parent] = self._counts.get(parent, 0) + 1
                for source in state.merged_from if state else ():
                    self._merges.setdefault(source, []).append(other)
        return self._counts

    def _read(self, session_id: str) -> SessionState | None:
        """Return the record of a session that has a parent or sources; None for others."""
        content = read_state_text(self.store.paths(session_id).pathname)
        has_relatives = may_hold(content, b"parent_session_id") or may_hold(content, b"merged_from")
        return self.store.record(session_id).state if has_relatives else None


class SessionInfo(Struct, kw_only=True, frozen=False):
    """A session as it is shown. Times are Unix seconds; `duration_s` is None while the turn runs.

    For a last turn that has ended everything is known except what was done; for another, what an `Observer` has seen.
    """

    record: Record
    status: str
    tool: str = ""  # of the last turn, like the following
    turn: int = 0
    doing: str = ""
    started_at: float | None = None
    duration_s: float | None = None
    owner: Owner | None = None  # while it is running, or an errand is done
    pid: int | None = None  # of the owner, or of the other program that runs it
    _usage: Usage | None = None
    _beside: Siblings | None = None

    @property
    def session_id(self) -> str:
        return self.record.session_id

    @property
    def store(self) -> Store:
        return self.record.store

    @property
    def state(self) -> SessionState | None:
        """Its record; None if that is damaged."""
        return self.record.state

    @property
    def project(self) -> str:
        return self.record.store.project_pathname

    @property
    def parent(self) -> str | None:
        return self.state.parent_session_id if self.state else None

    @property
    def parent_project(self) -> str | None:
        """Its parent's project, if that is another one."""
        return self.state.parent_project if self.state else None

    @property
    def parent_label(self) -> str | None:
        """Where its parent is, as `Store.label`, if that is another project, or may be another host."""
        elsewhere, host = self.parent_project, self.store.host
        return f"{host}:{elsewhere}" if elsewhere and host else elsewhere

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def asking(self) -> str | None:
        """What its agent waits to be allowed."""
        return (self.owner and self.owner.asking) or None

    @property
    def unique_length(self) -> int:
        """How many characters of the id are unique."""
        return unique_prefix_length(self.session_id, self._beside.ids if self._beside else (), minimum=1)

    @property
    def prefix(self) -> str:
        """The shortest unique prefix, at least 10 characters."""
        return self.session_id[: max(SHOWN_LENGTH, self.unique_length)]

    @property
    def name(self) -> str | None:
        return self.record.name

    @property
    def phase(self) -> str:
        """`active`, `available` (compacted), `closed` or `retired` (deleted)."""
        if self.record.is_retired or not self.state:
            return RETIRED
        return CLOSED if self.state.closed_at else self.state.phase

    @property
    def children(self) -> int:
        """How many sessions of the project have it as their parent."""
        return self._beside.count_children(self.session_id) if self._beside else 0

    @property
    def merged_into(self) -> list[str]:
        """The sessions of the project that were merged from it and others, oldest first."""
        return self._beside.merges(self.session_id) if self._beside else []

    @property
    def worktree(self) -> Worktree | None:
        """Its own worktree; of a session on another host with what has become of its work here, if that is known."""
        tree, found = self.state.worktree if self.state else None, self._received()
        if tree is None or found is None:
            return tree
        refused = found.refused if self._is_of_last_turn(found) else None
        return replace(tree, landed=found.landed, landed_at=found.at if found.landed else None, refused=refused)

    @property
    def has_landed(self) -> bool:
        """Whether the work of its last turn has."""
        state, tree = self.state, self.worktree
        if state is None or tree is None or tree.landed_at is None:
            return False
        found = self._received()  # the clock of another host says nothing of when something was done here
        return self._is_of_last_turn(found) if found else tree.landed_at >= state.last_accessed

    def _received(self) -> Reception | None:
        if not self.store.host or self.state is None or self.state.worktree is None:
            return None
        from csa.store.reception import read_copy  # noqa: PLC0415  # few are on other hosts

        return read_copy(self.record.paths)

    def _is_of_last_turn(self, found: Reception) -> bool:
        return self.state is not None and found.turn >= self.state.turns

    @property
    def usage(self) -> Usage | None:
        """Its usage, including what has no end yet; None if its record cannot be read."""
        if self._usage is None and self.state is not None:
            try:
                self._usage = usage_of(self.record.paths, self.state, self.status)
            except StateError:  # it was deleted just now, or `status` shows it next time
                self._usage = self.state.usage
        return self._usage

    @property
    def queued(self) -> int:
        """How many prompts wait for it."""
        from csa.store.queue import count_queued  # noqa: PLC0415  # finding a session needs none of it

        return count_queued(self.record.paths)

    def examined(self) -> SessionInfo:
        """Return the same, with a look at its status."""
        return examine(self.record, self._beside)

    def elapsed_s(self, now: float) -> float | None:
        """Return how long the turn has been running, or took."""
        if self.duration_s is not None or not self.is_running or self.started_at is None:
            return self.duration_s
        return max(0.0, now - self.started_at)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa list --json` prints; most keys of a damaged session are null."""
        state, fault = self.state, self.record.fault
        return {
            **self._common(),
            "tools": list(state.tools) if state else [],
            "depth": state and state.depth,
            "root_session_id": state and state.root_session_id,
            "children": self.children if state else None,
            "merged_from": list(state.merged_from) if state else [],
            "merged_into": self.merged_into if state else [],
            "turns": state and state.turns,
            "branch": state and state.branch,
            "worktree": worktree_to_json(self.worktree),
            "created_at": format_time(state.created_at) if state else None,
            "last_accessed": format_time(state.last_accessed) if state else None,
            "fault": fault and fault.to_json(),
            "error": fault and str(fault),
            "id": self.session_id,
        }

    def to_live_json(self, now: float) -> dict[str, Any]:
        """Return the object that `csa top --json` prints; `ps` has more."""
        seconds = self.elapsed_s(now)
        return {
            **self._common(),
            "doing": self.doing,
            "elapsed_s": None if seconds is None else round(seconds, 1),
            "id": self.session_id,
            "parent": self.parent,
        }

    def to_row(self) -> dict[str, Any]:
        """Return the object that `csa serve` shows of it in lists; it has nothing that changes by itself."""
        used = self.state and self.state.last_accessed
        more = {"last_accessed": used and format_time(used), "doing": self.doing}
        return {
            **self._common(),
            **more,
            "pinned": bool(self.state and self.state.pinned),
            "heard_at": self._heard_time() if self.status == "away" else None,
        }

    def _heard_time(self) -> str | None:
        from csa.store.mirrors import Mirror  # noqa: PLC0415  # most sessions are this host's

        return Mirror(self.store.root_pathname).heard_time()

    def _common(self) -> dict[str, Any]:
        """Return what all JSON forms of a session begin with."""
        from csa.model.clock import from_timestamp  # noqa: PLC0415  # only JSON needs it

        state, usage = self.state, self.usage
        return {
            "session_id": self.session_id,
            "prefix": self.prefix,
            "name": state and state.name,
            "description": state and state.description,
            "project": self.project,
            "mirror": self.store.host,
            "parent_session_id": self.parent,
            "status": self.status,
            "asking": self.asking,
            "phase": self.phase,
            "tool": self.tool or (state and state.last_tool) or None,
            "turn": self.turn or (state and state.turns) or None,
            "queued": self.queued,
            "started_at": None if self.started_at is None else format_time(from_timestamp(self.started_at)),
            "duration_s": self.duration_s,
            "usage": usage and usage.to_sum(),
        }


def worktree_to_json(tree: Worktree | None) -> dict[str, Any] | None:
    """Return the object that every `--json` has of a session's worktree: `worktree` in docs/json.md."""
    if tree is None:
        return None
    names = ("path", "branch", "base", "checkout", "target", "number", "setup", "landed")
    refused = tree.refused
    return {
        **{name: getattr(tree, name) for name in names},
        "is_ready": tree.setup is None or tree.is_ready,
        "landed_at": format_time(tree.landed_at) if tree.landed_at else None,
        "refused": {**asdict(refused), "files": list(refused.files)} if refused else None,
    }


def examine(record: Record, beside: Siblings | None = None) -> SessionInfo:
    """Return a session as shown: its status, and its last turn, if that has ended."""
    if record.state is None:
        status = record.fault.status if record.fault else "damaged"
        return SessionInfo(record=record, status=status, _beside=beside)
    try:
        status, last = session_status(record.paths, record.state)
    except StateError as fault:
        record = Record(record.store, record.session_id, record.paths, None, fault)
        return SessionInfo(record=record, status=fault.status, _beside=beside)
    began, duration = span_of(last) if last and last.type == "run_finished" else (None, None)
    owner = probe(record.paths).owner if status == "running" else None  # it may wait for a person
    tool, turn = (str(last.data.get("tool", "")), last.turn) if last else ("", 0)
    return SessionInfo(
        record=record,
        status=status,
        tool=tool,
        turn=turn,
        started_at=began,
        duration_s=duration,
        owner=owner,
        pid=owner.pid if owner else None,
        _beside=beside,
    )


def span_of(finished: Event) -> tuple[float | None, float | None]:
    """Return when a turn began, computed from its end, and how long it took; None if unknown."""
    duration = number_of(finished.data.get("duration_s"))
    began = seconds_of(finished.data.get("started_at"))
    if not began and (ended := seconds_of(finished.ts)) is not None:
        began = ended - (duration or 0.0)
    return began, duration


def seconds_of(moment: object) -> float | None:
    """Return a recorded time as Unix seconds."""
    parsed = parse_time(moment)
    return parsed.timestamp() if parsed else None
