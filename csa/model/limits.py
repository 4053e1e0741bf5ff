"""Limits, budgets and what has been spent: values and their arithmetic. Pure; 0 is no limit everywhere."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.usage import Usage, count_of, number_of
from csa.structs import Struct, asdict, field, fields, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

TREE_LIMITS = ("max_tree_sessions", "max_tree_running")


class Limits(Struct, kw_only=True):
    """How many sessions and running turns there may be. `tools` limits the running turns of single tools."""

    max_children: int = 0
    max_tree_sessions: int = 0
    max_tree_running: int = 0
    max_running: int = 0  # on this host, over all projects; as are those of `tools`
    tools: Mapping[str, int] = field(default_factory=dict)

    def tightened_by(self, other: Limits) -> Limits:
        """Return the stricter of both, limit by limit."""
        names = {*self.tools, *other.tools}
        return Limits(
            **{name: _tighter(getattr(self, name), getattr(other, name)) for name in COUNTS},
            tools={name: _tighter(self.tools.get(name, 0), other.tools.get(name, 0)) for name in sorted(names)},
        )

    def of_tree(self) -> Limits:
        """Return only what concerns the tree as a whole."""
        return Limits(**{name: getattr(self, name) for name in TREE_LIMITS})

    def replacing(self, old: Limits) -> Limits:
        """Return these limits so that they can be written over the record of `old`: what is lifted is named, as 0."""
        return replace(self, tools={**dict.fromkeys(old.tools, 0), **self.tools})

    def to_record(self) -> dict[str, Any]:
        """Return `[limits]`, None standing for absent keys."""
        counts = {name: getattr(self, name) or None for name in COUNTS}
        return {**counts, "tools": {name: count or None for name, count in self.tools.items()} or None}


COUNTS = tuple(name for name in fields(Limits) if name != "tools")


class Budget(Struct, kw_only=True):
    """What a session and all below it may use: tokens in and out, US dollars, seconds of turns."""

    tokens: int = 0
    usd: float = 0.0
    time_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.tokens or self.usd or self.time_s)

    def to_record(self) -> dict[str, Any]:
        """Return `[budget]`, as `Limits.to_record`."""
        return {name: amount or None for name, amount in asdict(self).items()}

    def exhausted_by(self, spent: Spent) -> str | None:
        """Return in words what is used up; None while there is something left of everything."""
        if self.tokens and spent.tokens >= self.tokens:
            return f"{spent.tokens:,} of {self.tokens:,} tokens"
        if self.usd and spent.usd >= self.usd:
            return f"${spent.usd:,.2f} of ${self.usd:,.2f}"
        if self.time_s and spent.time_s >= self.time_s:
            return f"{spent.time_s:,.0f} of {self.time_s:,.0f} seconds"
        return None


class Spent(Struct, kw_only=True):
    """What turns have used, and how many of them did not say how many tokens, or how much money."""

    tokens: int = 0
    usd: float = 0.0
    time_s: float = 0.0
    turns_unmeasured: int = 0
    turns_unpriced: int = 0

    def __add__(self, other: Spent) -> Spent:
        sums = {name: amount + getattr(other, name) for name, amount in asdict(self).items()}
        return Spent(**{**sums, "usd": round(sums["usd"], 6), "time_s": round(sums["time_s"], 3)})

    def to_dict(self) -> dict[str, Any]:
        """Return the five numbers by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spent:
        """Read the keys of `to_dict`; what is missing, or no number, counts as none."""
        return cls(
            tokens=count_of(data.get("tokens")),
            usd=float(number_of(data.get("usd")) or 0),
            time_s=float(number_of(data.get("time_s")) or 0),
            turns_unmeasured=count_of(data.get("turns_unmeasured")),
            turns_unpriced=count_of(data.get("turns_unpriced")),
        )


def spent_by_turn(usage: Usage | None, duration_s: float) -> Spent:
    """Return what one turn has used; no usage, or no money in it, is unknown and not nothing."""
    if usage is None:
        return Spent(time_s=duration_s, turns_unmeasured=1, turns_unpriced=1)
    return Spent(
        tokens=usage.input_tokens + usage.output_tokens,
        usd=usage.cost_usd or 0.0,
        time_s=duration_s,
        turns_unpriced=int(usage.cost_usd is None),
    )


def _tighter(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other
