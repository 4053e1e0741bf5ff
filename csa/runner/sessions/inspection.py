"""Everything known about one session, for `csa status`. Only reads; a deleted session is read like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from csa.model.conversation import Message, read_conversation
from csa.model.events import Event
from csa.model.result import told_error
from csa.model.state import SessionState, format_time, parse_time
from csa.model.usage import Usage
from csa.runner.current import current_id
from csa.runner.session import Session
from csa.store.family import find_elsewhere, is_spread
from csa.store.liveness import Liveness, probe
from csa.store.queue import why_held
from csa.store.sessions import Record
from csa.store.shown import SessionInfo, Siblings, worktree_to_json
from csa.store.statefile import read_record
from csa.store.transcript import read_events_backwards
from csa.store.turns import ConversationRecord, TurnRecord, newest_of_turn, read_conversations, read_turns
from csa.structs import Struct

LAST_MESSAGES = 4
_MAX_MESSAGE = 2000
_MAX_LOOK_BACK = 2000  # events that are searched for the last messages


class SessionCard(Struct, kw_only=True):
    """What `session info` shows."""

    info: SessionInfo
    state: SessionState
    is_current: bool
    liveness: Liveness
    turns: list[TurnRecord]
    model: str | None
    activity: Event | None
    messages: list[Message]
    children: list[SessionInfo]
    merged_into: list[str]
    denied: list[tuple[int, str]]  # turn, what
    conversations: Mapping[str, ConversationRecord]  # of each tool
    extra: Mapping[str, Any]  # the raw record: keys that the state has no place for
    queued: int  # prompts that wait

    @property
    def last_turn(self) -> TurnRecord | None:
        return self.turns[-1] if self.turns else None

    @property
    def context(self) -> tuple[int, Usage] | None:
        """The last turn with known usage, and what it read and wrote: tools report no more about their context."""
        for turn in reversed(self.turns):
            if turn.told is not None:
                return turn.number, turn.told
        return None

    @property
    def held(self) -> str | None:
        """Why nothing is taken from its queue."""
        return None if not self.queued or self.info.is_running else why_held(self.info.record.paths)

    @property
    def is_compacted(self) -> bool:
        return self._context_status.get("is_compacted") is True

    @property
    def _context_status(self) -> Mapping[str, Any]:
        found = self.extra.get("context_status")
        return found if isinstance(found, Mapping) else {}

    @property
    def time_s(self) -> float:
        """How long its finished turns took."""
        return sum(turn.number_of("duration_s") or 0.0 for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session info --json` prints; its keys are fixed."""
        info, state, context = self.info, self.state, self.context
        return {
            "session_id": info.session_id,
            "prefix": info.prefix,
            "name": state.name,
            "description": state.description,
            "project": info.project,
            "mirror": info.store.host,
            "status": info.status,
            "asking": info.asking,
            "phase": info.phase,
            "current": self.is_current,
            "pinned": self.extra.get("pinned") is True,
            "tool": state.last_tool,
            "model": self.model,
            "tools": {name: _tool_to_json(state, name, self.conversations.get(name)) for name in state.tools},
            "turns": state.turns,
            "queued": info.queued,
            "held": self.held,
            "last_turn": _turn_to_json(self.last_turn, info.status),
            "running": _owner_to_json(self.liveness),
            "context": {"turn": context[0], **context[1].to_sum()} if context else None,
            "is_compacted": self.is_compacted,
            "last_compacted_at": _time_to_json(self._context_status.get("last_compacted_at")),
            "usage": (info.usage or Usage()).to_sum(),
            "time_s": round(self.time_s, 3),
            "owner": state.owner,
            "branch": state.branch,
            "worktree": worktree_to_json(info.worktree),
            "permission": state.permission,
            "ask": state.ask,
            "shared": state.shared,
            "extra_writable": list(state.extra_writable),
            "project_path": state.project_path,
            "directory": info.record.paths.pathname,
            "depth": state.depth,
            "parent_session_id": state.parent_session_id,
            "parent_host": state.parent_host,
            "root_session_id": state.root_session_id,
            "fork_of": state.fork_of,
            "merged_from": list(state.merged_from),
            "merged_into": self.merged_into,
            "children": [
                {
                    "session_id": c.session_id,
                    "name": c.state.name,
                    "description": c.state.description,
                    "status": c.status,
                    "mirror": c.store.host,
                    "tool": c.state.last_tool,
                    "id": c.session_id,
                }
                for c in self.children
                if c.state
            ],
            "created_at": format_time(state.created_at),
            "last_accessed": format_time(state.last_accessed),
            "expires_at": _time_to_json(self.extra.get("expires_at")),
            "last_activity": {"at": self.activity.ts, "type": self.activity.type} if self.activity else None,
            "messages": [
                {
                    "turn": m.turn,
                    "at": m.timestamp,
                    "role": m.role,
                    "content": m.content[:_MAX_MESSAGE],
                    "timestamp": m.timestamp,
                }
                for m in self.messages
            ],
            "denied": [{"turn": turn, "what": what} for turn, what in self.denied],
            "fault": None,
            "id": info.session_id,
        }


def inspect_session(session: Session) -> SessionCard:
    """Return what is known about a session; StateError if its record, lock or transcript cannot be read."""
    store, session_id = session.target
    siblings = Siblings(store, store.ids())
    info = session.record.examine(siblings)
    record, state = info.record, info.state
    if state is None:
        assert record.fault is not None  # one of the two exists
        raise record.fault
    transcript = record.paths.transcript
    turns = list(read_turns(transcript))
    relatives = list(siblings.relatives(session_id))
    return SessionCard(
        info=info,
        state=state,
        is_current=current_id(session.context, store) == session_id,
        liveness=probe(record.paths),
        turns=turns,
        model=_model(record, turns),
        activity=next(iter(newest_of_turn(transcript)), None),
        messages=_last_messages(record),
        children=[
            *(other.examine(siblings) for other, its in relatives if its.parent_session_id == session_id),
            *(_children_elsewhere(session) if is_spread(store.root, state) else ()),
        ],
        merged_into=[its.session_id for _, its in relatives if session_id in its.merged_from],
        denied=list(dict.fromkeys(_denied(turns, record))),
        conversations=conversations_in_use(transcript, state),
        extra=read_record(record.paths.state),
        queued=info.queued,
    )


def _children_elsewhere(session: Session) -> Iterator[SessionInfo]:
    """Yield the children of a session that are on other hosts."""
    for store, session_id in find_elsewhere([session.target]):
        record = store.record(session_id)
        if record.state and record.state.parent_session_id == session.session_id:
            yield record.examine()


def unreadable_to_json(session: Session) -> dict[str, Any]:
    """Return the card of a session that cannot be read: most of it is null, and `fault` says why."""
    from csa.model.schemas.card import CARD, KNOWN_OF_ANY  # noqa: PLC0415  # only damage needs it

    known = session.record.examine().to_json()
    return {**dict.fromkeys(CARD["properties"]), **{name: known[name] for name in KNOWN_OF_ANY}}


def _model(record: Record, turns: list[TurnRecord]) -> str | None:
    """Return the model of the last turn, from its end, or from what its tool has reported so far."""
    if turns and turns[-1].finished and turns[-1].finished.data.get("model"):
        return str(turns[-1].finished.data["model"])
    for event in islice(read_events_backwards(record.paths.transcript), _MAX_LOOK_BACK):
        if event.type in {"session_bound", "run_started"} and event.data.get("model"):
            return str(event.data["model"])
    return None


def _last_messages(record: Record) -> list[Message]:
    if record.state and record.state.sealed_at is not None:  # which needs no key
        return []
    events = list(islice(read_events_backwards(record.paths.transcript), _MAX_LOOK_BACK))[::-1]
    said = [m for m in read_conversation(events) if m.role in {"user", "assistant"} and m.content.strip()]
    return said[-LAST_MESSAGES:]


def _denied(turns: list[TurnRecord], record: Record) -> Iterator[tuple[int, str]]:
    for turn in turns:
        found = turn.finished.data.get("denied") if turn.finished else None
        yield from ((turn.number, str(what)) for what in (found if isinstance(found, list) else ()))
    if turns and turns[-1].finished is None:  # of a running turn, so far
        running = []
        for event in read_events_backwards(record.paths.transcript):
            if event.type == "run_started":
                break
            if event.type == "permission" and event.data.get("status") == "denied":
                running.append((event.turn, str(event.data.get("title") or event.data.get("message") or "")))
        yield from reversed(running)


def conversations_in_use(transcript: Path, state: SessionState) -> dict[str, ConversationRecord]:
    """Return what is known about the conversations in which the tools would continue; StateError as `read_turns`."""
    found = read_conversations(transcript)
    return {
        name: conversation
        for name, tool in state.tools.items()
        if (conversation := found.get(name)) and conversation.provider_session_id == tool.provider_session_id
    }


def _tool_to_json(state: SessionState, name: str, conversation: ConversationRecord | None) -> dict[str, Any]:
    tool = state.tools[name]
    return {
        "provider_session_id": tool.provider_session_id,
        "since_turn": conversation.since_turn if conversation else None,
        "replaces": conversation.replaces if conversation else None,
        "cwd": tool.cwd,
        "account": tool.account,
        "model": tool.model,
        "effort": tool.effort,
        "last_action_summary": tool.last_action_summary or "",
        "last_exit_code": tool.last_exit_code,
        "updated_at": format_time(tool.updated_at) if tool.updated_at else None,
    }


def _turn_to_json(turn: TurnRecord | None, status: str) -> dict[str, Any] | None:
    if turn is None:
        return None
    data = turn.finished.data if turn.finished else {}
    return {
        "turn": turn.number,
        "tool": turn.tool,
        "status": turn.status or status,
        "exit_code": data.get("exit_code"),
        "error": told_error(data.get("error")),
        "template": turn.template,
        "replayed_from": dict(turn.replayed_from) if turn.replayed_from else None,
        "duration_s": turn.number_of("duration_s"),
        "started_at": format_time(turn.started_at) if turn.started_at else None,
        "finished_at": format_time(turn.finished_at) if turn.finished_at else None,
    }


def _owner_to_json(liveness: Liveness) -> dict[str, Any] | None:
    owner = liveness.owner
    if (stranger := liveness.stranger) is not None:
        return {"pid": stranger.pid, "host": None, "tool": stranger.tool, "turn": None, "since": None, "errand": None}
    if liveness.state == "not_alive" or owner is None:
        return None
    known = {"pid": owner.pid, "host": owner.host, "tool": owner.tool, "turn": owner.turn, "since": owner.since}
    return {**known, "errand": owner.errand or None}


def _time_to_json(value: Any) -> str | None:
    moment = parse_time(value)
    return format_time(moment) if moment else None
