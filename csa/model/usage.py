"""What a turn, or a session, has used; and numbers as records tell them, which may hold anything."""

from __future__ import annotations

from collections.abc import Mapping

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any


LARGEST = (1 << 63) - 1


class Usage(Struct):
    """Tokens (input includes cached) and US dollars; None for money where the tool does not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            round(sum(costs), 6) if costs else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the four keys of a `usage` event; money only where it is known."""
        counts: dict[str, Any] = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
        }
        return counts if self.cost_usd is None else {**counts, "cost_usd": self.cost_usd}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Usage:
        """Read the keys of `to_dict`; what is missing, or no number, counts as none."""
        cost = number_of(data.get("cost_usd"))
        return cls(
            count_of(data.get("input_tokens")),
            count_of(data.get("output_tokens")),
            count_of(data.get("cached_tokens")),
            float(cost) if cost is not None else None,
        )


def number_of(value: object) -> float | None:
    """Return a number from 0 up to the largest that TOML has (true is none); None when it is no such thing."""
    if type(value) is not int and type(value) is not float:
        return None
    return value if 0 <= value <= LARGEST else None


def count_of(value: object) -> int:
    """Return a count; 0 when it is none."""
    return int(number_of(value) or 0)
