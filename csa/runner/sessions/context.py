"""What a session's next turn would send to a tool of earlier turns, and how that is restricted.

Nothing of this changes the transcript: pruned turns are not sent any more, and can be sent again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from csa.errors import UsageError
from csa.model.limits import ContextWindow
from csa.model.state import SessionState, ToolState, format_time
from csa.model.usage import CHARS_PER_TOKEN
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session, record_act, record_update
from csa.runner.sessions.editing import Edit
from csa.runner.toolbox import tool_names, unknown_tool
from csa.runner.turns.handoff import Handoff, make_handoff
from csa.runner.turns.origins import begins_merged, find_histories
from csa.runner.turns.window import Held, applied, digest_limits, in_force, outgrown, read_held
from csa.store.held import HeldSession
from csa.store.statefile import load_state
from csa.store.turns import read_turns
from csa.structs import Struct, replace


class SentContext(Struct, kw_only=True):
    """What the next turn by `tool` sends besides its prompt: a conversation that goes on, a summary, or both.

    `why_new` says why the conversation does not go on, though there is one; `summary` is text for the tool, redacted.
    """

    session_id: str
    tool: str
    window: ContextWindow  # in force
    conversation: str | None
    held: Held
    why_new: str | None
    handoff: Handoff | None
    oldest_at: datetime | None

    @property
    def summary(self) -> str:
        return self.handoff.text if self.handoff else ""

    @property
    def told(self) -> tuple[int, ...]:
        """The turns that the summary covers."""
        return tuple(self.handoff.data["turns"]) if self.handoff else ()

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The turns of other sessions that it covers: each session's id, and their numbers."""
        return list(self.handoff.data.get("sources", ())) if self.handoff else []

    @property
    def turns(self) -> tuple[int, ...]:
        """All turns that are sent, in the conversation or in the summary."""
        return tuple(sorted({*self.told, *(() if self.why_new else self.held.turns)}))

    @property
    def tokens(self) -> int:
        return len(self.summary) // CHARS_PER_TOKEN + (0 if self.why_new else self.held.tokens)

    @property
    def is_estimate(self) -> bool:
        return bool(self.summary) or self.held.is_estimate

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa context --json` prints."""
        return {
            "session_id": self.session_id,
            "tool": self.tool,
            "window": {"turns": self.window.turns, "tokens": self.window.tokens, "since_turn": self.window.since_turn},
            "conversation": None if self.why_new else self.conversation,
            "why_new": self.why_new,
            "sent_turns": list(self.turns),
            "summary_turns": list(self.told),
            "summary_sources": self.sources,
            "tokens": self.tokens,
            "tokens_are_estimated": self.is_estimate,
            "oldest_at": format_time(self.oldest_at) if self.oldest_at else None,
            "summary": self.summary or None,
        }


def describe_context(session: Session, *, tool: str | None = None) -> SentContext:
    """Return what the next turn of a session sends to `tool`, else to the tool of its last turn.

    Raises:
        UsageError: the session has not run, and no tool is named; or there is no such tool.
        NotFoundError, StateError: of the session.
    """
    state, config = load_state(session.files.state), session.context.config
    name = tool or state.last_tool
    if name is None:
        raise UsageError(f"Session {session.session_id} has not run yet.", hint="name the tool: --tool codex")
    if name not in state.tools and name not in tool_names(config):
        raise unknown_tool(name, tool_names(config))
    known = state.tools.get(name, ToolState())
    window = in_force(config, state.window)
    conversation = known.provider_session_id
    held = read_held(session.content, name, conversation) if conversation else Held(is_estimate=False)
    why_new = outgrown(held, applied(window, session.content, name, hands_over=config.hands_over))
    handoff = make_handoff(
        session.content,
        name,
        digest_limits(config, state.window),
        turn=state.turns + 1,
        conversation=None if why_new else conversation,
        prompt="",
        histories=[] if conversation and not why_new else find_histories(session.context, state, session.content),
    )
    sent = SentContext(
        session_id=session.session_id,
        tool=name,
        window=window,
        conversation=conversation,
        held=held,
        why_new=why_new,
        handoff=handoff if config.hands_over or begins_merged(state) else None,
        oldest_at=None,
    )
    began = {turn.number: turn.started_at for turn in read_turns(session.files.transcript)}
    return replace(sent, oldest_at=began.get(sent.turns[0]) if sent.turns else None)


def prune_context(session: Session, *, keep_last: int | None = None, extend: int | None = None) -> Edit:
    """Send only the `keep_last` newest turns from now on, or `extend` more of the older ones than by now.

    Raises:
        UsageError: a number is out of range.
        BusyError, NotFoundError, StateError: of the session.
    """
    if any(count is not None and count < 0 for count in (keep_last, extend)):
        raise UsageError("A number of turns is 0 or more.")
    with hold_session(session, with_text=True) as held:
        since = _since(held.state, keep_last, extend)
        before = held.state
        after = replace(before, window=replace(before.window, since_turn=since), tools=_renewed(held, since))
        if after == before:
            return Edit(before, before)
        changes = {"since_turn": since, "before": before.window.since_turn}
        record_update(session.context, held, "pruned", changes, after)
    loss = record_act(session.context, "session prune", session.session_id, what="pruned", since_turn=since)
    return Edit(before, after, (loss,) if loss else ())


def _renewed(held: HeldSession, since: int) -> dict[str, ToolState]:
    """Return the tools; where older turns are sent again, without conversations that lack them."""
    state = held.state
    again = set(range(max(since, 1), min(state.window.since_turn, state.turns + 1)))
    tools = dict(state.tools)
    for name, known in state.tools.items():
        if again and known.provider_session_id:
            there = read_held(held.paths, name, known.provider_session_id).turns
            if not again <= set(there):
                tools[name] = replace(known, provider_session_id=None, totals=None)
    return tools


def _since(state: SessionState, keep_last: int | None, extend: int | None) -> int:
    if keep_last is not None:
        first = state.turns - keep_last + 1
        return first if first > 1 else 0
    first = state.window.since_turn - (extend or 0)
    return first if first > 1 else 0
