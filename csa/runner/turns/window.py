"""Whether a tool's conversation still fits the session's context window, or a new one has to take its place.

A conversation holds the turns that it ran, and those that the tool got a summary of. Where it holds more turns than the
window, more tokens, or a turn that was pruned, the next turn starts a new conversation, which gets a summary of the
turns within the window instead. The transcript keeps everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from csa.model.config import Config
from csa.model.events import Event
from csa.model.limits import ContextWindow
from csa.model.state import ToolState
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.runner.turns.handoff import CHARS_PER_TOKEN, DigestLimits
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


def read_held(paths: SessionPaths, tool: str, conversation: str) -> Held:
    """Return what a conversation of a tool holds, from the transcript; StateError where that cannot be read."""
    turns: set[int] = set()
    characters = 0
    measured: int | None = None
    for part in _parts_backwards(paths):
        if not turns and measured is None:
            measured = part.compacted.get(tool)
        if conversation not in part.conversations:
            continue
        if not turns and measured is None:
            measured = part.last_request
        turns |= {part.number, *part.told}
        characters += part.characters
        if part.resumed != conversation:
            break
    tokens = characters // CHARS_PER_TOKEN if measured is None else measured
    return Held(tuple(sorted(turns)), tokens, measured is None)


def digest_limits(config: Config, window: ContextWindow, *, since: int | None = None) -> DigestLimits:
    """Return how much a summary of earlier turns may tell: as much as the session's window, else as configured."""
    limits = in_force(config, window)
    return DigestLimits(
        limits.turns or config.context_turns,
        limits.tokens or config.context_tokens,
        limits.since_turn if since is None else since,
    )


def in_force(config: Config, window: ContextWindow) -> ContextWindow:
    """Return a session's window with the configured limits where it has none of its own."""
    return window.or_else(config.context_window, config.context_window_tokens)


def find_outgrown(plan: TurnPlan, known: ToolState, paths: SessionPaths) -> dict[str, Any] | None:
    """Return what the `handoff` event of a turn says where a new conversation has to take the place of `known`'s.

    StateError as `why_outgrown`.
    """
    limits = in_force(plan.context.config, plan.state.window)
    if not plan.hands_over:  # nobody would tell the new one anything
        limits = ContextWindow(since_turn=limits.since_turn)
    why = why_outgrown(paths, known, plan.adapter.name, limits)
    return {"reason": CONTEXT_WINDOW, "replaces": known.provider_session_id, "message": why} if why else None


def why_outgrown(paths: SessionPaths, known: ToolState, tool: str, window: ContextWindow) -> str | None:
    """Say why the conversation that a tool would go on in does not fit the window (in force); None where it does.

    StateError where the transcript cannot be read, which is only looked at where there is a window.
    """
    if known.provider_session_id is None or not (window.turns or window.tokens or window.since_turn):
        return None
    return outgrown(read_held(paths, tool, known.provider_session_id), window)


def outgrown(held: Held, window: ContextWindow) -> str | None:
    """Say why a conversation does not fit the window; None where it does."""
    if any(turn < window.since_turn for turn in held.turns):
        return f"turns before {window.since_turn} were pruned"
    if window.turns and len(held.turns) > window.turns:
        return f"it holds {len(held.turns)} turns, and the context window is {window.turns}"
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
    finished: Usage | None = None
    usages: list[Usage] = field(default_factory=list)  # newest first; each of the turn so far
    compacted: dict[str, int] = field(default_factory=dict)  # what is left of a tool's conversation

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
        part.characters += data["characters"] if type(data.get("characters")) is int else 0
    elif event.type == "tool_call":
        part.calls += 1
    elif event.type == "compaction" and "argv" in data:  # csa's own, which is no part of the turn
        part.usages.clear()
    elif event.type == "compaction" and data.get("status") == "succeeded" and type(data.get("tokens_after")) is int:
        part.compacted.setdefault(str(data.get("tool")), data["tokens_after"])
    elif event.type == "usage":
        part.usages.append(Usage.from_dict(data))
    elif event.type == "run_finished" and isinstance(data.get("usage"), Mapping):
        part.finished = Usage.from_dict(data["usage"])
