"""Sums over turns: counts, success, context, tokens, cost, time and memory. Pure."""

from __future__ import annotations

from typing import Any

from csa.model.usage import Usage
from csa.structs import Struct, field

_PERCENTILE = 95


class TurnFacts(Struct, kw_only=True):
    """A turn's figures. `status` is None while it runs; `context_tokens`: what it read, None if unknown.

    `usage` is what it adds to a sum: `counted`.
    """

    session_id: str
    tool: str
    status: str | None
    messages: int = 0
    usage: Usage = field(default_factory=Usage)
    context_tokens: int | None = None
    duration_s: float = 0.0
    peak_rss_bytes: int | None = None


class Tally(Struct, frozen=False):
    """The sum over some turns, and the sessions they belong to."""

    sessions: set[str] = field(default_factory=set)
    tools: dict[str, int] = field(default_factory=dict)  # turns by tool
    turns: int = 0
    ended: int = 0
    succeeded: int = 0
    messages: int = 0
    compactions: int = 0
    usage: Usage = field(default_factory=Usage)
    time_s: float = 0.0
    _contexts: list[int] = field(default_factory=list)
    _memory: list[int] = field(default_factory=list)

    def add(self, turn: TurnFacts) -> None:
        """Add a turn."""
        self.sessions.add(turn.session_id)
        self.turns += 1
        self.tools[turn.tool] = self.tools.get(turn.tool, 0) + 1
        self.ended += turn.status is not None
        self.succeeded += turn.status == "succeeded"
        self.messages += turn.messages
        self.usage = self.usage + turn.usage
        self.time_s += turn.duration_s
        if turn.context_tokens is not None:
            self._contexts.append(turn.context_tokens)
        if turn.peak_rss_bytes is not None:
            self._memory.append(turn.peak_rss_bytes)

    def add_compaction(self, session_id: str, usage: Usage) -> None:
        """Add a compaction, which is not a turn."""
        self.sessions.add(session_id)
        self.compactions += 1
        self.usage = self.usage + usage

    def merge(self, other: Tally) -> None:
        """Add another tally."""
        self.sessions |= other.sessions
        for tool, count in other.tools.items():
            self.tools[tool] = self.tools.get(tool, 0) + count
        for name in ("turns", "ended", "succeeded", "messages", "compactions", "usage", "time_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._contexts += other._contexts
        self._memory += other._memory

    @property
    def running(self) -> int:
        """How many of the turns have not ended."""
        return self.turns - self.ended

    @property
    def most_active_tool(self) -> str | None:
        """The tool with most turns; None if there are none."""
        return max(self.tools, key=lambda tool: (self.tools[tool], tool), default=None)

    @property
    def success_rate(self) -> float | None:
        """The success rate of finished turns; None if there are none."""
        return self.succeeded / self.ended if self.ended else None

    @property
    def average_context(self) -> float | None:
        return sum(self._contexts) / len(self._contexts) if self._contexts else None

    @property
    def p95_memory(self) -> int | None:
        return percentile(self._memory, _PERCENTILE)

    def to_json(self, *, all_turns: int) -> dict[str, Any]:
        """Return the object that `csa stats --json` prints for a row; its keys are fixed."""
        rate, context = self.success_rate, self.average_context
        return {
            "sessions": len(self.sessions),
            "messages": self.messages,
            "turns": self.turns,
            "succeeded": self.succeeded,
            "success_rate": None if rate is None else round(rate, 4),
            "average_context_tokens": None if context is None else round(context),
            "compactions": self.compactions,
            "usage": self.usage.to_sum(),
            "time_s": round(self.time_s, 3),
            "share": round(self.turns / all_turns, 4) if all_turns else None,
            "p95_peak_rss_bytes": self.p95_memory,
        }


def percentile(values: list[int], percent: int) -> int | None:
    """Return the smallest value that at least this percentage of the values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
