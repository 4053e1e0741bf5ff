"""Limits, budgets and what has been spent: values and their arithmetic. Pure; 0 is no limit everywhere."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.usage import Usage, count_of, counted, number_of
from csa.structs import Struct, asdict, field, fields, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

PLAN = "plan"  # the tool of the sessions of plans: it cannot be asked for, and its turns do not count
TREE_LIMITS = ("max_tree_sessions", "max_tree_running")


class Limits(Struct, kw_only=True):
    """Limits on sessions and running turns. `tools` limits the running turns of single tools."""

    max_children: int = 0
    max_tree_sessions: int = 0
    max_tree_running: int = 0
    max_running: int = 0  # on this host, in all projects; likewise those of `tools`
    tools: Mapping[str, int] = field(default_factory=dict)

    def tightened_by(self, other: Limits) -> Limits:
        """Return the stricter of both, limit by limit."""
        names = {*self.tools, *other.tools}
        return Limits(
            **{name: _tighter(getattr(self, name), getattr(other, name)) for name in COUNTS},
            tools={name: _tighter(self.tools.get(name, 0), other.tools.get(name, 0)) for name in sorted(names)},
        )

    def of_tree(self) -> Limits:
        """Return only the limits of the tree as a whole."""
        return Limits(**{name: getattr(self, name) for name in TREE_LIMITS})

    def replacing(self, old: Limits) -> Limits:
        """Return these limits for writing over the record of `old`: removed ones are 0."""
        return replace(self, tools={**dict.fromkeys(old.tools, 0), **self.tools})

    def to_record(self) -> dict[str, Any]:
        """Return `[limits]`, None standing for absent keys."""
        counts = {name: getattr(self, name) or None for name in COUNTS}
        return {**counts, "tools": {name: count or None for name, count in self.tools.items()} or None}


COUNTS = tuple(name for name in fields(Limits) if name != "tools")


LARGEST_COUNT = 1 << 53  # which every reader of JSON and TOML keeps exactly


def is_count(value: object) -> bool:
    """Say whether a value can be recorded as a count: a whole number from 0 up, and not too large."""
    return type(value) is int and 0 <= value <= LARGEST_COUNT


class ContextWindow(Struct, kw_only=True):
    """How much of a session's history its next turn sends to the tool. For `turns` and `tokens`, 0 is no limit.

    Attributes:
        turns: the newest earlier turns that are sent, at most; None is as configured.
        tokens: the size of what is sent, at most; None is as configured.
        since_turn: turns with a lower number are not sent; 0 is from the beginning.
    """

    turns: int | None = None
    tokens: int | None = None
    since_turn: int = 0

    def or_else(self, turns: int | None, tokens: int | None) -> ContextWindow:
        """Return it with other limits where it has none of its own."""
        return replace(
            self,
            turns=turns if self.turns is None else self.turns,
            tokens=tokens if self.tokens is None else self.tokens,
        )

    def asked(self, turns: int | None, tokens: int | None) -> ContextWindow:
        """Return it with the limits that were asked for; None leaves one as it is."""
        limits = ContextWindow(turns=turns, tokens=tokens).or_else(self.turns, self.tokens)
        return replace(limits, since_turn=self.since_turn)

    def to_record(self) -> dict[str, Any]:
        """Return `[context_window]`, as `Limits.to_record`; a limit of 0 is one that was asked for."""
        return {"turns": self.turns, "tokens": self.tokens, "since_turn": self.since_turn or None}


class Budget(Struct, kw_only=True):
    """What a session and everything below it may use: tokens in and out, US dollars, seconds of turns."""

    tokens: int = 0
    usd: float = 0.0
    time_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.tokens or self.usd or self.time_s)

    def to_record(self) -> dict[str, Any]:
        """Return `[budget]`, as `Limits.to_record`."""
        return {name: amount or None for name, amount in asdict(self).items()}

    def as_spent(self) -> Spent:
        """Return it as if all of it were spent: so an allowance counts until it is settled."""
        return Spent.from_dict({"tokens": self.tokens, "usd": self.usd or None, "time_s": self.time_s})

    def exhausted_by(self, spent: Spent) -> str | None:
        """Return as text what is used up; None while something of everything is left."""
        return next(iter(self.used_beyond(1, spent).values()), None)

    def used_beyond(self, share: float, spent: Spent) -> dict[str, str]:
        """Return as text, by amount, what is used up to at least this share."""
        words = {
            "tokens": f"{spent.tokens:,} of {self.tokens:,} tokens",
            "usd": f"${spent.usd or 0:,.2f} of ${self.usd:,.2f}",
            "time_s": f"{spent.time_s:,.0f} of {self.time_s:,.0f} seconds",
        }
        limits = {name: limit for name, limit in asdict(self).items() if limit}
        return {name: words[name] for name, limit in limits.items() if (getattr(spent, name) or 0) >= share * limit}


class Spent(Struct):
    """The usage of turns, and how long they ran."""

    usage: Usage = field(default_factory=Usage)
    time_s: float = 0.0

    @property
    def tokens(self) -> int:
        return self.usage.tokens

    @property
    def usd(self) -> float | None:
        """None if no cost is known."""
        return self.usage.cost_usd

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.usage + other.usage, round(self.time_s + other.time_s, 3))

    def at_least(self, other: Spent) -> Spent:
        """Return the larger of both, amount by amount; what is unknown of either stays unknown."""
        mine, theirs = self.to_dict(), other.to_dict()
        return Spent.from_dict({name: max(mine[name] or 0, theirs[name] or 0) or None for name in mine})

    def to_dict(self) -> dict[str, Any]:
        """Return five numbers by name; an unknown cost is None."""
        return {
            "tokens": self.tokens,
            "usd": self.usd,
            "time_s": self.time_s,
            "turns_unmeasured": self.usage.turns_unmeasured,
            "turns_unpriced": self.usage.turns_unpriced,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spent:
        """Read the keys of `to_dict`; missing or invalid ones count as none."""
        known = {**data, "input_tokens": count_of(data.get("tokens")), "cost_usd": data.get("usd")}
        return cls(Usage.from_dict(known), float(number_of(data.get("time_s")) or 0))


def spent_by_turn(usage: Usage | None, duration_s: float) -> Spent:
    """Return the usage of one turn; missing usage or cost is unknown, not zero."""
    return Spent(counted(usage), duration_s)


def _tighter(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other
