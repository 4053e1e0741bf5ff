"""What a turn, or a session, has used."""

from __future__ import annotations

from collections.abc import Mapping

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any


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
        """Read the keys of `to_dict`; what is missing counts as none."""
        cost = data.get("cost_usd")
        return cls(
            int(data.get("input_tokens", 0)),
            int(data.get("output_tokens", 0)),
            int(data.get("cached_tokens", 0)),
            float(cost) if cost is not None else None,
        )
