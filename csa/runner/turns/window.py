"""Whether a tool's conversation still fits the session's context window, or a new one has to take its place.

A conversation holds the turns that it ran, and those that the tool got a summary of. Where it holds more turns than the
window, more tokens, or a turn that was pruned, the next turn starts a new conversation, which gets a summary of the
turns within the window instead. The transcript keeps everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from csa.errors import CsaError
from csa.model.config import Config
from csa.model.conversation import count_told
from csa.model.events import Event
from csa.model.limits import ContextWindow
from csa.model.state import SessionState, ToolState
from csa.model.usage import CHARS_PER_TOKEN, Usage
from csa.paths import SessionPaths
from csa.runner.turns.handoff import DigestLimits
from csa.runner.turns.plan import TurnPlan
from csa.store.transcript import read_events_backwards
from csa.structs import Struct, field

CONTEXT_WINDOW = "context_window"  # the reason of a handoff
_TEXTS = {
    "run_started": "prompt",
    "agent_message": "text",
    "agent_thought": "text",
    "tool_call": "title",
    "tool_call_update": "content",
}


class Held(Struct):
    """What a tool's conversation holds: the numbers of turns, oldest first, and their size.

    The size is what the tool's last request took, where the tool says that of single requests, or the last turn was one
    request, or what is left after a compaction; else it is an estimate of four characters of the transcript a token.
    """

    turns: tuple[int, ...] = ()
    tokens: int = 0
    is_estimate: bool = True
    inherited: int = 0  # turns of the session whose conversation was copied

    @property
    def count(self) -> int:
        return len(self.turns) + self.inherited


def read_held(paths: SessionPaths, tool: str, conversation: str) -> Held:
    """Return what a conversation of a tool holds, from the transcript; StateError where that cannot be read."""
    turns: set[int] = set()
    inherited, characters, compacted = 0, 0, 0
    measured: int | None = None
    is_compacted = False
    for part in _parts_backwards(paths):
        if not is_compacted and tool in part.compacted:  # what was said before is in what is left
            is_compacted, compacted = True, part.compacted[tool]
            measured = compacted or None if not turns else measured
        if conversation not in part.conversations:
            continue
        if not turns and not is_compacted:
            measured = part.last_request
        turns |= {part.number, *part.told}
        characters += 0 if is_compacted else part.characters
        if part.resumed != conversation:
            inherited = part.inherited
            break
    tokens = compacted + characters // CHARS_PER_TOKEN if measured is None else measured
    return Held(tuple(sorted(turns)), tokens, measured is None, inherited)


def digest_limits(config: Config, window: ContextWindow, *, since: int | None = None) -> DigestLimits:
    """Return how much a summary of earlier turns may tell: as configured, and at most half the session's window.

    The other half is for what follows, or the next turn would begin anew as well.
    """
    limits = in_force(config, window)
    half = limits.tokens // 2 if limits.tokens else config.context_tokens
    return DigestLimits(
        limits.turns or config.context_turns,
        min(config.context_tokens, half),
        limits.since_turn if since is None else since,
    )


def in_force(config: Config, window: ContextWindow) -> ContextWindow:
    """Return a session's window with the configured limits where it has none of its own."""
    return window.or_else(config.context_window, config.context_window_tokens)


def find_outgrown(plan: TurnPlan, known: ToolState, paths: SessionPaths) -> dict[str, Any] | None:
    """Return what the `handoff` event of a turn says where a new conversation has to take the place of `known`'s.

    StateError as `why_outgrown`.
    """
    window = in_force(plan.context.config, plan.state.window)
    limits = applied(window, paths, plan.adapter.name, hands_over=plan.hands_over)
    why = why_outgrown(paths, known, plan.adapter.name, limits)
    return {"reason": CONTEXT_WINDOW, "replaces": known.provider_session_id, "message": why} if why else None


def applied(window: ContextWindow, paths: SessionPaths, tool: str, *, hands_over: bool) -> ContextWindow:
    """Return what of a window (in force) the next turn of a tool keeps to: perhaps only that turns were pruned.

    Else a new conversation would be told nothing, or lack what is in no transcript, or half done.
    """
    if (window.turns or window.tokens) and (not hands_over or _is_under_way(paths, tool)):
        return ContextWindow(since_turn=window.since_turn)
    return window


def refuse_pruned(state: SessionState, known: ToolState, tool: str, paths: SessionPaths) -> None:
    """Refuse to use a conversation that holds turns which were pruned: CsaError."""
    if why := why_outgrown(paths, known, tool, ContextWindow(since_turn=state.window.since_turn)):
        raise CsaError(
            f"The conversation with {tool} is not used any more: {why}.",
            hint=f'csa run --session {state.session_id} "..." starts a new one',
        )


def _is_under_way(paths: SessionPaths, tool: str) -> bool:
    """Say whether a turn of the tool waits to be continued, or its own interface was open since its last turn."""
    for event in read_events_backwards(paths.transcript):
        if event.type in {"run_started", "run_finished"}:
            return False
        if event.type == "parked" and event.data.get("tool") == tool:
            return True
        if event.type == "session_updated" and event.data.get("what") == "attached":
            return True
    return False


def why_outgrown(paths: SessionPaths, known: ToolState, tool: str, window: ContextWindow) -> str | None:
    """Say why the conversation that a tool would go on in does not fit the window (in force); None where it does.

    StateError where the transcript cannot be read, which is only looked at where there is a window.
    """
    if known.provider_session_id is None or not (window.turns or window.tokens or window.since_turn):
        return None
    return outgrown(read_held(paths, tool, known.provider_session_id), window)


def outgrown(held: Held, window: ContextWindow) -> str | None:
    """Say why a conversation does not fit the window; None where it does."""
    if any(turn < window.since_turn for turn in held.turns) or (window.since_turn and held.inherited):
        return f"turns before {window.since_turn} were pruned"
    if window.turns and held.count > window.turns:
        return f"it holds {held.count} turns, and the context window is {window.turns}"
    if window.tokens and held.tokens > window.tokens:
        return f"it holds about {held.tokens:,} tokens, and the context window is {window.tokens:,}"
    return None


class _Part(Struct, frozen=False):
    """A turn, as far as it has been read from its end to its beginning."""

    number: int
    resumed: str | None = None
    conversations: set[str] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    characters: int = 0
    calls: int = 0
    inherited: int = 0
    finished: Usage | None = None
    usages: list[Usage] = field(default_factory=list)  # newest first; each of the turn so far
    compacted: dict[str, int] = field(default_factory=dict)  # what is left of a tool's conversation; 0 if not said

    @property
    def last_request(self) -> int | None:
        """The tokens of the turn's last request, as far as the tool has said."""
        if len(self.usages) > 1:
            newest, before = self.usages[:2]
            return max(0, newest.tokens - before.tokens) or None
        whole = self.usages[0] if self.usages else self.finished
        return whole.tokens or None if whole and not self.calls else None


def _parts_backwards(paths: SessionPaths) -> Iterator[_Part]:
    part: _Part | None = None
    for event in read_events_backwards(paths.transcript):
        if part is None or part.number != event.turn:
            part = _Part(event.turn)
        _take(part, event)
        if event.type == "run_started":
            yield part
            part = None


def _take(part: _Part, event: Event) -> None:
    data: Mapping[str, Any] = event.data
    if event.type in _TEXTS:
        part.characters += len(str(data.get(_TEXTS[event.type]) or ""))
    if event.type == "run_started" and isinstance(data.get("resumed"), str):
        part.resumed = data["resumed"]
        part.conversations.add(data["resumed"])
    elif event.type == "session_bound":
        part.conversations.add(str(data.get("provider_session_id")))
    elif event.type == "handoff":
        told = data.get("turns")
        part.told |= {turn for turn in told if type(turn) is int} if isinstance(told, list) else set()
        part.inherited += count_told({"sources": data.get("sources")})
        part.characters += data["characters"] if type(data.get("characters")) is int else 0
    elif event.type == "fork" and data.get("how") == "native" and type(data.get("turns")) is int:
        part.inherited += data["turns"]
    elif event.type == "tool_call":
        part.calls += 1
    elif event.type == "compaction":
        _take_compaction(part, data)
    elif event.type == "usage":
        part.usages.append(Usage.from_dict(data))
    elif event.type == "run_finished" and isinstance(data.get("usage"), Mapping):
        part.finished = Usage.from_dict(data["usage"])


def _take_compaction(part: _Part, data: Mapping[str, Any]) -> None:
    if "argv" in data:  # the beginning of csa's own, whose usage is no part of the turn
        part.usages.clear()
    elif data.get("status") == "succeeded":
        left = data.get("tokens_after")
        part.compacted.setdefault(str(data.get("tool")), left if type(left) is int else 0)
